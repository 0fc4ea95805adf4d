//! `sealway doctor` and `sealway agent` run the program beside sealway's own file, with the arguments, environment and exit
//! status unchanged; a missing or unusable one is named with its cure.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

#[test]
fn a_companion_gets_every_argument_and_its_status_is_the_commands() {
    for (name, program) in COMPANIONS {
        let installed = Installed::new();
        // A shell of the system: a file written here could still be open in a child of another test, and be busy.
        symlink("/bin/sh", installed.path(program)).unwrap();
        let script = r#"printf '%s|' "$SEALWAY_PROBE" "$@"; exit 3"#;
        let odd = OsStr::from_bytes(b"\xff x");
        let ended = Command::new(installed.path("sealway"))
            .env("SEALWAY_PROBE", "kept")
            .args([
                name, "-c", script, "sh", "--help", "-V", "", "--", "a b", "--config",
            ])
            .arg(odd)
            .output()
            .unwrap();
        let wanted = b"kept|--help|-V||--|a b|--config|\xff x|";
        assert_eq!(
            String::from_utf8_lossy(&ended.stdout),
            String::from_utf8_lossy(wanted)
        );
        assert_eq!(
            (ended.status.code(), ended.stdout.as_slice()),
            (Some(3), &wanted[..]),
            "{ended:?}"
        );
    }
}

#[test]
fn help_of_a_companion_is_the_companions() {
    for (name, program) in COMPANIONS {
        let installed = Installed::new();
        symlink("/bin/echo", installed.path(program)).unwrap();
        for arguments in [
            &["-x"][..],
            &["-x", "-h"],
            &["--help", "-x"],
            &["-h", "-x"],
            &["--version", "-x"],
            &["--json", "--help"],
            &["help"],
        ] {
            let ended = installed.run(&[&[name], arguments].concat());
            assert_eq!(
                text(&ended.stdout),
                format!("{}\n", arguments.join(" ")),
                "{ended:?}"
            );
        }
    }
}

#[test]
fn a_link_to_sealway_finds_the_companion_of_its_target() {
    let installed = Installed::new();
    symlink("/bin/echo", installed.path("sealway-doctor")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("s");
    symlink(installed.path("sealway"), &link).unwrap();
    // Neither the link's folder nor PATH supplies another one.
    symlink("/bin/false", elsewhere.path().join("sealway-doctor")).unwrap();
    let ended = Command::new(link)
        .env("PATH", elsewhere.path())
        .args(["doctor", "found"])
        .output()
        .unwrap();
    assert_eq!(
        (ended.status.code(), text(&ended.stdout).as_str()),
        (Some(0), "found\n"),
        "{ended:?}"
    );
}

#[test]
fn a_companion_that_cannot_run_is_named_with_its_cure() {
    for (name, program) in COMPANIONS {
        let installed = Installed::new();
        let path = installed.path(program);
        let refused = |cure: &str| {
            let ended = installed.run(&[name, "--json"]);
            assert_eq!(
                (ended.status.code(), ended.stdout.len()),
                (Some(2), 0),
                "{ended:?}"
            );
            let reason = text(&ended.stderr);
            assert!(
                reason.starts_with("sealway: ") && reason.lines().count() == 1,
                "{reason}"
            );
            assert!(
                reason.contains(path.to_str().unwrap()) && reason.contains(cure),
                "{reason}"
            );
        };
        refused("is not installed");
        symlink("nowhere", &path).unwrap();
        refused("is not installed");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        refused("chmod 755");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused("cannot be executed");
    }
}

/// sealway's own file in a folder of its own, a second name of the built file.
struct Installed(TempDir);

impl Installed {
    fn new() -> Installed {
        let built = Path::new(env!("CARGO_BIN_EXE_sealway"));
        let folder = tempfile::tempdir_in(built.parent().unwrap()).unwrap();
        fs::hard_link(built, folder.path().join("sealway")).unwrap();
        Installed(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        // As the kernel names it.
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(self.path("sealway"))
            .args(arguments)
            .output()
            .unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const COMPANIONS: [(&str, &str); 2] = [("doctor", "sealway-doctor"), ("agent", "sealway-agent")];
