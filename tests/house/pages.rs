//! The pages for operators are true: commands are accepted, configurations are valid, shell parses,
//! links have targets, and named items exist. `docs/operate.md` has a row for every code.
//!
//! No test can check that an advice is good. `tests/nftables/run` runs the rules of
//! `docs/install.md`.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sealway::config::keys::KEYS;
use sealway::metrics::definitions::ALL;
use sealway::outcome::{DenyReason, Ending, Failure};
use support::monitoring::{CONFIG, alerts, file, read};

const OPERATE: &str = "docs/operate.md";
const PAGES: [&str; 5] = [
    "docs/compliance.md",
    "docs/high-availability.md",
    "docs/install.md",
    OPERATE,
    "docs/runbook.md",
];

#[test]
fn every_code_has_one_row() {
    let denied = DenyReason::ALL.iter().map(|reason| reason.code());
    let failed = Failure::ALL.iter().map(|failure| failure.code());
    let known: BTreeSet<&str> = denied
        .chain(failed)
        .chain(Ending::ALL.iter().map(|ending| ending.code()))
        .collect();
    let page = read(OPERATE);
    let section = page
        .split("\n## Codes\n")
        .nth(1)
        .unwrap_or_else(|| panic!("{OPERATE} has no codes"));
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let mut listed = BTreeSet::new();
    for cells in &rows {
        let code = cells[1].trim_matches('`');
        assert!(known.contains(code), "{OPERATE}: {code} is no code");
        assert!(listed.insert(code), "{OPERATE}: {code} twice");
    }
    assert_eq!(listed, known, "codes of {OPERATE}");
}

#[test]
fn every_command_of_the_pages_is_accepted() {
    let mut seen = 0;
    for page in PAGES {
        let in_text = words(page)
            .into_iter()
            .filter(|word| word.starts_with("sealway "));
        let in_blocks = blocks(page, "sh")
            .into_iter()
            .flat_map(|block| calls(&block));
        for arguments in in_text.flat_map(|word| calls(&word)).chain(in_blocks) {
            // hop/tests/hop/pages.rs runs the programs of that package.
            if ["doctor", "agent"]
                .map(Some)
                .contains(&arguments.first().map(String::as_str))
            {
                continue;
            }
            let output = help(&arguments);
            assert!(
                output.status.success(),
                "{page}: sealway {arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} commands");
}

#[test]
fn the_search_for_commands_finds_planted_ones() {
    let shell = "cd x && A=b sealway check \\\n  --admin \"\" | cat\n/tmp/new/usr/bin/sealway run >x\n# sealway no\nsystemctl stop sealway\nzcat a | sealway audit verify - b";
    let found = [
        vec!["check", "--admin", ""],
        vec!["run"],
        vec!["audit", "verify", "-", "b"],
    ];
    assert_eq!(calls(shell), found);
    for wrong in [["run", "--lissten"], ["usr", "add"], ["top", "twice"]] {
        assert!(
            !help(&wrong.map(str::to_owned)).status.success(),
            "{wrong:?}"
        );
    }
}

#[test]
fn every_configuration_of_the_pages_is_valid() {
    let mut seen = 0;
    for page in PAGES {
        for block in blocks(page, "toml") {
            let output = explain(&block);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                [Some(0), Some(1)].contains(&output.status.code()),
                "{page}:\n{block}\n{said}"
            );
            seen += 1;
        }
    }
    assert!(seen > 4, "{seen} configurations");
    assert_eq!(explain("[egress]\naddress = []").status.code(), Some(78));
}

#[test]
fn every_shell_block_parses() {
    for page in PAGES {
        for block in blocks(page, "sh") {
            let output = piped("bash", &["-n"], &block);
            assert!(
                output.status.success(),
                "{page}:\n{block}\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    assert!(!piped("bash", &["-n"], "if true; fi").status.success());
}

/// Each recipe runs over the records that the page shows, in the form that the daemon writes.
#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs jq(1)")]
fn every_jq_recipe_finds_records() {
    let shown: String = blocks(OPERATE, "")
        .concat()
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(shown.lines().count() > 7, "{shown}");
    let folder = tempfile::tempdir().unwrap();
    let ended_by_drain = shown.replace("host_denied", "drained");
    std::fs::write(
        folder.path().join("audit.jsonl"),
        format!("{shown}{ended_by_drain}"),
    )
    .unwrap();
    let lines = blocks(OPERATE, "sh").concat();
    let recipes: Vec<_> = lines.lines().filter(|line| line.contains("jq ")).collect();
    assert!(recipes.len() > 6, "{recipes:?}");
    for recipe in recipes {
        let from_file = recipe.replace("journalctl -t sealway -o cat", "cat audit.jsonl");
        let mut bash = Command::new("bash");
        // It warns where LC_ALL names a locale that this machine does not have.
        bash.args(["-euo", "pipefail", "-c", &from_file])
            .env("LC_ALL", "C")
            .current_dir(folder.path());
        let output = bash.output().expect("run bash");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty() && !output.stdout.is_empty(),
            "{recipe}: {said}"
        );
    }
}

#[test]
fn the_scrape_configuration_is_the_one_that_is_tested() {
    let shown = blocks("docs/install.md", "yaml")
        .into_iter()
        .find(|block| block.starts_with("scrape_configs:"));
    assert!(read(CONFIG).contains(shown.expect("a scrape configuration").trim_end()));
}

#[test]
fn every_metric_and_alert_that_is_named_exists() {
    let metrics: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
    let alerts = alerts();
    for page in PAGES {
        for name in words(page)
            .into_iter()
            .filter(|word| word.starts_with("sealway_"))
        {
            assert!(metrics.contains(name.as_str()), "{page} names {name}");
        }
        for name in words(page)
            .into_iter()
            .filter(|word| word.starts_with("Sealway"))
        {
            assert!(alerts.contains_key(&name), "{page} names {name}");
        }
    }
}

#[test]
fn every_configuration_key_that_is_named_exists() {
    let known: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
    let sections: BTreeSet<_> = known
        .iter()
        .map(|key| key.split('.').next().unwrap().to_owned())
        .collect();
    for page in PAGES {
        let named = words(page)
            .into_iter()
            .filter(|word| is_key(word, &sections));
        let named: Vec<_> = named.collect();
        assert!(named.len() > 2, "{page}: {named:?}");
        for key in named {
            assert!(known.contains(key.as_str()), "{page} names {key}");
        }
    }
}

#[test]
fn every_link_has_a_target() {
    for page in PAGES.into_iter().chain(["docs/reference.md"]) {
        let text = read(page);
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("https://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                page.to_owned()
            } else {
                format!("docs/{path}")
            };
            assert!(file(&target).exists(), "{page} links to {link}");
            assert!(
                anchor.is_empty() || anchors(&target).contains(anchor),
                "{page} links to {link}"
            );
        }
    }
}

/// The calls of sealway in a shell block: the arguments of each.
fn calls(shell: &str) -> Vec<Vec<String>> {
    let shell = shell.replace("\\\n", " ");
    let commands = shell
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| line.split(['|', '&', ';']));
    let words = commands.map(|command| {
        command
            .split_whitespace()
            .skip_while(|word| word.contains('='))
            .collect::<Vec<_>>()
    });
    let calls = words.filter(|words| {
        words
            .first()
            .is_some_and(|word| *word == "sealway" || word.ends_with("/sealway"))
    });
    let arguments = calls.map(|words| {
        words
            .into_iter()
            .skip(1)
            .take_while(|word| !word.starts_with('>'))
    });
    arguments
        .map(|words| {
            words
                .map(|word| word.trim_matches('"').to_owned())
                .collect()
        })
        .collect()
}

/// The reply of the command line to these arguments; `--help` after them prevents any action.
fn help<A: AsRef<std::ffi::OsStr>>(arguments: &[A]) -> Output {
    let mut command = Command::new(support::sealway());
    command
        .args(arguments)
        .arg("--help")
        .stdin(Stdio::null())
        .output()
        .expect("run sealway")
}

/// Reads a configuration with the files that it may name: a users file and tokens. `explain`
/// checks no listener, and queries no DNS for a name with a fixed address.
fn explain(toml: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("users.toml", ""),
        ("admin.token", "0123456789abcdef0123456789abcdef"),
        ("hop.token", "fedcba9876543210fedcba9876543210"),
    ] {
        let mut options = std::fs::OpenOptions::new();
        options
            .write(true)
            .create(true)
            .mode(0o640)
            .open(folder.path().join(name))
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let config = folder.path().join("sealway.toml");
    std::fs::write(
        &config,
        format!("{toml}\n[dns.hosts]\n\"name.example\" = [\"192.0.2.1\"]\n"),
    )
    .unwrap();
    let mut command = Command::new(support::sealway());
    command
        .args(["explain", "name.example", "--config"])
        .arg(config)
        .env("CREDENTIALS_DIRECTORY", folder.path());
    command.stdin(Stdio::null()).output().expect("run sealway")
}

/// Runs a program with this standard input.
fn piped(program: &str, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child
        .stdin
        .take()
        .expect("it is piped")
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

/// The fenced blocks of a page in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = read(page);
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (None, Some((_, block))) => *block += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{page}: a block that does not end");
    blocks
        .into_iter()
        .filter(|(name, _)| name == language)
        .map(|(_, block)| block)
        .collect()
}

/// The texts between backticks of a page, its tables included and its blocks excluded.
fn words(page: &str) -> BTreeSet<String> {
    let text = read(page);
    let prose: Vec<_> = text.split("```").step_by(2).collect();
    let words = prose
        .iter()
        .flat_map(|part| part.split('`').skip(1).step_by(2));
    words.map(|word| word.replace('\n', " ")).collect()
}

/// A section and a key after a dot. `FILE.jsonl` and the like have another first or last part.
fn is_key(word: &str, sections: &BTreeSet<String>) -> bool {
    let is_word =
        |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    word.split_once('.')
        .is_some_and(|(section, key)| sections.contains(section) && is_word(key))
}

/// The headings of a page as links name them.
fn anchors(page: &str) -> BTreeSet<String> {
    assert!(
        Path::new(page)
            .extension()
            .is_some_and(|extension| extension == "md"),
        "{page} has no headings"
    );
    let text = read(page);
    let headings = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    headings
        .map(|heading| {
            heading
                .to_lowercase()
                .chars()
                .filter(kept)
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect()
}
