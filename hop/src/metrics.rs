//! The hop's counters and gauges, and their text for Prometheus. Labels come from enums and the configuration, never from a
//! peer.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use crate::refusal::Refusal;

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    accepted: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    sessions: AtomicUsize,
    revoked: AtomicU64,
    events_merged: AtomicU64,
    reloads: [AtomicU64; 2],
    /// When the current files were read, in seconds of Unix time.
    loaded: AtomicI64,
    /// Whether the last reading failed.
    is_failing: AtomicBool,
}

/// The dates of one listener's files, in seconds of Unix time.
#[derive(Clone, Copy, Debug)]
pub struct Dates {
    /// The listener's address.
    pub listener: SocketAddr,
    /// When the hop's certificate expires.
    pub certificate: i64,
    /// When the first revocation list passes its next update.
    pub crl: Option<i64>,
}

/// What changes by itself, at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// One entry a listener.
    pub dates: Vec<Dates>,
    /// Unfinished handshakes.
    pub waiting: usize,
    /// Connections past their handshake without a request.
    pub idle: usize,
    /// Kinds of events that wait for the daemon.
    pub events_waiting: usize,
}

/// Counts a session while it lives.
#[derive(Debug)]
pub struct SessionPermit<'m>(&'m Metrics);

impl Default for Metrics {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            accepted: zero(),
            refused: std::array::from_fn(|_| zero()),
            sessions: AtomicUsize::default(),
            revoked: zero(),
            events_merged: zero(),
            reloads: [zero(), zero()],
            loaded: AtomicI64::default(),
            is_failing: AtomicBool::default(),
        }
    }
}

impl Metrics {
    /// Counts a connection that has become a session.
    pub fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a refusal.
    pub fn refused(&self, refusal: Refusal) {
        if let Some(counter) = self.refused.get(refusal.place()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a session that a new revocation list ended.
    pub fn revoked(&self) {
        self.revoked.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an event that lost its client and certificate because too many kinds wait.
    pub fn event_merged(&self) {
        self.events_merged.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a reading of the files at this time.
    pub fn reloaded(&self, is_ok: bool, now: i64) {
        if let Some(counter) = self.reloads.get(usize::from(!is_ok)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.is_failing.store(!is_ok, Ordering::Relaxed);
        if is_ok {
            self.loaded.store(now, Ordering::Relaxed);
        }
    }

    /// Takes a permit unless `max` sessions live.
    pub fn session(&self, max: usize) -> Option<SessionPermit<'_>> {
        let one_more = |live: usize| (live < max).then_some(live + 1);
        self.sessions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(SessionPermit(self))
    }

    /// Live sessions.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// The text for Prometheus.
    #[must_use]
    pub fn render(&self, moment: &Moment) -> String {
        let mut page = String::new();
        for family in FAMILIES {
            let Family {
                name, kind, help, ..
            } = family;
            // Writing to a String never fails, here and below.
            let _written = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for (labels, value) in self.samples(name, moment) {
                let _written = match labels.is_empty() {
                    true => writeln!(page, "{name} {value}"),
                    false => writeln!(page, "{name}{{{labels}}} {value}"),
                };
            }
        }
        page
    }

    /// The samples of one family: labels and value.
    fn samples(&self, name: &str, moment: &Moment) -> Vec<(String, String)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        let single = |value: String| vec![(String::new(), value)];
        let result = |code: &str, counter| (format!("result=\"{code}\""), read(counter));
        match name {
            HANDSHAKES => {
                let codes = Refusal::ALL.iter().map(|refusal| refusal.code());
                let refused = codes.zip(&self.refused);
                let all = std::iter::once(("ok", &self.accepted)).chain(refused);
                all.map(|(code, counter)| result(code, counter)).collect()
            }
            RELOADS => {
                let results = ["ok", "failed"].iter().zip(&self.reloads);
                results
                    .map(|(code, counter)| result(code, counter))
                    .collect()
            }
            CERTIFICATE => of_listeners(moment, |dates| Some(dates.certificate)),
            CRL => of_listeners(moment, |dates| dates.crl),
            SESSIONS => single(self.sessions().to_string()),
            WAITING => single(moment.waiting.to_string()),
            IDLE => single(moment.idle.to_string()),
            REVOKED => single(read(&self.revoked)),
            EVENTS_WAITING => single(moment.events_waiting.to_string()),
            EVENTS_MERGED => single(read(&self.events_merged)),
            SUCCESSFUL => single(u8::from(!self.is_failing.load(Ordering::Relaxed)).to_string()),
            LOADED => single(self.loaded.load(Ordering::Relaxed).to_string()),
            _ => Vec::new(),
        }
    }
}

/// One sample for each listener that has this date.
fn of_listeners(moment: &Moment, date: impl Fn(&Dates) -> Option<i64>) -> Vec<(String, String)> {
    let known = moment.dates.iter();
    let known = known.filter_map(|dates| Some((dates.listener, date(dates)?)));
    known
        .map(|(listener, date)| (format!("listener=\"{listener}\""), date.to_string()))
        .collect()
}

impl Drop for SessionPermit<'_> {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The definition of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The name.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// Its labels, for the reference.
    pub labels: &'static str,
    /// The help text.
    pub help: &'static str,
}

const fn family(
    name: &'static str,
    kind: &'static str,
    labels: &'static str,
    help: &'static str,
) -> Family {
    Family {
        name,
        kind,
        labels,
        help,
    }
}

/// All metrics, in the order of the page.
pub const FAMILIES: [Family; 12] = [
    family(
        HANDSHAKES,
        "counter",
        "`result`: `ok` or a reason of a refused handshake",
        "Connections, by result; each counts once.",
    ),
    family(SESSIONS, "gauge", "", "Live sessions."),
    family(WAITING, "gauge", "", "Unfinished handshakes."),
    family(
        IDLE,
        "gauge",
        "",
        "Connections past their handshake without a request.",
    ),
    family(
        REVOKED,
        "counter",
        "",
        "Live sessions that new authorities or revocation lists ended.",
    ),
    family(
        EVENTS_WAITING,
        "gauge",
        "",
        "Different events that wait for the daemon.",
    ),
    family(
        EVENTS_MERGED,
        "counter",
        "",
        "Events that lost client and certificate, because too many different ones waited.",
    ),
    family(
        RELOADS,
        "counter",
        "`result`: `ok`, `failed`",
        "Readings of the files, by result.",
    ),
    family(
        SUCCESSFUL,
        "gauge",
        "",
        "0 from a refused reading of the files until one succeeds, otherwise 1.",
    ),
    family(
        LOADED,
        "gauge",
        "",
        "When the files in force were read, in Unix time.",
    ),
    family(
        CERTIFICATE,
        "gauge",
        "`listener`",
        "When the certificate of a listener expires, in Unix time.",
    ),
    family(
        CRL,
        "gauge",
        "`listener`",
        "When the first revocation list of a listener passes its next update, in Unix time.",
    ),
];
const HANDSHAKES: &str = "sealway_hop_handshakes_total";
const SESSIONS: &str = "sealway_hop_sessions";
const WAITING: &str = "sealway_hop_waiting";
const IDLE: &str = "sealway_hop_idle";
const REVOKED: &str = "sealway_hop_sessions_revoked_total";
const EVENTS_WAITING: &str = "sealway_hop_events_waiting";
const EVENTS_MERGED: &str = "sealway_hop_events_merged_total";
const RELOADS: &str = "sealway_hop_reloads_total";
const SUCCESSFUL: &str = "sealway_hop_last_reload_successful";
const LOADED: &str = "sealway_hop_loaded_timestamp_seconds";
const CERTIFICATE: &str = "sealway_hop_certificate_expiry_timestamp_seconds";
const CRL: &str = "sealway_hop_crl_expiry_timestamp_seconds";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_samples() {
        let listener = SocketAddr::from(([192, 0, 2, 1], 9443));
        let dates = Dates {
            listener,
            certificate: 1,
            crl: Some(2),
        };
        let moment = Moment {
            dates: vec![dates],
            ..Moment::default()
        };
        let page = Metrics::default().render(&moment);
        for family in FAMILIES {
            let is_sample = |line: &str| {
                line.strip_prefix(family.name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            };
            assert!(page.lines().any(is_sample), "{}", family.name);
        }
        let crl = format!("{CRL}{{listener=\"192.0.2.1:9443\"}} 2\n");
        assert!(page.contains(&crl), "{page}");
    }
}
