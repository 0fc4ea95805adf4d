//! Writes the man pages and the shell completions, made from the program's own command line:
//! `cargo run --example manual -- FOLDER`.
//!
//! `man/`: sealway(1), a page for each subcommand, and sealway.toml(5), which is `deploy/sealway.toml`; `completions/`: one
//! file each for bash, zsh and fish, under the names by which those shells find them. Runs no command of Sealway's. The
//! pages bear the date of SOURCE_DATE_EPOCH, or today's.
#![allow(missing_docs)]

use std::io;
use std::path::Path;
use std::{env, fs};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use time::OffsetDateTime;

fn main() -> io::Result<()> {
    let folder = env::args_os()
        .nth(1)
        .ok_or_else(|| io::Error::other("which folder?"))?;
    write_all(Path::new(&folder))
}

/// Creates the folder if it is missing, and replaces files in it. `tests/house/manual.rs` calls it too.
pub(crate) fn write_all(folder: &Path) -> io::Result<()> {
    write_program(sealway::cli::command(), "sealway", folder)?;
    fs::write(
        folder.join("man").join("sealway.toml.5"),
        configuration_page()?,
    )
}

/// The pages and completions of one program. `hop/examples/hop-manual.rs` calls it too.
pub(crate) fn write_program(command: Command, name: &str, folder: &Path) -> io::Result<()> {
    let (pages, completions) = (folder.join("man"), folder.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    let mut command = command.disable_help_subcommand(true);
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, name, &completions)?;
    }
    command.build();
    write_pages(&command, None, &pages)
}

fn write_pages(command: &Command, above: Option<&str>, folder: &Path) -> io::Result<()> {
    let name = command
        .get_display_name()
        .unwrap_or(command.get_name())
        .to_owned();
    let below: Vec<_> = command.get_subcommands().collect();
    fs::write(
        folder.join(format!("{name}.1")),
        page(command, &name, above)?,
    )?;
    below
        .into_iter()
        .try_for_each(|subcommand| write_pages(subcommand, Some(&name), folder))
}

/// What clap_mangen has no section for, or writes as one paragraph, is written here: examples and exit statuses are lines.
fn page(command: &Command, name: &str, above: Option<&str>) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone())
        .title(name)
        .date(date()?)
        .source(SOURCE)
        .manual(MANUAL);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    let mut options = Vec::new();
    man.render_options_section(&mut options)?;
    // clap_mangen puts an empty line before the possible values of an option, which mandoc warns of.
    page.extend(
        String::from_utf8_lossy(&options)
            .replace(".br\n\n.br\n", ".br\n")
            .bytes(),
    );
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    let after = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    for paragraph in after.split("\n\n") {
        write_paragraph(&mut rest, paragraph);
    }
    rest.control("SH", ["SEE ALSO"]);
    if let Some(other) = above {
        rest.text([bold(other), roman("(1),")]);
    }
    rest.text([
        bold("sealway.toml"),
        roman("(5), /usr/share/doc/sealway/reference.md"),
    ]);
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// `Examples:` and indented lines; or lines of text, among which the one of exit statuses has a section of its own.
fn write_paragraph(page: &mut Roff, paragraph: &str) {
    let mut lines = paragraph.lines().peekable();
    if lines
        .next_if(|first| first.starts_with("Example"))
        .is_some()
    {
        page.control("SH", ["EXAMPLES"]);
        page.control("nf", []);
        for line in lines {
            page.text([roman(line.trim_start())]);
        }
        page.control("fi", []);
        return;
    }
    for line in lines {
        match line.strip_prefix("Exit status: ") {
            Some(statuses) => page.control("SH", ["EXIT STATUS"]).text([roman(statuses)]),
            None => page.control("PP", []).text([roman(line)]),
        };
    }
}

fn configuration_page() -> io::Result<Vec<u8>> {
    let mut page = Roff::new();
    page.control("TH", ["sealway.toml", "5", &date()?, SOURCE, MANUAL]);
    page.control("SH", ["NAME"])
        .text([roman("sealway.toml - configuration of sealway")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "The whole file with its defaults. /usr/share/doc/sealway/reference.md says what each key means.",
    )]);
    page.control("PP", []).control("nf", []);
    for line in CONFIGURATION.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    page.control("SH", ["SEE ALSO"]).text([
        bold("sealway"),
        roman("(1), "),
        bold("sealway-check"),
        roman("(1)"),
    ]);
    let mut bytes = Vec::new();
    page.to_writer(&mut bytes)?;
    Ok(bytes)
}

fn date() -> io::Result<String> {
    let now = match env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => {
            OffsetDateTime::from_unix_timestamp(seconds.parse().map_err(io::Error::other)?)
        }
        Err(_) => Ok(OffsetDateTime::now_utc()),
    };
    Ok(now.map_err(io::Error::other)?.date().to_string())
}

const SOURCE: &str = concat!("sealway ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "Sealway";
const CONFIGURATION: &str = include_str!("../deploy/sealway.toml");
