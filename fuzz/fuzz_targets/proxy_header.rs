//! Property: a header that is taken is within its bound, no byte behind it matters, each shorter prefix is incomplete, and the declared
//! client can be one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealway::wire::Parsed;
use sealway::wire::proxy_protocol::{Source, V1_BYTES_MAX, V2_BYTES_MAX, parse};

fuzz_target!(|bytes: &[u8]| {
    let Ok(parsed) = parse(bytes) else {
        // More bytes never mend a header.
        let more = [bytes, &[0; 16]].concat();
        return assert!(parse(&more).is_err());
    };
    let Parsed::Complete { value, consumed } = parsed else {
        return assert!(bytes.len() < V2_BYTES_MAX);
    };
    let bound = if bytes[0] == b'P' {
        V1_BYTES_MAX
    } else {
        V2_BYTES_MAX
    };
    assert!(consumed <= bound && consumed <= bytes.len());
    assert!(value.tlvs().all(|tlv| tlv.is_ok()));
    if let Source::Client(client) = value.source {
        let ip = client.ip();
        assert!(!ip.is_unspecified() && !ip.is_multicast() && ip == ip.to_canonical());
    }
    let whole = Parsed::Complete { value, consumed };
    assert!(parse(&bytes[..consumed]) == Ok(whole));
    for end in 0..consumed {
        assert!(parse(&bytes[..end]) == Ok(Parsed::Incomplete), "{end}");
    }
});
