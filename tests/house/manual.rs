//! The man pages and the completions: each subcommand has a page that names its flags, and bash
//! completes what the program accepts. `packaging/check` asks mandoc, zsh and fish.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

// As a module: another cargo would compile the library again, and wait for the lock of the one that
// runs this test.
#[path = "../../examples/manual.rs"]
#[allow(dead_code, reason = "its main has no caller here")]
mod example;

#[test]
fn each_subcommand_has_a_page_with_its_flags_and_examples() {
    let folder = written();
    let mut command = sealway::cli::command();
    command.build();
    let mut pages = 0;
    let mut left = vec![&command];
    while let Some(command) = left.pop() {
        left.extend(
            command
                .get_subcommands()
                .filter(|below| below.get_name() != "help"),
        );
        let name = command.get_display_name().unwrap_or(command.get_name());
        let page =
            std::fs::read_to_string(folder.path().join(format!("man/{name}.1"))).expect(name);
        for flag in command
            .get_arguments()
            .filter_map(|argument| argument.get_long())
        {
            assert!(
                page.contains(&flag.replace('-', "\\-")),
                "{name} has no --{flag}:\n{page}"
            );
        }
        assert!(
            page.contains(".SH EXAMPLES\n.nf\n") && page.contains(".SH \"SEE ALSO\""),
            "{page}"
        );
        pages += 1;
    }
    assert_eq!(
        pages + 1,
        std::fs::read_dir(folder.path().join("man"))
            .unwrap()
            .count(),
        "sealway.toml(5) beside them"
    );
}

#[test]
fn the_page_of_the_configuration_has_every_line_of_the_file() {
    let folder = written();
    let page = std::fs::read_to_string(folder.path().join("man/sealway.toml.5")).unwrap();
    let page = page.replace("\\*(Aq", "'").replace('\\', "");
    for line in include_str!("../../deploy/sealway.toml").lines() {
        assert!(page.contains(&line.replace('\\', "")), "{line}");
    }
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let folder = written();
    for (words, wanted) in [
        ("sealway au", "audit"),
        ("sealway do", "doctor"),
        ("sealway user r", "remove rotate"),
        ("sealway explain --s", "--sni"),
        ("sealway audit report --form", "--format"),
        ("sealway bogus", ""),
    ] {
        assert_eq!(completions(folder.path(), words), wanted, "{words}");
    }
}

/// The completions of bash after these words.
fn completions(folder: &Path, words: &str) -> String {
    let script = r#"source "$1/completions/sealway.bash"
read -ra COMP_WORDS <<<"$2"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
complete -p sealway >/dev/null || exit
_sealway sealway "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
echo "${COMPREPLY[*]}""#;
    let ended = Command::new("bash")
        .args(["-c", script, "bash"])
        .arg(folder)
        .arg(words)
        .output()
        .unwrap();
    assert!(
        ended.status.success() && ended.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    String::from_utf8(ended.stdout).unwrap().trim().to_owned()
}

/// A folder with the output of `cargo run --example manual`.
fn written() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    example::write_all(folder.path()).expect("write the manual");
    folder
}
