//! The commands of the companion programs that README.md and docs/ show are accepted. Runs no command: `--help` replaces it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[test]
fn every_doctor_and_agent_command_of_the_pages_is_accepted() {
    let mut seen = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap().replace("\\\n", " ");
        for (program, arguments) in text.split(['\n', '`']).filter_map(call) {
            let output = help(program, &arguments);
            assert!(
                output.status.success(),
                "{}: {program} {arguments:?}: {}",
                page.display(),
                String::from_utf8_lossy(&output.stderr)
            );
            seen += 1;
        }
    }
    assert!(seen > 4, "{seen} commands");
}

#[test]
fn a_wrong_argument_is_found() {
    let (program, arguments) = call("sealway doctor --kee-env X").unwrap();
    assert!(!help(program, &arguments).status.success());
    assert!(call("sealway check").is_none());
}

/// A line that calls a companion: its program, and the arguments up to the command of `exec`.
fn call(line: &str) -> Option<(&'static str, Vec<&str>)> {
    let mut words = line.split_whitespace().peekable();
    words.next_if_eq(&"sealway");
    let program = match words.next()? {
        "doctor" | "sealway-doctor" => env!("CARGO_BIN_EXE_sealway-doctor"),
        "agent" | "sealway-agent" => env!("CARGO_BIN_EXE_sealway-agent"),
        _ => return None,
    };
    let starts = line.trim_start();
    if !starts.starts_with("sealway") {
        return None;
    }
    let is_end = |word: &&str| ["--", "|", "&&"].contains(word) || word.starts_with('>');
    let arguments = words.take_while(|word| !is_end(word));
    // A sentence, or a placeholder of the reference, is no call.
    let arguments: Vec<_> = arguments.collect();
    let is_call = arguments
        .iter()
        .all(|word| word.is_ascii() && !word.ends_with(['.', ',', ':', ';', ')']));
    (is_call && !arguments.is_empty()).then_some((program, arguments))
}

fn help(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .arg("--help")
        .output()
        .unwrap()
}

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = std::fs::read_dir(root.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.chain([root.join("README.md")]).collect()
}
