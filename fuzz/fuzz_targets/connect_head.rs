//! Property: an accepted head ends in an empty line, its authority is the request target parsed
//! again, and no byte after it matters.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealway::authority::Authority;
use sealway::wire::Parsed;
use sealway::wire::connect::{HeadError, parse};

fuzz_target!(|bytes: &[u8]| {
    let limit = 16_384;
    match parse(bytes, limit) {
        Ok(Parsed::Complete { value, consumed }) => {
            assert!(consumed <= limit && bytes[..consumed].ends_with(b"\r\n\r\n"));
            let text = std::str::from_utf8(&bytes[..consumed]).unwrap_or_default();
            if let Some(target) = text.trim_start().split(' ').nth(1) {
                assert_eq!(Authority::parse(target), Ok(value.authority.clone()));
            }
            assert!(parse(&bytes[..consumed], limit) == Ok(Parsed::Complete { value, consumed }));
        }
        Ok(Parsed::Incomplete) => assert!(bytes.len() < limit),
        // A larger limit must not turn another refusal into an acceptance.
        Err(HeadError::TooLarge) => {}
        Err(error) => assert!(
            !matches!(parse(bytes, limit * 2), Ok(Parsed::Complete { .. })),
            "{error}"
        ),
    }
});
