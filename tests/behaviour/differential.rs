//! Compares Sealway's parser of ClientHellos with two others, over recorded hellos and tens of
//! thousands of changed ones: rustls, as strict as a server, and tls-parser, as lenient as an
//! observer. If two of them accept a hello, they read the same content; if only one accepts it, the
//! reason is listed here.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
use std::collections::BTreeMap;
use std::net::IpAddr;

use rustls::server::{Accepted, Acceptor};
use rustls::{Error, PeerIncompatible, PeerMisbehaved};
use sealway::wire::Parsed;
use sealway::wire::client_hello::{
    ClientHello, Fault, HelloError, NameFault, Part, is_grease, parse,
};
use support::hello::Recorded;
use support::made_hello;
use support::mutant::{Dice, Dissected, flip, in_records};
use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake};

/// Recorded hellos need no listed reason.
#[test]
fn three_parsers_agree_on_recorded_hellos() {
    for recorded in Recorded::all() {
        let (hello, accepted) = (ours(&recorded.bytes), theirs(&recorded.bytes));
        let (Ok(Some(hello)), Ok(Some(accepted))) = (hello, accepted) else {
            panic!("{}", recorded.name)
        };
        assert_rustls_agrees(&hello, &accepted, &recorded.bytes);
        assert_tls_parser_agrees(&hello, &recorded.bytes);
    }
}

#[test]
fn three_parsers_agree_on_changed_hellos_or_differ_for_a_listed_reason() {
    let seeds: Vec<Dissected> = Recorded::all()
        .iter()
        .map(|recorded| Dissected::new(&recorded.handshake()))
        .collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut dice = Dice::new(20_261_121);
    for round in 0..MUTANTS {
        let mut hello = seeds[round % seeds.len()].clone();
        for _ in 0..*dice.one_of(&[1, 1, 1, 2, 3]) {
            if !hello.extensions.is_empty() {
                hello.mutate(dice.one_of(&seeds), &mut dice);
            }
        }
        let mut message = hello.message();
        if dice.below(8) == 0 {
            flip(&mut message, &mut dice);
        }
        let mut bytes = in_records(&message, &mut dice);
        if dice.below(20) == 0 {
            flip(&mut bytes[..HEADERS_BYTES], &mut dice);
        }
        if dice.below(8) == 0 {
            flip(&mut bytes, &mut dice);
        }
        *counts.entry(compare(&bytes)).or_default() += 1;
    }
    println!("{counts:#?}");
    assert!(
        counts["both take it"] > MUTANTS / 5 && counts["both refuse it"] > MUTANTS / 20,
        "{counts:#?}"
    );
    // A reason that no mutant meets has never proved necessary.
    let met = |reason: &str| counts.contains_key(reason);
    let idle: Vec<_> = Strict::ALL
        .iter()
        .map(|r| r.text())
        .chain(Lenient::ALL.iter().map(|r| r.text()))
        .collect();
    let idle: Vec<_> = idle.into_iter().filter(|reason| !met(reason)).collect();
    assert!(idle.is_empty(), "{idle:?} of {counts:#?}");
}

/// The verdicts of both on the same bytes, in a word; panics if they differ for no listed reason.
fn compare(bytes: &[u8]) -> String {
    let (hello, accepted) = (ours(bytes), theirs(bytes));
    let unlisted = |what: &str| -> String { panic!("{what}\n{}", hex::encode(bytes)) };
    let word = match (&hello, &accepted) {
        (Ok(Some(hello)), Ok(Some(accepted))) => {
            assert_rustls_agrees(hello, accepted, bytes);
            "both take it".to_owned()
        }
        (Err(_), Err(_)) => "both refuse it".to_owned(),
        (Ok(None), Ok(None)) => "both wait".to_owned(),
        (Ok(None), Err(error)) => {
            unlisted(&format!("rustls refuses while Sealway waits: {error:?}"))
        }
        (Err(_), Ok(None)) => Strict::Sooner.text(),
        (Err(error), Ok(Some(accepted))) => match Strict::of(error, accepted) {
            Some(reason) => reason.text(),
            None => unlisted(&format!("only rustls takes it, Sealway: {error:?}")),
        },
        (Ok(Some(hello)), Err(error)) => match Lenient::of(error, hello) {
            Some(reason) => reason.text(),
            None => unlisted(&format!("only Sealway takes it, rustls: {error:?}")),
        },
        (Ok(Some(_)), Ok(None)) => unlisted("Sealway takes it and rustls waits"),
        (Ok(None), Ok(Some(_))) => unlisted("rustls takes it and Sealway waits"),
    };
    if let Ok(Some(hello)) = &hello {
        assert_tls_parser_agrees(hello, bytes);
    }
    word
}

/// Why Sealway refuses a hello that rustls accepts, or before rustls decides.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Strict {
    /// The fault is visible before the message is complete.
    Sooner,
    /// rustls looks for a duplicate group in key_share only when it chooses one. Two keys for one
    /// group are forbidden (RFC 8446, section 4.2.8), because it is open which of them counts.
    KeyTwice,
    /// A second entry of an unknown type: rustls stops reading the list there and keeps the first
    /// name. RFC 6066 knows one type, and the meaning of the rest of the list is undefined.
    SecondName,
    /// rustls treats an address with colons as a missing name; a name with a colon is not a name.
    AddressAsName,
    /// rustls counts identities and binders, and checks the length of a binder, only when it
    /// resumes.
    Binders,
}

/// Why rustls refuses a hello that Sealway accepts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lenient {
    /// A client of TLS 1.2 may omit signature_algorithms (RFC 5246, section 7.4.1.4.1); rustls
    /// serves none.
    NoAlgorithms,
    /// A name of letters, digits, hyphens, underscores and dots that is not a name in DNS: an empty
    /// or overlong label, a hyphen at an edge. It equals no host that a CONNECT can name, so policy
    /// refuses it.
    NotInDns,
    /// Content that Sealway does not read is malformed. Without these extensions rustls accepts the
    /// hello too.
    UnreadExtension,
}

impl Strict {
    const ALL: [Strict; 5] = [
        Strict::Sooner,
        Strict::KeyTwice,
        Strict::SecondName,
        Strict::AddressAsName,
        Strict::Binders,
    ];

    fn of(error: &HelloError, accepted: &Accepted) -> Option<Strict> {
        match error {
            HelloError::Malformed(Part::KeyShare, Fault::Duplicate) => Some(Strict::KeyTwice),
            HelloError::ServerName(NameFault::Several) => Some(Strict::SecondName),
            HelloError::ServerName(NameFault::Character) => accepted
                .client_hello()
                .server_name()
                .is_none()
                .then_some(Strict::AddressAsName),
            HelloError::PreSharedKeyBinders | HelloError::PreSharedKeyBinderLength => {
                Some(Strict::Binders)
            }
            _ => None,
        }
    }

    fn text(self) -> String {
        format!("only rustls takes it: {self:?}")
    }
}

impl Lenient {
    const ALL: [Lenient; 3] = [
        Lenient::NoAlgorithms,
        Lenient::NotInDns,
        Lenient::UnreadExtension,
    ];

    fn of(error: &Error, hello: &ClientHello) -> Option<Lenient> {
        match error {
            Error::PeerIncompatible(PeerIncompatible::SignatureAlgorithmsExtensionRequired) => {
                (hello.signature_algorithms().next().is_none()).then_some(Lenient::NoAlgorithms)
            }
            Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName) => {
                let name = hello.server_name()?;
                rustls::pki_types::DnsName::try_from(name)
                    .is_err()
                    .then_some(Lenient::NotInDns)
            }
            Error::InvalidMessage(_) => {
                let mut parts = Dissected::new(hello.message());
                parts.extensions.retain(|(kind, _)| READ.contains(kind));
                match theirs(&made_hello::record(22, &parts.message())) {
                    Ok(Some(accepted)) => {
                        assert_rustls_agrees(hello, &accepted, hello.message());
                        Some(Lenient::UnreadExtension)
                    }
                    // Two reasons at once; the second one must be listed too.
                    Err(error) if !matches!(error, Error::InvalidMessage(_)) => {
                        Lenient::of(&error, hello)
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn text(self) -> String {
        format!("only Sealway takes it: {self:?}")
    }
}

/// Complete, incomplete, or refused.
fn ours(bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    Ok(match parse(bytes, BYTES_MAX)? {
        Parsed::Complete { value, .. } => Some(value),
        Parsed::Incomplete => None,
    })
}

/// The same for rustls, by the entry point of every server that uses it.
fn theirs(bytes: &[u8]) -> Result<Option<Accepted>, Error> {
    let (mut acceptor, mut rest) = (Acceptor::default(), bytes);
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            break;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => return Ok(Some(accepted)),
            Err((error, _)) => return Err(error),
        }
    }
    Ok(None)
}

/// Both accepted it: they must have read the same content.
fn assert_rustls_agrees(hello: &ClientHello, accepted: &Accepted, bytes: &[u8]) {
    let rustls = accepted.client_hello();
    let context = || hex::encode(bytes);
    match (hello.server_name(), rustls.server_name()) {
        // rustls treats an address as a missing name; policy compares the content with a host,
        // which is never an address.
        (Some(address), None) => {
            assert!(address.parse::<IpAddr>().is_ok(), "{address} {}", context())
        }
        (ours, theirs) => assert_eq!(
            ours.map(str::to_ascii_lowercase).as_deref(),
            theirs,
            "{}",
            context()
        ),
    }
    let protocols = rustls
        .alpn()
        .into_iter()
        .flatten()
        .filter(|protocol| !is_grease_protocol(protocol));
    assert!(hello.alpn().eq(protocols), "ALPN: {}", context());
    let suites = rustls.cipher_suites().iter().map(|suite| u16::from(*suite));
    assert!(
        hello.cipher_suites().eq(suites),
        "cipher suites: {}",
        context()
    );
    let schemes = rustls
        .signature_schemes()
        .iter()
        .map(|scheme| u16::from(*scheme));
    assert!(
        hello.signature_algorithms().eq(schemes),
        "signature algorithms: {}",
        context()
    );
    let groups = rustls
        .named_groups()
        .unwrap_or_default()
        .iter()
        .map(|group| u16::from(*group));
    assert!(hello.supported_groups().eq(groups), "groups: {}", context());
}

/// tls-parser reads the same content in the message of a hello that Sealway accepted.
fn assert_tls_parser_agrees(hello: &ClientHello, bytes: &[u8]) {
    let context = || hex::encode(bytes);
    let Ok((rest, TlsMessage::Handshake(TlsMessageHandshake::ClientHello(read)))) =
        tls_parser::parse_tls_message_handshake(hello.message())
    else {
        panic!("tls-parser refuses {}", context())
    };
    assert!(rest.is_empty());
    assert_eq!(hello.legacy_version(), read.version.0, "{}", context());
    assert_eq!(
        hello.session_id(),
        read.session_id.unwrap_or_default(),
        "{}",
        context()
    );
    assert!(
        hello
            .cipher_suites()
            .eq(read.ciphers.iter().map(|suite| suite.0)),
        "{}",
        context()
    );
    let mut list = read.ext.unwrap_or_default();
    for (kind, data) in hello.extensions() {
        let (one, behind) = list.split_at(4 + data.len());
        list = behind;
        match tls_parser::parse_tls_client_hello_extension(one) {
            Ok((_, extension)) => assert!(
                says_the_same(hello, kind, data, &extension),
                "{extension:?} {}",
                context()
            ),
            Err(_) => assert!(
                !READ.contains(&kind),
                "tls-parser stops at extension {kind} of {}",
                context()
            ),
        }
    }
    assert!(list.is_empty(), "{}", context());
}

fn says_the_same(hello: &ClientHello, kind: u16, data: &[u8], extension: &TlsExtension) -> bool {
    match extension {
        TlsExtension::SNI(names) => {
            names.len() == 1 && hello.server_name().map(str::as_bytes) == Some(names[0].1)
        }
        TlsExtension::ALPN(list) => hello
            .alpn()
            .eq(list.iter().copied().filter(|p| !is_grease_protocol(p))),
        TlsExtension::SupportedVersions(list) => hello
            .supported_versions()
            .unwrap()
            .eq(list.iter().map(|v| v.0)),
        TlsExtension::EllipticCurves(list) => hello
            .supported_groups()
            .eq(list.iter().map(|group| group.0)),
        TlsExtension::SignatureAlgorithms(list) => {
            hello.signature_algorithms().eq(list.iter().copied())
        }
        TlsExtension::SessionTicket(ticket) => hello.session_ticket() == Some(ticket),
        TlsExtension::KeyShare(content) | TlsExtension::PreSharedKey(content) => *content == data,
        TlsExtension::EarlyData(_) => hello.has_early_data(),
        TlsExtension::Grease(number, content) => (*number, *content) == (kind, data),
        TlsExtension::Unknown(number, content) => (number.0, *content) == (kind, data),
        // The other extensions are not read here.
        _ => !READ.contains(&kind),
    }
}

/// RFC 8701.
fn is_grease_protocol(protocol: &[u8]) -> bool {
    matches!(protocol, [high, low] if is_grease(u16::from_be_bytes([*high, *low])))
}

/// The longest hello of these tests.
const BYTES_MAX: usize = 65_536;
const MUTANTS: usize = 40_000;
/// The headers of the first record and, if it holds as much, of the message.
const HEADERS_BYTES: usize = 9;
/// The extensions that Sealway reads.
const READ: [u16; 10] = [0, 10, 13, 16, 35, 41, 42, 43, 51, 0xfe0d];
