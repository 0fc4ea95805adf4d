//! The file of results: the machine, the programs, the method and every raw value.

use std::io;

use serde_json::{Value, json};

use crate::arguments::Options;
use crate::host::machine::Machine;
use crate::not_run::NotRun;
use crate::peers::catalogue::Peer;

/// A whole file with its results under their own key.
pub(crate) fn document(
    options: &Options,
    peers: &[Peer],
    not_run: &NotRun,
    (key, results): (&str, Value),
) -> io::Result<String> {
    let programs: Vec<Value> = peers
        .iter()
        .map(|peer| json!({ "name": peer.name, "version": peer.version }))
        .collect();
    let document = json!({
        "machine": Machine::this(),
        "rounds": options.rounds,
        "quick": options.quick,
        "pin": options.pin,
        "peers": programs,
        "not_run": not_run.lines(),
        "method": METHOD,
        key: results,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

const METHOD: [&str; 11] = [
    "cpu_s is the CPU time of all processes of the proxy by their own clocks (clock_getcpuclockid), threads that have \
     ended included, read at rest before and after the work; opening the tunnels is outside, but for setup",
    "user_s and system_s come in steps of 10 ms",
    "the kernel's work for a packet counts for whoever runs at that moment: on loopback and veth the sender of a packet \
     pays for its reception, so a proxy pays for delivering to its peers and they pay for delivering to it",
    "every proxy has one worker thread or process; the other proxies of the run are idle meanwhile",
    "pin together: proxy and load share one core, so that waking a peer costs no interrupt to another core, which on a \
     virtual machine costs more than the work that is measured; pin apart: the proxy has a core of its own",
    "proxies and load are batch jobs (SCHED_BATCH): nobody preempts whoever has woken him, as no peer on another machine \
     could; without it the scheduler's changes of mind are half of what is measured",
    "rounds are interleaved; a ratio is taken within a round, and its median over the rounds",
    "load is closed loop for setup, exchange and bulk: a slower proxy gets less of it and finds more per wake-up",
    "haproxy (http mode) hands the CONNECT on and the upstream answers it; haproxy-sni and nginx go by the SNI and \
     get no CONNECT, which saves them a round trip; every haproxy splices both ways, with pipes of the default size but for haproxy-full; tinyproxy is asked for an address instead of a name",
    "sealway writes its audit records and has its admin listener on; the others keep no log of requests, but haproxy-full, \
     which also checks the authority, binds its source address and has pipes of 256 KiB",
    "bare has no policy, timers, name look-up, hello parsing, log or half of the error handling",
];
