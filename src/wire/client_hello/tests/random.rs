//! Hellos out of random parts are read back as exactly those parts, however they are cut into records and segments.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::*;
use super::hostile::{extension, message, record_of, sni, vector8, vector16};
use super::{LIMIT, fragments};

#[derive(Clone, Debug)]
struct Parts {
    legacy_version: u16,
    session_id: Vec<u8>,
    suites: Vec<u16>,
    name: Option<String>,
    versions: Vec<u16>,
    groups: BTreeSet<u16>,
    shares: Vec<Vec<u8>>,
    algorithms: Vec<u16>,
    protocols: Vec<Vec<u8>>,
    ticket: Option<Vec<u8>>,
    ech: Option<Ech>,
    has_early_data: bool,
    identities: Vec<Vec<u8>>,
    unknown: BTreeSet<u16>,
    order: Vec<Index>,
}

impl Parts {
    /// Type and content of each extension, in a random order; pre_shared_key is the last one.
    fn extensions(&self) -> Vec<(u16, Vec<u8>)> {
        let list = |numbers: &[u16]| -> Vec<u8> {
            numbers
                .iter()
                .flat_map(|number| number.to_be_bytes())
                .collect()
        };
        let mut all: Vec<(u16, Vec<u8>)> = self
            .unknown
            .iter()
            .map(|kind| (*kind, vec![7; *kind as usize % 5]))
            .collect();
        all.extend(
            self.name
                .as_ref()
                .map(|name| (0, sni(name.as_bytes())[4..].to_vec())),
        );
        all.extend((!self.versions.is_empty()).then(|| (43, vector8(&list(&self.versions)))));
        let groups: Vec<u16> = self.groups.iter().copied().collect();
        all.extend((!groups.is_empty()).then(|| (10, vector16(&list(&groups)))));
        let shares: Vec<u8> = groups
            .iter()
            .zip(&self.shares)
            .flat_map(|(group, key)| [list(&[*group]), vector16(key)].concat())
            .collect();
        all.push((51, vector16(&shares)));
        all.extend((!self.algorithms.is_empty()).then(|| (13, vector16(&list(&self.algorithms)))));
        let protocols: Vec<u8> = self
            .protocols
            .iter()
            .flat_map(|protocol| vector8(protocol))
            .collect();
        all.extend((!protocols.is_empty()).then(|| (16, vector16(&protocols))));
        all.extend(self.ticket.clone().map(|ticket| (35, ticket)));
        all.extend(self.ech.map(|ech| match ech {
            Ech::Outer => (0xfe0d, vec![0, 0, 1, 0, 1, 7, 0, 1, 5, 0, 1, 9]),
            Ech::Inner => (0xfe0d, vec![1]),
        }));
        all.extend(self.has_early_data.then(|| (42, Vec::new())));
        for (at, other) in self.order.iter().enumerate().take(all.len()) {
            let other = other.index(all.len());
            all.swap(at, other);
        }
        let bound = |identity: &Vec<u8>| [vector16(identity), vec![1, 2, 3, 4]].concat();
        let identities: Vec<u8> = self.identities.iter().flat_map(bound).collect();
        let binders = vector8(&[5; 32]).repeat(self.identities.len());
        all.extend(
            (!identities.is_empty())
                .then(|| (41, [vector16(&identities), vector16(&binders)].concat())),
        );
        all
    }

    fn message(&self) -> Vec<u8> {
        let suites: Vec<u8> = self
            .suites
            .iter()
            .flat_map(|suite| suite.to_be_bytes())
            .collect();
        let extensions: Vec<u8> = self
            .extensions()
            .iter()
            .flat_map(|(kind, data)| extension(*kind, data))
            .collect();
        let session_id = vector8(&self.session_id);
        let version = self.legacy_version.to_be_bytes();
        message(
            &[
                &version[..],
                &[7; 32],
                &session_id,
                &vector16(&suites),
                &[1, 0],
                &vector16(&extensions),
            ]
            .concat(),
        )
    }

    fn assert_read_back(&self, hello: &ClientHello) {
        assert_eq!(hello.legacy_version(), self.legacy_version);
        assert_eq!(hello.session_id(), self.session_id);
        assert!(hello.cipher_suites().eq(self.suites.iter().copied()));
        assert_eq!(hello.server_name(), self.name.as_deref());
        assert_eq!(
            hello
                .supported_versions()
                .into_iter()
                .flatten()
                .collect::<Vec<u16>>(),
            self.versions
        );
        let known: Vec<TlsVersion> = self
            .versions
            .iter()
            .filter_map(|number| TlsVersion::from_wire(*number))
            .collect();
        assert!(self.versions.is_empty() || hello.versions().eq(known));
        assert!(hello.supported_groups().eq(self.groups.iter().copied()));
        let shares = hello
            .key_shares()
            .map(|share| (share.group, share.key.to_vec()));
        assert!(shares.eq(self.groups.iter().copied().zip(self.shares.iter().cloned())));
        assert!(
            hello
                .signature_algorithms()
                .eq(self.algorithms.iter().copied())
        );
        assert!(
            hello.alpn().eq(self
                .protocols
                .iter()
                .filter(|protocol| **protocol != b"\x2a\x2a")
                .map(Vec::as_slice))
        );
        assert_eq!(hello.session_ticket(), self.ticket.as_deref());
        assert_eq!(hello.ech(), self.ech);
        assert_eq!(hello.has_early_data(), self.has_early_data);
        assert_eq!(hello.has_pre_shared_key(), !self.identities.is_empty());
        assert!(
            hello
                .extensions()
                .map(|(kind, data)| (kind, data.to_vec()))
                .eq(self.extensions())
        );
    }
}

/// Any number, and often GREASE.
fn number() -> impl Strategy<Value = u16> {
    prop_oneof![4 => any::<u16>(), 1 => (0..16_u16).prop_map(|n| (n << 12) | (n << 4) | 0x0a0a)]
}

fn bytes(size: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), size)
}

prop_compose! {
    fn parts()(
        (legacy_version, session_id) in (any::<u16>(), bytes(0..33)),
        suites in prop::collection::vec(number(), 1..60),
        name in prop::option::of("[a-zA-Z0-9_-]{1,20}(\\.[a-z0-9]{1,20}){0,4}"),
        versions in prop::collection::vec(prop_oneof![0x0300..0x0305_u16, number()], 0..8),
        groups in prop::collection::btree_set(number(), 0..20),
        shares in prop::collection::vec(bytes(1..90), 0..4),
        algorithms in prop::collection::vec(number(), 0..30),
        protocols in prop::collection::vec(prop_oneof![bytes(1..12), Just(b"\x2a\x2a".to_vec()), Just(b"h2".to_vec())], 0..6)
            .prop_map(|list| list.into_iter().filter(|p| p == b"\x2a\x2a" || p.len() != 2 || p[0] != p[1]).collect()),
        (ticket, identities) in (prop::option::of(bytes(0..50)), prop::collection::vec(bytes(1..50), 0..3)),
        ech in prop_oneof![Just(None), Just(Some(Ech::Outer)), Just(Some(Ech::Inner))],
        has_early_data in any::<bool>(),
        unknown in prop::collection::btree_set(prop_oneof![0x4000..0xf000_u16, number().prop_filter("unknown", |n| n & 0x0f0f == 0x0a0a)], 0..12),
        order in prop::collection::vec(any::<Index>(), 24),
    ) -> Parts {
        Parts {
            legacy_version, session_id, suites, name, versions, groups, shares, algorithms, protocols, ticket, ech,
            has_early_data, identities, unknown, order,
        }
    }
}

proptest! {
    #[test]
    fn random_parts_are_read_back_from_any_records_and_segments(
        parts in parts(),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
        behind in bytes(0..40),
        segments in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        let message = parts.message();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(message.len())).chain([0, message.len()]).collect();
        at.sort_unstable();
        at.dedup();
        let records: Vec<u8> = at.windows(2).flat_map(|pair| record_of(&message[pair[0]..pair[1]])).collect();
        for end in segments.iter().map(|end| end.index(records.len())) {
            prop_assert_eq!(parse(&records[..end], LIMIT), Ok(Parsed::Incomplete));
        }
        let Ok(Parsed::Complete { value, consumed }) = parse(&[&records[..], &behind].concat(), LIMIT) else {
            panic!("{:?}", parse(&records, LIMIT))
        };
        prop_assert_eq!(consumed, records.len());
        prop_assert_eq!(value.records, at.len() - 1);
        prop_assert_eq!(value.message(), fragments(&records).concat());
        parts.assert_read_back(&value);
    }

    #[test]
    fn any_bytes_never_panic_and_never_read_past_the_limit(bytes in bytes(0..600)) {
        let framed = [&[22, 3, 1, 2, 0, 1, 0][..], &bytes].concat();
        for input in [&bytes, &framed] {
            if let Ok(Parsed::Complete { consumed, .. }) = parse(input, 400) {
                prop_assert!(consumed <= 400);
            }
        }
    }
}
