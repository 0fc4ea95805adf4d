//! The measured values, cell by cell, with their medians and paired ratios.

use serde_json::{Value, json};

use crate::measure::cell::Cost;
use crate::measure::statistics::{extremes, median, paired_ratio};

/// Every value of a run.
#[derive(Default)]
pub(crate) struct Results(Vec<Measured>);

/// One value of one round.
struct Measured {
    row: String,
    column: String,
    round: u32,
    value: f64,
    cost: Cost,
}

impl Results {
    /// Keeps a value.
    #[allow(clippy::too_many_arguments, reason = "the columns of a row")]
    pub(crate) fn add(&mut self, row: &str, column: &str, round: u32, value: f64, cost: Cost) {
        self.0.push(Measured {
            row: row.into(),
            column: column.into(),
            round,
            value,
            cost,
        });
    }

    /// The median over the rounds; None if nothing was measured.
    pub(crate) fn median(&self, row: &str, column: &str) -> Option<f64> {
        median(&self.values(row, column))
    }

    /// The least and the greatest value.
    pub(crate) fn extremes(&self, row: &str, column: &str) -> Option<(f64, f64)> {
        extremes(&self.values(row, column))
    }

    /// The median over the rounds of one column's value divided by another's.
    pub(crate) fn ratio(&self, row: &str, column: &str, other: &str) -> Option<f64> {
        paired_ratio(&self.rounds(row, column), &self.rounds(row, other))
    }

    /// The median throughput per second: (units, bytes).
    pub(crate) fn pace(&self, row: &str, column: &str) -> Option<(f64, f64)> {
        let of = |count: fn(&Cost) -> u64| {
            let each = self
                .of(row, column)
                .filter(|measured| measured.cost.report.seconds > 0.0);
            median(
                &each
                    .map(|m| count(&m.cost) as f64 / m.cost.report.seconds)
                    .collect::<Vec<_>>(),
            )
        };
        Some((of(|cost| cost.report.units)?, of(|cost| cost.report.bytes)?))
    }

    /// How many values of a row match, and how many values the row has.
    pub(crate) fn count(&self, row: &str, is: impl Fn(&Cost) -> bool) -> (usize, usize) {
        let row = || self.0.iter().filter(|measured| measured.row == row);
        (
            row().filter(|measured| is(&measured.cost)).count(),
            row().count(),
        )
    }

    /// The values of one cell, for the file of results.
    pub(crate) fn json(&self, row: &str, column: &str) -> Value {
        let raw: Vec<Value> = self.of(row, column).map(Measured::json).collect();
        let extremes = self.extremes(row, column);
        json!({
            "median": self.median(row, column),
            "min": extremes.map(|(min, _)| min),
            "max": extremes.map(|(_, max)| max),
            "rounds": raw,
        })
    }

    fn of(&self, row: &str, column: &str) -> impl Iterator<Item = &Measured> {
        self.0
            .iter()
            .filter(move |measured| measured.row == row && measured.column == column)
    }

    fn values(&self, row: &str, column: &str) -> Vec<f64> {
        self.of(row, column)
            .map(|measured| measured.value)
            .collect()
    }

    fn rounds(&self, row: &str, column: &str) -> Vec<(u32, f64)> {
        self.of(row, column)
            .map(|measured| (measured.round, measured.value))
            .collect()
    }
}

impl Measured {
    fn json(&self) -> Value {
        let Cost { used, report } = &self.cost;
        json!({
            "round": self.round,
            "value": self.value,
            "cpu_s": used.cpu.as_secs_f64(),
            "user_s": used.user.as_secs_f64(),
            "system_s": used.system.as_secs_f64(),
            "units": report.units,
            "bytes": report.bytes,
            "reads_of_client": report.reads,
            "seconds": report.seconds,
        })
    }
}
