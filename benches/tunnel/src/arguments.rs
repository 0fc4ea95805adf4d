//! The command line, and hidden options with which the harness starts itself as an agent or a
//! yardstick.

use std::fs::OpenOptions;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::Serialize;

/// What the user wants measured, and how.
#[derive(Parser)]
#[command(name = "tunnel", about = ABOUT, after_help = AFTER)]
pub(crate) struct Options {
    /// Proxies to compare, with commas between them [default: sealway, bare and every other that is installed]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) peers: Vec<String>,
    /// Workloads to run, with commas between them [default: all that this machine can run]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub(crate) workloads: Vec<String>,
    /// How often each cell is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Short cells: a smoke run, whose numbers mean little
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measure how cost grows with idle tunnels and with names in the policy, in place of the comparison
    #[arg(long, conflicts_with_all = ["syscalls", "workloads", "svg"])]
    pub(crate) growth: bool,
    /// Count system calls per unit of work with strace, in place of the comparison
    #[arg(long, conflicts_with_all = ["workloads", "rounds", "quick", "json", "svg"])]
    pub(crate) syscalls: bool,
    /// Which cores the proxies and the load get
    #[arg(long, value_enum, default_value_t = Pin::Together)]
    pub(crate) pin: Pin,
    /// Write every raw value, median and ratio
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a bar chart
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write the tables, which are Markdown, to a file too
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Another binary in the place of the one built here
    #[arg(long, value_name = "PATH")]
    pub(crate) sealway: Option<PathBuf>,
    /// A second Sealway, such as the one before a change; shown as sealway-before
    #[arg(long, value_name = "PATH")]
    pub(crate) baseline: Option<PathBuf>,

    #[arg(long, hide = true)]
    pub(crate) role: Option<Role>,
    #[arg(long, hide = true)]
    listen: Option<SocketAddr>,
    #[arg(long, hide = true)]
    upstream: Option<SocketAddr>,
    #[arg(long, hide = true)]
    source: Option<IpAddr>,
    #[arg(long, hide = true, default_value_t = 1)]
    pub(crate) ports: usize,
}

/// Where the proxies and the load run.
#[derive(Clone, Copy, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pin {
    /// The proxies on the last core, the load on the others: closer to a proxy on a machine of its own, but much noisier
    Apart,
    /// All on the last core: the least noise, since no peer is woken across cores
    Together,
    /// Wherever the scheduler puts them
    None,
}

/// What this executable is when the harness has started it.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Role {
    Client,
    Upstream,
    BareLoop,
    TokioCopy,
}

impl Pin {
    /// For the head of a table.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Apart => "on different cores",
            Self::Together => "on one core",
            Self::None => "on any core",
        }
    }
}

impl Options {
    /// Where a role listens.
    pub(crate) fn listen(&self) -> io::Result<SocketAddr> {
        self.listen.ok_or_else(|| needed("--listen"))
    }

    /// Where a yardstick connects.
    pub(crate) fn upstream(&self) -> io::Result<SocketAddr> {
        self.upstream.ok_or_else(|| needed("--upstream"))
    }

    /// The address a yardstick connects from.
    pub(crate) fn source(&self) -> io::Result<IpAddr> {
        self.source.ok_or_else(|| needed("--source"))
    }

    /// Creates the requested files if they do not exist, so that a file that cannot be written
    /// fails now and not after an hour of measuring.
    pub(crate) fn check_files(&self) -> io::Result<()> {
        for file in [&self.json, &self.svg, &self.markdown]
            .into_iter()
            .flatten()
        {
            let opened = OpenOptions::new().append(true).create(true).open(file);
            opened.map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", file.display()))
            })?;
        }
        Ok(())
    }

    /// Whether this peer was asked for by name, so that it must run.
    pub(crate) fn names_peer(&self, name: &str) -> bool {
        self.peers.iter().any(|peer| peer == name)
    }

    /// Whether this workload was asked for by name, so that it must run.
    pub(crate) fn names_workload(&self, name: &str) -> bool {
        self.workloads.iter().any(|workload| workload == name)
    }
}

fn needed(flag: &str) -> io::Error {
    io::Error::other(format!("this role needs {flag}"))
}

const ABOUT: &str = "CPU per unit of work of proxies that carry tunnels, side by side";

const AFTER: &str = "\
Peers: sealway, sealway-adaptive, sealway-before (with --baseline), bare (an epoll and splice loop without policy, \
timers or log: the floor), tokio-copy (copy_bidirectional), haproxy, haproxy-full (which \
checks the authority, binds its source, logs each tunnel and has larger pipes), haproxy-sni, nginx, squid, tinyproxy.
Workloads: setup, exchange-4k, exchange-100k, chunk, bulk-down, bulk-up, paced, idle, veth-bulk-down, veth-bulk-up; \
the last two need root, ip and ethtool.
A peer or workload that is named and cannot run is an error; one that is not named is left out, and said so.";
