//! The report of the comparison: tables on standard output, and the files that the options name.

use std::error::Error;
use std::fs;
use std::io;

use serde_json::{Map, Value, json};

use crate::arguments::Options;
use crate::host::machine::Machine;
use crate::measure::results::Results;
use crate::measure::statistics::short;
use crate::measure::workloads::{Measure, Workload};
use crate::not_run::NotRun;
use crate::peers::catalogue::Peer;
use crate::report::chart;
use crate::report::document::document;
use crate::report::table::Table;

/// What the report is made from.
pub(crate) struct Report<'a> {
    pub(crate) options: &'a Options,
    pub(crate) peers: &'a [Peer],
    pub(crate) workloads: &'a [Workload],
    pub(crate) results: &'a Results,
    pub(crate) not_run: &'a NotRun,
}

impl Report<'_> {
    /// Prints and writes everything.
    pub(crate) fn write(&self) -> io::Result<()> {
        let text = self.text();
        println!("{text}");
        if let Some(file) = &self.options.markdown {
            fs::write(file, &text)?;
        }
        if let Some(file) = &self.options.json {
            let key = ("workloads", self.json());
            fs::write(file, document(self.options, self.peers, self.not_run, key)?)?;
        }
        if let Some(file) = &self.options.svg {
            let drawn = self.chart();
            fs::write(
                file,
                drawn.map_err(|error| io::Error::other(error.to_string()))?,
            )?;
        }
        Ok(())
    }

    fn text(&self) -> String {
        let results = self.results;
        let median = |row: &Workload, name: &str| results.median(row.name, name).map(short);
        let ratio =
            |row: &Workload, name: &str| results.ratio(row.name, "sealway", name).map(short);
        let spread = |row: &Workload, name: &str| {
            let (min, max) = results.extremes(row.name, name)?;
            Some(format!("{}–{}", short(min), short(max)))
        };
        let pace = |row: &Workload, name: &str| {
            let (units, bytes) = results.pace(row.name, name)?;
            Some(if row.unit == "s/GB" {
                format!("{} GB", short(bytes / 1e9))
            } else {
                short(units)
            })
        };
        let about = self
            .workloads
            .iter()
            .map(|row| format!("- {} ({}): {}\n", row.name, row.unit, row.about));
        [
            self.head(),
            "\nCPU time of the proxy's own processes for each unit of work, median of the rounds:\n\n".to_string(),
            self.table(median),
            "\nSealway by each of them, median of the rounds' ratios; below 1 Sealway is cheaper:\n\n".to_string(),
            self.table(ratio),
            "\nLeast and greatest of the rounds:\n\n".to_string(),
            self.table(spread),
            "\nWhat came through in a second, units or GB, for information:\n\n".to_string(),
            self.table(pace),
            "\n".to_string(),
            about.collect(),
            self.workloads.iter().filter_map(|row| self.disturbed(row)).collect(),
            self.not_run.text(),
        ]
        .concat()
    }

    fn head(&self) -> String {
        let Machine {
            date,
            cpu,
            cores,
            kernel,
            memory_mib,
        } = Machine::this();
        let Options { rounds, pin, .. } = self.options;
        format!(
            "\n{date}: {cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}. {rounds} rounds, every proxy with one \
             worker, proxy and load {}.\n",
            pin.describe()
        )
    }

    fn disturbed(&self, row: &Workload) -> Option<String> {
        let Measure::PerUnit(task) = row.measure else {
            return None;
        };
        let (disturbed, all) = self
            .results
            .count(row.name, |cost| task.is_disturbed(&cost.report));
        let name = row.name;
        (disturbed > 0)
            .then(|| format!("\nDISTURBED: {name}, {disturbed} of {all} cells: {WHY_DISTURBED}\n"))
    }

    fn table(&self, cell: impl Fn(&Workload, &str) -> Option<String>) -> String {
        let names = self.peers.iter().map(|peer| peer.name.clone());
        let mut table = Table::new(["workload".into(), "unit".into()].into_iter().chain(names));
        for row in self.workloads {
            let cells = self
                .peers
                .iter()
                .map(|peer| cell(row, &peer.name).unwrap_or_else(|| "-".into()));
            table.row([row.name.into(), row.unit.into()].into_iter().chain(cells));
        }
        table.text()
    }

    fn json(&self) -> Value {
        let row = |row: &Workload| {
            let of = |value: &dyn Fn(&str) -> Value| -> Map<String, Value> {
                self.peers
                    .iter()
                    .map(|peer| (peer.name.clone(), value(&peer.name)))
                    .collect()
            };
            json!({
                "name": row.name,
                "about": row.about,
                "unit": row.unit,
                "peers": of(&|name| self.results.json(row.name, name)),
                "sealway_by_peer": of(&|name| json!(self.results.ratio(row.name, "sealway", name))),
            })
        };
        self.workloads.iter().map(row).collect()
    }

    /// Memory is not CPU and stays out of the chart.
    fn chart(&self) -> Result<String, Box<dyn Error>> {
        let panel = |row: &Workload| {
            let bars = self.peers.iter().filter_map(|peer| {
                let (median, ratio) = (
                    self.results.median(row.name, &peer.name)?,
                    self.results.ratio(row.name, &peer.name, "bare")?,
                );
                Some(chart::Bar {
                    name: peer.name.clone(),
                    ratio,
                    label: format!("{} {}", short(median), row.unit),
                })
            });
            chart::Panel {
                title: format!("{}: {}", row.name, row.about),
                bars: bars.collect(),
            }
        };
        let rows = self
            .workloads
            .iter()
            .filter(|row| !matches!(row.measure, Measure::Memory { .. }));
        chart::chart(&rows.map(panel).collect::<Vec<_>>())
    }
}

const WHY_DISTURBED: &str = "chunks were read in groups, because something else kept the machine busy; each of them came \
                             cheaper than a chunk alone";
