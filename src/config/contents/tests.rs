//! Files that cannot be read: their contents in force, and the changes of all others.

use super::*;
use crate::config::{Config, Overrides};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const TOML: &str = r#"
[admin]
token_file = "watcher.token"
operator_token_file = "operator.token"
[egress]
addresses = ["192.0.2.1", "192.0.2.2"]
[policy]
presets = []
allow_files = ["hosts.txt", "hosts.d/*.txt"]
destination_ranges = "goog.txt"
destination_ranges_minus = "minus.txt"
[auth]
users_file = "users.toml"
"#;
/// Each file with its first and its second content.
const FILES: [(&str, &str, &str); 8] = [
    (
        "watcher.token",
        "1_0123456789abcdef0123456789abcdef",
        "2_0123456789abcdef0123456789abcdef",
    ),
    (
        "operator.token",
        "3_0123456789abcdef0123456789abcdef",
        "4_0123456789abcdef0123456789abcdef",
    ),
    ("hosts.txt", "a.example\n", "b.example\n"),
    ("hosts.d/c.txt", "c.example\n", "d.example\n"),
    (
        "goog.txt",
        "203.0.113.0/24\n",
        "198.51.100.0/24\n203.0.113.0/24\n",
    ),
    ("minus.txt", "203.0.113.0/25\n", "203.0.113.128/25\n"),
    (
        "users.toml",
        "[users.alice]\nallow = [\"z.example\"]\nallow_files = [\"team.txt\"]\negress = [\"192.0.2.2\"]\n",
        "[users.alice]\ndisabled = true\nallow = [\"z.example\"]\nallow_files = [\"team.txt\"]\n[users.bob]\n",
    ),
    ("team.txt", "e.example\n", "f.example\n"),
];

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folder.at("hosts.d")).unwrap();
        FILES
            .iter()
            .for_each(|(name, first, _)| folder.write(name, first));
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.at(name), mode).unwrap();
    }

    /// Nobody can open a link to itself (ELOOP).
    fn hide(&self, name: &str) {
        fs::remove_file(self.at(name)).unwrap();
        std::os::unix::fs::symlink(self.at(name), self.at(name)).unwrap();
    }

    fn show(&self, name: &str, text: &str) {
        fs::remove_file(self.at(name)).unwrap();
        self.write(name, text);
    }

    fn read(&self, toml: &str, former: Option<&Config>) -> (Config, Vec<String>) {
        let former = former.map_or_else(Arc::default, |config| Arc::clone(&config.contents));
        let path = self.at("sealway.toml");
        let (config, problems) = Config::read_after(&path, toml, &Overrides::default(), &former);
        (config, problems.iter().map(ToString::to_string).collect())
    }

    /// Reads without problems; returns the kept files too.
    fn reload(&self, former: &Config) -> (Config, Vec<PathBuf>) {
        let (config, problems) = self.read(TOML, Some(former));
        assert_eq!(problems, [""; 0]);
        let kept = config.kept.iter().map(|kept| kept.file.clone()).collect();
        (config, kept)
    }
}

/// All that the files decide.
fn decided(config: &Config) -> String {
    let mut users: Vec<_> = config.auth.users.as_deref().unwrap().iter().collect();
    users.sort_by_key(|user| user.id.as_str().to_owned());
    let shown = users.iter().map(|user| {
        let rules = user.allow.as_ref().map(ToString::to_string);
        format!(
            "{} {} {rules:?} {:?}\n",
            user.id.as_str(),
            user.disabled,
            user.egress
        )
    });
    let of = |token: &Option<crate::config::admin::Token>| {
        let is = |text: &&str| token.as_ref().unwrap().hash.is_of(text);
        let texts = FILES
            .iter()
            .flat_map(|(_, first, second)| [*first, *second]);
        texts.into_iter().find(|text| is(text)).unwrap().to_owned()
    };
    format!(
        "{} {} {} {}",
        config.policy.hash(),
        shown.collect::<String>(),
        of(&config.admin_token),
        of(&config.operator_token)
    )
}

#[test]
fn each_file_changes_while_each_other_one_cannot_be_read() {
    for (hidden, first, _) in FILES {
        for (changed, _, second) in FILES.iter().filter(|(name, ..)| *name != hidden) {
            let (folder, what) = (Folder::new(), format!("{changed} without {hidden}"));
            let (start, problems) = folder.read(TOML, None);
            assert_eq!(problems, [""; 0]);
            folder.write(changed, second);
            let (wanted, kept) = folder.reload(&start);
            assert_eq!(kept, [""; 0].map(PathBuf::from), "{what}");
            assert_ne!(decided(&wanted), decided(&start), "{what}");
            folder.hide(hidden);
            let (reloaded, kept) = folder.reload(&start);
            assert_eq!(kept, [folder.at(hidden)], "{what}");
            assert_eq!(decided(&reloaded), decided(&wanted), "{what}");
            // Twice, and then it is back.
            let (again, kept) = folder.reload(&reloaded);
            assert_eq!(kept, [folder.at(hidden)], "{what}");
            assert_eq!(decided(&again), decided(&wanted), "{what}");
            folder.show(hidden, first);
            assert_eq!(
                folder.reload(&again).1,
                [""; 0].map(PathBuf::from),
                "{what}"
            );
        }
    }
}

#[test]
fn all_files_at_once_are_kept_and_a_start_has_none_to_keep() {
    let folder = Folder::new();
    let (start, _) = folder.read(TOML, None);
    FILES.iter().for_each(|(name, ..)| folder.hide(name));
    let (reloaded, kept) = folder.reload(&start);
    assert_eq!(kept.len(), FILES.len());
    assert_eq!(decided(&reloaded), decided(&start));
    let (_, problems) = folder.read(TOML, None);
    for (name, ..) in FILES.iter().filter(|(name, ..)| *name != "team.txt") {
        assert!(
            problems.iter().any(|text| text.contains(name)),
            "{name}: {problems:?}"
        );
    }
}

#[test]
fn a_folder_that_cannot_be_listed_keeps_its_files_and_one_that_is_gone_has_none() {
    let folder = Folder::new();
    let (start, _) = folder.read(TOML, None);
    fs::rename(folder.at("hosts.d"), folder.at("aside")).unwrap();
    let (gone, kept) = folder.reload(&start);
    assert_eq!(kept, [""; 0].map(PathBuf::from));
    assert_ne!(decided(&gone), decided(&start), "fewer hosts are allowed");
    // A file in its place (ENOTDIR).
    fs::write(folder.at("hosts.d"), "").unwrap();
    let (reloaded, kept) = folder.reload(&start);
    assert_eq!(
        kept,
        [folder.at("hosts.d/*.txt"), folder.at("hosts.d/c.txt")]
    );
    assert_eq!(decided(&reloaded), decided(&start));
    fs::remove_file(folder.at("hosts.d")).unwrap();
    fs::rename(folder.at("aside"), folder.at("hosts.d")).unwrap();
    fs::remove_file(folder.at("hosts.d/c.txt")).unwrap();
    let (reloaded, kept) = folder.reload(&reloaded);
    assert_eq!(kept, [""; 0].map(PathBuf::from));
    assert_eq!(
        decided(&reloaded),
        decided(&gone),
        "a deleted file of a pattern"
    );
}

/// A user without a configured source address gets `egress_unavailable`; nothing else waits for him.
#[test]
fn kept_users_refuse_no_change_of_the_egress_addresses() {
    let folder = Folder::new();
    let (start, _) = folder.read(TOML, None);
    folder.hide("users.toml");
    let fewer = TOML.replace(", \"192.0.2.2\"", "");
    let (reloaded, problems) = folder.read(&fewer, Some(&start));
    assert_eq!(problems, [""; 0]);
    assert_eq!(reloaded.kept.len(), 1);
    let users = reloaded.auth.users.as_deref().unwrap();
    let egress: Vec<_> = users.iter().map(|user| user.egress.clone()).collect();
    let bound: std::net::IpAddr = "192.0.2.2".parse().unwrap();
    assert_eq!(egress, [[bound]], "never empty, which means any address");
}

#[test]
fn content_belongs_to_its_path_and_wrong_content_is_never_kept() {
    let folder = Folder::new();
    let (start, _) = folder.read(TOML, None);
    for (name, first, _) in FILES {
        let other = TOML.replace(name, &format!("{name}.other"));
        if other != TOML {
            let (_, problems) = folder.read(&other, Some(&start));
            assert!(!problems.is_empty(), "{name}: a path that was never read");
        }
        folder.write(name, "\u{1}");
        let (_, problems) = folder.read(TOML, Some(&start));
        assert!(!problems.is_empty(), "{name}: wrong content");
        folder.write(name, first);
    }
    for name in ["users.toml", "watcher.token"] {
        let open = fs::Permissions::from_mode(0o666);
        fs::set_permissions(folder.at(name), open).unwrap();
        let (_, problems) = folder.read(TOML, Some(&start));
        assert!(!problems.is_empty(), "{name}: others can write it");
        let text = FILES.iter().find(|(known, ..)| *known == name).unwrap().1;
        folder.write(name, text);
    }
}

/// Kept rules count like those that are read; otherwise each reload could keep more of them.
#[test]
fn kept_rules_are_within_the_bound_of_all_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Comments count too.
    let lines = |name: &str| format!("#{}\n{name}.example\n", "x".repeat(9 << 20));
    let read = |former: &Arc<Contents>| {
        let toml = "policy.allow_files = [\"*.txt\"]";
        let overrides = Overrides::default();
        Config::read_after(&at("sealway.toml"), toml, &overrides, former)
    };
    fs::write(at("a.txt"), lines("a")).unwrap();
    let (start, problems) = read(&Arc::default());
    assert_eq!(problems.len(), 0);
    fs::remove_file(at("a.txt")).unwrap();
    std::os::unix::fs::symlink("a.txt", at("a.txt")).unwrap();
    let (kept, problems) = read(&start.contents);
    assert_eq!((kept.kept.len(), problems.len()), (1, 0));
    fs::write(at("b.txt"), lines("b")).unwrap();
    let (_, problems) = read(&start.contents);
    assert_eq!(problems.len(), 1);
}
