//! SHA-256 and its text of 64 hexadecimal digits. Comparison takes variable time: hashes of secrets
//! are compared by `auth::SecretHash` only.

use std::fmt;
use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};

/// A SHA-256 (FIPS 180-4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// 32 bytes of zero: no known input has this digest.
    pub const ZEROS: Self = Self([0; 32]);

    /// Hashes bytes.
    #[must_use]
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Parses 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        let is_lower = !text.bytes().any(|digit| digit.is_ascii_uppercase());
        is_lower.then_some(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits in ASCII.
    #[must_use]
    pub fn digits(&self) -> [u8; 64] {
        let mut digits = [b'0'; 64];
        // Fails only for a slice of another length.
        let _written = hex::encode_to_slice(self.0, &mut digits);
        digits
    }
}

/// Hashes values with a secret key: SHA-256 of the key and the value's bytes, cut to 64 bits.
#[derive(Clone, Debug)]
pub struct KeyedHash([u8; 32]);

/// Feeds a value into SHA-256.
struct Feed(Sha256);

impl KeyedHash {
    /// With this key.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> Digest {
        Digest(self.0)
    }

    /// Hashes a value.
    #[must_use]
    pub fn hash(&self, value: &impl Hash) -> u64 {
        let mut feed = Feed(Sha256::new_with_prefix(self.0));
        value.hash(&mut feed);
        feed.finish()
    }
}

impl Hasher for Feed {
    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Computed by sha256sum(1).
    #[test]
    fn known_digests() {
        for (bytes, digits) in [
            (
                "",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                "abc",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
        ] {
            assert_eq!(Digest::of(bytes).to_string(), digits);
            assert_eq!(Digest::parse(digits), Some(Digest::of(bytes)));
        }
    }

    #[test]
    fn a_digest_survives_its_text_and_nothing_else_is_one() {
        let digest = Digest::of(b"x");
        let text = digest.to_string();
        assert_eq!(Digest::parse(&text), Some(digest));
        for bad in [
            "",
            &text[1..],
            &text[2..],
            &format!("{text}0"),
            &format!("{text}00"),
            &format!(" {text}"),
            &text.to_uppercase(),
            &text.replace('d', "+"),
            &text.replacen("2d", "é", 1),
            &"+1".repeat(32),
        ] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }
}
