//! The text of a finding on a terminal: sentences, lines of 80 columns, colours. Pure but for [`colours`].

use std::env;
use std::io::{self, IsTerminal};

/// Whether standard output shows colours: it is a terminal other than a dumb one, and NO_COLOR is not set.
#[must_use]
pub fn colours() -> bool {
    let is_plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !is_plain
}

/// Begins with a capital and ends with a full stop, unless its first word is a name.
#[must_use]
pub fn sentence(text: &str) -> String {
    let first = text.split(' ').next().unwrap_or_default();
    let is_name = first.contains(|c: char| !c.is_ascii_lowercase() && c != ',' && c != '\'');
    let mut chars = text.chars();
    match chars.next() {
        Some(c) if !is_name => format!("{}{}.", c.to_uppercase(), chars.as_str()),
        _ => format!("{text}."),
    }
}

/// Lines of at most [`WIDTH`] columns, with this before each. Sequences of colours take no column.
#[must_use]
pub fn wrapped(text: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        let width = word
            .split(ESCAPE)
            .enumerate()
            .map(|(part, text)| match part {
                0 => text.chars().count(),
                _ => text
                    .split_once('m')
                    .map_or(0, |(_, shown)| shown.chars().count()),
            })
            .sum::<usize>();
        if column == 0 || column + 1 + width > WIDTH {
            if column > 0 {
                out.push('\n');
            }
            out += indent;
            column = indent.len();
        } else {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += width;
    }
    out + "\n"
}

/// Text with an ANSI sequence around it if `colour` is set.
#[must_use]
pub fn paint(text: &str, code: &str, colour: bool) -> String {
    match colour {
        true => format!("{ESCAPE}[{code}m{text}{ESCAPE}[0m"),
        false => text.to_owned(),
    }
}

/// The most columns of a line that is no command.
pub const WIDTH: usize = 80;
/// Before each line of a paragraph; twice before a command.
pub const INDENT: &str = "  ";
const ESCAPE: char = '\x1b';
/// Select Graphic Rendition (ECMA-48, section 8.3.117).
pub const BOLD: &str = "1";
/// As [`BOLD`].
pub const RED: &str = "31";
/// As [`BOLD`].
pub const GREEN: &str = "32";
/// As [`BOLD`].
pub const YELLOW: &str = "33";
