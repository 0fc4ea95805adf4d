//! The agent's counters and gauges, and their text for Prometheus. Labels come from the settings and from enums, never
//! from a peer.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::reply::Refusal;
use super::upstream::Upstream;

/// The counters of one upstream.
#[derive(Debug, Default)]
pub struct Counts {
    connects: [AtomicU64; 2],
    failures: AtomicU64,
    replies: [AtomicU64; CLASSES.len()],
    requests: [AtomicU64; 2],
    bytes: [AtomicU64; 2],
}

/// The counters of the agent.
#[derive(Debug, Default)]
pub struct Metrics {
    refusals: [AtomicU64; Refusal::CODES.len()],
    failovers: AtomicU64,
    optimistic: [AtomicU64; 2],
}

impl Counts {
    /// A connection has succeeded or failed.
    pub fn connected(&self, is_ok: bool) {
        add(self.connects.get(usize::from(!is_ok)), 1);
    }

    /// The upstream was up and is down.
    pub fn failed(&self) {
        add(Some(&self.failures), 1);
    }

    /// The upstream has replied.
    pub fn replied(&self, status: u16) {
        let class = match status {
            200..300 => 0,
            503 => 3,
            400..500 => 1,
            _ => 2,
        };
        add(self.replies.get(class), 1);
    }

    /// A request goes through a warm connection, or a new one.
    pub fn asked(&self, is_warm: bool) {
        add(self.requests.get(usize::from(!is_warm)), 1);
    }

    /// A tunnel has ended.
    pub fn carried(&self, up: u64, down: u64) {
        add(self.bytes.first(), up);
        add(self.bytes.get(1), down);
    }
}

impl Metrics {
    /// The agent has refused a request.
    pub fn refused(&self, refusal: &Refusal) {
        let place = Refusal::CODES
            .iter()
            .position(|code| *code == refusal.code());
        add(place.and_then(|place| self.refusals.get(place)), 1);
    }

    /// A request was tried at another upstream.
    pub fn failed_over(&self) {
        add(Some(&self.failovers), 1);
    }

    /// A 200 was sent before the upstream's, which then came or did not.
    pub fn was_optimistic(&self, was_right: bool) {
        add(self.optimistic.get(usize::from(!was_right)), 1);
    }

    /// The text for Prometheus.
    #[must_use]
    pub fn render(&self, upstreams: &[Arc<Upstream>], expires: Option<i64>) -> String {
        let mut page = Page::default();
        for Gauge { name, help, of } in GAUGES {
            page.family(name, "gauge", help);
            for one in upstreams {
                page.sample(name, &[("upstream", &one.name)], of(one));
            }
        }
        for counter in COUNTERS {
            page.family(counter.name, "counter", counter.help);
            for one in upstreams {
                page.samples(counter, &[("upstream", &one.name)], &one.counts);
            }
        }
        for counter in OWN_COUNTERS {
            page.family(counter.name, "counter", counter.help);
            page.samples(counter, &[], self);
        }
        if let Some(expires) = expires.and_then(|expires| u64::try_from(expires).ok()) {
            let name = "certificate_expiry_timestamp_seconds";
            page.family(
                name,
                "gauge",
                "When the agent's certificate expires, in Unix time.",
            );
            page.sample(name, &[], expires);
        }
        page.family("build_info", "gauge", "The version.");
        let labels = [
            ("version", sealway::VERSION),
            ("revision", sealway::REVISION),
        ];
        page.sample("build_info", &labels, 1);
        page.0
    }
}

/// A gauge of each upstream.
struct Gauge {
    name: &'static str,
    help: &'static str,
    of: fn(&Upstream) -> u64,
}

/// A counter of each upstream, or of the agent.
struct Counter<T> {
    name: &'static str,
    help: &'static str,
    parts: Parts,
    of: fn(&T) -> &[AtomicU64],
}

/// The label of the parts of a counter, and its values.
type Parts = (&'static str, &'static [&'static str]);

impl<T> Counter<T> {
    const fn new(
        name: &'static str,
        help: &'static str,
        parts: Parts,
        of: fn(&T) -> &[AtomicU64],
    ) -> Self {
        Self {
            name,
            help,
            parts,
            of,
        }
    }
}

const GAUGES: &[Gauge] = &[
    Gauge {
        name: "upstream_up",
        help: "Whether the upstream works.",
        of: |one| u64::from(one.is_up()),
    },
    Gauge {
        name: "upstream_warm",
        help: "Connections that wait past their handshake.",
        of: |one| count(one.warmth().0),
    },
    Gauge {
        name: "upstream_tunnels",
        help: "Tunnels, those in set-up included.",
        of: |one| count(one.tunnels()),
    },
];

const COUNTERS: &[Counter<Counts>] = &[
    Counter::new(
        "connects_total",
        "Connections to the upstream, TLS included.",
        ("result", &["ok", "failed"]),
        |counts| &counts.connects,
    ),
    Counter::new(
        "upstream_failures_total",
        "How often the upstream was found to be down.",
        ONE_PART,
        |counts| std::slice::from_ref(&counts.failures),
    ),
    Counter::new(
        "requests_total",
        "Requests sent to the upstream.",
        ("connection", &["warm", "new"]),
        |counts| &counts.requests,
    ),
    Counter::new(
        "replies_total",
        "Replies of the upstream.",
        ("status", &CLASSES),
        |counts| &counts.replies,
    ),
    Counter::new(
        "bytes_total",
        "Bytes of ended tunnels, from and to applications.",
        ("direction", &["up", "down"]),
        |counts| &counts.bytes,
    ),
];

const OWN_COUNTERS: &[Counter<Metrics>] = &[
    Counter::new(
        "refusals_total",
        "Requests that the agent has refused itself.",
        ("code", &Refusal::CODES),
        |metrics| &metrics.refusals,
    ),
    Counter::new(
        "failovers_total",
        "Requests that went on to another upstream.",
        ONE_PART,
        |metrics| std::slice::from_ref(&metrics.failovers),
    ),
    Counter::new(
        "optimistic_total",
        "Requests answered 200 before the upstream's reply, which was 200 or not.",
        ("result", &["right", "wrong"]),
        |metrics| &metrics.optimistic,
    ),
];

/// A text in the format of Prometheus. Writing to a String never fails.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _written = write!(
            self.0,
            "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}\n"
        );
    }

    fn samples<T>(&mut self, counter: &Counter<T>, labels: &[(&str, &str)], of: &T) {
        let (label, values) = counter.parts;
        for (value, part) in values.iter().zip((counter.of)(of)) {
            let labels = [labels, &[(label, value)]].concat();
            self.sample(counter.name, &labels, part.load(Ordering::Relaxed));
        }
    }

    /// A label without a name is left out.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<_> = labels
            .iter()
            .filter(|(label, _)| !label.is_empty())
            .map(|(label, text)| format!("{label}=\"{text}\""))
            .collect();
        let _written = match labels.is_empty() {
            true => writeln!(self.0, "{PREFIX}{name} {value}"),
            false => writeln!(self.0, "{PREFIX}{name}{{{}}} {value}", labels.join(",")),
        };
    }
}

fn add(counter: Option<&AtomicU64>, number: u64) {
    if let Some(counter) = counter {
        counter.fetch_add(number, Ordering::Relaxed);
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

const PREFIX: &str = "sealway_agent_";
/// A counter without a label.
const ONE_PART: Parts = ("", &[""]);
const CLASSES: [&str; 4] = ["200", "4xx", "other", "503"];
