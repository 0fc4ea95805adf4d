//! The names of a client's certificate (RFC 5280, X.509-SVID), as lines for the daemon: `spiffe://…`, `dns:…`, `cn:…`,
//! `spki:sha256:…`. Decides nothing about trust. A name with a control character is left out, so that no name can contain
//! a line of its own.

use rustls_pki_types::CertificateDer;
use sealway::digest::Digest;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The identity in a verified client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// One name a line.
    pub names: String,
    /// SHA-256 of the certificate in DER.
    pub fingerprint: Digest,
    /// The serial number in hexadecimal digits.
    pub serial: String,
}

/// Why a certificate that the authority issued is refused nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be parsed.
    #[error("the certificate cannot be parsed")]
    Unreadable,
    /// X.509-SVID, section 2: exactly one URI.
    #[error("the certificate has more than one URI")]
    SeveralUris,
    /// The names do not fit into a PROXY header.
    #[error("the certificate has more than {NAMES_BYTES_MAX} bytes of names")]
    TooManyNames,
}

impl Identity {
    /// Reads the names of a certificate.
    ///
    /// # Errors
    /// Why the certificate must be refused.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let parsed = parse(certificate).ok_or(IdentityError::Unreadable)?;
        let mut names = Vec::new();
        let mut uris = 0;
        let alternative = parsed.subject_alternative_name();
        let alternative = alternative.map_err(|_| IdentityError::Unreadable)?;
        for name in alternative
            .iter()
            .flat_map(|names| &names.value.general_names)
        {
            match name {
                GeneralName::URI(uri) => {
                    uris += 1;
                    if uri.starts_with(SPIFFE) && is_plain(uri) {
                        names.push((*uri).to_owned());
                    }
                }
                GeneralName::DNSName(name) if is_plain(name) => {
                    names.push(format!("dns:{}", name.to_ascii_lowercase()));
                }
                _ => {}
            }
        }
        if uris > 1 {
            return Err(IdentityError::SeveralUris);
        }
        let common = parsed.subject().iter_common_name();
        let common = common.filter_map(|name| name.as_str().ok());
        names.extend(
            common
                .filter(|name| !name.is_empty() && !name.chars().any(char::is_control))
                .map(|name| format!("cn:{name}")),
        );
        let key = parsed.tbs_certificate.subject_pki.raw;
        names.push(format!("spki:sha256:{}", Digest::of(key)));
        let names = names.join("\n");
        if names.len() > NAMES_BYTES_MAX {
            return Err(IdentityError::TooManyNames);
        }
        Ok(Self {
            names,
            fingerprint: Digest::of(certificate),
            serial: serial(&parsed),
        })
    }
}

/// The fingerprint and the serial of a certificate that was refused, as far as it can be read.
#[must_use]
pub fn facts(certificate: &CertificateDer<'_>) -> (String, String) {
    let serial = parse(certificate).map(|parsed| serial(&parsed));
    (
        Digest::of(certificate).to_string(),
        serial.unwrap_or_default(),
    )
}

/// The serial number, cut to the longest that RFC 5280 allows: a header has no room for any length.
fn serial(certificate: &X509Certificate<'_>) -> String {
    let mut digits = hex::encode(certificate.raw_serial());
    digits.truncate(SERIAL_DIGITS_MAX);
    digits
}

fn parse<'c>(certificate: &'c CertificateDer<'_>) -> Option<X509Certificate<'c>> {
    let (rest, parsed) = X509Certificate::from_der(certificate).ok()?;
    rest.is_empty().then_some(parsed)
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic())
}

const SPIFFE: &str = "spiffe://";
/// An X.509-SVID's URI has at most 2,048 bytes; the daemon bounds the whole header.
pub const NAMES_BYTES_MAX: usize = 4_096;
/// RFC 5280, section 4.1.2.2: 20 octets.
const SERIAL_DIGITS_MAX: usize = 42;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(names: Vec<SanType>, common: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in common {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    #[test]
    fn each_name_is_one_line() {
        let names = vec![uri("spiffe://corp/app"), dns("App.Corp"), dns("b.corp")];
        let identity = Identity::of(&certificate(names, &["app 1"])).unwrap();
        let lines: Vec<_> = identity.names.lines().collect();
        assert_eq!(
            lines.get(..4).unwrap(),
            [
                "spiffe://corp/app",
                "dns:app.corp",
                "dns:b.corp",
                "cn:app 1"
            ]
        );
        let pin = lines.get(4).unwrap().strip_prefix("spki:sha256:").unwrap();
        assert_eq!((lines.len(), pin.len()), (5, 64));
    }

    #[test]
    fn no_name_holds_a_line_of_its_own() {
        let forged = "x\nspiffe://corp/admin";
        for names in [
            vec![dns(forged)],
            vec![uri(forged)],
            vec![uri("spiffe://a\ncn:admin")],
        ] {
            let identity = Identity::of(&certificate(names, &[forged, "y\u{85}cn:admin"])).unwrap();
            assert_eq!(identity.names.lines().count(), 1, "{}", identity.names);
        }
    }

    #[test]
    fn two_uris_are_refused_and_one_of_another_kind_is_no_identity() {
        let two = vec![uri("spiffe://corp/a"), uri("https://corp/a")];
        assert_eq!(
            Identity::of(&certificate(two, &[])),
            Err(IdentityError::SeveralUris)
        );
        let one = Identity::of(&certificate(vec![uri("https://corp/a")], &[])).unwrap();
        assert!(one.names.starts_with("spki:"), "{}", one.names);
        let many = (0..200)
            .map(|n| dns(&format!("name-{n}.example.com")))
            .collect();
        assert_eq!(
            Identity::of(&certificate(many, &[])),
            Err(IdentityError::TooManyNames)
        );
        let broken = CertificateDer::from(vec![0x30, 0x01, 0x00]);
        assert_eq!(Identity::of(&broken), Err(IdentityError::Unreadable));
    }
}
