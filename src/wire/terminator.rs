//! What a TLS terminator reports about a client in the TLVs of a PROXY protocol header: its token, the
//! parameters of its TLS session, and the names in the client's certificate. Bounds each text. Never
//! decides whether the terminator may say so.

use std::net::IpAddr;
use std::sync::Arc;

use proxy_header::Tlv;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::wire::proxy_protocol::Header;

/// What the TLVs say. The record of the tunnel shares the texts of its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// The version of TLS, such as `TLSv1.3`.
    pub version: Option<Arc<str>>,
    /// The cipher suite.
    pub cipher: Option<Arc<str>>,
    /// The key-exchange group.
    pub group: Option<Arc<str>>,
    /// The verified certificate of the client.
    pub certificate: Option<Certificate>,
}

/// A client's certificate that the terminator has verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// Its names in the form of [`name`].
    pub names: Box<[Box<str>]>,
    /// SHA-256 of its DER.
    pub fingerprint: Option<Digest>,
    /// Its serial number in hexadecimal digits.
    pub serial: Option<Arc<str>>,
}

/// An event of the terminator itself, for the daemon's audit.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// A code, or why.
    pub reason: Option<String>,
    /// The client.
    pub client: Option<IpAddr>,
    /// SHA-256 of the client's certificate.
    pub certificate: Option<String>,
    /// The serial number of the client's certificate.
    pub serial: Option<String>,
    /// How many equal events this is; None: one.
    pub count: Option<u64>,
}

/// The kind of an event, in the order in which the hop sends them: strangers choose how many of the last ones there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The terminator has started.
    HopStarted,
    /// The terminator has read its files again, or could not.
    HopReloaded,
    /// A live session's certificate was revoked.
    CertificateRevoked,
    /// A request in cleartext came to a TLS port; its credentials may have crossed the network in clear.
    TlsRequired,
    /// A TLS handshake was refused.
    HandshakeRefused,
}

/// An event is not JSON of at most [`EVENT_BYTES_MAX`], or of an unknown kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadEvent;

/// The event in a header, if there is one. Ignores unknown fields and cuts texts.
///
/// # Errors
/// [`BadEvent`].
pub fn event(header: &Header<'_>) -> Result<Option<Event>, BadEvent> {
    let Some(json) = custom(header, EVENT) else {
        return Ok(None);
    };
    if json.len() > EVENT_BYTES_MAX {
        return Err(BadEvent);
    }
    let mut event: Event = serde_json::from_slice(&json).map_err(|_| BadEvent)?;
    let texts = [&mut event.reason, &mut event.certificate, &mut event.serial];
    for text in texts.into_iter().flatten() {
        text.truncate(text.floor_char_boundary(EVENT_TEXT_BYTES_MAX));
    }
    Ok(Some(event))
}

/// The token of the terminator: [`TOKEN`] or, without one, the unique ID, which is the only text that
/// HAProxy before 2.9 can be made to send.
#[must_use]
pub fn token<'a>(header: &'a Header<'_>) -> Option<std::borrow::Cow<'a, [u8]>> {
    let unique_id = || {
        header.tlvs().find_map(|tlv| match tlv {
            Ok(Tlv::UniqueId(bytes)) => Some(bytes),
            _ => None,
        })
    };
    custom(header, TOKEN).or_else(unique_id)
}

/// What the header says besides its token.
#[must_use]
pub fn read(header: &Header<'_>) -> Statement {
    let mut statement = Statement::default();
    let mut is_verified = false;
    let mut common_name = None;
    for tlv in header.tlvs() {
        let Ok(Tlv::Ssl(tls)) = tlv else { continue };
        // Without a certificate `verify` is 0 too.
        is_verified = tls.verify() == 0 && (tls.client_cert_conn() || tls.client_cert_sess());
        for tlv in tls.tlvs() {
            match tlv {
                Ok(Tlv::SslVersion(text)) => statement.version = word(&text),
                Ok(Tlv::SslCipher(text)) => statement.cipher = word(&text),
                Ok(Tlv::Custom(GROUP, text)) => {
                    statement.group = std::str::from_utf8(&text).ok().and_then(word)
                }
                Ok(Tlv::SslCn(text)) => common_name = name(&format!("cn:{text}")),
                _ => {}
            }
        }
    }
    if is_verified {
        let names = match custom(header, NAMES) {
            Some(lines) => names(&lines),
            None => common_name.into_iter().collect(),
        };
        let fingerprint = custom(header, FINGERPRINT)
            .and_then(|bytes| <[u8; 32]>::try_from(&*bytes).ok())
            .map(Digest::from);
        let serial = custom(header, SERIAL).and_then(|digits| serial(&digits));
        statement.certificate = Some(Certificate {
            names,
            fingerprint,
            serial,
        });
    }
    statement
}

/// Brings a name of a certificate into the form in which names are compared: `spiffe://…`, `dns:` in
/// lower case, `cn:…`, or `spki:sha256:` and 64 digits in lower case. None for anything else.
#[must_use]
pub fn name(text: &str) -> Option<Box<str>> {
    let is_sane = text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
    let (kind, value) = text.split_once(':').filter(|_| is_sane)?;
    match kind {
        "spiffe" => value.strip_prefix("//").filter(|path| !path.is_empty())?,
        "dns" | "cn" if !value.trim().is_empty() => value,
        "spki" => {
            let digits = value.strip_prefix("sha256:")?.to_ascii_lowercase();
            Digest::parse(&digits)?;
            value
        }
        _ => return None,
    };
    let is_folded = matches!(kind, "dns" | "spki");
    let folded = if is_folded {
        text.to_ascii_lowercase()
    } else {
        text.to_owned()
    };
    Some(folded.into())
}

/// The names of a certificate, one a line. A certificate with two SPIFFE identities has none
/// (X.509-SVID, section 2), and so has one with too many names, because a second identity could be
/// among those beyond the bound.
fn names(lines: &[u8]) -> Box<[Box<str>]> {
    let Ok(text) = std::str::from_utf8(lines) else {
        return Box::default();
    };
    if text.lines().nth(NAMES_MAX).is_some() {
        return Box::default();
    }
    let names: Box<[_]> = text.lines().filter_map(name).collect();
    let identities = names.iter().filter(|name| name.starts_with("spiffe:"));
    if identities.count() > 1 {
        Box::default()
    } else {
        names
    }
}

/// The bytes of the first TLV of this type.
fn custom<'a>(header: &'a Header<'_>, kind: u8) -> Option<std::borrow::Cow<'a, [u8]>> {
    header.tlvs().find_map(|tlv| match tlv {
        Ok(Tlv::Custom(found, bytes)) if found == kind => Some(bytes),
        _ => None,
    })
}

/// A short word of visible ASCII characters.
fn word(text: &str) -> Option<Arc<str>> {
    // Without a branch for each byte.
    let is_visible = text
        .bytes()
        .fold(true, |all, byte| all & byte.is_ascii_graphic());
    let is_word = is_visible && (1..=WORD_BYTES_MAX).contains(&text.len());
    is_word.then(|| text.into())
}

fn serial(digits: &[u8]) -> Option<Arc<str>> {
    let digits = std::str::from_utf8(digits).ok();
    word(digits?).filter(|text| text.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// The key-exchange group: `PP2_SUBTYPE_SSL_GROUP` (proxy-protocol.txt, section 2.2.6).
pub const GROUP: u8 = 0x26;
/// What the daemon answers to an event whose record found room: ACK in ASCII. It closes the connection in any case, so an
/// end alone confirms nothing.
pub const RECORDED: u8 = 0x06;
/// The token. Types 0xe0 to 0xef are for private use (section 2.2.8).
pub const TOKEN: u8 = 0xe1;
/// The names of the certificate, one a line.
pub const NAMES: u8 = 0xe2;
/// An event as JSON.
pub const EVENT: u8 = 0xe3;
/// The SHA-256 of the certificate, 32 bytes.
pub const FINGERPRINT: u8 = 0xe4;
/// The serial number of the certificate in hexadecimal digits.
pub const SERIAL: u8 = 0xe5;
/// The longest SPIFFE identity (SPIFFE-ID, section 2.3).
const NAME_BYTES_MAX: usize = 2_048;
/// A certificate with more names has none.
const NAMES_MAX: usize = 128;
/// The longest registered cipher suite has 45.
const WORD_BYTES_MAX: usize = 64;

/// Of the JSON of an event.
pub const EVENT_BYTES_MAX: usize = 4_096;
/// Of each text in an event.
const EVENT_TEXT_BYTES_MAX: usize = 256;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::wire::Parsed;
    use crate::wire::proxy_protocol;
    use proxy_header::{ProxiedAddress, ProxyHeader, SslInfo};

    /// The statement of a header with a certificate, these bits and TLVs.
    fn stated(bits: [bool; 2], verify: u32, tlvs: &[(u8, &[u8])]) -> Statement {
        let mut tls = SslInfo::new(true, bits[0], bits[1], verify);
        tls.append_tlv(Tlv::SslVersion("TLSv1.3".into()));
        tls.append_tlv(Tlv::SslCipher("TLS_AES_256_GCM_SHA384".into()));
        tls.append_tlv(Tlv::Custom(GROUP, b"X25519MLKEM768"[..].into()));
        tls.append_tlv(Tlv::SslCn("app-1".into()));
        let addresses = ProxiedAddress::stream(
            "198.51.100.7:1".parse().unwrap(),
            "192.0.2.1:2".parse().unwrap(),
        );
        let others = tlvs
            .iter()
            .map(|(kind, bytes)| Tlv::Custom(*kind, (*bytes).into()));
        let all = [Tlv::Ssl(tls)].into_iter().chain(others);
        let mut bytes = Vec::new();
        let header = ProxyHeader::with_tlvs(Some(addresses), all);
        header.encode_v2(&mut bytes).unwrap();
        match proxy_protocol::parse(&bytes).unwrap() {
            Parsed::Complete { value, .. } => read(&value),
            Parsed::Incomplete => panic!("a whole header"),
        }
    }

    fn names_of(statement: &Statement) -> Vec<&str> {
        let certificate = statement.certificate.as_ref().unwrap();
        certificate.names.iter().map(AsRef::as_ref).collect()
    }

    #[test]
    fn a_terminator_declares_the_session_and_the_verified_identity() {
        let lines = b"spiffe://corp/App\ndns:App.Corp\ncn:App 1\nspki:sha256:zz\nuri:x\n\n";
        let tlvs: [(u8, &[u8]); 3] = [(NAMES, lines), (FINGERPRINT, &[7; 32]), (SERIAL, b"0aF")];
        let statement = stated([true, false], 0, &tlvs);
        assert_eq!(statement.version.as_deref(), Some("TLSv1.3"));
        assert_eq!(statement.group.as_deref(), Some("X25519MLKEM768"));
        assert_eq!(
            names_of(&statement),
            ["spiffe://corp/App", "dns:app.corp", "cn:App 1"]
        );
        let certificate = statement.certificate.unwrap();
        assert_eq!(certificate.fingerprint.unwrap().bytes(), &[7; 32]);
        assert_eq!(certificate.serial.as_deref(), Some("0aF"));
        assert_eq!(
            names_of(&stated([false, true], 0, &[])),
            ["cn:app-1"],
            "CN alone"
        );
    }

    #[test]
    fn an_unverified_or_ambiguous_identity_names_no_user() {
        let names: [(u8, &[u8]); 1] = [(NAMES, b"dns:a")];
        assert_eq!(stated([false, false], 0, &names).certificate, None);
        assert_eq!(stated([true, true], 1, &names).certificate, None);
        for lines in [
            &b"spiffe://a\nspiffe://b\ncn:x"[..],
            b"\xff",
            b"",
            b"dns:\ncn: ",
        ] {
            let statement = stated([true, true], 0, &[(NAMES, lines)]);
            assert_eq!(names_of(&statement), [""; 0], "{}", lines.escape_ascii());
        }
        let odd: [(u8, &[u8]); 2] = [(FINGERPRINT, &[7; 31]), (SERIAL, b"0x1")];
        let certificate = stated([true, true], 0, &odd).certificate.unwrap();
        assert_eq!((certificate.fingerprint, certificate.serial), (None, None));
    }

    #[test]
    fn a_word_is_short_and_visible() {
        let longest = "x".repeat(WORD_BYTES_MAX);
        for good in ["!", "TLSv1.3", "~", &longest] {
            assert_eq!(word(good).as_deref(), Some(good));
        }
        let longer = format!("{longest}x");
        for bad in ["", " ", "a b", "a\n", "\x7f", "é", &longer] {
            assert_eq!(word(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn names_have_one_form() {
        let pin = format!("spki:sha256:{}", "AB".repeat(32));
        assert_eq!(name(&pin).unwrap().as_ref(), pin.to_lowercase());
        for wrong in [
            "",
            "alice",
            "spiffe:",
            "spiffe://",
            "dns:",
            "cn:",
            "uri:a",
            "spki:sha256:ab",
            "cn:a\nb",
            "SPIFFE://a",
        ] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
    }
}
