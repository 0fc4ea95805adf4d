//! Headers of both versions, whole, in pieces and hostile.

use super::*;
use proptest::prelude::*;
use proxy_header::{ProxiedAddress, SslInfo, Tlv};

fn complete(bytes: &[u8]) -> (Source, usize) {
    match parse(bytes) {
        Ok(Parsed::Complete { value, consumed }) => (value.source, consumed),
        other => panic!("{other:?} for {}", bytes.escape_ascii()),
    }
}

fn addresses(client: &str) -> ProxiedAddress {
    let source: SocketAddr = client.parse().unwrap();
    let proxy = if source.is_ipv4() {
        "192.0.2.1:9293"
    } else {
        "[2001:db8::1]:9293"
    };
    ProxiedAddress::stream(source, proxy.parse().unwrap())
}

fn v2<'a>(client: Option<&str>, tlvs: impl IntoIterator<Item = Tlv<'a>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = ProxyHeader::with_tlvs(client.map(addresses), tlvs);
    header.encode_v2(&mut bytes).unwrap();
    bytes
}

/// Version 2 with this command, family and rest.
fn raw(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [V2_START, &[command, family], &length, rest].concat()
}

fn good() -> Vec<(Vec<u8>, Source)> {
    let client = |text: &str| Source::Client(text.parse().unwrap());
    let tls = || {
        let mut info = SslInfo::new(true, true, true, 0);
        info.append_tlv(Tlv::SslVersion("TLSv1.3".into()));
        info.append_tlv(Tlv::Custom(0x28, vec![0x30; 1_500].into()));
        Tlv::Ssl(info)
    };
    vec![
        (
            b"PROXY TCP4 198.51.100.7 192.0.2.1 51234 9293\r\n".into(),
            client("198.51.100.7:51234"),
        ),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 9293\r\n".into(),
            client("[2001:db8::7]:51234"),
        ),
        (
            b"PROXY TCP6 ::ffff:198.51.100.7 ::ffff:192.0.2.1 51234 9293\r\n".into(),
            client("198.51.100.7:51234"),
        ),
        (
            b"PROXY TCP4 198.51.100.7 192.0.2.1 0 0\r\n".into(),
            client("198.51.100.7:0"),
        ),
        (b"PROXY UNKNOWN\r\n".into(), Source::Sender),
        (
            b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".into(),
            Source::Sender,
        ),
        (v2(None, []), Source::Sender),
        (raw(PROXY, 0, &[]), Source::Sender),
        (
            v2(Some("198.51.100.7:51234"), []),
            client("198.51.100.7:51234"),
        ),
        (
            v2(
                Some("[2001:db8::7]:51234"),
                [Tlv::Alpn(b"http/1.1"[..].into()), tls()],
            ),
            client("[2001:db8::7]:51234"),
        ),
        (
            v2(Some("[::ffff:198.51.100.7]:1"), []),
            client("198.51.100.7:1"),
        ),
        (
            v2(
                Some("198.51.100.7:0"),
                [Tlv::Noop(3), Tlv::Custom(0xee, b"x"[..].into())],
            ),
            client("198.51.100.7:0"),
        ),
        (raw(LOCAL, 0x11, &[0; 12]), Source::Sender),
        // Whatever the family of LOCAL is, the receiver ignores it.
        (raw(LOCAL, 0x31, &[1; 3]), Source::Sender),
        (raw(LOCAL, 0xff, &[1; 12]), Source::Sender),
    ]
}

#[test]
fn every_header_is_taken_whole_and_every_prefix_is_incomplete() {
    for (bytes, source) in good() {
        let shown = bytes.escape_ascii().to_string();
        assert_eq!(complete(&bytes), (source, bytes.len()), "{shown}");
        for end in 0..bytes.len() {
            assert_eq!(
                parse(&bytes[..end]),
                Ok(Parsed::Incomplete),
                "{shown} at {end}"
            );
        }
        for behind in [&b"CONNECT a:443 HTTP/1.1\r\n\r\n"[..], b"\n", &bytes] {
            let more = [&bytes, behind].concat();
            assert_eq!(complete(&more), (source, bytes.len()), "{shown}");
        }
    }
}

#[test]
fn ambiguous_lines_are_malformed() {
    for text in [
        "PROXY TCP4 198.51.100.7 192.0.2.1 51234 9293\n",
        "PROXY TCP4 198.51.100.7 192.0.2.1 51234 9293\r\r\n",
        "PROXY TCP4 198.51.100.7 192.0.2.1 51234 9293 \r\n",
        "PROXY TCP4  198.51.100.7 192.0.2.1 51234 9293\r\n",
        "PROXY TCP4 198.51.100.7 192.0.2.1 +51234 9293\r\n",
        "PROXY TCP4 198.51.100.7 192.0.2.1 051234 9293\r\n",
        "PROXY TCP4 198.51.100.7 192.0.2.1 65536 9293\r\n",
        "PROXY TCP4 198.51.100.7 192.0.2.1 51234\r\n",
        "PROXY TCP4 198.51.100.7 192.0.2.1 51234 9293 7\r\n",
        "PROXY TCP4 198.51.100.07 192.0.2.1 51234 9293\r\n",
        "PROXY TCP4 198.51.100 192.0.2.1 51234 9293\r\n",
        "PROXY TCP4 3325256711 192.0.2.1 51234 9293\r\n",
        "PROXY TCP4 2001:db8::7 2001:db8::1 51234 9293\r\n",
        "PROXY TCP4 198.51.100.7 2001:db8::1 51234 9293\r\n",
        "PROXY TCP6 198.51.100.7 192.0.2.1 51234 9293\r\n",
        "PROXY TCP6 fe80::1%eth0 2001:db8::1 51234 9293\r\n",
        "PROXY TCP6 [2001:db8::7] 2001:db8::1 51234 9293\r\n",
        "PROXY TCP5 198.51.100.7 192.0.2.1 51234 9293\r\n",
        "PROXY UDP4 198.51.100.7 192.0.2.1 51234 9293\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY unknown\r\n",
        "PROXY  UNKNOWN\r\n",
        "PROXY \r\n",
    ] {
        assert_eq!(
            parse(text.as_bytes()),
            Err(HeaderError::Malformed),
            "{text:?}"
        );
    }
}

#[test]
fn other_protocols_are_refused_at_their_first_different_byte() {
    for (bytes, at) in [
        (&b"CONNECT a:443 HTTP/1.1\r\n\r\n"[..], 1),
        (b"GET / HTTP/1.1\r\n\r\n", 1),
        (b"POST / HTTP/1.1\r\n\r\n", 2),
        (b"PROXYX", 6),
        (b"\x16\x03\x01\x02\x00\x01", 1),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", 3),
        (b"\r\n\r\n\0\r\nQUIT\r", 12),
        (b" PROXY UNKNOWN\r\n", 1),
        (b"proxy UNKNOWN\r\n", 1),
    ] {
        assert_eq!(parse(&bytes[..at]), Err(HeaderError::Absent), "{at}");
        assert_eq!(parse(&bytes[..at - 1]), Ok(Parsed::Incomplete), "{at}");
    }
    // The fixed part of version 2.
    for command in [0x00, 0x01, 0x10, 0x11, 0x22, 0x2f, 0x30, 0xff] {
        let bytes = [V2_START, &[command]].concat();
        assert_eq!(parse(&bytes), Err(HeaderError::Malformed), "{command:x}");
    }
}

#[test]
fn both_versions_are_bounded() {
    let line = |bytes: usize| {
        let mut line = b"PROXY UNKNOWN ".to_vec();
        line.resize(bytes - 2, b'x');
        [line.as_slice(), b"\r\n"].concat()
    };
    assert_eq!(
        complete(&line(V1_BYTES_MAX)),
        (Source::Sender, V1_BYTES_MAX)
    );
    assert_eq!(parse(&line(V1_BYTES_MAX + 1)), Err(HeaderError::TooLong));
    let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
    assert_eq!(parse(&endless), Err(HeaderError::TooLong));
    assert_eq!(parse(&endless[..V1_BYTES_MAX - 1]), Ok(Parsed::Incomplete));
    let whole = |padding: usize| v2(Some("198.51.100.7:1"), [Tlv::Noop(padding)]);
    let fits = whole(V2_BYTES_MAX - 16 - 12 - 3);
    assert_eq!(fits.len(), V2_BYTES_MAX);
    assert_eq!(complete(&fits).1, V2_BYTES_MAX);
    let beyond = whole(V2_BYTES_MAX - 16 - 12 - 2);
    assert_eq!(
        parse(&beyond[..16]),
        Err(HeaderError::TooLong),
        "at its length"
    );
}

#[test]
fn impossible_client_addresses_are_refused() {
    for address in ["0.0.0.0", "224.0.0.1", "239.1.2.3", "255.255.255.255"] {
        let ip: IpAddr = address.parse().unwrap();
        let line = format!("PROXY TCP4 {address} 192.0.2.1 1 2\r\n");
        assert_eq!(
            parse(line.as_bytes()),
            Err(HeaderError::Address(ip)),
            "{line}"
        );
        let bytes = v2(Some(&format!("{address}:1")), []);
        assert_eq!(parse(&bytes), Err(HeaderError::Address(ip)), "{address}");
        let mapped = format!("PROXY TCP6 ::ffff:{address} 2001:db8::1 1 2\r\n");
        assert_eq!(
            parse(mapped.as_bytes()),
            Err(HeaderError::Address(ip)),
            "{mapped}"
        );
    }
    for address in ["::", "ff02::1"] {
        let ip: IpAddr = address.parse().unwrap();
        let bytes = v2(Some(&format!("[{address}]:1")), []);
        assert_eq!(parse(&bytes), Err(HeaderError::Address(ip)), "{address}");
    }
    assert_eq!(parse(&raw(PROXY, 0x12, &[1; 12])), Err(HeaderError::Family));
    assert_eq!(parse(&raw(PROXY, 0x22, &[1; 36])), Err(HeaderError::Family));
    assert_eq!(
        parse(&raw(PROXY, 0x31, &[1; 216])),
        Err(HeaderError::Family)
    );
    assert_eq!(parse(&raw(PROXY, 0x32, &[1; 2])), Err(HeaderError::Family));
}

#[test]
fn a_family_and_its_length_that_disagree_are_malformed() {
    for (family, rest) in [
        (0x11, &[1; 11][..]),
        (0x21, &[1; 12]),
        (0x21, &[1; 35]),
        // Addresses of IPv6 under the family of IPv4: the rest is no TLV.
        (0x11, &[1; 36]),
        (0x10, &[1; 12]),
        (0x01, &[1; 12]),
        (0x41, &[1; 12]),
        (0xff, &[1; 12]),
    ] {
        let bytes = raw(PROXY, family, rest);
        assert_eq!(
            parse(&bytes),
            Err(HeaderError::Malformed),
            "{family:x} {}",
            rest.len()
        );
    }
    let addresses = [198, 51, 100, 7, 192, 0, 2, 1, 0, 1, 0, 2];
    for tlvs in [
        &[0x01][..],
        &[0x01, 0],
        &[0x01, 0, 1],
        &[0x01, 0xff, 0xff, 0],
        // A CN that is not UTF-8 is found by its reader; a TLV of TLS without its fixed part is not one.
        &[0x20, 0, 4, 1, 0, 0, 0],
        &[0x03, 0, 3, 0, 0, 0],
        &[0x02, 0, 1, 0xff],
    ] {
        let bytes = raw(PROXY, 0x11, &[&addresses, tlvs].concat());
        assert_eq!(parse(&bytes), Err(HeaderError::Malformed), "{tlvs:?}");
    }
}

#[test]
fn a_checksum_counts_wherever_it_stands() {
    // RFC 3720, appendix B.4: 32 bytes of zeros.
    assert_eq!(CRC32C.checksum(&[0; 32]), 0x8a91_36aa);
    let signed = |client: Option<&str>, before: usize, behind: usize| {
        let tlvs = |sum| {
            let alike = |count| (0..count).map(|_| Tlv::Custom(0xee, b"abc"[..].into()));
            v2(
                client,
                alike(before).chain([Tlv::Crc32c(sum)]).chain(alike(behind)),
            )
        };
        let sum = CRC32C.checksum(&tlvs(0));
        tlvs(sum)
    };
    for client in [None, Some("198.51.100.7:1"), Some("[2001:db8::7]:1")] {
        for (before, behind) in [(0, 0), (2, 0), (0, 2), (1, 1)] {
            let good = signed(client, before, behind);
            assert_eq!(complete(&good).1, good.len());
            for bit in V2_FIXED_BYTES * 8..good.len() * 8 {
                let mut altered = good.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    !is_taken_with_checksum(&altered),
                    "{client:?} {before} {behind}: bit {bit}"
                );
            }
        }
    }
    let twice = v2(Some("198.51.100.7:1"), [Tlv::Crc32c(0), Tlv::Crc32c(0)]);
    assert_eq!(parse(&twice), Err(HeaderError::Malformed));
}

/// A flip may turn the checksum into another TLV, which then checks nothing.
fn is_taken_with_checksum(bytes: &[u8]) -> bool {
    match parse(bytes) {
        Ok(Parsed::Complete { value, .. }) => {
            value.tlvs().any(|tlv| matches!(tlv, Ok(Tlv::Crc32c(_))))
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn trailing_bytes_and_segmentation_change_nothing(bytes in hostile(), behind in prop::collection::vec(any::<u8>(), 0..64)) {
        let whole = parse(&bytes).map(|parsed| lengths(&parsed));
        if let Ok(Some((source, consumed))) = whole {
            prop_assert!(consumed <= bytes.len().min(V2_BYTES_MAX));
            let more = [&bytes[..consumed], &behind].concat();
            prop_assert_eq!(parse(&more).map(|parsed| lengths(&parsed)), Ok(Some((source, consumed))));
            for end in 0..consumed {
                prop_assert_eq!(parse(&bytes[..end]), Ok(Parsed::Incomplete));
            }
        }
    }
}

fn lengths(parsed: &Parsed<Header<'_>>) -> Option<(Source, usize)> {
    match parsed {
        Parsed::Complete { value, consumed } => Some((value.source, *consumed)),
        Parsed::Incomplete => None,
    }
}

/// Good headers with some bytes changed, and bytes that begin like one.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let of_good = (
        0..good().len(),
        prop::collection::vec((any::<usize>(), any::<u8>()), 0..4),
    );
    let changed = of_good.prop_map(|(which, changes)| {
        let mut bytes = good().swap_remove(which).0;
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes
    });
    let begun =
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(is_v1, rest)| {
            let start = if is_v1 { V1_START } else { V2_START };
            [start, &rest].concat()
        });
    prop_oneof![changed, begun]
}
