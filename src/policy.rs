//! Policy: verdicts on names, ClientHellos and addresses. Pure. Default deny: a name without a rule
//! is refused.
//!
//! A permission is a value: only [`Verdict::Allow`] holds an [`Authorised`], and only that can be
//! dialled or greeted. In report mode a name that would be refused is allowed too, and the value
//! records the reason. Rules are exact names, `*.suffix` and patterns within labels; a suffix never
//! covers the bare domain, as in certificates (RFC 9525, section 6.3).
//!
//! Never resolves a name and never looks inside TLS. It cannot see the inner Host header, so
//! presets hold exact names only.

pub mod guard;
mod hello;
pub mod presets;
pub mod ranges;
mod rules;
pub mod translation;

use std::sync::Arc;

use crate::authority::{Authority, Destination, Host, Port};
use crate::digest::Digest;
use crate::outcome::DenyReason;
use crate::wire::client_hello::{ClientHello, TlsVersion};
use crate::wire::server_hello::ServerHello;
use guard::AddressGuard;
pub use hello::HelloFacts;
pub use rules::{NameRules, Rule, RuleError};

/// The operator's policy.
#[derive(Debug)]
pub struct Policy {
    names: NameRules,
    /// Judges resolved addresses.
    pub guard: AddressGuard,
    min_tls: TlsVersion,
    ech_allowed: bool,
    enforcement: Enforcement,
    hash: Arc<str>,
}

/// What happens to a CONNECT whose name, or whose ClientHello's name, would be refused. All other
/// rules are always enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// Refuse the tunnel.
    #[default]
    Enforce,
    /// Let the tunnel continue, and report the verdict.
    Report,
}

/// The verdict on a CONNECT.
#[derive(Debug)]
pub enum Verdict {
    /// The client may connect to this destination.
    Allow(Authorised),
    /// The client may not, for this reason.
    Deny(DenyReason),
}

/// A destination that policy has allowed. Only a verdict creates one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorised {
    host: Host,
    port: Port,
    would_deny: Option<DenyReason>,
}

/// A ClientHello that passed policy. Its name is the authorised host, or report mode let another
/// name pass.
#[derive(Debug)]
pub struct JudgedHello {
    /// The parsed ClientHello.
    pub hello: ClientHello,
    /// The facts that were judged.
    pub facts: HelloFacts,
    /// The reason that report mode let pass.
    pub would_deny: Option<DenyReason>,
}

impl Policy {
    /// Builds a policy and its hash.
    #[must_use]
    pub fn new(
        names: NameRules,
        guard: AddressGuard,
        min_tls: TlsVersion,
        ech_allowed: bool,
    ) -> Self {
        let enforcement = Enforcement::default();
        Self {
            names,
            guard,
            min_tls,
            ech_allowed,
            enforcement,
            hash: Arc::default(),
        }
        .hashed()
    }

    /// Returns the same rules with another enforcement of names.
    #[must_use]
    pub fn with_enforcement(self, enforcement: Enforcement) -> Self {
        Self {
            enforcement,
            ..self
        }
        .hashed()
    }

    fn hashed(self) -> Self {
        let (min_tls, ech, mode) = (
            self.min_tls.as_str(),
            self.ech_allowed,
            self.enforcement.as_str(),
        );
        let text = format!(
            "{}{}min_tls {min_tls}\nech {ech}\nmode {mode}\n",
            self.names, self.guard
        );
        Self {
            hash: Digest::of(text).to_string().into(),
            ..self
        }
    }

    /// The rules on names.
    #[must_use]
    pub fn names(&self) -> &NameRules {
        &self.names
    }

    /// Whether names are enforced.
    #[must_use]
    pub fn enforcement(&self) -> Enforcement {
        self.enforcement
    }

    /// SHA-256, in hexadecimal, of the canonical text of the rules: equal for equal policies,
    /// whatever their order in the file.
    #[must_use]
    pub fn hash(&self) -> &Arc<str> {
        &self.hash
    }

    /// Judges the destination of a CONNECT. `narrowed` are the user's own rules, which must allow
    /// it too.
    #[must_use]
    pub fn judge(&self, authority: Authority, narrowed: Option<&NameRules>) -> Verdict {
        let Destination::Name(host) = authority.destination else {
            return Verdict::Deny(DenyReason::IpLiteralDenied);
        };
        match self.judge_name(&host, authority.port, narrowed) {
            Ok(would_deny) => Verdict::Allow(Authorised {
                host,
                port: authority.port,
                would_deny,
            }),
            Err(reason) => Verdict::Deny(reason),
        }
    }

    fn judge_name(
        &self,
        host: &Host,
        port: Port,
        narrowed: Option<&NameRules>,
    ) -> Result<Option<DenyReason>, DenyReason> {
        let reported = self.unless_reported(self.names.judge(host, port))?;
        // Report mode does not widen ports: a host without a rule in the policy may use port 443
        // only.
        if reported.is_some() && port != Port::HTTPS {
            return Err(DenyReason::PortDenied);
        }
        let narrowed = narrowed.map_or(Ok(None), |rules| {
            self.unless_reported(rules.judge(host, port))
        })?;
        Ok(reported.or(narrowed))
    }

    /// In report mode, turns a refusal of a name into a reason to report.
    fn unless_reported(
        &self,
        judged: Result<(), DenyReason>,
    ) -> Result<Option<DenyReason>, DenyReason> {
        match judged {
            Ok(()) => Ok(None),
            Err(reason)
                if self.enforcement == Enforcement::Report && REPORTED.contains(&reason) =>
            {
                Ok(Some(reason))
            }
            Err(reason) => Err(reason),
        }
    }

    /// Judges the TLS version that the server chose.
    ///
    /// # Errors
    /// [`DenyReason::ServerTlsVersionDenied`] below the floor.
    pub fn judge_server_hello(&self, hello: &ServerHello) -> Result<(), DenyReason> {
        if hello.version >= self.min_tls {
            Ok(())
        } else {
            Err(DenyReason::ServerTlsVersionDenied)
        }
    }

    /// Judges a ClientHello against the destination of its CONNECT.
    ///
    /// # Errors
    /// Why it must not be sent upstream.
    pub fn judge_hello(
        &self,
        authorised: &Authorised,
        hello: ClientHello,
    ) -> Result<JudgedHello, DenyReason> {
        let facts = HelloFacts::of(&authorised.host, &hello);
        let would_deny = self.judge_hello_facts(facts)?;
        Ok(JudgedHello {
            hello,
            facts,
            would_deny,
        })
    }

    /// Judges the facts of a tunnel's ClientHellos. Returns the reason that is only reported.
    ///
    /// # Errors
    /// Why they must not be sent upstream.
    pub fn judge_hello_facts(&self, facts: HelloFacts) -> Result<Option<DenyReason>, DenyReason> {
        let would_deny = self.unless_reported(facts.name.map_or(Ok(()), Err))?;
        if facts.newest.is_none_or(|version| version < self.min_tls) {
            return Err(DenyReason::TlsVersionDenied);
        }
        if facts.has_ech && !self.ech_allowed {
            return Err(DenyReason::EchDenied);
        }
        Ok(would_deny)
    }

    /// Judges the name in a ClientHello against the host of its CONNECT. Returns the reason that is
    /// only reported.
    ///
    /// # Errors
    /// [`DenyReason::SniMissing`] and [`DenyReason::SniMismatch`], where they are enforced.
    pub fn judge_server_name(
        &self,
        host: &Host,
        name: Option<&str>,
    ) -> Result<Option<DenyReason>, DenyReason> {
        self.unless_reported(judge_name_of(host, name))
    }
}

/// Whether a ClientHello names the host of its CONNECT.
fn judge_name_of(host: &Host, name: Option<&str>) -> Result<(), DenyReason> {
    match name {
        None => Err(DenyReason::SniMissing),
        Some(name) if !host.equals_server_name(name) => Err(DenyReason::SniMismatch),
        Some(_) => Ok(()),
    }
}

impl Enforcement {
    /// The value of `policy.mode` in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Report => "report",
        }
    }
}

impl Authorised {
    /// The name to resolve, and the only name that SNI may hold.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port to dial.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// The reason that report mode let pass.
    #[must_use]
    pub fn would_deny(&self) -> Option<DenyReason> {
        self.would_deny
    }
}

/// The reasons that report mode lets pass: verdicts on names, and no others.
pub const REPORTED: [DenyReason; 3] = [
    DenyReason::HostDenied,
    DenyReason::SniMissing,
    DenyReason::SniMismatch,
];

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
