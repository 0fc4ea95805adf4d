//! The workloads: what the tunnels do, for how long, and the unit of the result.

use crate::protocol::load::{Kind, Report, Task};

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// What a value counts.
    pub(crate) unit: &'static str,
    pub(crate) measure: Measure,
    /// Between network namespaces, with segments of 1,448 bytes.
    pub(crate) is_veth: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Measure {
    /// CPU per tunnel, exchange or chunk, in µs.
    PerUnit(Task),
    /// CPU per 10^9 bytes, in seconds.
    PerGigabyte(Task),
    /// Resident memory per idle tunnel, in KiB.
    Memory { tunnels: u64 },
}

impl Workload {
    /// The same workload in a fifth of the time.
    pub(crate) fn quick(mut self) -> Self {
        match &mut self.measure {
            Measure::PerUnit(task) | Measure::PerGigabyte(task) => task.lasts_ms /= 5,
            Measure::Memory { tunnels } => *tunnels /= 4,
        }
        self
    }
}

impl Measure {
    /// The result for this CPU time and this report.
    pub(crate) fn value(&self, cpu_seconds: f64, report: &Report) -> f64 {
        match self {
            Self::PerUnit(_) => cpu_seconds * 1e6 / report.units as f64,
            Self::PerGigabyte(_) => cpu_seconds * 1e9 / report.bytes as f64,
            Self::Memory { .. } => f64::NAN,
        }
    }
}

impl Task {
    /// Whether chunks that should arrive one by one were read in groups. Then other work kept the
    /// machine busy, and each chunk cost less than a chunk alone.
    pub(crate) fn is_disturbed(&self, report: &Report) -> bool {
        let is_small = matches!(self.kind, Kind::Stream { chunk, .. } if chunk < 1_024);
        is_small && report.reads * 20 < report.units * 19
    }
}

/// All of them, in the order of the table.
pub(crate) const WORKLOADS: [Workload; 10] = [
    Workload {
        name: "setup",
        about: "set up and end a tunnel, 16 at once",
        unit: "µs/tunnel",
        measure: Measure::PerUnit(SETUP),
        is_veth: false,
    },
    Workload {
        name: "exchange-4k",
        about: "1 KiB up, 4 KiB down, in turn on 32 tunnels",
        unit: "µs/exchange",
        measure: Measure::PerUnit(EXCHANGES),
        is_veth: false,
    },
    Workload {
        name: "exchange-100k",
        about: "100 KiB up, 2 KiB down, in turn on 16 tunnels",
        unit: "µs/exchange",
        measure: Measure::PerUnit(task(
            Kind::Exchange {
                up: 102_400,
                down: 2_048,
            },
            16,
            1_000,
        )),
        is_veth: false,
    },
    Workload {
        name: "chunk",
        about: "200 bytes down every 8 ms on each of 64 tunnels",
        unit: "µs/chunk",
        measure: Measure::PerUnit(CHUNKS),
        is_veth: false,
    },
    Workload {
        name: "bulk-down",
        about: "one download at full speed",
        unit: "s/GB",
        measure: Measure::PerGigabyte(task(Kind::Down, 1, 1_200)),
        is_veth: false,
    },
    Workload {
        name: "bulk-up",
        about: "one upload at full speed",
        unit: "s/GB",
        measure: Measure::PerGigabyte(task(Kind::Up, 1, 1_200)),
        is_veth: false,
    },
    Workload {
        name: "paced",
        about: "8 downloads of 25 MB/s each, 64 KiB at a time",
        unit: "s/GB",
        measure: Measure::PerGigabyte(task(
            Kind::Stream {
                chunk: 65_536,
                interval_us: 2_621,
            },
            8,
            1_500,
        )),
        is_veth: false,
    },
    Workload {
        name: "idle",
        about: "resident memory of the proxy per idle tunnel, of 2,000",
        unit: "KiB/tunnel",
        measure: Measure::Memory { tunnels: 2_000 },
        is_veth: false,
    },
    Workload {
        name: "veth-bulk-down",
        about: "one download over veth pairs, segments of 1,448 bytes",
        unit: "s/GB",
        measure: Measure::PerGigabyte(task(Kind::Down, 1, 1_500)),
        is_veth: true,
    },
    Workload {
        name: "veth-bulk-up",
        about: "one upload over veth pairs, segments of 1,448 bytes",
        unit: "s/GB",
        measure: Measure::PerGigabyte(task(Kind::Up, 1, 1_500)),
        is_veth: true,
    },
];

/// Each chunk comes alone: the tunnels' turns are spread evenly over the interval.
pub(crate) const CHUNKS: Task = task(
    Kind::Stream {
        chunk: 200,
        interval_us: 8_000,
    },
    64,
    1_500,
);

/// One after the other on each of sixteen threads.
pub(crate) const SETUP: Task = task(Kind::Setup, 16, 1_000);

/// A short question and its answer.
pub(crate) const EXCHANGES: Task = task(
    Kind::Exchange {
        up: 1_024,
        down: 4_096,
    },
    32,
    1_000,
);

/// The most set-ups of one task, because each leaves a port in TIME_WAIT.
const UNITS_MAX: u64 = 6_000;

const fn task(kind: Kind, tunnels: u64, lasts_ms: u64) -> Task {
    let units_max = if matches!(kind, Kind::Setup) {
        UNITS_MAX
    } else {
        u64::MAX
    };
    Task {
        kind,
        tunnels,
        lasts_ms,
        units_max,
    }
}
