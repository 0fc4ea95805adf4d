//! JA4: a fingerprint of the TLS client, computed from the clear part of its first ClientHello
//! (FoxIO, "JA4: TLS Client Fingerprinting", technical_details/JA4.md). Ignores GREASE (RFC 8701).
//!
//! Never looks at the host, the keys or the session: equal programs have equal fingerprints for
//! every destination.

use std::fmt::{self, Display, Formatter};

use super::client_hello::{ClientHello, is_grease};
use crate::digest::Digest;

/// The fingerprint, in ASCII: `t13d1516h2_8daaf6152771_e5627efa2ab1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ja4([u8; JA4_BYTES]);

impl Ja4 {
    /// Computes the fingerprint of a hello. Sorts and hashes two short lists, so call it once.
    #[must_use]
    pub fn of(hello: &ClientHello) -> Self {
        // Both are bounded by the message, whose length the caller of the parser bounds.
        let (mut suites, mut kinds) = (
            Vec::with_capacity(LISTED_TYPICAL),
            Vec::with_capacity(LISTED_TYPICAL),
        );
        suites.extend(hello.cipher_suites().filter(|suite| !is_grease(*suite)));
        kinds.extend(
            hello
                .extensions()
                .map(|(kind, _)| kind)
                .filter(|kind| !is_grease(*kind)),
        );
        let [version, next_version] = version(hello);
        let [suites_tens, suites_ones] = two_digits(suites.len());
        let [kinds_tens, kinds_ones] = two_digits(kinds.len());
        let name = if kinds.contains(&SERVER_NAME) {
            b'd'
        } else {
            b'i'
        };
        let [first, last] = first_protocol(hello);
        let counts = [name, suites_tens, suites_ones, kinds_tens, kinds_ones];
        kinds.retain(|kind| *kind != SERVER_NAME && *kind != ALPN);
        kinds.sort_unstable();
        suites.sort_unstable();
        let mut text = [SEPARATOR; JA4_BYTES];
        let parts = [TCP, version, next_version]
            .into_iter()
            .chain(counts)
            .chain([first, last, SEPARATOR]);
        let parts = parts
            .chain(suites_hash(&suites))
            .chain([SEPARATOR])
            .chain(extensions_hash(&kinds, hello));
        text.iter_mut()
            .zip(parts)
            .for_each(|(place, byte)| *place = byte);
        Self(text)
    }

    /// Reads a fingerprint: 36 ASCII letters, digits and underscores.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_plain = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == SEPARATOR);
        let text: [u8; JA4_BYTES] = text.as_bytes().try_into().ok()?;
        is_plain.then_some(Self(text))
    }

    /// The 36 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Never fails: every byte is an ASCII letter, a digit or an underscore.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Display for Ja4 {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The highest offered version.
fn version(hello: &ClientHello) -> [u8; 2] {
    let number = match hello.supported_versions() {
        Some(listed) => listed.filter(|number| !is_grease(*number)).max(),
        None => Some(hello.legacy_version()),
    };
    match number {
        Some(0x0304) => *b"13",
        Some(0x0303) => *b"12",
        Some(0x0302) => *b"11",
        Some(0x0301) => *b"10",
        Some(0x0300) => *b"s3",
        Some(0x0002) => *b"s2",
        _ => *b"00",
    }
}

/// A count, at most 99.
fn two_digits(count: usize) -> [u8; 2] {
    // Both digits are below ten, whatever the count is.
    let count = count.min(99) as u8;
    [b'0' + count / 10, b'0' + count % 10]
}

/// The first and last character of the first protocol, or of its hexadecimal form if one of them is
/// not an ASCII letter or digit.
fn first_protocol(hello: &ClientHello) -> [u8; 2] {
    let protocol = hello.alpn().next();
    let ends = protocol.and_then(|protocol| Some((*protocol.first()?, *protocol.last()?)));
    match ends {
        None => *b"00",
        Some((first, last)) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() => {
            [first, last]
        }
        Some((first, last)) => {
            let [start, _, _, end] = hex_digits([first, last]);
            [start, end]
        }
    }
}

fn suites_hash(sorted: &[u16]) -> [u8; HASH_BYTES] {
    let mut text = Vec::with_capacity(sorted.len() * LISTED_BYTES);
    list(&mut text, sorted.iter().copied());
    hash(&text)
}

/// The hash of the sorted types followed by the signature algorithms in the client's order.
fn extensions_hash(sorted: &[u16], hello: &ClientHello) -> [u8; HASH_BYTES] {
    let mut text = Vec::with_capacity((sorted.len() + LISTED_TYPICAL) * LISTED_BYTES);
    list(&mut text, sorted.iter().copied());
    let kinds_end = text.len();
    text.push(SEPARATOR);
    list(
        &mut text,
        hello
            .signature_algorithms()
            .filter(|algorithm| !is_grease(*algorithm)),
    );
    if text.len() == kinds_end + 1 {
        text.truncate(kinds_end);
    }
    hash(&text)
}

/// Appends four hexadecimal digits for each number, separated by commas.
fn list(text: &mut Vec<u8>, numbers: impl Iterator<Item = u16>) {
    let before = text.len();
    for number in numbers {
        text.extend_from_slice(&hex_digits(number.to_be_bytes()));
        text.push(b',');
    }
    text.truncate(text.len().saturating_sub(1).max(before));
}

/// The first six bytes of SHA-256 in hexadecimal; zeros for an empty list.
fn hash(text: &[u8]) -> [u8; HASH_BYTES] {
    let zeros = [b'0'; HASH_BYTES];
    if text.is_empty() {
        return zeros;
    }
    *Digest::of(text).digits().first_chunk().unwrap_or(&zeros)
}

/// Two lower-case digits for each byte.
fn hex_digits(bytes: [u8; 2]) -> [u8; 4] {
    let mut digits = [b'0'; 4];
    // Fails only for a slice of another length.
    let _written = hex::encode_to_slice(bytes, &mut digits);
    digits
}

const JA4_BYTES: usize = 36;
const HASH_BYTES: usize = 12;
/// Four digits and a comma.
const LISTED_BYTES: usize = 5;
/// Room for what most clients list of a kind.
const LISTED_TYPICAL: usize = 32;
const SEPARATOR: u8 = b'_';
/// TLS over TCP; Sealway sees no other transport.
const TCP: u8 = b't';
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
