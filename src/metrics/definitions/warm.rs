//! The metrics of warm upstream sockets.

use super::{Definition, label};
use crate::outcome::CloseReason;

pub(in crate::metrics) const WARM_DIALS: Definition = Definition::counter(
    "sealway_warm_dials_total",
    &[label("result", &WARM_RESULTS)],
    "Tunnels to names with enough tunnels for warm upstream sockets: hit if one was used, miss if the tunnel was dialled; redial for each hit whose socket the upstream closed before its first byte, so that the tunnel was dialled after all.",
);
pub(in crate::metrics) const WARM_OPENED: Definition = Definition::counter(
    "sealway_warm_opened_total",
    &[],
    "Warm upstream sockets that were opened.",
);
pub(in crate::metrics) const WARM_CLOSED: Definition = Definition::counter(
    "sealway_warm_closed_total",
    &[label("reason", &CloseReason::LABELS)],
    "Warm upstream sockets that were closed without a tunnel, by reason.",
);
pub(in crate::metrics) const WARM_OPEN: Definition = Definition::gauge(
    "sealway_warm_open",
    &[],
    "Warm upstream sockets that are open.",
);

/// What becomes of a tunnel that a warm socket could serve.
pub(in crate::metrics) const WARM_RESULTS: [&str; 3] = ["hit", "miss", "redial"];
