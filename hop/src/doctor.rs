//! `sealway-doctor`: says, from the application's side, why a request through the tunnel fails, and what fixes it.
//!
//! Its own program: it has TLS, which the daemon must not have. It changes nothing, and sends the key only within a TLS
//! session whose certificate it has verified.
//!
//! Reading order: [`checks`] has the order of the checks, [`path`] the steps to the provider, [`refusal`] reads its answer,
//! [`verdict`] has every text.

pub mod api;
pub mod checks;
#[allow(
    clippy::disallowed_macros,
    reason = "the report, and why there is none"
)]
pub mod cli;
pub mod codes;
pub mod environment;
pub mod finding;
pub mod http;
pub mod path;
pub mod print;
pub mod provider;
pub mod proxy_url;
pub mod refusal;
pub mod rules;
pub mod tls;
pub mod trust;
pub mod tunnel_status;
pub mod verdict;
