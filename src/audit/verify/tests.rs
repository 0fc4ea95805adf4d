//! A chain as the writer makes it is proved; what is changed, taken out, moved or put in is found; no bytes make it panic.

use proptest::prelude::*;

use super::*;
use crate::audit::chain::Chain;

/// A chain of records whose fields hold these texts.
fn chain(texts: &[String]) -> Vec<Vec<u8>> {
    let (mut chain, mut lines) = (Chain::default(), Vec::new());
    for text in texts {
        let record = serde_json::json!({"ts": "2026-11-22T00:00:00.000000Z", "event": "tunnel", "error": text});
        chain.seal(record.to_string().as_bytes(), &mut lines);
    }
    let lines = lines.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
    lines.filter(|line| !line.is_empty()).collect()
}

fn ten() -> Vec<Vec<u8>> {
    chain(
        &(0..10)
            .map(|number| format!("number {number}"))
            .collect::<Vec<_>>(),
    )
}

fn judge(lines: &[Vec<u8>]) -> Result<Proved, Fault> {
    let mut verifier = Verifier::default();
    lines.iter().try_for_each(|line| verifier.line(line))?;
    Ok(verifier.proved().unwrap().clone())
}

#[test]
fn a_whole_chain_verifies() {
    let proved = judge(&ten()).unwrap();
    assert_eq!(
        (proved.records, proved.first_seq, proved.last_seq),
        (10, 1, 10)
    );
}

#[test]
fn the_first_record_of_a_chain_continues_nothing() {
    let (mut chain, mut line) = (Chain::default(), Vec::new());
    let record = br#"{"ts":"t","event":"start"}"#;
    chain.seal(record, &mut Vec::new());
    // The chain of another file, counted from 1 again.
    chain.seq = 0;
    chain.seal(record, &mut line);
    let judged = judge(&[line.trim_ascii_end().to_vec()]);
    assert!(matches!(judged, Err(Fault::Broken { found: 1 })));
}

#[test]
fn removed_moved_and_repeated_records_are_found() {
    for at in 0..9 {
        let mut lines = ten();
        lines.remove(at);
        let found = judge(&lines).unwrap_err();
        match at {
            0 => assert!(matches!(found, Fault::Headless { found: 2 }), "{found}"),
            _ => assert!(
                matches!(found, Fault::Gap { found, .. } if found == at as u64 + 2),
                "{found}"
            ),
        }
        let mut lines = ten();
        lines.swap(at, at + 1);
        assert!(judge(&lines).is_err(), "{at}");
        let mut lines = ten();
        lines.insert(at, lines[at].clone());
        assert!(matches!(judge(&lines), Err(Fault::Order { .. })), "{at}");
    }
}

#[test]
fn a_replaced_chain_is_found() {
    let (mut lines, other) = (ten(), chain(&vec!["other".to_owned(); 10]));
    lines[5] = other[5].clone();
    assert!(matches!(judge(&lines), Err(Fault::Broken { found: 6 })));
}

#[test]
fn a_file_that_carries_on_a_chain_says_so() {
    let mut rest = Vec::new();
    let mut chain = Chain {
        seq: 41,
        hash: Digest::of(b"in another file"),
    };
    chain.seal(br#"{"event":"audit_file","ts":"t"}"#, &mut rest);
    chain.seal(br#"{"event":"tunnel","ts":"t"}"#, &mut rest);
    let lines: Vec<_> = rest
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    assert_eq!(judge(&lines).unwrap().first_seq, 42);
    assert!(matches!(
        judge(&lines[1..]),
        Err(Fault::Headless { found: 43 })
    ));
}

#[test]
fn lines_are_bounded_and_truncated_lines_are_reported_as_such() {
    let longest = vec![b'x'; usize::try_from(LINE_BYTES_MAX).unwrap()];
    let (whole, longer) = (
        [longest.as_slice(), b"\n"].concat(),
        [longest.as_slice(), b"x\n"].concat(),
    );
    let ends = |mut bytes: &[u8]| {
        let (mut ends, mut line) = (Vec::new(), Vec::new());
        while ends.len() < 3 {
            ends.push(next_line(&mut bytes, &mut line).unwrap());
        }
        ends
    };
    assert_eq!(
        ends(&whole),
        [LineEnd::Whole, LineEnd::Nothing, LineEnd::Nothing]
    );
    assert_eq!(ends(&longer)[0], LineEnd::TooLong);
    assert_eq!(
        ends(b"a\nb"),
        [LineEnd::Whole, LineEnd::CutOff, LineEnd::Nothing]
    );
    assert_eq!(
        ends(b"\n\n"),
        [LineEnd::Whole, LineEnd::Whole, LineEnd::Nothing]
    );
}

proptest! {
    #[test]
    fn any_bytes_are_verified_without_a_panic(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5)) {
        let mut verifier = Verifier::default();
        for line in &lines {
            let _judged = verifier.line(line);
        }
    }

    #[test]
    fn the_output_of_the_writer_verifies(texts in prop::collection::vec(any::<String>(), 1..20)) {
        prop_assert_eq!(judge(&chain(&texts)).unwrap().records, texts.len() as u64);
    }

    #[test]
    fn any_changed_byte_is_found(
        texts in prop::collection::vec(any::<String>(), 2..6), at in any::<prop::sample::Index>(), to in 1..=255u8,
    ) {
        let mut lines = chain(&texts);
        let last = lines.pop().unwrap();
        let place = at.index(lines.iter().map(Vec::len).sum());
        let byte = lines.iter_mut().flatten().nth(place).unwrap();
        *byte ^= to;
        lines.push(last);
        prop_assert!(judge(&lines).is_err());
    }
}
