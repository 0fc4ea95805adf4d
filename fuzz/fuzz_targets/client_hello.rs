//! Property: an accepted hello gives the same result from its own bytes alone, with more bytes
//! after it and in records of any other size; no prefix of it is accepted or refused; and its
//! fields have their promised form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealway::wire::Parsed;
use sealway::wire::client_hello::{ClientHello, parse};
use sealway::wire::ja4::Ja4;
use sealway::wire::message::RECORDS_MAX;

fuzz_target!(|bytes: &[u8]| {
    let limit = 65_536;
    if let Ok(Parsed::Complete { value, consumed }) = parse(bytes, limit) {
        assert!(
            consumed <= limit
                && consumed <= bytes.len()
                && (1..=RECORDS_MAX).contains(&value.records)
        );
        let whole = &bytes[..consumed];
        let more = [whole, &[22, 3, 3, 0, 0, 0]].concat();
        assert_eq!(
            parse(&more, limit),
            Ok(Parsed::Complete {
                value: value.clone(),
                consumed
            })
        );
        assert_eq!(
            parse(whole, limit),
            Ok(Parsed::Complete {
                value: value.clone(),
                consumed
            })
        );
        // Some of them, and the last ones; a unit test covers them all.
        let step = 1 + consumed / 40;
        for end in (0..consumed)
            .step_by(step)
            .chain(consumed.saturating_sub(8)..consumed)
        {
            assert_eq!(parse(&whole[..end], limit), Ok(Parsed::Incomplete));
        }
        let message = fragments(whole).concat();
        assert_eq!(message, value.message());
        for size in [1, 64, 512, 16_384] {
            let cut: Vec<u8> = message.chunks(size).flat_map(record).collect();
            match parse(&cut, usize::MAX) {
                Ok(Parsed::Complete { value: again, .. }) => {
                    assert_eq!(again.message(), value.message())
                }
                other => assert!(message.len().div_ceil(size) > RECORDS_MAX, "{other:?}"),
            }
        }
        keeps_its_form(&value);
    }
});

fn keeps_its_form(hello: &ClientHello) {
    if let Some(name) = hello.server_name() {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        assert!((1..=255).contains(&name.len()) && name.bytes().all(plain));
        assert!(
            hello
                .message()
                .windows(name.len())
                .any(|window| window == name.as_bytes())
        );
    }
    let kinds: Vec<u16> = hello.extensions().map(|(kind, _)| kind).collect();
    let is_there = |kind: u16| kinds.contains(&kind);
    assert_eq!(hello.server_name().is_some(), is_there(0));
    assert_eq!(hello.supported_groups().next().is_some(), is_there(10));
    assert_eq!(hello.signature_algorithms().next().is_some(), is_there(13));
    assert_eq!(hello.session_ticket().is_some(), is_there(35));
    assert_eq!(hello.has_pre_shared_key(), kinds.last() == Some(&41));
    assert_eq!(hello.has_early_data(), is_there(42));
    assert_eq!(
        hello
            .supported_versions()
            .is_some_and(|mut versions| versions.next().is_some()),
        is_there(43)
    );
    assert_eq!(hello.ech().is_some(), is_there(0xfe0d));
    assert!(hello.cipher_suites().next().is_some() && hello.session_id().len() <= 32);
    assert!(hello.alpn().all(|protocol| !protocol.is_empty()));
    assert!(hello.key_shares().all(|share| !share.key.is_empty()));
    has_the_shape_of_ja4(hello, Ja4::of(hello).as_str());
}

/// `t13d1516h2_8daaf6152771_e5627efa2ab1`
fn has_the_shape_of_ja4(hello: &ClientHello, text: &str) {
    let parts: Vec<&str> = text.split('_').collect();
    let [client, suites, extensions] = parts[..] else {
        panic!("{text}")
    };
    assert!(
        client.len() == 10 && client.is_ascii() && client.starts_with('t'),
        "{text}"
    );
    assert!(
        ["13", "12", "11", "10", "s3", "s2", "00"].contains(&&client[1..3]),
        "{text}"
    );
    assert_eq!(
        &client[3..4],
        if hello.server_name().is_some() {
            "d"
        } else {
            "i"
        },
        "{text}"
    );
    assert!(
        client[4..8].bytes().all(|byte| byte.is_ascii_digit()),
        "{text}"
    );
    assert!(
        client[8..].bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{text}"
    );
    let is_hash = |hash: &str| {
        hash.len() == 12
            && hash
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    assert!(is_hash(suites) && is_hash(extensions), "{text}");
}

fn fragments(mut records: &[u8]) -> Vec<&[u8]> {
    let mut fragments = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = records {
        let (fragment, behind) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        fragments.push(fragment);
        records = behind;
    }
    fragments
}

fn record(fragment: &[u8]) -> Vec<u8> {
    [
        &[22, 3, 1][..],
        &(fragment.len() as u16).to_be_bytes(),
        fragment,
    ]
    .concat()
}
