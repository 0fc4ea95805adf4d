//! What the daemon and the commands do, one module for each behaviour, driven over real sockets. Tests run beside each other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs
)]

mod admin;
mod alerts;
mod allow_files;
mod any_pieces;
mod audit_commands;
mod audit_faults;
mod audit_file;
mod audit_record;
mod before_the_answer;
mod check_deep;
mod clear_credentials;
mod commands;
mod companions;
mod destination_ranges;
mod differential;
mod egress;
mod egress_changes;
mod egress_routes;
mod endings;
mod explain;
mod fixed_names;
mod floating;
mod given_values;
mod greeting;
mod handover;
mod keepalive;
mod lasting_folders;
mod lifecycle;
mod live_tunnels;
mod local_ports;
mod look_ups;
mod memory;
mod misplaced_secrets;
mod nat64;
mod negotiation;
mod operating;
mod places;
mod post_quantum;
mod presets;
mod proxy_protocol;
mod refusals;
mod refused_audit;
mod refused_dials;
mod refused_heads;
mod refused_names;
mod reload;
mod reload_watch;
mod report_mode;
mod resolver_changes;
mod resolver_files;
mod revoke;
mod secrets;
mod service;
mod stages;
mod status;
mod top;
mod tunnel;
mod typed;
mod unfinished;
mod unreadable_files;
mod users;
mod warm;
