//! The example of JA4's specification, its corner cases, and the fingerprints of recorded clients.

use super::*;
use crate::wire::Parsed;
use crate::wire::client_hello::parse;

/// A hello with these lists, of the legacy version 1.2.
struct Lists<'a> {
    suites: &'a [u16],
    /// Each with its content.
    extensions: &'a [(u16, Vec<u8>)],
}

impl Lists<'_> {
    fn ja4(&self) -> String {
        let vector =
            |content: Vec<u8>| [&(content.len() as u16).to_be_bytes()[..], &content].concat();
        let extension = |(kind, content): &(u16, Vec<u8>)| {
            [&kind.to_be_bytes()[..], &vector(content.clone())].concat()
        };
        let extensions: Vec<u8> = self.extensions.iter().flat_map(extension).collect();
        let body = [
            &[3, 3][..],
            &[7; 32],
            &[0],
            &vector(bytes(self.suites)),
            &[1, 0],
            &vector(extensions),
        ]
        .concat();
        ja4(&[
            &[22, 3, 1][..],
            &vector([&[1, 0][..], &vector(body)].concat()),
        ]
        .concat())
    }
}

fn bytes(numbers: &[u16]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_be_bytes())
        .collect()
}

fn list(numbers: &[u16]) -> Vec<u8> {
    [
        &((numbers.len() * 2) as u16).to_be_bytes()[..],
        &bytes(numbers),
    ]
    .concat()
}

fn ja4(records: &[u8]) -> String {
    let Ok(Parsed::Complete { value, .. }) = parse(records, 65_536) else {
        panic!("no hello")
    };
    Ja4::of(&value).to_string()
}

const SUITES: [u16; 15] = [
    0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c,
    0x009d, 0x002f, 0x0035,
];
const ALGORITHMS: [u16; 8] = [
    0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601,
];

/// The extensions of the specification's example.
fn extensions(algorithms: Option<&[u16]>) -> Vec<(u16, Vec<u8>)> {
    let kinds = [
        0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012,
        0x002b, 0xff01, 0x000b, 0x000a, 0x0015,
    ];
    let content = |kind| match kind {
        0x0000 => b"\0\x0c\0\0\x09a.example".to_vec(),
        0x0033 => vec![0, 0],
        0x0010 => b"\0\x0c\x02h2\x08http/1.1".to_vec(),
        0x000d => list(algorithms.unwrap_or_default()),
        0x002b => vec![4, 3, 4, 3, 3],
        0x000a => list(&[29, 23]),
        _ => Vec::new(),
    };
    let kept = kinds
        .into_iter()
        .filter(|kind| *kind != 0x000d || algorithms.is_some());
    kept.map(|kind| (kind, content(kind))).collect()
}

#[test]
fn the_example_of_the_specification() {
    let of = |suites: &[u16], extensions: &[(u16, Vec<u8>)]| Lists { suites, extensions }.ja4();
    let plain = of(&SUITES, &extensions(Some(&ALGORITHMS)));
    assert_eq!(plain, "t13d1516h2_8daaf6152771_e5627efa2ab1");

    // GREASE is ignored wherever it stands.
    let mut greased = extensions(Some(&[&[0x1a1a], &ALGORITHMS[..]].concat()));
    greased.insert(0, (0x2a2a, Vec::new()));
    greased.push((0xfafa, vec![0]));
    greased
        .iter_mut()
        .find(|(kind, _)| *kind == 0x2b)
        .unwrap()
        .1 = vec![6, 0xba, 0xba, 3, 4, 3, 3];
    greased
        .iter_mut()
        .find(|(kind, _)| *kind == 0x10)
        .unwrap()
        .1 = b"\0\x06\x02\x5a\x5a\x02h2".to_vec();
    assert_eq!(of(&[&[0x0a0a], &SUITES[..]].concat(), &greased), plain);

    // The order of suites and extensions does not matter, that of the algorithms does.
    let mut reversed = extensions(Some(&ALGORITHMS));
    reversed.reverse();
    assert_eq!(
        of(&SUITES.into_iter().rev().collect::<Vec<_>>(), &reversed),
        plain
    );
    let backwards: Vec<u16> = ALGORITHMS.into_iter().rev().collect();
    assert_ne!(of(&SUITES, &extensions(Some(&backwards))), plain);
}

/// The specification's extensions without the one that lists the algorithms hash otherwise than its own example, which
/// keeps 000d: what it shows is the rule for a list that stays empty.
#[test]
fn without_signature_algorithms_nothing_is_appended() {
    let with_kind = hash(b"0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01");
    assert_eq!(&with_kind, b"6d807ffa2a79", "of the specification");
    let without_kind = hash(b"0005,000a,000b,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01");
    let read = Lists {
        suites: &SUITES,
        extensions: &extensions(None),
    }
    .ja4();
    assert_eq!(
        read,
        format!(
            "t13d1515h2_8daaf6152771_{}",
            str::from_utf8(&without_kind).unwrap()
        )
    );
    // Only GREASE in the list is an empty list.
    let read = Lists {
        suites: &SUITES,
        extensions: &extensions(Some(&[0x0a0a])),
    }
    .ja4();
    assert_eq!(read, "t13d1516h2_8daaf6152771_6d807ffa2a79");
}

#[test]
fn empty_lists_are_zeros_and_counts_stop_at_99() {
    let of = |suites: &[u16], extensions: &[(u16, Vec<u8>)]| Lists { suites, extensions }.ja4();
    assert_eq!(of(&[0x0a0a], &[]), "t12i000000_000000000000_000000000000");
    let named = (0, b"\0\x0c\0\0\x09a.example".to_vec());
    let zeros = of(&SUITES, &[named, (16, b"\0\x03\x02h2".to_vec())]);
    assert_eq!(
        zeros, "t12d1502h2_8daaf6152771_000000000000",
        "SNI and ALPN are counted and not hashed"
    );
    let many: Vec<u16> = (1..=99).collect();
    assert!(of(&many, &[]).starts_with("t12i990000_"));
    let more: Vec<u16> = (1..=120).collect();
    assert!(of(&more, &[]).starts_with("t12i990000_"));
}

#[test]
fn the_version_is_the_highest_that_is_offered() {
    let of = |versions: &[u16]| {
        let content = [&[(versions.len() * 2) as u8][..], &bytes(versions)].concat();
        Lists {
            suites: &SUITES,
            extensions: &[(43, content)],
        }
        .ja4()[..3]
            .to_owned()
    };
    let told = [
        (0x0304, "t13"),
        (0x0303, "t12"),
        (0x0302, "t11"),
        (0x0301, "t10"),
        (0x0300, "ts3"),
        (2, "ts2"),
    ];
    for (number, text) in told {
        assert_eq!(of(&[0x7a7a, number, 0x0001]), text, "{number:04x}");
    }
    assert_eq!(of(&[0x0303, 0x0304, 0x0301]), "t13");
    assert_eq!(of(&[0x0304, 0x0305]), "t00", "unknown");
    assert_eq!(of(&[0x7a7a]), "t00");
}

#[test]
fn the_protocol_is_abbreviated_to_its_first_and_last_characters() {
    let of = |protocol: &[u8]| {
        let content = [
            &[0, protocol.len() as u8 + 1, protocol.len() as u8][..],
            protocol,
        ]
        .concat();
        Lists {
            suites: &SUITES,
            extensions: &[(16, content)],
        }
        .ja4()[8..10]
            .to_owned()
    };
    let told: [(&[u8], &str); 12] = [
        (b"h2", "h2"),
        (b"http/1.1", "h1"),
        (b"x", "xx"),
        (&[0xab], "ab"),
        (&[0x20], "20"),
        (&[0xab, 0xcd], "ad"),
        (&[0x20, 0x61], "21"),
        (&[0x30, 0xab], "3b"),
        (&[0x61, 0x20], "60"),
        (&[0x30, 0x31, 0xab, 0xcd], "3d"),
        (&[0x30, 0xab, 0xcd, 0x31], "01"),
        (&[0x0a, 0x0a], "00"), // GREASE, so no protocol at all
    ];
    for (protocol, ends) in told {
        assert_eq!(of(protocol), ends, "{protocol:02x?}");
    }
}

/// Computed from the recordings by another program written from the specification.
#[test]
fn recorded_clients_have_their_fingerprints() {
    let told = [
        ("curl-openssl", "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6"),
        ("firefox-esr", "t13d1617h2_86a278354501_3cbfd9057e0d"),
        ("go1.23-nethttp", "t13d1911h2_9dc949149365_e7c285222651"),
        (
            "curl-cffi-safari-boringssl",
            "t13d2013h2_a09f3c656075_7f0f34a4126d",
        ),
        ("chromium156", "t13d1517h2_8daaf6152771_cb7bf5808d99"),
        ("curl-h1-tls12", "t12d2807h1_d943125447b4_a44c6288192a"),
        ("gnutls-cli-3.7.9", "t13d2914h1_723694b0fccc_2cc26d266019"),
        (
            "java17-urlconnection",
            "t13d371200_db35923f8641_7c76daad20ec",
        ),
        (
            "node24-undici-proxyagent-resumed",
            "t13d5213h1_b262b3658495_66863fb0a24c",
        ),
        ("openssl-3.0-nosni", "t13i310900_e8f1e7e78f70_1f22a2ca17c4"),
        (
            "openssl-3.5-recsplit512",
            "t13d301200_1d37bd780c83_ecd0401ec68b",
        ),
        ("py-grpc", "t13d0712h2_04ca88ad2b9b_fde2939304f6"),
        ("rustls-awslc-pq", "t13d1011h1_61a7ad8aa9b6_0d308c48d2a3"),
    ];
    for (client, text) in told {
        let file = format!(
            "{}/tests/fixtures/clienthello/{client}.bin",
            env!("CARGO_MANIFEST_DIR")
        );
        assert_eq!(ja4(&std::fs::read(file).unwrap()), text, "{client}");
    }
}
