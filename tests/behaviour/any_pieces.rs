//! Whatever both sides send after the 200, in any pieces: the bytes that reach the other side are a
//! prefix of those sent, a witness justifies each record, no byte of or after a refused record
//! passes, and the pieces change no verdict. The fuzz target `greeting` runs the same model from
//! the same recordings.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use sealway::greeting::negotiation::Outcome;
use support::conversation::{
    Answer, HOST, Rules, Side, Turn, in_whole_turns, pieces_do_not_matter, turns_of,
};
use support::made_answer::MadeAnswer;
use support::made_hello::{HOST_NAME, MadeHello, record};
use support::witness::Witness;

#[test]
fn recorded_handshakes_pass_in_any_pieces() {
    let wanted = [
        ("early_data", "1.3"),
        ("early_data_retried", "1.3"),
        ("refused_by_alert", "alert 40"),
        ("resumed_tls12", "1.2"),
        ("retried", "1.3"),
        ("retried_for_another_name", "Denied(SniMismatch)"),
        ("tls12", "1.2"),
        ("tls13", "1.3"),
    ];
    assert_eq!(
        recordings(),
        wanted.map(|(name, _)| name),
        "fuzz/seeds/greeting"
    );
    let rules = Rules::chosen_by(0);
    for (name, verdict) in wanted {
        let turns = recording(name);
        for piece in [1, 2, 5, 64, 1_000, usize::MAX] {
            let course = pieces_do_not_matter(&rules, &cut(&turns, piece));
            assert_eq!(
                told(&course.verdict),
                verdict,
                "{name} in pieces of {piece}"
            );
            if !matches!(course.verdict, Answer::Refused(_)) {
                let said = |side| {
                    turns
                        .iter()
                        .filter(|turn| turn.side == side)
                        .map(|turn| turn.bytes.len())
                        .sum::<usize>()
                };
                assert_eq!(
                    course.passed,
                    [said(Side::Client), said(Side::Upstream)],
                    "{name} in pieces of {piece}"
                );
            }
        }
    }
}

#[test]
fn no_byte_of_a_second_hello_with_another_name_passes() {
    let rules = Rules::chosen_by(0);
    let turns = in_whole_turns(&recording("retried_for_another_name"));
    let [first, retry] = [&turns[0], &turns[1]].map(|turn| turn.bytes.len());
    for piece in [1, 7, usize::MAX] {
        let course = rules.play(&cut(&turns, piece));
        let between = course.passed[0] - first;
        assert!(
            between == 0 || turns[2].bytes[..between] == *CCS,
            "{course:?}"
        );
        assert_eq!(course.passed[1], retry, "{course:?}");
    }
}

/// Shows that the witness can be trusted: it rejects bytes that must not pass.
#[test]
fn the_witness_rejects_bytes_that_must_not_pass() {
    let (rules, strict) = (Rules::chosen_by(0), Rules::chosen_by(7));
    let hello = MadeHello::naming(HOST).bytes();
    let retry = MadeAnswer::retry().bytes();
    let up = |rules: &Rules, bytes: &[u8]| panics(|| Witness::of(rules).sees_upstream(bytes));
    assert!(!up(&rules, &hello) && !up(&strict, &hello));
    assert!(!up(&rules, &[CCS, WARNING, &hello, CCS].concat()));
    assert!(up(&rules, &MadeHello::naming("evil.example").bytes()));
    assert!(up(&rules, &MadeHello::bare().versions(&[0x0304]).bytes()));
    assert!(
        up(
            &strict,
            &MadeHello::bare().server_names(&[(HOST_NAME, HOST)]).bytes()
        ),
        "below the floor"
    );
    assert!(up(
        &strict,
        &MadeHello::naming(HOST).extension(ECH, b"").bytes()
    ));
    assert!(
        up(&rules, &[hello.as_slice(), &hello].concat()),
        "not asked for"
    );
    assert!(
        up(&rules, &[hello.as_slice(), &record(23, b"x")].concat()),
        "not announced"
    );
    assert!(
        up(&rules, &hello[..50]) && up(&rules, &[hello.as_slice(), &[20]].concat()),
        "cut"
    );
    assert!(
        up(&rules, &[hello.as_slice(), &record(20, b"x")].concat()),
        "room for other bytes"
    );
    let down = |bytes: &[u8]| {
        let mut witness = Witness::of(&rules);
        witness.sees_upstream(&hello);
        panics(move || witness.sees_client(bytes))
    };
    assert!(
        !down(&retry) && !down(&[CCS, WARNING, &MadeAnswer::tls13().bytes(), b"anything"].concat())
    );
    assert!(
        down(&[retry.as_slice(), &retry].concat())
            && down(&[retry, MadeAnswer::tls13().bytes()].concat())
    );
    assert!(down(b"HTTP/1.1 400") && down(&hello) && down(&MadeAnswer::tls13().bytes()[..20]));
    assert!(
        panics(|| Witness::of(&rules).sees_client(&MadeAnswer::tls13().bytes())),
        "an answer to nobody"
    );
}

/// The reason to refuse a record may not depend on how much of it was received.
#[test]
fn an_empty_record_is_refused_in_any_pieces() {
    let rules = Rules::chosen_by(0);
    let hello = MadeHello::naming(HOST).bytes();
    for broken in [
        [20, 9, 0, 0, 9],
        [21, 9, 0, 0, 9],
        [21, 3, 3, 0xff, 0xff],
        [20, 3, 3, 0, 2],
        [22, 9, 0, 0, 0],
    ] {
        for side in [Side::Client, Side::Upstream] {
            let turns = [
                Turn {
                    side: Side::Client,
                    bytes: hello.clone(),
                },
                Turn {
                    side,
                    bytes: broken.to_vec(),
                },
            ];
            let course = pieces_do_not_matter(&rules, &cut(&turns, 1));
            assert!(
                matches!(course.verdict, Answer::Refused(_)),
                "{broken:?} {course:?}"
            );
            assert_eq!(course.passed, [hello.len(), 0]);
        }
    }
}

/// The limit counts the records with their headers, the last one included.
#[test]
fn a_hello_whose_last_record_exceeds_the_limit_is_too_large() {
    let rules = Rules::chosen_by(4);
    let padded = |bytes: usize| {
        MadeHello::naming(HOST)
            .extension(21, &vec![0; bytes])
            .message()
    };
    let base = padded(0).len();
    for (records, excess, passes) in [
        (1, 0, true),
        (1, 1, false),
        (9, 0, true),
        (9, 1, false),
        (9, 40, false),
    ] {
        let message = padded(2_048 - 5 * records + excess - base);
        let (first, last) = message.split_at(records - 1);
        let mut bytes: Vec<u8> = first.iter().flat_map(|byte| record(22, &[*byte])).collect();
        bytes.extend(record(22, last));
        assert_eq!(bytes.len(), 2_048 + excess);
        let course = pieces_do_not_matter(
            &rules,
            &cut(
                &[Turn {
                    side: Side::Client,
                    bytes: bytes.clone(),
                }],
                100,
            ),
        );
        assert_eq!(
            course.passed[0],
            if passes { bytes.len() } else { 0 },
            "{records} {excess} {course:?}"
        );
        assert_eq!(
            matches!(&course.verdict, Answer::Refused(why) if why.contains("TooLarge")),
            !passes,
            "{course:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_witness_justifies_all_passed_bytes_in_any_pieces(
        choice in 0_u8..8, opening in opening(), then in prop::collection::vec(turn(), 0..8),
        sizes in prop::collection::vec(1_usize..120, 1..20),
    ) {
        let mut sizes = sizes.into_iter().cycle();
        let turns: Vec<Turn> = opening.into_iter().chain(then).collect();
        let pieces: Vec<Turn> = turns.iter().flat_map(|turn| cut_by(turn, || sizes.next().unwrap())).collect();
        pieces_do_not_matter(&Rules::chosen_by(choice), &pieces);
    }
}

/// The start of a regular handshake: random words alone seldom get so far.
fn opening() -> impl Strategy<Value = Vec<Turn>> {
    (0_usize..5, any::<bool>()).prop_map(|(len, early)| {
        let first = if early {
            early_hello()
        } else {
            MadeHello::naming(HOST).bytes()
        };
        let by_the_book = [
            (Side::Client, first),
            (Side::Upstream, MadeAnswer::retry().bytes()),
            (Side::Client, MadeHello::naming(HOST).bytes()),
            (Side::Upstream, MadeAnswer::tls13().bytes()),
        ];
        by_the_book
            .into_iter()
            .take(len)
            .map(|(side, bytes)| Turn { side, bytes })
            .collect()
    })
}

fn turn() -> impl Strategy<Value = Turn> {
    let side = prop_oneof![Just(Side::Client), Just(Side::Upstream)];
    (side, prop::collection::vec(words(), 1..4)).prop_map(|(side, words)| Turn {
        side,
        bytes: words.concat(),
    })
}

/// Words of a handshake, words that look like them, the start of either, and anything else.
fn words() -> impl Strategy<Value = Vec<u8>> {
    let known = prop_oneof![
        Just(MadeHello::naming(HOST).bytes()),
        Just(early_hello()),
        Just(in_records(&MadeHello::naming(HOST).message())),
        Just(MadeHello::naming("evil.example").bytes()),
        Just(in_records(&MadeHello::naming("evil.example").message())),
        Just(MadeHello::bare().bytes()),
        Just(MadeHello::naming(HOST).extension(ECH, b"outer").bytes()),
        Just(MadeAnswer::tls13().bytes()),
        Just(MadeAnswer::below(0x0303).bytes()),
        Just(MadeAnswer::below(0x0301).bytes()),
        Just(MadeAnswer::retry().bytes()),
        Just(in_records(&MadeAnswer::retry().message())),
        Just(CCS.to_vec()),
        Just(WARNING.to_vec()),
        Just(record(21, &[2, 40])),
        Just(record(23, b"early or not")),
    ];
    let start = (known.clone(), any::<prop::sample::Index>()).prop_map(|(mut words, end)| {
        words.truncate(end.index(words.len()));
        words
    });
    prop_oneof![8 => known, 1 => start, 1 => prop::collection::vec(any::<u8>(), 0..20)]
}

fn early_hello() -> Vec<u8> {
    MadeHello::naming(HOST).extension(EARLY_DATA, b"").bytes()
}

fn in_records(message: &[u8]) -> Vec<u8> {
    message
        .chunks(40)
        .flat_map(|fragment| record(22, fragment))
        .collect()
}

/// Each turn in pieces of this size.
fn cut(turns: &[Turn], size: usize) -> Vec<Turn> {
    in_whole_turns(turns)
        .iter()
        .flat_map(|turn| cut_by(turn, || size))
        .collect()
}

fn cut_by(turn: &Turn, mut size: impl FnMut() -> usize) -> Vec<Turn> {
    let (mut rest, mut pieces) = (turn.bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(size().min(rest.len()));
        pieces.push(Turn {
            side: turn.side,
            bytes: piece.to_vec(),
        });
        rest = behind;
    }
    pieces
}

fn told(verdict: &Answer) -> String {
    match verdict {
        Answer::Open => "open".into(),
        Answer::Done(Outcome::Negotiated(hello)) => hello.version.as_str().into(),
        Answer::Done(Outcome::UpstreamAlert(description)) => format!("alert {description}"),
        Answer::Done(Outcome::ClientAlert(description)) => {
            format!("alert {description} of the client")
        }
        Answer::Refused(why) => why.clone(),
    }
}

fn recordings() -> Vec<String> {
    let names = std::fs::read_dir(SEEDS)
        .expect("the recordings")
        .map(|file| file.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// The recording follows the byte that chooses the rules.
fn recording(name: &str) -> Vec<Turn> {
    turns_of(&std::fs::read(format!("{SEEDS}/{name}")).expect("a recording")[1..])
}

fn panics(act: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(act)).is_err()
}

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/greeting");
const CCS: &[u8] = &[20, 3, 3, 0, 1, 1];
const WARNING: &[u8] = &[21, 3, 3, 0, 2, 1, 90];
const EARLY_DATA: u16 = 42;
/// `encrypted_client_hello` (RFC 9849).
const ECH: u16 = 0xfe0d;
