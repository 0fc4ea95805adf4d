//! The start of the thread that writes records. Until then they wait in the queue.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::Instant;

use metrics::Counter;
use tokio::runtime::Builder;
use tokio::sync::mpsc;

use super::file::AuditFile;
use super::writer::{Clock, Pen, Sink};
use super::{QueuedRecord, State, Writer};

/// Records that have no writer yet.
#[derive(Debug)]
pub struct Unwritten {
    pub(super) records: mpsc::Receiver<QueuedRecord>,
    pub(super) state: Arc<State>,
    pub(super) failures: Counter,
}

impl Unwritten {
    /// Starts the writer on this stream.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn write_to(self, stream: impl Write + Send + 'static) -> io::Result<Writer> {
        self.start(Sink::Stream(stream))
    }

    /// Starts the writer on the audit file.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn write_in(self, file: AuditFile) -> io::Result<Writer> {
        self.start(Sink::<io::Sink>::File(Box::new(file)))
    }

    fn start<W: Write + Send + 'static>(self, sink: Sink<W>) -> io::Result<Writer> {
        let Self {
            records,
            state,
            failures,
        } = self;
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let (clock, synced) = (Clock::new(), Instant::now());
        let pen = Pen {
            sink,
            state,
            failures,
            runtime,
            clock,
            synced,
            summed: synced,
            is_sync_failing: false,
        };
        let (at_work, done) = std_mpsc::channel();
        let thread = std::thread::Builder::new().name("audit".into());
        thread.spawn(move || {
            pen.write_all(records);
            drop(at_work);
        })?;
        Ok(Writer(done))
    }
}
