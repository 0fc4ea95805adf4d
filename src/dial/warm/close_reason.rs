//! Why warm sockets are closed, and how many. Pure.

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

/// How many sockets were closed, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed([usize; CloseReason::ALL.len()]);

impl CloseReason {
    /// All reasons, with the label of `sealway_warm_closed_total`.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Expired, "expired"),
        (Self::Upstream, "upstream"),
        (Self::Failed, "failed"),
        (Self::Egress, "egress"),
        (Self::Answer, "answer"),
        (Self::Reload, "reload"),
        (Self::Drain, "drain"),
        (Self::HandOver, "hand_over"),
    ];
}

impl Closed {
    /// So many, all for one reason.
    #[must_use]
    pub fn all(reason: CloseReason, sockets: usize) -> Self {
        let mut closed = Self::default();
        closed.add(reason, sockets);
        closed
    }

    pub(super) fn add(&mut self, reason: CloseReason, sockets: usize) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count += sockets;
        }
    }

    /// The number for each reason, in the order of [`CloseReason::ALL`].
    pub fn each(&self) -> impl Iterator<Item = usize> {
        self.0.into_iter()
    }
}
