//! Property: an accepted answer gives the same result from its own bytes alone, and no prefix of it
//! is accepted or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealway::wire::Parsed;
use sealway::wire::server_hello::parse;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Parsed::Complete { value, consumed }) = parse(bytes) {
        let whole = &bytes[..consumed];
        assert_eq!(parse(whole), Ok(Parsed::Complete { value, consumed }));
        for end in [0, 1, 5, consumed / 2, consumed - 1] {
            assert_eq!(parse(&whole[..end]), Ok(Parsed::Incomplete));
        }
    }
});
