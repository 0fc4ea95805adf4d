//! Why warm upstream sockets are closed without a tunnel.

/// Why a warm socket was closed unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// It was as old as a warm socket may be.
    Expired,
    /// The upstream closed it, or sent bytes.
    Upstream,
    /// The upstream did not accept the connection.
    Failed,
    /// The host lacks the egress address, or the connection does not leave from it.
    Egress,
    /// DNS no longer has the address for the name.
    Answer,
    /// A reload.
    Reload,
    /// The daemon drains or stops.
    Drain,
    /// The daemon hands its tunnels over.
    HandOver,
}

impl CloseReason {
    /// The labels of `sealway_warm_closed_total`, in the order of the variants.
    pub const LABELS: [&'static str; 8] = [
        "expired",
        "upstream",
        "failed",
        "egress",
        "answer",
        "reload",
        "drain",
        "hand_over",
    ];
}

/// Each variant has a label.
const _: () = assert!(CloseReason::LABELS.len() == CloseReason::HandOver as usize + 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_label() {
        for (reason, label) in [
            (CloseReason::Expired, "expired"),
            (CloseReason::Upstream, "upstream"),
            (CloseReason::Failed, "failed"),
            (CloseReason::Egress, "egress"),
            (CloseReason::Answer, "answer"),
            (CloseReason::Reload, "reload"),
            (CloseReason::Drain, "drain"),
            (CloseReason::HandOver, "hand_over"),
        ] {
            assert_eq!(CloseReason::LABELS.get(reason as usize), Some(&label));
        }
    }
}
