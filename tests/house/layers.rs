//! Imports point to strictly lower layers, each third-party crate with a home is used there only,
//! and every file opens with a module comment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Crates that only these files may name.
const HOMES: [(&str, &[&str]); 21] = [
    ("subtle", &["auth.rs", "auth/secret.rs"]),
    ("landlock", &["sys/confine.rs"]),
    ("listenfd", &["systemd.rs"]),
    ("sd_notify", &["systemd.rs"]),
    (
        "nix",
        &[
            "sys.rs",
            "sys/buffers.rs",
            "sys/closing.rs",
            "sys/files.rs",
            "sys/options.rs",
            "sys/owner.rs",
            "sys/poller.rs",
            "sys/ports.rs",
            "sys/presence.rs",
            "sys/process.rs",
            "sys/routes.rs",
            "sys/signals.rs",
            "sys/sockets.rs",
            "sys/usage.rs",
        ],
    ),
    ("rtime_clock", &["sys.rs"]),
    ("rustix", &["sys/options.rs", "sys/parcel.rs"]),
    (
        "csv",
        &["commands/audit/table.rs", "commands/user/import.rs"],
    ),
    (
        "socket2",
        &[
            "sys.rs",
            "sys/buffers.rs",
            "sys/options.rs",
            "sys/sockets.rs",
        ],
    ),
    ("httparse", &["wire/connect.rs"]),
    (
        "proxy_header",
        &["wire/proxy_protocol.rs", "wire/terminator.rs"],
    ),
    ("crc", &["wire/proxy_protocol.rs"]),
    (
        "hickory_resolver",
        &["resolve.rs", "resolve/exchange.rs", "resolve/message.rs"],
    ),
    ("idna", &["authority.rs"]),
    (
        "hyper",
        &[
            "admin.rs",
            "admin/acts.rs",
            "admin/answer.rs",
            "admin/access.rs",
            "admin/operator.rs",
            "admin/page.rs",
            "admin/render.rs",
            "commands/ask.rs",
        ],
    ),
    ("hyper_util", &["admin.rs", "commands/ask.rs"]),
    (
        "http_body_util",
        &[
            "admin/acts.rs",
            "admin/answer.rs",
            "admin/access.rs",
            "admin/page.rs",
            "commands/ask.rs",
        ],
    ),
    ("sha2", &["digest.rs"]),
    ("hex", &["digest.rs", "wire/ja4.rs"]),
    (
        "tracing_subscriber",
        &[
            "commands/run.rs",
            "commands/run/journal.rs",
            "commands/run/quiet.rs",
        ],
    ),
    (
        "clap",
        &[
            "cli.rs",
            "cli/audit.rs",
            "cli/deep_args.rs",
            "cli/overrides.rs",
            "cli/running.rs",
            "cli/user.rs",
        ],
    ),
];

#[test]
fn imports_point_down() {
    let layers = layers();
    assert!(
        layers.len() > 20 && layers["tunnel"] > layers["dial"],
        "not the layers of lib.rs: {layers:?}"
    );
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in sources() {
        let top = file.top();
        if top == "lib" || top == "main" {
            continue;
        }
        let own = layers
            .get(&top)
            .unwrap_or_else(|| panic!("{top} has no layer in lib.rs"));
        for used in file.crate_modules() {
            let allowed = used == top
                || CONSTANTS.contains(&used.as_str())
                || layers.get(&used).is_some_and(|layer| layer < own);
            seen += 1;
            if !allowed {
                wrong.push(format!("{} uses crate::{used}", file.name));
            }
        }
    }
    assert!(seen > 50, "only {seen} imports were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_has_its_layer() {
    let tops: BTreeSet<String> = sources()
        .iter()
        .map(Source::top)
        .filter(|top| top != "lib" && top != "main")
        .collect();
    assert_eq!(tops, layers().into_keys().collect());
}

#[test]
fn crates_are_used_in_their_modules_only() {
    let mut wrong = Vec::new();
    for (name, homes) in HOMES {
        let users: Vec<Source> = sources()
            .into_iter()
            .filter(|file| file.names_crate(name))
            .collect();
        assert!(!users.is_empty(), "nobody uses {name}");
        let strangers = users
            .iter()
            .filter(|file| !homes.contains(&file.name.as_str()));
        wrong.extend(strangers.map(|file| format!("{} uses {name}", file.name)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_opens_with_a_module_comment() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.name)
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn the_search_finds_planted_imports() {
    let wrong = Source::new(
        "wire/x.rs",
        "//! X\nuse crate::{tunnel::{self, run}, VERSION};\nfn f() { crate::daemon::f(); nix::unistd::read(); }\n",
    );
    assert_eq!(wrong.top(), "wire");
    assert_eq!(
        wrong.crate_modules(),
        ["VERSION", "daemon", "tunnel"].map(String::from).into()
    );
    assert!(wrong.names_crate("nix") && !wrong.names_crate("unistd") && !wrong.names_crate("x"));
    let tests = Source::new(
        "a.rs",
        "//! nix::x\n// crate::b\n/// crate::c\nuse crate::d;\n#[cfg(test)]\nmod tests { use crate::e; }\n",
    );
    assert_eq!(tests.crate_modules(), ["d"].map(String::from).into());
    assert!(!tests.names_crate("nix"));
}

/// A file of src/, without comments and tests in `code`.
struct Source {
    name: String,
    text: String,
    code: String,
}

impl Source {
    fn new(name: &str, text: &str) -> Source {
        let without_tests = text.split("\n#[cfg(test)]\n").next().unwrap_or_default();
        let code: Vec<&str> = without_tests
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect();
        Source {
            name: name.into(),
            text: text.into(),
            code: code.join("\n"),
        }
    }

    /// The top-level module it belongs to.
    fn top(&self) -> String {
        let (top, _) = self.name.split_once(['/', '.']).unwrap();
        top.into()
    }

    /// The path after each `crate::`; each member of a braced list is one.
    fn crate_modules(&self) -> BTreeSet<String> {
        let mut modules = BTreeSet::new();
        for (at, found) in self.code.match_indices("crate::") {
            let rest = &self.code[at + found.len()..];
            match rest.strip_prefix('{') {
                Some(list) => modules.extend(members(list)),
                None => modules.extend([word(rest)]),
            }
        }
        modules
    }

    fn names_crate(&self, name: &str) -> bool {
        self.code.match_indices(name).any(|(at, _)| {
            let before = self.code[..at].chars().next_back();
            let behind = &self.code[at + name.len()..];
            let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
            starts && (behind.starts_with("::") || self.code[..at].ends_with("use "))
        })
    }
}

/// The first words of the members of a braced list, after its opening brace.
fn members(list: &str) -> Vec<String> {
    let (mut depth, mut members, mut start) = (0, Vec::new(), 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                members.push(word(list[start..at].trim()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    members.retain(|member| !member.is_empty());
    members
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// The layer of each top-level module, from the comments of lib.rs.
fn layers() -> BTreeMap<String, usize> {
    let (mut layers, mut current) = (BTreeMap::new(), None);
    for line in std::fs::read_to_string(root().join("lib.rs"))
        .unwrap()
        .lines()
    {
        if let Some(number) = line.strip_prefix("// Layer ") {
            current = Some(word(number).parse().unwrap());
        }
        if let Some(module) = line.strip_prefix("pub mod ").or(line.strip_prefix("mod ")) {
            layers.insert(
                word(module),
                current.expect("a module behind its layer's comment"),
            );
        }
    }
    layers
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    collect(&root(), &mut files);
    assert!(files.len() > 30, "{files:?}");
    let name = |file: &Path| {
        file.strip_prefix(root())
            .unwrap()
            .to_str()
            .unwrap()
            .to_string()
    };
    let tests_aside = files.iter().filter(|file| !file.ends_with("tests.rs"));
    tests_aside
        .map(|file| Source::new(&name(file), &std::fs::read_to_string(file).unwrap()))
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The content of the crate root besides modules.
const CONSTANTS: [&str; 2] = ["VERSION", "REVISION"];
