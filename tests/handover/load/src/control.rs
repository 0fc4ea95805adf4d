//! Commands from standard input, one a line, and answers on standard output.

use std::io::{self, Write};

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

/// What the script asks for.
pub(crate) enum Command {
    /// Report what was observed since the last time.
    Mark,
    /// The clients are about to end their tunnels.
    Ending,
    /// End all tunnels in order and report them. The end of standard input says the same.
    Finish,
}

/// Standard input.
pub(crate) struct Commands(Lines<BufReader<Stdin>>);

impl Commands {
    pub(crate) fn open() -> Commands {
        Commands(BufReader::new(tokio::io::stdin()).lines())
    }

    pub(crate) async fn next(&mut self) -> io::Result<Command> {
        match self.0.next_line().await?.as_deref() {
            Some("mark") => Ok(Command::Mark),
            Some("ending") => Ok(Command::Ending),
            Some("finish") | None => Ok(Command::Finish),
            Some(other) => Err(io::Error::other(format!("no command: {other}"))),
        }
    }
}

/// Prints one line.
pub(crate) fn print(answer: &impl Serialize) -> io::Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, answer)?;
    output.write_all(b"\n")?;
    output.flush()
}
