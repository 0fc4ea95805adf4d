//! The hash of a secret. Its bytes are private to this file and every comparison here takes constant time, so no other file
//! can compare hashes in another way. Never holds, logs or returns a secret.

use subtle::{Choice, ConstantTimeEq};

use crate::digest::Digest;

/// SHA-256 of a secret.
#[derive(Clone, Copy, Default, Eq)]
pub struct SecretHash(Digest);

impl SecretHash {
    /// The hash of an unused slot: no secret has it.
    pub(super) const UNUSED: Self = Self(Digest::ZEROS);

    /// Hashes a secret.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        Self(Digest::of(secret))
    }

    /// Whether these bytes have the hash, in constant time.
    #[must_use]
    pub fn is_of(&self, secret: impl AsRef<[u8]>) -> bool {
        *self == Self(Digest::of(secret))
    }

    /// Parses `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:")?;
        Digest::parse(&digits.to_ascii_lowercase()).map(Self)
    }
}

impl ConstantTimeEq for SecretHash {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.bytes().ct_eq(other.0.bytes())
    }
}

impl PartialEq for SecretHash {
    /// In constant time too, so that no comparison of two hashes shows how far they agree.
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl std::fmt::Debug for SecretHash {
    /// Never prints the hash: it suffices to guess a secret that a person chose.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretHash(redacted)")
    }
}

impl std::fmt::Display for SecretHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The type cannot hold it within this file, so its text does.
    #[test]
    fn hashes_are_compared_in_constant_time_only() {
        let code = include_str!("secret.rs")
            .split("#[cfg(test)]")
            .next()
            .unwrap_or_default();
        let derived = code
            .lines()
            .find(|line| line.starts_with("#[derive("))
            .unwrap_or_default();
        assert_eq!(derived, "#[derive(Clone, Copy, Default, Eq)]");
        for other in [
            "0 ==",
            "0 !=",
            ".0.eq(",
            "bytes() ==",
            "bytes().eq(",
            "memcmp",
            "iter().eq(",
        ] {
            assert!(!code.contains(other), "{other}");
        }
        assert_eq!(
            code.matches("self.0.bytes().ct_eq(other.0.bytes())")
                .count(),
            1
        );
    }

    #[test]
    fn hashes_survive_their_text_and_malformed_ones_are_refused() {
        let hash = SecretHash::of("one");
        assert_eq!(SecretHash::parse(&hash.to_string()), Some(hash));
        let text = hash.to_string();
        for bad in [
            "",
            "sha256:",
            "sha1:00",
            &text[..70],
            &format!("{text}0"),
            &text.replace(':', "="),
        ] {
            assert_eq!(SecretHash::parse(bad), None, "{bad}");
        }
        assert_eq!(
            SecretHash::parse(&format!("sha256:{}", "+1".repeat(32))),
            None
        );
    }
}
