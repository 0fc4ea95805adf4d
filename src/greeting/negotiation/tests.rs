//! What may pass in each stage, and the property that matters: whatever both sides say in whatever pieces, what
//! passes is a prefix of what was said and holds no byte of what was refused.

use super::*;
use crate::authority::Authority;
use crate::policy::guard::AddressGuard;
use crate::policy::{NameRules, Verdict};
use crate::wire::client_hello::TlsVersion;
use crate::wire::server_hello::RETRY_RANDOM;
use proptest::prelude::*;

const HOST: &str = "a.example";

fn policy(min_tls: TlsVersion) -> Policy {
    Policy::new(
        NameRules::parse([HOST]).unwrap(),
        AddressGuard::new(Vec::new()),
        min_tls,
        true,
    )
}

fn authorised(policy: &Policy) -> Authorised {
    match policy.judge(Authority::parse("a.example:443").unwrap(), None) {
        Verdict::Allow(authorised) => authorised,
        Verdict::Deny(reason) => panic!("{reason:?}"),
    }
}

fn record(kind: u8, fragment: &[u8]) -> Vec<u8> {
    [
        &[kind, 3, 3][..],
        &(fragment.len() as u16).to_be_bytes(),
        fragment,
    ]
    .concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    record(
        HANDSHAKE,
        &[&[kind, 0][..], &(body.len() as u16).to_be_bytes(), body].concat(),
    )
}

fn client_hello(name: &str) -> Vec<u8> {
    let name_len = name.len() as u8;
    let sni = [
        &[0, 0, 0, name_len + 5, 0, name_len + 3, 0, 0, name_len][..],
        name.as_bytes(),
    ]
    .concat();
    let versions = [0, 43, 0, 3, 2, 3, 4];
    let extensions = [&sni[..], &versions].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0x13, 1, 1, 0, 0, extensions.len() as u8],
        &extensions,
    ]
    .concat();
    message(1, &body)
}

fn server_hello(random: [u8; 32], legacy: u8, is_13: bool) -> Vec<u8> {
    let extensions: &[u8] = if is_13 {
        &[0, 6, 0, 43, 0, 2, 3, 4]
    } else {
        &[0, 0]
    };
    message(
        2,
        &[&[3, legacy][..], &random, &[0, 0x13, 1, 0], extensions].concat(),
    )
}

fn hello_13() -> Vec<u8> {
    server_hello([9; 32], 3, true)
}

fn retry() -> Vec<u8> {
    server_hello(RETRY_RANDOM, 3, true)
}

const CCS: &[u8] = &[20, 3, 3, 0, 1, 1];
const EARLY: &[u8] = &[23, 3, 3, 0, 2, 8, 8];

fn passed(result: Result<usize, GreetingError>) -> usize {
    result.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_plain_handshake_ends_at_the_server_hello() {
    let policy = policy(TlsVersion::Tls12);
    let authorised = authorised(&policy);
    let mut negotiation = Negotiation::new(&policy, &authorised, 65_536, false);
    let answer = [hello_13(), b"encrypted".to_vec()].concat();
    assert_eq!(
        passed(negotiation.upstream_says(&answer[..20])),
        0,
        "not a byte before it is whole"
    );
    assert_eq!(passed(negotiation.upstream_says(&answer)), answer.len());
    assert!(matches!(
        negotiation.outcome(),
        Some(Outcome::Negotiated(_))
    ));
    assert!(!negotiation.retried);
    assert_eq!(passed(negotiation.client_says(b"anything")), 8);
}

#[test]
fn a_second_hello_is_judged_like_the_first() {
    let policy = policy(TlsVersion::Tls12);
    let authorised = authorised(&policy);
    let mut negotiation = Negotiation::new(&policy, &authorised, 65_536, false);
    assert_eq!(passed(negotiation.upstream_says(&retry())), retry().len());
    let second = [CCS, &client_hello("A.Example")].concat();
    assert_eq!(passed(negotiation.client_says(&second[..30])), CCS.len());
    assert_eq!(
        passed(negotiation.client_says(&second[CCS.len()..])),
        second.len() - CCS.len()
    );
    assert_eq!(
        passed(negotiation.upstream_says(&[CCS, &hello_13()].concat())),
        CCS.len() + hello_13().len()
    );
    assert!(negotiation.retried && negotiation.outcome().is_some());

    let mut negotiation = Negotiation::new(&policy, &authorised, 65_536, false);
    passed(negotiation.upstream_says(&retry()));
    let other = negotiation
        .client_says(&client_hello("b.example"))
        .unwrap_err();
    assert!(
        matches!(other, GreetingError::Denied(DenyReason::SniMismatch)),
        "{other}"
    );
}

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
fn what_has_no_place_is_refused() {
    let policy = policy(TlsVersion::Tls12);
    let authorised = authorised(&policy);
    let new = |early_data| Negotiation::new(&policy, &authorised, 65_536, early_data);
    let unasked = new(false).client_says(&client_hello(HOST)).unwrap_err();
    assert!(matches!(unasked, GreetingError::OutOfPlace), "{unasked}");
    assert!(matches!(
        new(false).client_says(EARLY),
        Err(GreetingError::OutOfPlace)
    ));
    assert_eq!(
        passed(new(true).client_says(&[CCS, EARLY, EARLY].concat())),
        CCS.len() + 2 * EARLY.len()
    );
    assert!(matches!(
        new(true).client_says(b"GET /"),
        Err(GreetingError::OutOfPlace)
    ));

    for filled in [
        record(20, &[9]),
        record(20, &[1, 1]),
        record(20, &[]),
        record(21, &[2, 40, 0]),
        record(21, &[9; 900]),
    ] {
        assert!(
            matches!(
                new(false).client_says(&filled),
                Err(GreetingError::Record(_))
            ),
            "room for other bytes: {filled:?}"
        );
    }

    let twice = new(false)
        .upstream_says(&[retry(), retry()].concat())
        .unwrap_err();
    assert!(matches!(twice, GreetingError::FlightOutOfTurn), "{twice}");
    let unanswered = new(false)
        .upstream_says(&[retry(), hello_13()].concat())
        .unwrap_err();
    assert!(
        matches!(unanswered, GreetingError::FlightOutOfTurn),
        "{unanswered}"
    );

    let mut older = new(false);
    passed(older.upstream_says(&retry()));
    passed(older.client_says(&client_hello(HOST)));
    let older = older.upstream_says(&server_hello([9; 32], 3, false));
    assert!(
        matches!(older, Err(GreetingError::FlightOutOfTurn)),
        "a retry is of TLS 1.3"
    );

    let mut retried = new(true);
    passed(retried.upstream_says(&retry()));
    passed(retried.client_says(&[EARLY, &client_hello(HOST)].concat()));
    assert!(
        matches!(retried.client_says(EARLY), Err(GreetingError::OutOfPlace)),
        "early data behind the second hello"
    );
    assert!(
        matches!(
            retried.client_says(&client_hello(HOST)),
            Err(GreetingError::OutOfPlace)
        ),
        "a third hello"
    );
    assert!(matches!(
        retried.upstream_says(&retry()),
        Err(GreetingError::FlightOutOfTurn)
    ));
}

#[test]
fn the_version_floor_holds_for_the_server_hello() {
    for (floor, legacy, is_13, held) in [
        (TlsVersion::Tls12, 3, false, true),
        (TlsVersion::Tls12, 2, false, false),
        (TlsVersion::Tls13, 3, false, false),
        (TlsVersion::Tls13, 3, true, true),
    ] {
        let policy = policy(floor);
        let authorised = authorised(&policy);
        let mut negotiation = Negotiation::new(&policy, &authorised, 65_536, false);
        let said = negotiation.upstream_says(&server_hello([9; 32], legacy, is_13));
        match said {
            Ok(_) => assert!(held),
            Err(GreetingError::Denied(DenyReason::ServerTlsVersionDenied)) => assert!(!held),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_fatal_alert_is_an_outcome_and_a_warning_is_not() {
    let policy = policy(TlsVersion::Tls12);
    let authorised = authorised(&policy);
    let mut negotiation = Negotiation::new(&policy, &authorised, 65_536, false);
    assert_eq!(passed(negotiation.upstream_says(&record(21, &[1, 112]))), 7);
    assert_eq!(negotiation.outcome(), None);
    assert_eq!(passed(negotiation.upstream_says(&record(21, &[2, 40]))), 7);
    assert_eq!(negotiation.outcome(), Some(Outcome::UpstreamAlert(40)));
}

#[test]
fn nothing_passes_after_the_alert_that_ends_a_handshake() {
    let policy = policy(TlsVersion::Tls12);
    let authorised = authorised(&policy);
    for (content, description) in [([2, 40], 40), ([1, 0], 0)] {
        let alert = record(21, &content);
        let said = [CCS, &alert, &hello_13()].concat();
        for by_client in [true, false] {
            let mut negotiation = Negotiation::new(&policy, &authorised, 65_536, true);
            let speak = if by_client {
                Negotiation::client_says
            } else {
                Negotiation::upstream_says
            };
            assert_eq!(
                passed(speak(&mut negotiation, &said)),
                CCS.len() + alert.len()
            );
            let outcome = if by_client {
                Outcome::ClientAlert(description)
            } else {
                Outcome::UpstreamAlert(description)
            };
            assert_eq!(negotiation.outcome(), Some(outcome));
            assert_eq!(passed(negotiation.client_says(EARLY)), 0);
            assert_eq!(passed(negotiation.upstream_says(&hello_13())), 0);
            assert_eq!(
                negotiation.outcome(),
                Some(outcome),
                "what follows changes nothing"
            );
        }
    }
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(client_hello(HOST)),
        Just(client_hello("b.example")),
        Just(hello_13()),
        Just(retry()),
        Just(CCS.to_vec()),
        Just(EARLY.to_vec()),
        Just(record(21, &[2, 40])),
        prop::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #[test]
    fn no_byte_of_a_refused_hello_passes(
        client in prop::collection::vec(piece(), 0..6), upstream in prop::collection::vec(piece(), 0..6),
        turns in prop::collection::vec((any::<bool>(), 1_usize..80), 0..60), early_data in any::<bool>(),
    ) {
        let policy = policy(TlsVersion::Tls12);
        let authorised = authorised(&policy);
        let mut negotiation = Negotiation::new(&policy, &authorised, 65_536, early_data);
        let (client, upstream) = (client.concat(), upstream.concat());
        let (mut said, mut passed) = ([0, 0], [0, 0]);
        for (by_client, len) in turns {
            let (side, all) = if by_client { (0, &client) } else { (1, &upstream) };
            said[side] = (said[side] + len).min(all.len());
            let pending = &all[passed[side]..said[side]];
            let result = if by_client { negotiation.client_says(pending) } else { negotiation.upstream_says(pending) };
            let Ok(more) = result else { break };
            prop_assert!(more <= pending.len());
            passed[side] += more;
            if negotiation.outcome().is_some() {
                return Ok(());
            }
            let foreign = client_hello("b.example");
            let up = &client[..passed[0]];
            prop_assert!(!up.windows(foreign.len()).any(|window| window == foreign));
        }
    }
}
