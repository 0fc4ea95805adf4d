//! Hellos of real clients against their manifest, hostile hellos, and properties of the parser.

use super::*;
use proptest::prelude::*;
use serde_json::Value;

const LIMIT: usize = 65_536;

struct Recorded {
    name: String,
    bytes: Vec<u8>,
    facts: Value,
}

fn recorded() -> Vec<Recorded> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/");
    let manifest: Value = serde_json::from_slice(&std::fs::read(format!("{folder}manifest.json")).unwrap()).unwrap();
    let hellos = manifest["client_hellos"].as_object().unwrap();
    assert_eq!(hellos.len(), 55);
    let read = |file: &Value| std::fs::read(format!("{folder}{}", file.as_str().unwrap())).unwrap();
    hellos
        .iter()
        .map(|(name, facts)| Recorded { name: name.clone(), bytes: read(&facts["file"]), facts: facts.clone() })
        .collect()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_recorded_hello_parses_to_what_its_manifest_says() {
    for Recorded { name, bytes, facts } in recorded() {
        let Ok(Parsed::Complete { value, consumed }) = parse(&bytes, LIMIT) else { panic!("{name}") };
        assert_eq!(consumed, bytes.len(), "{name}");
        assert_eq!(value.server_name.as_deref(), facts["sni"].as_str(), "{name}");
        assert_eq!(value.records as u64, facts["records"].as_u64().unwrap(), "{name}");
        assert_eq!(value.ech, facts["ech"].as_bool().unwrap(), "{name}");
        assert_eq!(value.alpn, texts(&facts["alpn"]), "{name}");
        let versions: Vec<_> = value.versions.iter().map(|v| v.as_str()).collect();
        let told = texts(&facts["versions"]);
        let told: Vec<_> =
            told.iter().map(|v| v.trim_end_matches(" (legacy_version only)")).filter(|v| v.starts_with("1.")).collect();
        assert!(!told.is_empty() && versions == told, "{name}: {versions:?} {told:?}");
    }
}

#[test]
fn every_prefix_is_incomplete_and_never_an_error() {
    for Recorded { name, bytes, .. } in recorded() {
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end], LIMIT), Ok(Parsed::Incomplete), "{name} at {end}");
        }
    }
}

#[test]
fn every_one_byte_corruption_is_survived() {
    for Recorded { bytes, .. } in recorded().into_iter().take(12) {
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0xff;
            let _only_must_return = parse(&bad, LIMIT);
        }
    }
}

/// A small valid hello out of parts.
fn hello(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    message
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    let entry = [&[0][..], &(name.len() as u16).to_be_bytes(), name].concat();
    extension(0, &[&(entry.len() as u16).to_be_bytes()[..], &entry].concat())
}

fn record_of(fragment: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &(fragment.len() as u16).to_be_bytes(), fragment].concat()
}

fn outcome(bytes: &[u8]) -> Result<Option<String>, HelloError> {
    match parse(bytes, LIMIT)? {
        Parsed::Complete { value, .. } => Ok(value.server_name),
        Parsed::Incomplete => panic!("incomplete"),
    }
}

#[test]
fn hostile_hellos_are_refused_for_their_own_reason() {
    use HelloError as E;
    let good = hello(&sni(b"a.example"));
    assert_eq!(outcome(&record_of(&good)), Ok(Some("a.example".into())));
    let with = |extensions: Vec<u8>| outcome(&record_of(&hello(&extensions)));
    assert_eq!(with([sni(b"a.example"), sni(b"b.example")].concat()), Err(E::DuplicateExtension));
    assert_eq!(
        with(extension(0, &[0, 14, 0, 0, 4, b'a', b'.', b'b', b'c', 0, 0, 4, b'a', b'.', b'b', b'c'])),
        Err(E::ServerNameList)
    );
    assert_eq!(with(extension(0, &[0, 4, 1, 0, 1, b'a'])), Err(E::ServerNameList));
    assert_eq!(with(extension(0, &[0, 0])), Err(E::ServerNameList));
    assert_eq!(with(extension(0, &[0, 4, 0, 0, 9, b'a'])), Err(E::Syntax));
    assert_eq!(with(extension(0, &[])), Err(E::Syntax));
    for name in [&b""[..], b"a\0.example", b"a example", &[b'a'; 256], "ä.example".as_bytes(), b"[::1]"] {
        assert_eq!(with(sni(name)), Err(E::ServerName), "{name:?}");
    }
    assert_eq!(with(extension(16, &[0, 1, 0])), Err(E::Syntax));
    assert_eq!(with(extension(16, &[0, 0])), Err(E::Syntax));
    assert_eq!(with(extension(43, &[3, 3, 4, 3])), Err(E::Syntax));
    assert_eq!(with(extension(43, &[2, 3, 4, 0])), Err(E::Syntax));
    assert_eq!(with(vec![0, 5, 0]), Err(E::Syntax));
    let many: Vec<u8> = (100..165).flat_map(|kind| extension(kind, &[])).collect();
    assert_eq!(with(many), Err(E::TooManyExtensions));
    assert_eq!(outcome(&record_of(&[&good[..], &[0]].concat())), Err(E::Message(MessageError::Trailing)));
    let mut server_hello = good.clone();
    server_hello[0] = 2;
    assert_eq!(outcome(&record_of(&server_hello)), Err(E::Message(MessageError::Kind)));
    let mut trailing = hello(&[]);
    trailing.push(0);
    trailing[3] += 1;
    assert_eq!(outcome(&record_of(&trailing)), Err(E::Syntax));
}

#[test]
fn records_are_strict() {
    use HelloError as E;
    let good = hello(&sni(b"a.example"));
    let (one, two) = good.split_at(20);
    assert_eq!(outcome(&[record_of(one), record_of(two)].concat()), Ok(Some("a.example".into())));
    assert_eq!(
        outcome(&[record_of(one), vec![20, 3, 3, 0, 1, 1]].concat()),
        Err(E::Message(MessageError::InterleavedRecord))
    );
    assert_eq!(outcome(&[record_of(one), record_of(&[])].concat()), Err(E::Message(MessageError::RecordLength)));
    assert_eq!(outcome(&[22, 3, 1, 0x40, 0x01]), Err(E::Message(MessageError::RecordLength)));
    let crumbs: Vec<u8> = hello(&extension(21, &[0; 200])).iter().flat_map(|b| record_of(&[*b])).collect();
    assert_eq!(outcome(&crumbs), Err(E::Message(MessageError::TooLarge)));
}

#[test]
fn other_protocols_are_not_tls() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x\r\n", &[0x80, 0x2e, 1, 0, 2], &[22, 2, 0], &[21, 3, 3, 0, 2, 2, 40]]
    {
        assert_eq!(outcome(bytes), Err(HelloError::Message(MessageError::NotTls)), "{bytes:?}");
    }
}

#[test]
fn the_limit_is_exact() {
    let bytes = record_of(&hello(&extension(21, &[0; 4_000])));
    assert!(matches!(parse(&bytes, bytes.len()), Ok(Parsed::Complete { .. })));
    assert_eq!(parse(&bytes, bytes.len() - 1), Err(HelloError::Message(MessageError::TooLarge)));
    assert_eq!(
        parse(&bytes[..9], bytes.len() - 1),
        Err(HelloError::Message(MessageError::TooLarge)),
        "told from the header alone"
    );
}

#[test]
fn versions_without_the_extension_end_at_1_2() {
    let Ok(Parsed::Complete { value, .. }) = parse(&record_of(&hello(&[])), LIMIT) else { panic!() };
    assert_eq!(value.versions.first(), Some(&TlsVersion::Tls12));
    assert_eq!(value.server_name, None);
}

proptest! {
    #[test]
    fn cut_anywhere_into_records_it_reads_the_same(
        name in "[a-zA-Z0-9-]{1,20}(\\.[a-z0-9]{1,20}){0,4}",
        protocols in prop::collection::vec("[a-z0-9/.]{3,12}", 1..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        behind in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let list: Vec<u8> = protocols.iter().flat_map(|p| [&[p.len() as u8][..], p.as_bytes()].concat()).collect();
        let alpn = extension(16, &[&(list.len() as u16).to_be_bytes()[..], &list].concat());
        let message = hello(&[alpn, sni(name.as_bytes()), extension(43, &[4, 3, 4, 3, 3])].concat());
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(message.len())).chain([0, message.len()]).collect();
        at.sort_unstable();
        at.dedup();
        let whole: Vec<u8> = at.windows(2).flat_map(|pair| record_of(&message[pair[0]..pair[1]])).collect();
        let bytes = [&whole[..], &behind].concat();
        let Ok(Parsed::Complete { value, consumed }) = parse(&bytes, LIMIT) else { panic!("not complete") };
        prop_assert_eq!(consumed, whole.len());
        prop_assert_eq!(value.server_name.as_deref(), Some(name.as_str()));
        prop_assert_eq!(value.alpn, protocols);
        prop_assert_eq!(value.versions, vec![TlsVersion::Tls13, TlsVersion::Tls12]);
        prop_assert_eq!(value.records, at.len() - 1);
        for end in 0..whole.len() {
            prop_assert_eq!(parse(&whole[..end], LIMIT), Ok(Parsed::Incomplete));
        }
    }

    #[test]
    fn any_bytes_never_panic_and_never_read_past_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let framed = [&[22, 3, 1, 2, 0, 1, 0][..], &bytes].concat();
        for input in [&bytes, &framed] {
            if let Ok(Parsed::Complete { consumed, .. }) = parse(input, 400) {
                prop_assert!(consumed <= 400);
            }
        }
    }
}
