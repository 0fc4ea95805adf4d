//! What has moved, of one tunnel and of all. Totals are added to once a turn, never per chunk.

use metrics::Counter;

/// Bytes that one direction has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Those that never entered user space.
    pub spliced: u64,
    /// Those that did.
    pub copied: u64,
}

/// Bytes that a tunnel has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// From client to upstream.
    pub up: Moved,
    /// From upstream to client.
    pub down: Moved,
}

/// Where bytes of all tunnels are counted, while they run.
#[derive(Clone, Debug)]
pub struct Totals {
    /// From clients to upstreams.
    pub up: Counter,
    /// From upstreams to clients.
    pub down: Counter,
    /// Those that never entered user space.
    pub spliced: Counter,
    /// Those that did.
    pub copied: Counter,
}

impl Moved {
    /// All of them.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.spliced + self.copied
    }

    fn since(self, before: Self) -> Self {
        Self {
            spliced: self.spliced - before.spliced,
            copied: self.copied - before.copied,
        }
    }

    fn add(&mut self, more: Self) {
        self.spliced += more.spliced;
        self.copied += more.copied;
    }
}

impl Tally {
    /// All of them.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.up.bytes() + self.down.bytes()
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self {
            up: self.up.since(before.up),
            down: self.down.since(before.down),
        }
    }

    pub(super) fn add(&mut self, more: Self) {
        self.up.add(more.up);
        self.down.add(more.down);
    }
}

impl Totals {
    /// Adds what has moved.
    pub fn add(&self, tally: Tally) {
        let add = |counter: &Counter, bytes| {
            if bytes > 0 {
                counter.increment(bytes);
            }
        };
        add(&self.up, tally.up.bytes());
        add(&self.down, tally.down.bytes());
        add(&self.spliced, tally.up.spliced + tally.down.spliced);
        add(&self.copied, tally.up.copied + tally.down.copied);
    }
}
