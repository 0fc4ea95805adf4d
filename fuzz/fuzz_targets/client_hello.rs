//! Property: a hello that is taken is taken alike from its own bytes alone and with each of its bytes in a record of
//! its own, and no prefix of it is taken or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealway::wire::Parsed;
use sealway::wire::client_hello::{ClientHello, parse};
use sealway::wire::message::RECORDS_MAX;

fuzz_target!(|bytes: &[u8]| {
    let limit = 65_536;
    if let Ok(Parsed::Complete { value, consumed }) = parse(bytes, limit) {
        assert!(consumed <= limit && value.records <= RECORDS_MAX);
        let whole = &bytes[..consumed];
        for end in [0, 1, 5, consumed / 2, consumed - 1] {
            assert_eq!(parse(&whole[..end], limit), Ok(Parsed::Incomplete));
        }
        let message: Vec<u8> = fragments(whole).concat();
        for size in [1, 64, 512, 16_384] {
            let cut: Vec<u8> = message.chunks(size).flat_map(record).collect();
            let again = parse(&cut, usize::MAX);
            match again {
                Ok(Parsed::Complete { value: again, .. }) => {
                    assert_eq!(ClientHello { records: 0, ..again }, ClientHello { records: 0, ..value.clone() });
                }
                other => assert!(message.len().div_ceil(size) > RECORDS_MAX, "{other:?}"),
            }
        }
        if let Some(name) = &value.server_name {
            assert!(!name.is_empty() && name.is_ascii() && !name.contains('\0'));
        }
    }
});

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
    [&[22, 3, 1][..], &(fragment.len() as u16).to_be_bytes(), fragment].concat()
}
