//! The agent: takes plain CONNECT requests on loopback from applications that cannot speak TLS to a proxy, and carries each
//! through TLS to one of several upstreams, which are TLS listeners of Sealway.
//!
//! It adds its own credentials and never forwards those of a client, never connects to a destination itself, and has no
//! policy: the upstream decides, and its reply is passed on byte for byte. Any process that reaches its socket uses its
//! identity, so it listens on loopback or a UNIX socket only.
//!
//! Reading order: [`settings`], [`serve`] accepts, [`tunnel`] sets a tunnel up ([`acquire`] finds a connection, [`ask`]
//! sends the request), [`relay`] copies; [`upstream`] and [`keeper`] know which upstreams work and keep warm connections.

pub mod acquire;
pub mod admin;
pub mod ask;
pub mod bundle;
pub mod choice;
#[allow(clippy::disallowed_macros, reason = "why the program failed")]
pub mod cli;
pub mod confinement;
pub mod connect;
pub mod endpoint;
pub mod exec;
pub mod files;
pub mod health;
pub mod keeper;
pub mod local;
pub mod metrics;
pub mod recent;
pub mod relay;
pub mod remote;
pub mod reply;
pub mod run;
pub mod serve;
pub mod settings;
pub mod tunnel;
pub mod unavailable;
pub mod upstream;
pub mod waiting;
