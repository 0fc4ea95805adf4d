//! What has moved, of one tunnel and of all. Totals are added to once a turn, never per chunk.

use metrics::Counter;

/// Bytes that one direction has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteCount {
    /// Those that never entered user space.
    pub spliced: u64,
    /// Those that did.
    pub copied: u64,
}

/// Bytes that a tunnel has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelBytes {
    /// From client to upstream.
    pub up: ByteCount,
    /// From upstream to client.
    pub down: ByteCount,
}

/// Where bytes of all tunnels are counted, while they run.
#[derive(Clone, Debug)]
pub struct ByteCounters {
    /// From clients to upstreams.
    pub up: Counter,
    /// From upstreams to clients.
    pub down: Counter,
    /// Those that never entered user space.
    pub spliced: Counter,
    /// Those that did.
    pub copied: Counter,
}

impl ByteCount {
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

impl TunnelBytes {
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

impl ByteCounters {
    /// Adds what has moved.
    pub fn add(&self, bytes_moved: TunnelBytes) {
        let add = |counter: &Counter, bytes| {
            if bytes > 0 {
                counter.increment(bytes);
            }
        };
        add(&self.up, bytes_moved.up.bytes());
        add(&self.down, bytes_moved.down.bytes());
        add(
            &self.spliced,
            bytes_moved.up.spliced + bytes_moved.down.spliced,
        );
        add(
            &self.copied,
            bytes_moved.up.copied + bytes_moved.down.copied,
        );
    }
}
