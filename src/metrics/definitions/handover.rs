//! The metrics of a hand-over.

use super::{Definition, Kind, label};

pub(in crate::metrics) const HANDOVER_TUNNELS: Definition = Definition::counter(
    "sealway_handover_tunnels_total",
    &[label("result", &HANDOVER_RESULTS)],
    "Tunnels of the former daemon: adopted, refused because this daemon cannot continue them, or lost on the way.",
);
/// A hand-over takes from some 20 ms to the time in which a wrong configuration is corrected.
pub(in crate::metrics) const HANDOVER_PAUSE: Definition = Definition::new(
    "sealway_handover_pause_seconds",
    Kind::Histogram(&[0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 5.0, 30.0]),
    &[],
    "How long no daemon had the tunnels of a hand-over.",
);

/// What becomes of a tunnel after a hand-over.
pub(in crate::metrics) const HANDOVER_RESULTS: [&str; 3] = ["adopted", "refused", "lost"];
