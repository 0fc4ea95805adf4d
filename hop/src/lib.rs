//! Sealway's hop: terminates the outer TLS of clients and passes each on to the daemon by PROXY protocol v2, with the names
//! of its certificate.
//!
//! Its own process, so that the daemon that carries sessions has no TLS library and no private key. It reads the
//! configuration of the daemon. What it carries is a CONNECT head and the client's own, inner TLS session, which it
//! cannot open: it refuses a certificate that could stand for a host of the policy.
//!
//! Reading order: [`serve`] accepts, [`handshake`] performs the TLS handshake, [`session`] copies; [`material`] and [`identity`]
//! say who is trusted; [`events`] reports to the daemon's audit. [`agent`] is another program, for the machines of clients.

pub mod admin;
pub mod agent;
pub mod buffer;
#[allow(
    clippy::disallowed_macros,
    reason = "what a check answers, and why the program failed"
)]
pub mod cli;
pub mod doctor;
pub mod events;
pub mod handshake;
pub mod header;
pub mod identity;
pub mod idle;
pub mod material;
pub mod metrics;
pub mod places;
pub mod protocol;
pub mod refusal;
pub mod reload;
pub mod rotation;
pub mod run;
pub mod serve;
pub mod session;
pub mod shared;
pub mod stream;
pub mod target;
pub mod turns;
pub mod verify;
