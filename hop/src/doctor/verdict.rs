//! What a finding can say: for each verdict a check, a code, a cause, a cure and, where one exists, a command.
//!
//! One table for the text, the JSON and `docs/doctor.md`, so the three never differ. A word in braces is a value that the
//! doctor fills in; a value that it does not know stands there in capitals. Texts here never hold a byte of a peer.

pub mod anthropic;
pub mod azure;
pub mod bedrock;
pub mod google;
pub mod openai;
pub mod openrouter;
pub mod path;
pub mod setup;

use std::fmt;

/// One possible finding. Two verdicts are equal if their codes are.
#[derive(Debug)]
pub struct Verdict {
    /// The check that finds it.
    pub check: Check,
    /// Its stable name, in lower case.
    pub code: &'static str,
    /// Why it happens.
    pub cause: &'static str,
    /// What to do.
    pub cure: &'static str,
    /// The command that does it or leads to it, one a line; empty if there is none.
    pub command: &'static str,
}

impl Verdict {
    /// All verdicts, in the order of the documentation.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        let tables = [
            setup::ALL,
            path::ALL,
            google::ALL,
            openai::ALL,
            anthropic::ALL,
            azure::ALL,
            bedrock::ALL,
            openrouter::ALL,
        ];
        tables.into_iter().flatten().copied()
    }
}

impl PartialEq for Verdict {
    fn eq(&self, other: &Self) -> bool {
        self.code == other.code
    }
}

impl Eq for Verdict {}

/// One check of the doctor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// Variables of the environment.
    D01,
    /// The proxy URL.
    D02,
    /// DNS and TCP to the proxy.
    D03,
    /// Cleartext or TLS.
    D04,
    /// The certificate of the proxy.
    D05,
    /// CONNECT.
    D06,
    /// The issuer of the provider's certificate.
    D07,
    /// Large and split hellos.
    D08,
    /// TLS alerts of the tunnel.
    D09,
    /// A way around the tunnel.
    D10,
    /// The provider's API.
    D11,
    /// The address that the provider saw.
    D12,
    /// IPv6.
    D13,
    /// Streams and idle sessions.
    D14,
    /// Pitfalls of client libraries.
    D15,
    /// The refusals of other providers than Google.
    D16,
}

impl Check {
    /// All checks, in order.
    pub const ALL: [Self; 16] = [
        Self::D01,
        Self::D02,
        Self::D03,
        Self::D04,
        Self::D05,
        Self::D06,
        Self::D07,
        Self::D08,
        Self::D09,
        Self::D10,
        Self::D11,
        Self::D12,
        Self::D13,
        Self::D14,
        Self::D15,
        Self::D16,
    ];

    /// What it checks, in one line.
    #[must_use]
    pub fn subject(self) -> &'static str {
        match self {
            Self::D01 => "proxy variables and NO_PROXY",
            Self::D02 => "the proxy URL: scheme, port, encoding of the secret",
            Self::D03 => "DNS and TCP to the proxy, each address",
            Self::D04 => "whether the listener speaks cleartext or TLS",
            Self::D05 => "the proxy's certificate, and whether it asks for one",
            Self::D06 => "CONNECT with and without credentials",
            Self::D07 => "who issued the provider's certificate",
            Self::D08 => "ClientHellos: small, post-quantum, in two segments",
            Self::D09 => "TLS alerts of the tunnel",
            Self::D10 => "a direct connection that bypasses the tunnel",
            Self::D11 => "the API: list models, count tokens",
            Self::D12 => "the address that the provider saw",
            Self::D13 => "IPv6 beside an IPv4 allowlist",
            Self::D14 => "gaps in a stream, and an idle session",
            Self::D15 => "pitfalls of gRPC, Java and Node",
            Self::D16 => "refusals of OpenAI, Anthropic, Azure, Bedrock, OpenRouter",
        }
    }

    /// The check of this name, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let is = |check: &Self| check.to_string().eq_ignore_ascii_case(name);
        Self::ALL.into_iter().find(is)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What to put in place of a word that stands in a command because the doctor does not know the value.
#[must_use]
pub fn meaning(placeholder: &str) -> Option<&'static str> {
    let found = PLACEHOLDERS.iter().find(|(word, _)| *word == placeholder);
    found.map(|(_, meaning)| *meaning)
}

/// Words of commands, in the order in which they are explained.
const PLACEHOLDERS: [(&str, &str); 20] = [
    ("NAME", "the user's name at the tunnel"),
    ("SECRET", "the user's secret at the tunnel"),
    ("HOST", "the tunnel's host"),
    ("USER", "the name of the new user"),
    (
        "TUNNEL_ADDRESS",
        "the tunnel's addresses, with commas between them",
    ),
    ("EGRESS", "the tunnel's addresses, with commas between them"),
    ("EGRESS4", "an IPv4 address of the tunnel"),
    ("KEY_ENV", "the name of the variable with the API key"),
    (
        "KEY_ID",
        "the key's ID: the last part of \"name\" in the output of gcloud services api-keys list",
    ),
    ("PROJECT", "the ID of the key's Google Cloud project"),
    (
        "SERVICE",
        "the API's host name, such as generativelanguage.googleapis.com",
    ),
    ("BILLING_ACCOUNT", "the ID of a billing account"),
    ("MEMBER", "the identity that makes the call"),
    ("LEVEL", "the name of the access level"),
    ("FILE", "the path of the file"),
    ("KEY_FILE", "the path of the private key"),
    ("GROUP", "the Azure resource group"),
    ("RESOURCE", "the name of the Azure resource"),
    ("RESOURCE_ID", "the ID of the Azure resource"),
    ("ROLE", "the name of the AWS role"),
];

/// Makes a constant of each verdict, and the table of all.
macro_rules! verdicts {
    ($($name:ident $check:ident $code:literal $cause:literal, $cure:literal $(, $command:literal)?;)+) => {
        use super::{Check, Verdict};

        $(
            #[doc = concat!("`", $code, "`: ", $cause)]
            pub const $name: &Verdict = &Verdict {
                check: Check::$check,
                code: $code,
                cause: $cause,
                cure: $cure,
                command: concat!($($command)?),
            };
        )+

        /// The verdicts of this file, in the order of the documentation.
        pub const ALL: &[&Verdict] = &[$($name,)+];
    };
}
use verdicts;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use sealway::commands::findings::values::Values;

    #[test]
    fn codes_are_unique_words_and_each_text_is_filled() {
        let mut codes = BTreeSet::new();
        for verdict in Verdict::all() {
            let code = verdict.code;
            let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(code.chars().all(word) && codes.insert(code), "{code}");
            for text in [verdict.cause, verdict.cure] {
                assert!(text.len() > 5 && !text.ends_with('.'), "{code}: {text}");
            }
            for text in [verdict.cause, verdict.cure, verdict.command] {
                let filled = Values::default().fill(text);
                assert!(!filled.contains(['{', '}', '\r']), "{code}: {filled}");
            }
        }
        assert!(codes.len() > 80, "{}", codes.len());
    }

    #[test]
    fn each_check_has_a_verdict_and_is_found_by_its_name() {
        for check in Check::ALL {
            let has_one = Verdict::all().any(|verdict| verdict.check == check);
            assert!(has_one, "{check}");
            assert_eq!(Check::parse(&check.to_string().to_lowercase()), Some(check));
        }
        assert_eq!(Check::parse("D17"), None);
    }
}
