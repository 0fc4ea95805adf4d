//! How long frames took, and which tunnels were lost, since the last mark.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde::Serialize;

use crate::clock::{milliseconds, now};
use crate::kind::{Kind, Plan};

/// Shared by all tunnels of the process.
pub(crate) type Shared = Rc<RefCell<Stats>>;

/// The tunnels that are observed.
#[derive(Default)]
pub(crate) struct Stats {
    tunnels: BTreeMap<u32, Observed>,
    pub(crate) newcomers: Newcomers,
    /// The peers may end their tunnels.
    pub(crate) is_ending: bool,
}

struct Observed {
    kind: Kind,
    frames: u64,
    worst: u64,
    last: u64,
    lost: Option<String>,
    is_silent: bool,
}

/// Tunnels that come and go.
#[derive(Default, Serialize)]
pub(crate) struct Newcomers {
    pub(crate) served: u64,
    pub(crate) refused: u64,
    /// Why the first of them were refused.
    pub(crate) reasons: Vec<String>,
    pub(crate) worst_ms: f64,
}

/// The answer to `mark`.
#[derive(Serialize)]
pub(crate) struct Mark {
    pub(crate) alive: usize,
    pub(crate) lost: Vec<String>,
    kinds: BTreeMap<Kind, Window>,
    newcomers: Newcomers,
}

/// The tunnels of one kind since the last mark, in milliseconds.
#[derive(Serialize)]
struct Window {
    tunnels: usize,
    frames: u64,
    /// The longest time of a frame, of the worst tunnel. Bulk: the longest time without a byte.
    worst_ms: f64,
    /// The same of the tunnel in the middle.
    median_ms: f64,
    /// The longest time since a byte arrived, now.
    silent_ms: f64,
}

impl Stats {
    pub(crate) fn add(&mut self, tunnel: u32, kind: Kind, plan: Plan) {
        let observed = Observed {
            kind,
            frames: 0,
            worst: 0,
            last: now(),
            lost: None,
            is_silent: !plan.hears || plan.reads_late,
        };
        self.tunnels.insert(tunnel, observed);
    }

    /// A frame that was sent at this time is complete.
    pub(crate) fn frame(&mut self, tunnel: u32, sent: u64) {
        let at = now();
        if let Some(observed) = self.tunnels.get_mut(&tunnel) {
            observed.frames += 1;
            if observed.kind.is_timed() {
                observed.worst = observed.worst.max(at.saturating_sub(sent));
            }
        }
    }

    /// Some bytes have arrived.
    pub(crate) fn bytes(&mut self, tunnel: u32) {
        let at = now();
        if let Some(observed) = self.tunnels.get_mut(&tunnel) {
            if !observed.kind.is_timed() {
                observed.worst = observed.worst.max(at.saturating_sub(observed.last));
            }
            observed.last = at;
        }
    }

    pub(crate) fn lost(&mut self, tunnel: u32, why: &str) {
        if let Some(observed) = self.tunnels.get_mut(&tunnel) {
            observed.lost.get_or_insert_with(|| why.to_string());
        }
    }

    /// The tunnel has no more to receive: its silence means nothing.
    pub(crate) fn over(&mut self, tunnel: u32) {
        if let Some(observed) = self.tunnels.get_mut(&tunnel) {
            observed.is_silent = true;
        }
    }

    pub(crate) fn refused(&mut self, why: String) {
        self.newcomers.refused += 1;
        if self.newcomers.reasons.len() < 10 {
            self.newcomers.reasons.push(why);
        }
    }

    /// What was observed since the last mark.
    pub(crate) fn mark(&mut self) -> Mark {
        let (at, mut worst) = (now(), BTreeMap::<Kind, Vec<u64>>::new());
        let mut kinds = BTreeMap::<Kind, Window>::new();
        for observed in self.tunnels.values_mut().filter(|one| one.lost.is_none()) {
            let window = kinds.entry(observed.kind).or_insert(Window {
                tunnels: 0,
                frames: 0,
                worst_ms: 0.0,
                median_ms: 0.0,
                silent_ms: 0.0,
            });
            window.tunnels += 1;
            window.frames += std::mem::take(&mut observed.frames);
            if !observed.is_silent {
                let silent = milliseconds(at.saturating_sub(observed.last));
                window.silent_ms = window.silent_ms.max(silent);
            }
            let all = worst.entry(observed.kind).or_default();
            all.push(std::mem::take(&mut observed.worst));
        }
        for (kind, mut all) in worst {
            all.sort_unstable();
            if let Some(window) = kinds.get_mut(&kind) {
                window.worst_ms = milliseconds(all.last().copied().unwrap_or(0));
                window.median_ms = milliseconds(all.get(all.len() / 2).copied().unwrap_or(0));
            }
        }
        let lost = self.tunnels.iter().filter_map(|(number, observed)| {
            let why = observed.lost.as_ref()?;
            Some(format!("{number} ({:?}): {why}", observed.kind))
        });
        let lost: Vec<String> = lost.collect();
        Mark {
            alive: self.tunnels.len() - lost.len(),
            lost,
            kinds,
            newcomers: std::mem::take(&mut self.newcomers),
        }
    }
}
