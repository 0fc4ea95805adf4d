//! Divides work on thousands of tunnels among a few threads, because all tunnels stand still meanwhile.
//! Without threads it does the work itself.

use std::num::NonZero;
use std::thread::{self, Builder, available_parallelism};

/// Returns the result for each item, in the order of the items.
pub(super) fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = available_parallelism().map_or(1, NonZero::get);
    let share = items.len().div_ceil(threads.min(THREADS_MAX));
    let mut shares = items.chunks(share.max(SHARE_MIN));
    let do_share = |share: &[T]| share.iter().map(&work).collect::<Vec<R>>();
    let Some(first) = shares.next() else {
        return Vec::new();
    };
    thread::scope(|scope| {
        let start = |share| {
            let thread = Builder::new().name("handover".into());
            (share, thread.spawn_scoped(scope, move || do_share(share)))
        };
        let started: Vec<_> = shares.map(start).collect();
        let mut results = do_share(first);
        for (share, thread) in started {
            let done = thread.ok().and_then(|thread| thread.join().ok());
            results.extend(done.unwrap_or_else(|| do_share(share)));
        }
        results
    })
}

/// More threads wait for the same memory.
const THREADS_MAX: usize = 8;
/// The start of a thread costs as much as some tunnels.
const SHARE_MIN: usize = 256;

#[cfg(test)]
mod tests {
    use super::in_parallel;

    #[test]
    fn results_keep_the_order_of_the_items() {
        for count in [0, 1, 255, 256, 257, 5_000] {
            let items: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = items.iter().map(|number| number * 2).collect();
            assert_eq!(in_parallel(&items, |number| number * 2), doubled);
        }
    }
}
