//! The worker threads: how many, what each needs, and their start. Never moves a byte itself.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Waker;

use tokio_util::task::TaskTracker;
use tracing::error;

use super::Worker;
use super::warnings::PENDING_OF_WORKER_MIN;
use crate::relay::Bounds;
use crate::shared::Shared;
use crate::worker::{self, Bound, Prepared, Settings, WorkerWaker};

/// The number of workers: `relay.workers`, or one per core for 0, but only as many as leave each of
/// them [`PENDING_OF_WORKER_MIN`] pending places.
pub(super) fn count(configured: usize, pending_max: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    count_for(configured, pending_max, cores)
}

fn count_for(configured: usize, pending_max: usize, cores: usize) -> usize {
    match configured {
        0 => cores.min(pending_max / PENDING_OF_WORKER_MIN).max(1),
        configured => configured,
    }
}

/// Opens what the worker of each share of the sockets needs, and makes their wakers known to `shared`. No worker runs
/// yet.
///
/// # Errors
/// No descriptor is free, or the kernel has no memory.
pub(super) fn prepare(
    shares: Vec<Vec<Bound>>,
    shared: &Arc<Shared>,
    tunnels: &TaskTracker,
) -> io::Result<(Vec<Prepared>, Vec<Arc<WorkerWaker>>)> {
    let count = shares.len();
    let prepare = |listeners| {
        worker::prepare(Settings {
            shared: Arc::clone(shared),
            listeners,
            workers: count,
            pipes: Bounds {
                lent: (shared.limits.budget.pipes / count).max(1),
                idle: (IDLE_PIPES_MAX / count).max(1),
            },
            tunnels: tunnels.clone(),
            waker: Arc::new(WorkerWaker::new()?),
        })
    };
    let prepared: Vec<_> = shares.into_iter().map(prepare).collect::<io::Result<_>>()?;
    let wakers: Vec<_> = prepared.iter().map(Prepared::waker).collect();
    let of_workers = wakers.iter().cloned().map(Waker::from).collect();
    // Set only here.
    let _only_here = shared.workers.set(of_workers);
    Ok((prepared, wakers))
}

/// Starts a thread for each worker.
///
/// # Errors
/// The kernel refuses a thread. Earlier ones run then, and the process should end.
pub(super) fn run(prepared: Vec<Prepared>, shared: &Shared) -> io::Result<Vec<Worker>> {
    let mut workers = Vec::with_capacity(prepared.len());
    for (number, prepared) in prepared.into_iter().enumerate() {
        let waker = prepared.waker();
        let thread = std::thread::Builder::new().name(format!("worker-{number}"));
        let (leaving, failed) = (Arc::clone(&waker), shared.lifecycle.stages.failed.clone());
        let thread = thread.spawn(move || {
            let worked = std::panic::catch_unwind(AssertUnwindSafe(|| worker::work(prepared)));
            let worked = worked.unwrap_or_else(|_| Err(io::Error::other("it has panicked")));
            if let Err(error) = worked {
                error!(%error, "a worker failed");
                failed.cancel();
            }
            leaving.leave();
        })?;
        workers.push(Worker { thread, waker });
    }
    Ok(workers)
}

/// Free pipes to keep: 16 MiB, a quarter of an unprivileged user's share.
const IDLE_PIPES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_workers_have_sixteen_pending_places_each() {
        assert_eq!(count_for(0, 5_000, 64), 64);
        assert_eq!(count_for(0, 128, 64), 8);
        assert_eq!(count_for(0, 31, 64), 1);
        assert_eq!(count_for(0, 1, 64), 1);
        assert_eq!(count_for(0, 128, 2), 2);
        assert_eq!(count_for(64, 128, 2), 64, "the operator's number stands");
    }
}
