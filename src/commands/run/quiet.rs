//! Bounds the log: how many lines of the libraries, and of one place in this program, are written.
//! Peers can provoke some of them, and must not be able to fill a disk or bury other lines. Never
//! waits and never changes a line.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::Metadata;
use tracing::callsite::Identifier;

use crate::limits::bucket::{Bucket, Rate};

/// Recent lines by their source.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    libraries: Bucket,
    /// By the place in the program; there are some dozens.
    own: HashMap<Identifier, Bucket>,
}

impl Quiet {
    /// Whether to write this line.
    pub(super) fn admits(&self, line: &Metadata<'_>) -> bool {
        // A span writes nothing itself; without it a line would not say whose it is.
        if line.is_span() {
            return true;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if OWN.contains(&line.target())
            || OWN_MODULES.iter().any(|own| line.target().starts_with(own))
        {
            return state
                .own
                .entry(line.callsite())
                .or_default()
                .take(now, EACH_OWN);
        }
        state.libraries.take(now, LIBRARIES)
    }
}

const OWN: [&str; 2] = ["sealway", "sealway_hop"];
const OWN_MODULES: [&str; 2] = ["sealway::", "sealway_hop::"];
/// Ten at once and ten a minute.
const LIBRARIES: Rate = Rate::new(10, Duration::from_secs(6));
/// A drain logs a hundred tunnels of each worker.
const EACH_OWN: Rate = Rate::new(10_000, Duration::from_millis(100));

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;

    use tracing_subscriber::filter::DynFilterFn;
    use tracing_subscriber::layer::{Layer, SubscriberExt};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn libraries_share_ten_lines_and_each_of_our_call_sites_has_its_own() {
        let (written, quiet) = (Written::default(), Quiet::default());
        let writer = written.clone();
        let format = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let filter = DynFilterFn::new(move |line, _| quiet.admits(line));
        tracing::subscriber::with_default(
            tracing_subscriber::registry().with(format.with_filter(filter)),
            || {
                for _ in 0..1_000 {
                    tracing::error!(target: "hickory_net", "a library");
                    tracing::error!(target: "sealwayish", "another one");
                    tracing::warn!(target: "sealway::worker", "ours");
                }
                tracing::warn!(target: "sealway::worker", "another place");
            },
        );
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("a library") + count("another one"), 10, "{text}");
        assert_eq!((count("ours"), count("another place")), (1_000, 1));
    }
}
