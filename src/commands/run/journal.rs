//! Levels for the journal: if standard error leads to the journal, each log line begins with its
//! level (sd-daemon(3)), which the journal removes and stores. Other streams get the line
//! unchanged. Never reads the content of a line.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::{Level, Metadata};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::fmt::MakeWriter;

/// The destination of log lines.
#[derive(Debug)]
pub(super) struct Stream {
    to: NonBlocking,
    is_journal: bool,
}

/// One line.
#[derive(Debug)]
pub(super) struct Line {
    to: NonBlocking,
    level: &'static [u8],
}

impl Stream {
    pub(super) fn new(to: NonBlocking) -> Self {
        Self {
            to,
            is_journal: is_journal(io::stderr()).unwrap_or(false),
        }
    }
}

impl<'a> MakeWriter<'a> for Stream {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            to: self.to.clone(),
            level: b"",
        }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line {
        Line {
            level: if self.is_journal {
                level(*event.level())
            } else {
                b""
            },
            ..self.make_writer()
        }
    }
}

impl Write for Line {
    /// Takes the whole line, because the layer above writes it in one call; pieces of two threads
    /// could mix.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.to.write_all(&[self.level, line].concat())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Whether this stream leads to the journal: `JOURNAL_STREAM`, systemd.exec(5).
fn is_journal(stream: impl AsFd) -> io::Result<bool> {
    let Some(said) = std::env::var_os("JOURNAL_STREAM") else {
        return Ok(false);
    };
    let own = File::from(stream.as_fd().try_clone_to_owned()?).metadata()?;
    Ok(said.to_str() == Some(&format!("{}:{}", own.dev(), own.ino())))
}

/// The numbers of syslog(3).
fn level(level: Level) -> &'static [u8] {
    match level {
        Level::ERROR => b"<3>",
        Level::WARN => b"<4>",
        Level::INFO => b"<6>",
        Level::DEBUG | Level::TRACE => b"<7>",
    }
}
