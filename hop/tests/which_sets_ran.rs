//! The last thing that `cargo test` prints: which of the two sets of tests ran, and how to run the other. It tests nothing.
#![allow(missing_docs, clippy::disallowed_macros)] // it prints, and nothing else

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let given = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    if given("--list") {
        return Ok(());
    }
    let hop = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = marks_below(&hop.join("../tests"))? + marks_below(&hop.join("tests"))?;
    if cfg!(feature = "system-tests") || given("--include-ignored") {
        println!("\nBoth sets ran, the {all} tests that need a tool or a privilege among them.\n");
    } else if given("--ignored") {
        println!(
            "\nOnly the {all} tests ran that need a tool or a privilege. `cargo test` runs the others.\n"
        );
    } else {
        println!(
            "\nNOT RUN: {all} tests that need a tool or a privilege. `cargo test --features system-tests` runs them too;\n\
             CONTRIBUTING.md says what they need.\n"
        );
    }
    Ok(())
}

/// How many tests below this folder bear the mark of the second set.
fn marks_below(folder: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            count += marks_below(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            count += text.lines().filter(|line| is_mark(line)).count();
        }
    }
    Ok(count)
}

/// A line, or the first of an attribute that has several.
fn is_mark(line: &str) -> bool {
    line.starts_with("#[cfg_attr(not(feature = \"system-tests\"), ignore")
        || line.starts_with("    not(feature = \"system-tests\"),")
}
