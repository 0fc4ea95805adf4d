//! Hellos that no honest client sends: each way to be malformed is refused for its own reason.

use super::super::*;
use super::{LIMIT, whole};

/// A small valid hello out of parts.
fn hello(extensions: &[u8]) -> Vec<u8> {
    hello_of(&[0], &[0, 2, 0x13, 0x01], &[1, 0], &vector16(extensions))
}

/// Of a session id, cipher suites, compression methods and extensions, each with its length.
fn hello_of(session_id: &[u8], suites: &[u8], compressions: &[u8], extensions: &[u8]) -> Vec<u8> {
    message(
        &[
            &[3, 3][..],
            &[7; 32],
            session_id,
            suites,
            compressions,
            extensions,
        ]
        .concat(),
    )
}

pub(super) fn message(body: &[u8]) -> Vec<u8> {
    [&[1, 0][..], &vector16(body)].concat()
}

pub(super) fn vector8(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

pub(super) fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

pub(super) fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(data)].concat()
}

fn names(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let entries: Vec<u8> = entries
        .iter()
        .flat_map(|(kind, name)| [&[*kind][..], &vector16(name)].concat())
        .collect();
    extension(0, &vector16(&entries))
}

pub(super) fn sni(name: &[u8]) -> Vec<u8> {
    names(&[(0, name)])
}

pub(super) fn record_of(fragment: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &vector16(fragment)].concat()
}

fn outcome(bytes: &[u8]) -> Result<Option<String>, HelloError> {
    match parse(bytes, LIMIT)? {
        Parsed::Complete { value, .. } => Ok(value.server_name().map(str::to_owned)),
        Parsed::Incomplete => panic!("incomplete"),
    }
}

/// What becomes of a hello with these extensions.
fn with(extensions: &[u8]) -> Result<Option<String>, HelloError> {
    outcome(&record_of(&hello(extensions)))
}

fn error_of(kind: u16, data: &[u8]) -> HelloError {
    with(&extension(kind, data)).unwrap_err()
}

#[test]
fn each_bad_server_name_has_its_own_error() {
    use NameFault as F;
    assert_eq!(with(&sni(b"a.example")), Ok(Some("a.example".into())));
    assert_eq!(
        with(&sni(&[b'a'; 255])).map(|name| name.unwrap().len()),
        Ok(255)
    );
    let faults = [
        (extension(0, &[0, 0]), F::NoEntry),
        (names(&[(1, b"a")]), F::Kind),
        (names(&[(1, b"a"), (0, b"a.example")]), F::Kind),
        (names(&[(0, b"a.example"), (0, b"a.example")]), F::Several),
        (names(&[(0, b"a.example"), (1, b"b")]), F::Several),
        (sni(b""), F::Empty),
        (sni(&[b'a'; 256]), F::TooLong),
        (sni(b"a\0.example"), F::Nul),
        (sni(b"a.example\0"), F::Nul),
        (sni(b"a example"), F::Character),
        (sni(b"a.example:443"), F::Character),
        (sni("ä.example".as_bytes()), F::Character),
        (sni(b"[::1]"), F::Character),
    ];
    for (extensions, fault) in faults {
        assert_eq!(
            with(&extensions),
            Err(HelloError::ServerName(fault)),
            "{extensions:02x?}"
        );
    }
}

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
fn an_extension_is_refused_for_its_own_reason() {
    use Fault as F;
    use Part as P;
    let (binder, identity) = (
        vector8(&[5; 32]),
        [vector16(b"ticket"), vec![0; 4]].concat(),
    );
    let psk =
        |identities: &[u8], binders: &[u8]| [vector16(identities), vector16(binders)].concat();
    let faults = [
        (0, vec![], P::ServerName, F::Overrun),
        (0, vec![0, 4, 0, 0, 9, b'a'], P::ServerName, F::Overrun),
        (0, vec![0, 4, 0, 0, 1, b'a', 0], P::ServerName, F::Trailing),
        (10, vec![], P::SupportedGroups, F::Overrun),
        (10, vec![0, 0], P::SupportedGroups, F::Empty),
        (10, vec![0, 1, 0], P::SupportedGroups, F::OddLength),
        (10, vec![0, 2, 0, 29, 0], P::SupportedGroups, F::Trailing),
        (13, vec![0, 3, 4], P::SignatureAlgorithms, F::Overrun),
        (13, vec![0, 0], P::SignatureAlgorithms, F::Empty),
        (
            13,
            vec![0, 3, 4, 3, 8],
            P::SignatureAlgorithms,
            F::OddLength,
        ),
        (13, vec![0, 2, 4, 3, 8], P::SignatureAlgorithms, F::Trailing),
        (16, vec![0, 3, 3, b'h', b'2'], P::Alpn, F::Overrun),
        (16, vec![0, 0], P::Alpn, F::Empty),
        (16, vec![0, 1, 0], P::Alpn, F::Empty),
        (16, vec![0, 3, 2, b'h', b'2', 0], P::Alpn, F::Trailing),
        (41, psk(&identity, &[]), P::PreSharedKey, F::Empty),
        (41, psk(&[], &binder), P::PreSharedKey, F::Empty),
        (
            41,
            psk(&[0, 0, 0, 0, 0, 0], &binder),
            P::PreSharedKey,
            F::Empty,
        ),
        (
            41,
            psk(&identity[..9], &binder),
            P::PreSharedKey,
            F::Overrun,
        ),
        (
            41,
            [psk(&identity, &binder), vec![0]].concat(),
            P::PreSharedKey,
            F::Trailing,
        ),
        (42, vec![0], P::EarlyData, F::Trailing),
        (43, vec![], P::SupportedVersions, F::Overrun),
        (43, vec![0], P::SupportedVersions, F::Empty),
        (43, vec![3, 3, 4, 3], P::SupportedVersions, F::OddLength),
        (43, vec![2, 3, 4, 0], P::SupportedVersions, F::Trailing),
        (51, vec![0, 5, 0, 29, 0, 2, 9], P::KeyShare, F::Overrun),
        (51, vec![0, 4, 0, 29, 0, 0], P::KeyShare, F::Empty),
        (51, vec![0, 0, 0], P::KeyShare, F::Trailing),
        (
            51,
            vec![0, 10, 0, 29, 0, 1, 9, 0, 29, 0, 1, 9],
            P::KeyShare,
            F::Duplicate,
        ),
        (0xfe0d, vec![], P::EncryptedClientHello, F::Overrun),
        (0xfe0d, vec![2], P::EncryptedClientHello, F::Value),
        (0xfe0d, vec![1, 0], P::EncryptedClientHello, F::Trailing),
        (
            0xfe0d,
            vec![0, 0, 1, 0, 1, 7, 0, 0, 0, 0],
            P::EncryptedClientHello,
            F::Empty,
        ),
        (
            0xfe0d,
            vec![0, 0, 1, 0, 1, 7, 0, 0, 0, 1, 9, 9],
            P::EncryptedClientHello,
            F::Trailing,
        ),
    ];
    for (kind, data, part, fault) in faults {
        // A length that is told is one that is there, but for an odd key share below.
        assert_eq!(
            error_of(kind, &data),
            HelloError::Malformed(part, fault),
            "{kind}: {data:02x?}"
        );
    }
    assert_eq!(
        error_of(41, &psk(&identity, &vector8(&[5; 31]))),
        HelloError::PreSharedKeyBinderLength
    );
    assert_eq!(
        error_of(41, &psk(&identity, &binder.repeat(2))),
        HelloError::PreSharedKeyBinders
    );
    assert_eq!(
        error_of(41, &psk(&identity.repeat(2), &binder)),
        HelloError::PreSharedKeyBinders
    );
    let last = extension(41, &psk(&identity, &binder));
    assert_eq!(
        with(&[sni(b"a.example"), last.clone()].concat()),
        Ok(Some("a.example".into()))
    );
    assert_eq!(
        with(&[last, sni(b"a.example")].concat()),
        Err(HelloError::PreSharedKeyNotLast)
    );
}

#[test]
fn the_list_of_extensions_is_strict() {
    let of = |fault| Err(HelloError::Malformed(Part::Extensions, fault));
    assert_eq!(
        with(&[sni(b"a.example"), sni(b"b.example")].concat()),
        of(Fault::Duplicate)
    );
    assert_eq!(
        with(&extension(0x1234, &[]).repeat(2)),
        of(Fault::Duplicate)
    );
    assert_eq!(with(&[0, 5, 0]), of(Fault::Overrun));
    assert_eq!(with(&[0x12, 0x34, 0, 2, 0]), of(Fault::Overrun));
    let many = |count: u16| -> Vec<u8> {
        (100..100 + count)
            .flat_map(|kind| extension(kind, &[]))
            .collect()
    };
    for count in [64, 65, 4_000] {
        assert_eq!(with(&many(count)), Ok(None), "no RFC bounds their number");
        assert_eq!(
            with(&[many(count), extension(99 + count, &[])].concat()),
            of(Fault::Duplicate),
            "{count}"
        );
    }
}

/// Each is sent by somebody, and no RFC forbids it.
#[test]
fn extensions_that_may_repeat_are_accepted() {
    let groups: Vec<u8> = (0..1_000_u16).flat_map(u16::to_be_bytes).collect();
    for (kind, data) in [
        // -Djdk.tls.namedGroups=x25519,secp256r1,x25519
        (10, vec![0, 6, 0, 29, 0, 23, 0, 29]),
        (10, vector16(&groups)),
        (13, vec![0, 4, 4, 3, 4, 3]),
        (16, vec![0, 6, 2, b'h', b'2', 2, b'h', b'2']),
        (43, vec![4, 3, 4, 3, 4]),
        (51, vec![0, 0]),
    ] {
        let (hello, _) = whole(&record_of(&hello(&extension(kind, &data))));
        assert_eq!(hello.extensions().next(), Some((kind, &data[..])));
    }
}

#[test]
fn each_bad_field_has_its_own_error() {
    use Fault as F;
    use Part as P;
    let (id, suites, compressions) = (&[0][..], &[0, 2, 0x13, 0x01][..], &[1, 0][..]);
    let faults = [
        (
            hello_of(&vector8(&[0; 33]), suites, compressions, &[]),
            P::SessionId,
            F::TooLong,
        ),
        (
            hello_of(id, &[0, 0], compressions, &[]),
            P::CipherSuites,
            F::Empty,
        ),
        (
            hello_of(id, &[0, 3, 0x13, 0x01, 0x13], compressions, &[]),
            P::CipherSuites,
            F::OddLength,
        ),
        (
            hello_of(id, suites, &[0], &[]),
            P::CompressionMethods,
            F::Value,
        ),
        (
            hello_of(id, suites, &[1, 1], &[]),
            P::CompressionMethods,
            F::Value,
        ),
        (hello_of(id, suites, &[9, 0], &[]), P::Fields, F::Overrun),
        (
            hello_of(id, suites, compressions, &[0, 0, 0]),
            P::Fields,
            F::Trailing,
        ),
        (
            hello_of(id, suites, compressions, &[0, 1]),
            P::Fields,
            F::Overrun,
        ),
        (message(&[3, 3, 7]), P::Fields, F::Overrun),
        (message(&[]), P::Fields, F::Overrun),
    ];
    for (message, part, fault) in faults {
        assert_eq!(
            outcome(&record_of(&message)),
            Err(HelloError::Malformed(part, fault)),
            "{message:02x?}"
        );
    }
    assert_eq!(
        outcome(&record_of(&hello_of(id, suites, compressions, &[]))),
        Ok(None),
        "TLS 1.2 may end here"
    );
}

#[test]
fn records_are_strict() {
    let refused = |bytes: &[u8]| match outcome(bytes) {
        Err(HelloError::Message(error)) => error,
        other => panic!("{other:?}"),
    };
    let good = hello(&sni(b"a.example"));
    let (one, two) = good.split_at(20);
    assert_eq!(
        outcome(&[record_of(one), record_of(two)].concat()),
        Ok(Some("a.example".into()))
    );
    for kind in [20, 21, 23] {
        let between = [record_of(one), vec![kind, 3, 3, 0, 1, 1], record_of(two)].concat();
        assert_eq!(refused(&between), MessageError::InterleavedRecord, "{kind}");
    }
    assert_eq!(
        refused(&[22, 3, 1, 0, 0]),
        MessageError::RecordLength,
        "empty"
    );
    assert_eq!(
        refused(&[record_of(one), record_of(&[]), record_of(two)].concat()),
        MessageError::RecordLength
    );
    assert_eq!(
        refused(&[22, 3, 1, 0x40, 0x01]),
        MessageError::RecordLength,
        "oversized"
    );
    assert_eq!(
        refused(&record_of(&[&good[..], &[0]].concat())),
        MessageError::Trailing
    );
    assert_eq!(
        refused(&record_of(&[&[2], &good[1..]].concat())),
        MessageError::Kind,
        "a ServerHello"
    );
    let crumbs: Vec<u8> = hello(&extension(21, &[0; 200]))
        .iter()
        .flat_map(|b| record_of(&[*b]))
        .collect();
    assert_eq!(refused(&crumbs), MessageError::TooLarge);
}

#[test]
fn other_protocols_are_not_tls() {
    let others: [(&str, &[u8]); 8] = [
        ("HTTP", b"GET / HTTP/1.1\r\n"),
        ("SSH", b"SSH-2.0-x\r\n"),
        ("SMTP, whose server speaks first", b"EHLO a.example\r\n"),
        ("MySQL, whose server speaks first", &[0x20, 0, 0, 1, 0x85]),
        ("SSLv2", &[0x80, 0x2e, 1, 0, 2]),
        ("SSLv2 that offers TLS", &[0x80, 0x2e, 1, 3, 1]),
        ("no version of TLS", &[22, 2, 0]),
        ("an alert", &[21, 3, 3, 0, 2, 2, 40]),
    ];
    for (what, bytes) in others {
        assert_eq!(
            outcome(bytes),
            Err(HelloError::Message(MessageError::NotTls)),
            "{what}"
        );
    }
}

#[test]
fn the_limit_is_exact() {
    let bytes = record_of(&hello(&extension(21, &[0; 4_000])));
    assert!(matches!(
        parse(&bytes, bytes.len()),
        Ok(Parsed::Complete { .. })
    ));
    assert_eq!(
        parse(&bytes, bytes.len() - 1),
        Err(HelloError::Message(MessageError::TooLarge))
    );
    assert_eq!(
        parse(&bytes[..9], bytes.len() - 1),
        Err(HelloError::Message(MessageError::TooLarge)),
        "told from the header alone"
    );
}

#[test]
fn versions_without_the_extension_end_at_1_2() {
    for (legacy_version, offered) in [
        ([3, 4], Some(TlsVersion::Tls12)),
        ([3, 1], Some(TlsVersion::Tls10)),
        ([2, 0], None),
    ] {
        let mut bare = hello(&[]);
        bare[4..6].copy_from_slice(&legacy_version);
        let (hello, _) = whole(&record_of(&bare));
        assert!(hello.versions().eq(offered), "{legacy_version:?}");
        assert_eq!(hello.server_name(), None);
    }
}

#[test]
fn an_inner_hello_is_distinguished_from_an_outer_one() {
    let ech = |data: &[u8]| whole(&record_of(&hello(&extension(0xfe0d, data)))).0.ech();
    assert_eq!(ech(&[1]), Some(Ech::Inner));
    assert_eq!(
        ech(&[0, 0, 1, 0, 1, 7, 0, 0, 0, 1, 9]),
        Some(Ech::Outer),
        "without a key: in a second hello"
    );
    assert_eq!(whole(&record_of(&hello(&[]))).0.ech(), None);
}
