//! `sealway audit verify|report`: reads audit files, or standard input for `-`, and never writes
//! one. Keeps a few lines in memory, however long the files are.

pub mod report;
mod table;
pub mod verify;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use super::Trouble;

/// A file to read lines from, or standard input.
fn open(path: &Path) -> Result<Box<dyn BufRead>, Trouble> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
}

fn unreadable(path: &Path, error: &io::Error) -> Trouble {
    Trouble::Usage(format!("{}: cannot be read: {error}", path.display()))
}

/// A closed pipe must not look like a panic.
fn print(text: &[u8]) -> Result<(), Trouble> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text).and_then(|()| stdout.flush());
    written.map_err(|error| Trouble::Other(format!("standard output: {error}")))
}

const BUFFER_BYTES: usize = 256 * 1024;
