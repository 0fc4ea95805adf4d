//! Attacks on the daemon, one module for each resource that a stranger can take or each promise that it can break.
//!
//! Every test is bounded in connections and time and drives the real daemon. An attack that needs more than one address
//! runs in a network namespace of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs
)]

#[path = "../support/command.rs"]
mod command;
#[path = "../support/dns.rs"]
mod dns_server;
#[path = "../support/made_answer.rs"]
mod made_answer;
#[path = "../support/made_hello.rs"]
mod made_hello;
#[path = "../support/namespace.rs"]
mod namespace;
#[path = "../support/records.rs"]
mod records;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/users.rs"]
mod users;

mod admin;
mod audit;
mod chaos;
mod clients;
mod dns;
mod evidence;
mod listeners;
mod memory;
mod relay;
mod revocation;
mod stalled;
mod upstream;
