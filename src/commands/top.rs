//! `sealway top`: what `/status` of a running daemon says, in a terminal, anew each second; once and plain where standard
//! output is no terminal. Asks the admin listener and nobody else, changes nothing, and leaves the terminal as it was.

mod view;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::Trouble;
use super::ask::{self, Door, Question};
use crate::admin::report::Report;
use crate::config::Overrides;

/// Shows it until Ctrl-C, or once.
///
/// # Errors
/// When the configuration does not say where the daemon is watched, or nobody answers there at the start.
pub fn top(path: Option<&Path>, overrides: &Overrides, once: bool) -> Result<(), Trouble> {
    let door = Door::of(path, overrides)?;
    let no_runtime =
        |error: io::Error| Trouble::Other(format!("the machine refuses what top needs: {error}"));
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

/// Refreshes the screen each second. What cannot be had is told there, and asked for again.
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
                "asking again each second; Ctrl-C ends".to_owned(),
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

/// The terminal's other screen (xterm control sequences); dropped, it gives way to the one before.
struct Screen(io::Stdout);

impl Screen {
    fn open() -> io::Result<Self> {
        let mut screen = Self(io::stdout());
        // The other screen, no cursor, and long lines are cut.
        screen.0.write_all(b"\x1b[?1049h\x1b[?25l\x1b[?7l")?;
        Ok(screen)
    }

    fn show(&mut self, lines: &[String]) -> io::Result<()> {
        // Home; each line to its end; what is left below.
        self.0
            .write_all(format!("\x1b[H{}\x1b[J", lines.join("\x1b[K\r\n") + "\x1b[K").as_bytes())?;
        self.0.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
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
