//! Divides the limit on open files: tunnels, pending connections, pipes and closing connections,
//! with a spare part for the admin listener, DNS and the log. Pure arithmetic. A full budget leads
//! to a refusal with a reply, long before accept(2) fails.

/// Bounds derived from the limit on open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Tunnels at once, two descriptors each.
    pub tunnels: usize,
    /// Connections without a permitted request, one descriptor each.
    pub pending: usize,
    /// Attempts at upstreams after the first one of each tunnel, one descriptor each.
    pub attempts: usize,
    /// Pipes at once, two descriptors each.
    pub pipes: usize,
    /// Refused connections that wait for the peer's close, one descriptor each.
    pub lingering: usize,
    /// Connections to the admin listener at once, one descriptor each; taken from the spare part.
    pub admin: usize,
    /// Look-ups of names in flight, [`LOOK_UP_SOCKETS`] descriptors each.
    pub look_ups: usize,
}

impl Budget {
    /// The budget for this many descriptors; at least one tunnel.
    #[must_use]
    pub fn of(descriptors: u64) -> Self {
        let all = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let pipes = (all / 64).min(PIPES_MAX);
        let lingering = (all / 32).min(LINGERING_MAX);
        let pending = (all / 8).min(PENDING_MAX);
        let spare = SPARE_MIN + (all / 16).min(SPARE_MORE_MAX);
        let look_ups = (all / 128).clamp(LOOK_UPS_MIN, LOOK_UPS_MAX);
        let attempts = (all / 32).min(ATTEMPTS_MAX);
        let others =
            spare + pending + attempts + lingering + 2 * pipes + LOOK_UP_SOCKETS * look_ups;
        let tunnels = (all.saturating_sub(others) / 2).max(1);
        let admin = (all / 32).clamp(ADMIN_MIN, ADMIN_MAX);
        Self {
            tunnels,
            pending: pending.max(1),
            attempts,
            pipes: pipes.max(1),
            lingering,
            admin,
            look_ups,
        }
    }

    /// The same with fewer tunnels where so many workers, each with so many listeners, need more than the spare part holds
    /// for them. Each worker has one pipe at least.
    #[must_use]
    pub fn for_workers(self, workers: usize, listeners: usize) -> Self {
        let needed = workers * (WORKER_DESCRIPTORS + LISTENER_DESCRIPTORS * listeners);
        let pipes = self.pipes.max(workers);
        let more = needed.saturating_sub(SPARE_OF_WORKERS) + 2 * (pipes - self.pipes);
        let tunnels = self.tunnels.saturating_sub(more.div_ceil(2)).max(1);
        Self {
            tunnels,
            pipes,
            ..self
        }
    }
}

impl Budget {
    /// The most warm sockets at once. Each takes one of the descriptors for [`attempts`](Self::attempts), and they leave
    /// three quarters of these to dials that clients wait for.
    #[must_use]
    pub fn warm(&self) -> usize {
        (self.attempts / 4).min(WARM_MAX)
    }
}

/// At 256 KiB each they are four times what an unprivileged user may have at full size; the others
/// are smaller and still carry bytes.
const PIPES_MAX: usize = 1_024;
const LINGERING_MAX: usize = 1_024;
/// Two for each of 512 tunnels that dial at the same time and have no answer after 250 ms.
const ATTEMPTS_MAX: usize = 1_024;
/// A provider's front end sees no more silent connections than these from one daemon.
const WARM_MAX: usize = 32;
/// The largest value of `limits.pending`.
const PENDING_MAX: usize = 60_000;
/// Sockets of one look-up: three attempts at each of two families.
pub const LOOK_UP_SOCKETS: usize = 6;
/// Two for each class of names.
const LOOK_UPS_MIN: usize = 4;
/// After a restart a thousand clients resolve few names, and equal questions are asked once. With
/// answers within 20 ms this allows 3,000 names a second.
const LOOK_UPS_MAX: usize = 64;
/// Listeners, epolls, eventfds and reserves of seven workers, the service thread, DNS, the log.
const SPARE_MIN: usize = 64;
/// What of that is for workers: seven of them with one listener.
const SPARE_OF_WORKERS: usize = 42;
/// Its epoll, its eventfd and two netlink sockets.
const WORKER_DESCRIPTORS: usize = 4;
/// The socket and the reserve beside it.
const LISTENER_DESCRIPTORS: usize = 2;
/// Admin connections, attempts at a second address of an upstream.
const SPARE_MORE_MAX: usize = 512;
/// Prometheus keeps one connection; people and probes a few.
const ADMIN_MIN: usize = 8;
/// More places keep the connection of a slow probe longer while strangers connect.
const ADMIN_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_never_exceeds_the_descriptors() {
        for descriptors in (128..5_000).chain([65_536, 1_048_576, 1_073_741_816]) {
            let Budget {
                tunnels,
                pending,
                attempts,
                pipes,
                lingering,
                admin,
                look_ups,
            } = Budget::of(descriptors);
            let used = 2 * (tunnels + pipes)
                + pending
                + attempts
                + lingering
                + LOOK_UP_SOCKETS * look_ups
                + SPARE_MIN;
            assert!(
                admin >= ADMIN_MIN && used + admin <= (descriptors as usize).max(138),
                "{admin} of {descriptors}"
            );
            assert!(
                used as u64 <= descriptors.max(130),
                "{used} of {descriptors}"
            );
        }
    }

    #[test]
    fn workers_take_descriptors_from_tunnels_only() {
        let few = Budget::of(1_024);
        assert_eq!(few.for_workers(7, 1), few, "the spare part is for them");
        let many = few.for_workers(60, 1);
        // 360 of 42 for the workers, and 60 pipes in place of 16.
        let tunnels = 312 - (360 - 42 + 2 * 44) / 2;
        let pipes = 60;
        assert_eq!(
            many,
            Budget {
                tunnels,
                pipes,
                ..few
            }
        );
        assert!(few.for_workers(60, 3).tunnels < tunnels);
        assert_eq!(few.for_workers(1_024, 4).tunnels, 1);
    }

    #[test]
    fn the_limit_of_the_unit_carries_the_default_tunnels() {
        assert!(Budget::of(65_536).tunnels > 20_000);
        let wanted = Budget {
            tunnels: 312,
            pending: 128,
            attempts: 32,
            pipes: 16,
            lingering: 32,
            admin: 32,
            look_ups: 8,
        };
        assert_eq!(Budget::of(1_024), wanted);
        assert_eq!(Budget::of(0).tunnels, 1);
        assert_eq!(
            [0, 128, 1_024, 65_536].map(|all| Budget::of(all).warm()),
            [0, 1, 8, 32]
        );
    }
}
