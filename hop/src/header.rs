//! Writes the PROXY protocol header, version 2 (haproxy, proxy-protocol.txt), that the daemon reads before the client's
//! bytes: addresses, TLS session, certificate names, and the token that proves that the hop wrote it. Never reads one.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader, SslInfo, Tlv};
use rustls::ServerConnection;
use sealway::wire::terminator::{EVENT, FINGERPRINT, GROUP, NAMES, SERIAL, TOKEN};
use zeroize::Zeroizing;

use crate::identity::Identity;

/// The token by which the daemon recognises the hop.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<Vec<u8>>);

impl Token {
    /// The bytes of a token.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// The facts of a handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Such as `TLSv1.3`.
    pub version: String,
    /// The IANA name of the cipher suite.
    pub cipher: String,
    /// The name of the key exchange group.
    pub group: String,
    /// The ALPN protocol; empty if the client offered none.
    pub alpn: Vec<u8>,
}

impl Facts {
    /// The facts of a finished handshake.
    #[must_use]
    pub fn of(connection: &ServerConnection) -> Self {
        let version = connection
            .protocol_version()
            .map(|version| format!("{version:?}"));
        let suite = connection.negotiated_cipher_suite();
        let suite = suite.map(|suite| format!("{:?}", suite.suite()));
        let group = connection.negotiated_key_exchange_group();
        let group = group.map(|group| format!("{:?}", group.name()));
        Self {
            // rustls names versions TLSv1_3, and suites of TLS 1.3 TLS13_AES_….
            version: version.unwrap_or_default().replace('_', "."),
            cipher: suite.unwrap_or_default().replacen("TLS13_", "TLS_", 1),
            group: group.unwrap_or_default(),
            alpn: connection.alpn_protocol().unwrap_or_default().to_vec(),
        }
    }
}

/// The header of one client.
///
/// # Errors
/// The header is longer than 65,535 bytes; the bound on names prevents it.
pub fn of_client(
    client: SocketAddr,
    hop: SocketAddr,
    facts: &Facts,
    identity: Option<&Identity>,
    token: &Token,
) -> Result<Zeroizing<Vec<u8>>, proxy_header::Error> {
    let has_one = identity.is_some();
    let mut tls = SslInfo::new(true, has_one, has_one, u32::from(!has_one));
    tls.append_tlv(Tlv::SslVersion(facts.version.as_str().into()));
    tls.append_tlv(Tlv::SslCipher(facts.cipher.as_str().into()));
    tls.append_tlv(Tlv::Custom(GROUP, facts.group.as_bytes().into()));
    let (client, hop) = of_one_family(client, hop);
    let mut header = ProxyHeader::with_address(ProxiedAddress::stream(client, hop));
    header.append_tlv(Tlv::Custom(TOKEN, token.0.as_slice().into()));
    header.append_tlv(Tlv::Ssl(tls));
    if !facts.alpn.is_empty() {
        header.append_tlv(Tlv::Alpn(facts.alpn.as_slice().into()));
    }
    if let Some(identity) = identity {
        header.append_tlv(Tlv::Custom(NAMES, identity.names.as_bytes().into()));
        header.append_tlv(Tlv::Custom(
            FINGERPRINT,
            identity.fingerprint.bytes().as_slice().into(),
        ));
        header.append_tlv(Tlv::Custom(SERIAL, identity.serial.as_bytes().into()));
    }
    encoded(&header)
}

/// The header of an event, which is about no connection of its own.
///
/// # Errors
/// As [`of_client`].
pub fn of_event(json: &str, token: &Token) -> Result<Zeroizing<Vec<u8>>, proxy_header::Error> {
    let mut header = ProxyHeader::with_local();
    header.append_tlv(Tlv::Custom(TOKEN, token.0.as_slice().into()));
    header.append_tlv(Tlv::Custom(EVENT, json.as_bytes().into()));
    encoded(&header)
}

fn encoded(header: &ProxyHeader<'_>) -> Result<Zeroizing<Vec<u8>>, proxy_header::Error> {
    // Growing would leave unwiped copies of the token.
    let mut bytes = Zeroizing::new(Vec::with_capacity(CAPACITY));
    header.encode_v2(&mut bytes)?;
    Ok(bytes)
}

/// Both addresses in one family: IPv4 as it is, otherwise IPv6 with mapped addresses.
fn of_one_family(client: SocketAddr, hop: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let (client, hop) = (plain(client), plain(hop));
    if client.is_ipv4() == hop.is_ipv4() {
        return (client, hop);
    }
    let mapped = |at: SocketAddr| match at.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), at.port()),
        IpAddr::V6(_) => at,
    };
    (mapped(client), mapped(hop))
}

/// More than the longest header.
const CAPACITY: usize = 8 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proxy_header::ParseConfig;

    use super::*;

    fn read(bytes: &[u8]) -> ProxyHeader<'_> {
        let (header, length) = ProxyHeader::parse(bytes, ParseConfig::default()).unwrap();
        assert_eq!(length, bytes.len());
        header
    }

    fn custom(header: &ProxyHeader<'_>, kind: u8) -> Option<Vec<u8>> {
        header.tlvs().find_map(|tlv| match tlv.unwrap() {
            Tlv::Custom(found, bytes) if found == kind => Some(bytes.into_owned()),
            _ => None,
        })
    }

    #[test]
    fn a_client_with_a_certificate_has_every_field() {
        let facts = Facts {
            version: "TLSv1.3".into(),
            cipher: "TLS_AES_256_GCM_SHA384".into(),
            group: "X25519MLKEM768".into(),
            alpn: b"http/1.1".to_vec(),
        };
        let identity = Identity {
            names: "spiffe://corp/app\ncn:app".into(),
            fingerprint: [7; 32].into(),
            serial: "01ab".into(),
        };
        let (client, hop) = ("[2001:db8::7]:5000", "[2001:db8::1]:9443");
        let token = Token::new(b"secret".to_vec());
        let bytes = of_client(
            client.parse().unwrap(),
            hop.parse().unwrap(),
            &facts,
            Some(&identity),
            &token,
        );
        let bytes = bytes.unwrap();
        assert_eq!(bytes.get(12..14).unwrap(), [0x21, 0x21]);
        let header = read(&bytes);
        let addresses = header.proxied_address().unwrap();
        assert_eq!(addresses.source.to_string(), client);
        assert_eq!(addresses.destination.to_string(), hop);
        let tls = header.ssl().unwrap();
        assert!(tls.client_ssl() && tls.client_cert_conn() && tls.client_cert_sess());
        assert_eq!(
            (tls.verify(), tls.version(), tls.cipher()),
            (0, Some("TLSv1.3"), Some("TLS_AES_256_GCM_SHA384"))
        );
        let group = tls
            .tlvs()
            .any(|tlv| tlv.unwrap() == Tlv::Custom(GROUP, b"X25519MLKEM768".as_slice().into()));
        assert!(group);
        assert_eq!(header.alpn(), Some(&b"http/1.1"[..]));
        assert_eq!(custom(&header, TOKEN).unwrap(), b"secret");
        assert_eq!(custom(&header, NAMES).unwrap(), identity.names.as_bytes());
        assert_eq!(custom(&header, FINGERPRINT).unwrap(), [7; 32]);
        assert_eq!(custom(&header, SERIAL).unwrap(), b"01ab");
        assert_eq!(format!("{token:?}"), "Token(redacted)");
    }

    #[test]
    fn without_a_certificate_nothing_is_claimed_and_families_are_made_one() {
        let token = Token::new(b"t".to_vec());
        for (client, hop, family, source) in [
            ("192.0.2.7:5000", "192.0.2.1:9443", 0x11, "192.0.2.7:5000"),
            (
                "[::ffff:192.0.2.7]:5000",
                "192.0.2.1:9443",
                0x11,
                "192.0.2.7:5000",
            ),
            (
                "192.0.2.7:5000",
                "[2001:db8::1]:9443",
                0x21,
                "[::ffff:192.0.2.7]:5000",
            ),
        ] {
            let facts = Facts::default();
            let bytes = of_client(
                client.parse().unwrap(),
                hop.parse().unwrap(),
                &facts,
                None,
                &token,
            )
            .unwrap();
            assert_eq!(bytes.get(12..14).unwrap(), [0x21, family]);
            let header = read(&bytes);
            assert_eq!(header.proxied_address().unwrap().source.to_string(), source);
            let tls = header.ssl().unwrap();
            assert!(tls.client_ssl() && !tls.client_cert_conn() && tls.verify() != 0);
            for kind in [NAMES, FINGERPRINT, SERIAL] {
                assert_eq!(custom(&header, kind), None);
            }
            assert_eq!(header.alpn(), None);
        }
    }

    #[test]
    fn an_event_is_of_no_connection() {
        let bytes = of_event("{\"kind\":\"hop_started\"}", &Token::new(b"t".to_vec())).unwrap();
        assert_eq!(bytes.get(12..14).unwrap(), [0x20, 0x00]);
        let header = read(&bytes);
        assert!(header.proxied_address().is_none());
        assert_eq!(
            custom(&header, EVENT).unwrap(),
            b"{\"kind\":\"hop_started\"}"
        );
        assert_eq!(custom(&header, TOKEN).unwrap(), b"t");
    }
}
