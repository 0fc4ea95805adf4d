//! Gives other threads their turn between the parts of a handshake.
//!
//! A scheduler that lets a running thread finish its slice (Linux since 6.6) would leave a session that becomes ready behind
//! all of a handshake's cryptography. So a handshake gives way after each generation of a key, exchange, verification and
//! signature. Giving way takes at most half of a thread's time: on a busy core each turn lasts a slice of another thread,
//! and clients would run into the handshake's deadline.

use std::cell::Cell;
use std::sync::Arc;
use std::thread::yield_now;
use std::time::Instant;

use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{ActiveKeyExchange, CompletedKeyExchange, CryptoProvider, SupportedKxGroup};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    Error, NamedGroup, PeerMisbehaved, ProtocolVersion, SignatureAlgorithm, SignatureScheme,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;

/// Lets a thread that waits for this core run, unless this thread has given way for long just before.
pub fn give_way() {
    #[cfg(test)]
    CALLS.set(CALLS.get() + 1);
    let began = Instant::now();
    if Turn::is_due(LAST.get(), began) {
        yield_now();
        LAST.set(Some(Turn {
            began,
            ended: Instant::now(),
        }));
    }
}

/// The algorithms of a provider, with a turn after each part of a key exchange.
#[must_use]
pub fn between_exchanges(provider: &CryptoProvider) -> Arc<CryptoProvider> {
    let groups = provider.kx_groups.iter().map(|&whole| {
        let own = GROUPS.iter().find(|own| own.name() == whole.name());
        own.copied().unwrap_or(whole)
    });
    Arc::new(CryptoProvider {
        kx_groups: groups.collect(),
        ..provider.clone()
    })
}

/// A certificate whose key signs in a turn of its own.
#[must_use]
pub fn around_signatures(certified: CertifiedKey) -> CertifiedKey {
    CertifiedKey {
        key: Arc::new(Key(certified.key)),
        ..certified
    }
}

/// When a thread gave way last.
#[derive(Clone, Copy, Debug)]
struct Turn {
    began: Instant,
    ended: Instant,
}

impl Turn {
    /// Whether the thread has run for as long as it waited in its last turn.
    fn is_due(last: Option<Self>, now: Instant) -> bool {
        last.is_none_or(|Self { began, ended }| now - ended >= ended - began)
    }
}

/// A classical group that gives way.
#[derive(Debug)]
struct Group(&'static dyn SupportedKxGroup);

impl SupportedKxGroup for Group {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let started = self.0.start();
        give_way();
        started
    }

    fn start_and_complete(&self, share: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let started = self.start()?;
        let done = CompletedKeyExchange {
            group: started.group(),
            pub_key: started.pub_key().to_vec(),
            secret: started.complete(share)?,
        };
        give_way();
        Ok(done)
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        self.0.ffdhe_group()
    }

    fn name(&self) -> NamedGroup {
        self.0.name()
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        self.0.usable_for_version(version)
    }
}

/// A classical group and ML-KEM-768 (draft-ietf-tls-ecdhe-mlkem), one after the other. The order of their shares is that of
/// their secrets.
#[derive(Debug)]
struct Hybrid {
    whole: &'static dyn SupportedKxGroup,
    classical: Group,
    is_classical_first: bool,
}

impl SupportedKxGroup for Hybrid {
    /// For a client.
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        self.whole.start()
    }

    fn start_and_complete(&self, share: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let at = match self.is_classical_first {
            true => share.len().checked_sub(ENCAPSULATION_KEY),
            false => Some(ENCAPSULATION_KEY),
        };
        let (first, second) = at
            .and_then(|at| share.split_at_checked(at))
            .ok_or(PeerMisbehaved::InvalidKeyShare)?;
        let classical: &dyn SupportedKxGroup = &self.classical;
        let (one, other) = match self.is_classical_first {
            true => (classical, kx_group::MLKEM768),
            false => (kx_group::MLKEM768, classical),
        };
        let first = one.start_and_complete(first)?;
        give_way();
        let second = other.start_and_complete(second)?;
        give_way();
        let secrets = [first.secret.secret_bytes(), second.secret.secret_bytes()];
        Ok(CompletedKeyExchange {
            group: self.name(),
            pub_key: [first.pub_key, second.pub_key].concat(),
            secret: secrets.concat().into(),
        })
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        self.whole.ffdhe_group()
    }

    fn name(&self) -> NamedGroup {
        self.whole.name()
    }

    fn fips(&self) -> bool {
        self.whole.fips()
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        self.whole.usable_for_version(version)
    }
}

/// A key whose signatures give way.
#[derive(Debug)]
struct Key(Arc<dyn SigningKey>);

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(InTurn(self.0.choose_scheme(offered)?)))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[derive(Debug)]
struct InTurn(Box<dyn Signer>);

impl Signer for InTurn {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        give_way();
        let signed = self.0.sign(message);
        give_way();
        signed
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}

/// All groups of the profiles.
static GROUPS: [&dyn SupportedKxGroup; 5] = [
    &Hybrid {
        whole: kx_group::X25519MLKEM768,
        classical: Group(kx_group::X25519),
        is_classical_first: false,
    },
    &Hybrid {
        whole: kx_group::SECP256R1MLKEM768,
        classical: Group(kx_group::SECP256R1),
        is_classical_first: true,
    },
    &Group(kx_group::X25519),
    &Group(kx_group::SECP256R1),
    &Group(kx_group::SECP384R1),
];
/// Bytes of ML-KEM-768's key, which a client sends (FIPS 203, table 3).
const ENCAPSULATION_KEY: usize = 1184;

thread_local! {
    static LAST: Cell<Option<Turn>> = const { Cell::new(None) };
    #[cfg(test)]
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::crypto::aws_lc_rs;
    use rustls::server::NoClientAuth;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
    use sealway::config::tls::Profile;

    use super::*;
    use crate::protocol;

    #[test]
    fn every_group_of_a_profile_gives_way() {
        for profile in [Profile::Default, Profile::Nist] {
            let whole = protocol::provider(profile);
            let parts = between_exchanges(&whole);
            let names = |provider: &CryptoProvider| -> Vec<_> {
                let groups = provider.kx_groups.iter();
                groups.map(|group| group.name()).collect()
            };
            assert_eq!(names(&parts), names(&whole));
            for group in &parts.kx_groups {
                let kind = format!("{group:?}");
                let is_own = kind.starts_with("Group(") || kind.starts_with("Hybrid { whole");
                assert!(is_own, "{kind}");
            }
        }
    }

    #[test]
    fn a_handshake_gives_way_between_its_parts() {
        let own = KeyPair::generate().unwrap();
        let issued = CertificateParams::new(vec!["hop.example.com".into()]).unwrap();
        let issued = issued.self_signed(&own).unwrap();
        let key = own.serialize_der().try_into().unwrap();
        let provider = protocol::provider(Profile::Default);
        let certified = CertifiedKey::from_der(vec![issued.der().clone()], key, &provider).unwrap();
        let config = protocol::server_config(&provider, Arc::new(NoClientAuth), certified);
        let config = Arc::new(config.unwrap());
        let mut roots = RootCertStore::empty();
        roots.add(issued.der().clone()).unwrap();
        // Generation, exchange, before and after the signature. After a hybrid's first part and its second.
        for (group, parts) in [
            (kx_group::X25519, 4),
            (kx_group::SECP256R1, 4),
            (kx_group::SECP384R1, 4),
            (kx_group::X25519MLKEM768, 6),
            (kx_group::SECP256R1MLKEM768, 6),
        ] {
            let offer = CryptoProvider {
                kx_groups: vec![group],
                ..aws_lc_rs::default_provider()
            };
            let client = ClientConfig::builder_with_provider(Arc::new(offer));
            let client = client.with_safe_default_protocol_versions().unwrap();
            let client = client.with_root_certificates(roots.clone());
            let name = "hop.example.com".try_into().unwrap();
            let client = Arc::new(client.with_no_client_auth());
            let mut client = ClientConnection::new(client, name).unwrap();
            let mut server = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut hello = Vec::new();
            client.write_tls(&mut hello).unwrap();
            server.read_tls(&mut hello.as_slice()).unwrap();
            let before = CALLS.get();
            server.process_new_packets().unwrap();
            assert_eq!(CALLS.get() - before, parts, "{group:?}");
            let mut flight = Vec::new();
            server.write_tls(&mut flight).unwrap();
            client.read_tls(&mut flight.as_slice()).unwrap();
            client.process_new_packets().unwrap();
            assert!(!client.is_handshaking(), "{group:?}");
        }
    }

    #[test]
    fn a_hybrid_refuses_shares_of_other_lengths() {
        for group in &GROUPS[..2] {
            for length in [0, 31, 32, 64, 65, 1183, 1184, 1185, 1215, 1217, 1248, 1250] {
                let done = group.start_and_complete(&vec![4; length]);
                assert!(done.is_err(), "{group:?}, {length}");
            }
        }
    }

    #[test]
    fn giving_way_takes_at_most_half_of_the_time() {
        let start = Instant::now();
        // What a turn takes, and how many of 1,000 parts of 50 us each have one: all on an idle core, all beside a session,
        // few on a busy core.
        for (turn, given) in [(1, 1000), (40, 1000), (1500, 33)] {
            let turn = Duration::from_micros(turn);
            let (mut now, mut last, mut turns) = (start, None, 0);
            for _ in 0..1000 {
                now += Duration::from_micros(50);
                if Turn::is_due(last, now) {
                    let began = now;
                    now += turn;
                    last = Some(Turn { began, ended: now });
                    turns += 1;
                }
            }
            assert!((given..=given + 1).contains(&turns), "{turn:?}: {turns}");
        }
    }
}
