//! `sealway top`: shows `/status` of a running daemon in a terminal, updated each second; once and
//! as plain text if standard output is not a terminal. Asks only the admin listener, changes
//! nothing, and restores the terminal.

mod view;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::Trouble;
use super::ask::{self, Door, Question, Visitor};
use crate::admin::report::Report;
use crate::config::Overrides;

/// Shows the status until Ctrl-C, or once.
///
/// # Errors
/// The configuration does not say where the admin listener is, or the first request fails.
pub fn top(path: Option<&Path>, overrides: &Overrides, once: bool) -> Result<(), Trouble> {
    let door = Door::of(path, overrides, Visitor::Watcher)?;
    let no_runtime = |error: io::Error| {
        Trouble::Other(format!(
            "the system refuses resources that top needs: {error}"
        ))
    };
    let runtime = ask::runtime()?;
    runtime.block_on(async {
        let report = ask(&door).await.map_err(Trouble::Other)?;
        if once || !io::stdout().is_terminal() {
            let text = view::lines(&report, usize::MAX).join("\n") + "\n";
            return io::stdout()
                .write_all(text.as_bytes())
                .map_err(|error| Trouble::Other(error.to_string()));
        }
        live(&door, report).await.map_err(no_runtime)
    })
}

async fn ask(door: &Door) -> Result<Report, String> {
    door.ask(Question {
        path: "/status",
        body: None,
        answer_max: BODY_BYTES_MAX,
        patience: PATIENCE,
    })
    .await
}

/// Refreshes the screen each second. Shows an error in place of the data, and asks again.
async fn live(door: &Door, first: Report) -> io::Result<()> {
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let mut screen = Screen::open()?;
    let mut known: Result<Report, String> = Ok(first);
    loop {
        let lines = match &known {
            Ok(report) => view::fitting(report),
            Err(reason) => vec![
                reason.clone(),
                String::new(),
                "refreshed every second; Ctrl-C ends".to_owned(),
            ],
        };
        screen.show(&lines)?;
        let next = async {
            sleep(SECOND).await;
            ask(door).await
        };
        known = tokio::select! {
            next = next => next,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        };
    }
}

/// The terminal's alternate screen (xterm control sequences); restores the primary screen on drop.
struct Screen(io::Stdout);

impl Screen {
    fn open() -> io::Result<Self> {
        let mut screen = Self(io::stdout());
        // The alternate screen, no cursor, no line wrap.
        screen.0.write_all(b"\x1b[?1049h\x1b[?25l\x1b[?7l")?;
        Ok(screen)
    }

    fn show(&mut self, lines: &[String]) -> io::Result<()> {
        // Moves to the top, clears the rest of each line, and the lines below.
        self.0
            .write_all(format!("\x1b[H{}\x1b[J", lines.join("\x1b[K\r\n") + "\x1b[K").as_bytes())?;
        self.0.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _gone = self
            .0
            .write_all(b"\x1b[?7h\x1b[?25h\x1b[?1049l")
            .and_then(|()| self.0.flush());
    }
}

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);
/// A hundred refusals and a hundred users are some 50 KiB.
const BODY_BYTES_MAX: usize = 4 << 20;
