//! Any bytes that a stranger sends as a certificate have short facts for the event of its refusal. Those with an identity
//! give lines that the daemon takes for names, and no name spans two lines.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use sealway::digest::Digest;

// As a module: the package of the hop would bring the C code of its TLS library into this build.
#[path = "../../hop/src/identity.rs"]
mod identity;

use identity::{Identity, NAMES_BYTES_MAX, facts};

fuzz_target!(|data: &[u8]| {
    let certificate = CertificateDer::from(data);
    let (fingerprint, serial) = facts(&certificate);
    assert_eq!(fingerprint, Digest::of(data).to_string());
    assert!(serial.len() <= 42 && serial.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let Ok(identity) = Identity::of(&certificate) else {
        return;
    };
    assert_eq!((identity.fingerprint, identity.serial), (Digest::of(data), serial));
    assert!(identity.names.len() <= NAMES_BYTES_MAX);
    assert!(identity.names.split('\n').count() == identity.names.lines().count());
    for line in identity.names.split('\n') {
        let kinds = ["spiffe://", "dns:", "cn:", "spki:sha256:"];
        assert!(kinds.iter().any(|kind| line.starts_with(kind)), "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    let pin = identity.names.rsplit("spki:sha256:").next();
    assert!(pin.is_some_and(|digits| Digest::parse(digits).is_some()));
});
