//! Hellos of real clients against their manifest, and what holds of each of their beginnings and corruptions.

mod hostile;
mod random;

use super::*;
use serde_json::Value;

const LIMIT: usize = 65_536;

struct Recorded {
    name: String,
    bytes: Vec<u8>,
    facts: Value,
}

fn recorded() -> Vec<Recorded> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/");
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(format!("{folder}manifest.json")).unwrap()).unwrap();
    let hellos = manifest["client_hellos"].as_object().unwrap();
    assert_eq!(hellos.len(), 55);
    let read = |file: &Value| std::fs::read(format!("{folder}{}", file.as_str().unwrap())).unwrap();
    hellos
        .iter()
        .map(|(name, facts)| Recorded {
            name: name.clone(),
            bytes: read(&facts["file"]),
            facts: facts.clone(),
        })
        .collect()
}

/// The hello in `bytes` and its length.
fn whole(bytes: &[u8]) -> (ClientHello, usize) {
    match parse(bytes, LIMIT) {
        Ok(Parsed::Complete { value, consumed }) => (value, consumed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_recorded_hello_is_read_as_its_manifest_says() {
    for Recorded { name, bytes, facts } in recorded() {
        let (hello, consumed) = whole(&bytes);
        assert_eq!(consumed, bytes.len(), "{name}");
        let facts = facts.as_object().unwrap();
        for (key, told) in facts {
            let read = match key.as_str() {
                // Where the hello stands, who sent it, and how its bytes travelled: nothing that it says.
                "file" | "client" | "tcp_segments_mtu1500" => continue,
                "bytes" => consumed.into(),
                "records" => hello.records.into(),
                "record_version" => hex(u16::from_be_bytes([bytes[1], bytes[2]])),
                "record_lens" => fragments(&bytes)
                    .iter()
                    .map(|fragment| fragment.len())
                    .collect(),
                "handshake_len" => (hello.message().len() - 4).into(),
                "legacy_version" => hex(hello.legacy_version()),
                "session_id_len" => hello.session_id().len().into(),
                "cipher_suites" => hello.cipher_suites().count().into(),
                "sni" => hello.server_name().into(),
                "sni_offset" => hello
                    .server_name()
                    .and_then(|name| offset_in(&bytes, name))
                    .into(),
                "alpn" => hello
                    .alpn()
                    .map(|protocol| protocol.escape_ascii().to_string())
                    .collect(),
                "versions" => versions(&hello),
                "groups" => hello.supported_groups().map(group).collect(),
                "key_shares" => hello
                    .key_shares()
                    .map(|share| [group(share.group), share.key.len().into()])
                    .collect(),
                "grease" => has_grease(&hello).into(),
                "psk" => hello.has_pre_shared_key().into(),
                "ech" => (hello.ech() == Some(Ech::Outer)).into(),
                "extensions" => hello
                    .extensions()
                    .map(|(kind, _)| number_or_grease(kind))
                    .collect(),
                "pq_key_share" => hello
                    .key_shares()
                    .any(|share| share.group == X25519MLKEM768)
                    .into(),
                other => panic!("the manifest says {other} of {name}, which nothing here compares"),
            };
            assert_eq!(read, *told, "{key} of {name}");
        }
        assert_eq!(facts.len(), 22, "{name}");
        assert_ne!(hello.ech(), Some(Ech::Inner), "{name}");
    }
}

/// What the manifest does not say, of clients whose hello is known by other means.
#[test]
fn tickets_algorithms_and_early_data_are_read() {
    let of = |wanted: &str| {
        let recorded = recorded()
            .into_iter()
            .find(|recorded| recorded.name == wanted)
            .unwrap();
        whole(&recorded.bytes).0
    };
    let (fresh, resumed) = (
        of("node24-undici-proxyagent"),
        of("node24-undici-proxyagent-resumed"),
    );
    assert_eq!(fresh.session_ticket(), Some(&[][..]));
    assert!(resumed.has_pre_shared_key() && !fresh.has_pre_shared_key());
    assert_eq!(of("curl-openssl").session_ticket(), None);
    assert!(
        recorded()
            .iter()
            .all(|recorded| !whole(&recorded.bytes).0.has_early_data())
    );
    let chromium = [
        0xbaba, 0x0904, 0x0905, 0x0906, 0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806,
        0x0601,
    ];
    assert!(of("chromium156").signature_algorithms().eq(chromium));
}

#[test]
fn every_prefix_is_incomplete_and_never_an_error() {
    for Recorded { name, bytes, .. } in recorded() {
        for end in 0..bytes.len() {
            assert_eq!(
                parse(&bytes[..end], LIMIT),
                Ok(Parsed::Incomplete),
                "{name} at {end}"
            );
        }
    }
}

/// Every value of every byte of the short ones, a few values of every byte of the long ones.
#[test]
fn every_one_byte_corruption_is_survived() {
    let mut taken = 0;
    for Recorded { name, bytes, .. } in recorded() {
        let all: Vec<u8> = (1..=255).collect();
        let changes = if bytes.len() < 240 {
            &all[..]
        } else {
            &[0x01, 0xff]
        };
        let mut bad = bytes.clone();
        for (at, good) in bytes.iter().enumerate() {
            for change in changes {
                bad[at] = good ^ change;
                if let Ok(Parsed::Complete { value, consumed }) = parse(&bad, LIMIT) {
                    taken += 1;
                    assert!(consumed <= bad.len(), "{name} at {at}");
                    assert_is_consistent(&value, &bad[..consumed]);
                }
            }
            bad[at] = *good;
        }
    }
    assert!(
        taken > 10_000,
        "only {taken} corruptions left a hello: this test looks at nothing"
    );
}

/// What holds of every hello that is taken: all that it says stands in its bytes, and nothing is said twice that may
/// be said once only.
#[test]
fn a_hello_is_read_in_pieces_as_it_is_at_once() {
    for Recorded { name, bytes, .. } in recorded().into_iter().step_by(6) {
        for size in [1, 7, 50, 512] {
            let mut records = in_records(&whole(&bytes).0.message, size);
            // As it is, and with a byte of each record's header changed.
            for changed in [None, Some(0), Some(1), Some(4)] {
                if let Some(at) = changed.and_then(|at| records.get_mut((size + 5) * 3 + at)) {
                    *at ^= 0x41;
                }
                let mut incoming = Incoming::new(LIMIT);
                for len in 0..=records.len() {
                    let parsed = incoming.parse(&records[..len]);
                    assert_eq!(
                        parsed,
                        parse(&records[..len], LIMIT),
                        "{name}, {size} bytes a record, {len} of them"
                    );
                    if parsed != Ok(Parsed::Incomplete) {
                        break;
                    }
                }
            }
        }
    }
}

/// A message in records of so many bytes.
fn in_records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    message.chunks(size).flat_map(record).collect()
}

fn assert_is_consistent(hello: &ClientHello, bytes: &[u8]) {
    assert_eq!(fragments(bytes).concat(), hello.message());
    assert_eq!(fragments(bytes).len(), hello.records);
    let parts: Vec<u8> = hello
        .extensions()
        .flat_map(|(kind, data)| {
            [
                &kind.to_be_bytes()[..],
                &(data.len() as u16).to_be_bytes(),
                data,
            ]
            .concat()
        })
        .collect();
    assert!(
        hello.message().ends_with(&parts),
        "the extensions are the end of the message"
    );
    if let Some(name) = hello.server_name() {
        assert!(
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
            "{name}"
        );
        assert!(offset_in(hello.message(), name).is_some());
    }
    let mut kinds: Vec<u16> = hello.extensions().map(|(kind, _)| kind).collect();
    assert!(
        !kinds.contains(&41) || kinds.last() == Some(&41),
        "pre_shared_key is the last one"
    );
    assert_eq!(hello.server_name().is_some(), kinds.contains(&0));
    let count = kinds.len();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), count, "no extension twice");
}

/// What the records carry, one by one.
fn fragments(mut records: &[u8]) -> Vec<&[u8]> {
    let mut fragments = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = records {
        let (fragment, behind) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        fragments.push(fragment);
        records = behind;
    }
    fragments
}

fn offset_in(bytes: &[u8], name: &str) -> Option<usize> {
    bytes
        .windows(name.len())
        .position(|window| window == name.as_bytes())
}

fn hex(number: u16) -> Value {
    format!("0x{number:04x}").into()
}

fn versions(hello: &ClientHello) -> Value {
    let Some(listed) = hello.supported_versions() else {
        let highest: Vec<TlsVersion> = hello.versions().collect();
        return highest
            .iter()
            .map(|version| format!("{} (legacy_version only)", version.as_str()))
            .collect();
    };
    let named = |number| match TlsVersion::from_wire(number) {
        Some(version) => version.as_str(),
        None if is_grease(number) => "GREASE",
        None => panic!("{number:04x}"),
    };
    let (listed, known): (Vec<u16>, Vec<TlsVersion>) =
        (listed.collect(), hello.versions().collect());
    assert!(
        listed
            .iter()
            .filter_map(|number| TlsVersion::from_wire(*number))
            .eq(known)
    );
    listed.into_iter().map(named).collect()
}

/// By IANA's name, as the manifest has it.
fn group(number: u16) -> Value {
    match number {
        23 => "secp256r1",
        24 => "secp384r1",
        25 => "secp521r1",
        29 => "x25519",
        30 => "x448",
        256 => "ffdhe2048",
        257 => "ffdhe3072",
        258 => "ffdhe4096",
        259 => "ffdhe6144",
        260 => "ffdhe8192",
        X25519MLKEM768 => "X25519MLKEM768",
        grease if is_grease(grease) => "GREASE",
        other => panic!("group {other}"),
    }
    .into()
}

fn number_or_grease(number: u16) -> Value {
    if is_grease(number) {
        "GREASE".into()
    } else {
        number.into()
    }
}

fn has_grease(hello: &ClientHello) -> bool {
    let kinds = hello.extensions().map(|(kind, _)| kind);
    let shares = hello.key_shares().map(|share| share.group);
    hello
        .cipher_suites()
        .chain(kinds)
        .chain(hello.supported_groups())
        .chain(shares)
        .any(is_grease)
}

const X25519MLKEM768: u16 = 0x11ec;
