//! `sealway-doctor`: says, from the application's side, why a request through the tunnel fails, and what mends it.
//!
//! Its own program: it has TLS, which the daemon must not have. It changes nothing, and sends the key only within a TLS
//! session whose certificate it has verified.

pub mod provider;
pub mod refusal;
pub mod values;
pub mod verdict;
