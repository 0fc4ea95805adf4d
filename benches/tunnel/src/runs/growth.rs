//! How cost grows: of a chunk with the number of idle tunnels, and of a set-up with the number of
//! names in the policy. Rounds are interleaved, and each value is compared with the first column of
//! its round.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::arguments::Options;
use crate::host::process;
use crate::interrupt;
use crate::measure::cell;
use crate::measure::results::Results;
use crate::measure::statistics::short;
use crate::measure::workloads::{CHUNKS, Measure, SETUP};
use crate::not_run::NotRun;
use crate::peers::catalogue::{Kind, Peer};
use crate::peers::proxies::Proxy;
use crate::protocol::load::Task;
use crate::report::document::document;
use crate::report::table::Table;
use crate::runs::stage::Stage;

/// An unfinished table: its rows are proxies, its columns counts.
struct Growth {
    about: &'static str,
    columns: Vec<u64>,
    rows: Vec<String>,
    results: Results,
}

/// Measures and prints both tables.
pub(crate) fn run(options: &Options, peers: &[Peer], scratch: &Path) -> io::Result<()> {
    let peers: Vec<Peer> = peers
        .iter()
        .filter(|peer| is_wanted(options, peer))
        .cloned()
        .collect();
    let mut not_run = NotRun::default();
    let idle = idle_tunnels(options, &peers, scratch, &mut not_run)?;
    let own: Vec<Peer> = peers
        .iter()
        .filter(|peer| peer.kind == Kind::Sealway)
        .cloned()
        .collect();
    let names = names(options, &own, scratch)?;
    let text = idle.text() + "\n" + &names.text() + &not_run.text();
    println!("{text}");
    if let Some(file) = &options.markdown {
        fs::write(file, &text)?;
    }
    if let Some(file) = &options.json {
        let growth = json!({ "idle_tunnels": idle.json(), "names": names.json() });
        fs::write(
            file,
            document(options, &peers, &not_run, ("growth", growth))?,
        )?;
    }
    Ok(())
}

/// Sealway, the floor, and the peers that the options name.
fn is_wanted(options: &Options, peer: &Peer) -> bool {
    matches!(peer.kind, Kind::Sealway | Kind::Bare) || options.names_peer(&peer.name)
}

fn idle_tunnels(
    options: &Options,
    peers: &[Peer],
    scratch: &Path,
    not_run: &mut NotRun,
) -> io::Result<Growth> {
    let mut stage = Stage::loopback(options, scratch, peers.len())?;
    let proxies = start(&mut stage, peers, |_| 1)?;
    let descriptors = process::raise_descriptor_limit()?;
    // Two for each tunnel, and some for everything else.
    let (columns, beyond): (Vec<u64>, Vec<u64>) = IDLE
        .into_iter()
        .partition(|idle| 2 * idle + 500 <= descriptors);
    for idle in &beyond {
        not_run.say(format!(
            "NOT RUN: {idle} idle tunnels: a process may have {descriptors} descriptors here"
        ));
    }
    let mut growth = Growth::new(
        "µs for each chunk of 200 bytes on 64 tunnels, by idle tunnels beside them",
        columns,
    );
    for round in 0..options.rounds {
        for (peer, proxy) in peers.iter().zip(&proxies) {
            for idle in growth.columns.clone() {
                interrupt::check()?;
                let held = stage.agents.hold(&proxy.route, idle);
                held.map_err(|error| {
                    io::Error::other(format!("{}, {idle} idle tunnels: {error}", peer.name))
                })?;
                process::used_at_rest(&proxy.family, REST)?;
                growth.measure(
                    &mut stage,
                    proxy,
                    quickly(options, CHUNKS),
                    (&peer.name, idle, round),
                )?;
                stage.agents.release()?;
                process::used_at_rest(&proxy.family, REST)?;
            }
        }
    }
    Ok(growth)
}

fn names(options: &Options, peers: &[Peer], scratch: &Path) -> io::Result<Growth> {
    let each: Vec<Peer> = peers
        .iter()
        .flat_map(|peer| NAMES.map(|_| peer.clone()))
        .collect();
    let mut stage = Stage::loopback(options, scratch, each.len())?;
    let count = |number: usize| NAMES.get(number % NAMES.len()).copied().unwrap_or(1);
    let proxies = start(&mut stage, &each, count)?;
    let mut growth = Growth::new(
        "µs to set up and end a tunnel, by names in the policy",
        NAMES.to_vec(),
    );
    for round in 0..options.rounds {
        for (number, (peer, proxy)) in each.iter().zip(&proxies).enumerate() {
            interrupt::check()?;
            growth.measure(
                &mut stage,
                proxy,
                quickly(options, SETUP),
                (&peer.name, count(number), round),
            )?;
        }
    }
    Ok(growth)
}

fn start(
    stage: &mut Stage,
    peers: &[Peer],
    names: impl Fn(usize) -> u64,
) -> io::Result<Vec<Proxy>> {
    let start = |(number, peer): (usize, &Peer)| {
        stage
            .start(peer, number, names(number))
            .map_err(|error| io::Error::other(format!("{}: {error}", peer.name)))
    };
    peers.iter().enumerate().map(start).collect()
}

impl Growth {
    fn new(about: &'static str, columns: Vec<u64>) -> Self {
        Self {
            about,
            columns,
            rows: Vec::new(),
            results: Results::default(),
        }
    }

    fn measure(
        &mut self,
        stage: &mut Stage,
        proxy: &Proxy,
        task: Task,
        (row, column, round): (&str, u64, u32),
    ) -> io::Result<()> {
        let cost = cell::measure(&mut stage.agents, proxy, task)?;
        let value = Measure::PerUnit(task).value(cost.used.cpu.as_secs_f64(), &cost.report);
        eprintln!("round {}: {row}, {column}: {} µs", round + 1, short(value));
        self.results
            .add(row, &column.to_string(), round, value, cost);
        if !self.rows.iter().any(|known| known == row) {
            self.rows.push(row.to_string());
        }
        Ok(())
    }

    /// The medians, each with the median of its ratios to the first column.
    fn text(&self) -> String {
        let mut table = Table::new(
            ["peer".to_string()]
                .into_iter()
                .chain(self.columns.iter().map(u64::to_string)),
        );
        for row in &self.rows {
            let cell = |column: &u64| match (
                self.results.median(row, &column.to_string()),
                self.by_first(row, *column),
            ) {
                (Some(median), Some(ratio)) => format!("{} ({}×)", short(median), short(ratio)),
                _ => "-".into(),
            };
            table.row(
                [row.clone()]
                    .into_iter()
                    .chain(self.columns.iter().map(cell)),
            );
        }
        format!("\n{}:\n\n{}", self.about, table.text())
    }

    fn by_first(&self, row: &str, column: u64) -> Option<f64> {
        self.results
            .ratio(row, &column.to_string(), &self.columns.first()?.to_string())
    }

    fn json(&self) -> Value {
        let cell = |row: &String, column: &u64| {
            let measured = self.results.json(row, &column.to_string());
            json!({ "peer": row, "count": column, "by_first": self.by_first(row, *column), "measured": measured })
        };
        let cells = self
            .rows
            .iter()
            .flat_map(|row| self.columns.iter().map(move |column| cell(row, column)));
        json!({ "about": self.about, "cells": cells.collect::<Vec<_>>() })
    }
}

fn quickly(options: &Options, mut task: Task) -> Task {
    if options.quick {
        task.lasts_ms /= 5;
    }
    task
}

const IDLE: [u64; 4] = [10, 100, 1_000, 6_000];
const NAMES: [u64; 3] = [1, 100, 10_000];
/// Thousands of tunnels open or close.
const REST: Duration = Duration::from_secs(5);
