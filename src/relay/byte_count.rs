//! Byte counts of one tunnel and of all. Totals are updated once a turn, never per chunk.

use metrics::Counter;

/// Bytes moved in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteCount {
    /// Bytes that never entered user space.
    pub spliced: u64,
    /// Bytes that entered user space.
    pub copied: u64,
}

/// Bytes moved by one tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelBytes {
    /// From client to upstream.
    pub up: ByteCount,
    /// From upstream to client.
    pub down: ByteCount,
}

/// Counters for the bytes of all tunnels, updated while they run.
#[derive(Clone, Debug)]
pub struct ByteCounters {
    /// From clients to upstreams.
    pub up: Counter,
    /// From upstreams to clients.
    pub down: Counter,
    /// Bytes that never entered user space.
    pub spliced: Counter,
    /// Bytes that entered user space.
    pub copied: Counter,
}

impl ByteCount {
    /// The sum of both.
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
    /// The sum of both directions.
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
    /// Adds bytes.
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
