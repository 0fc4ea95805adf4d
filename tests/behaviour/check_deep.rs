//! `sealway check --deep` with the real binary: nothing is found on a healthy machine, and each fault, made real in a network
//! namespace, is the finding with its own code.

mod machine;
mod network;
mod rig;

use rig::{Rig, codes};
use support::command::{running, sealway};
use support::namespace::{in_own_network, run};

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_healthy_machine_has_no_finding_twenty_times_beside_the_daemon() {
    in_own_network(
        "a_healthy_machine_has_no_finding_twenty_times_beside_the_daemon",
        async {
            let rig = Rig::start().await;
            let path = rig.write(&rig.toml());
            let _daemon = running(&[], &["run", "--config", &path]).await;
            let before = rig.files();
            // By hand, more: SEALWAY_HEALTHY_RUNS=100.
            let rounds = std::env::var("SEALWAY_HEALTHY_RUNS");
            let rounds: u32 = rounds.map_or(20, |text| text.parse().unwrap());
            for _ in 0..rounds {
                let (status, result) = rig.check(&path).await;
                assert_eq!((status, codes(&result)), (0, vec![]), "{result:#}");
            }
            assert_eq!(rig.files(), before, "check left or changed a file");
            let waiting = run("ss -Htan state time-wait");
            assert_eq!(waiting, "", "check holds ports that tunnels need");
            let (_, result) = rig.check(&path).await;
            let facts = result["checks"].to_string();
            for fact in [
                "192.0.2.1 leaves by v0",
                "2001:db8:2::1 leaves by v0",
                "192.0.2.1: 1 connections opened",
                "2001:db8:2::1: segments of 14",
            ] {
                assert!(facts.contains(fact), "{fact}: {facts}");
            }
            let text = sealway(&[&RUN[..], &["--config", &path]].concat()).await;
            assert_eq!(text.status, 0, "{text:?}");
            assert!(text.stdout.starts_with("ok: "), "{text:?}");
        },
    );
}

/// On a terminal of script(1), with this variable.
fn screen(path: &str, variable: (&str, &str)) -> String {
    let command = format!(
        "{} check --deep --verbose --config {path}",
        support::sealway()
    );
    let ran = std::process::Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .env(variable.0, variable.1)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    String::from_utf8(ran.stdout).unwrap().replace('\r', "")
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs script(1)")]
fn a_terminal_has_colours_and_80_columns_unless_it_wants_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    let egress = "[egress]\naddresses = [\"203.0.113.77\"]\n[policy]\npresets = []\n";
    std::fs::write(&path, format!("{egress}[audit]\nfile = \"no/where\"\n")).unwrap();
    let path = path.to_str().unwrap();
    let coloured = screen(path, ("NO_COLOR", ""));
    for painted in ["\x1b[31mT01\x1b[0m", "\x1b[1megress_absent\x1b[0m"] {
        assert!(coloured.contains(painted), "{coloured:?}");
    }
    let plain = screen(path, ("NO_COLOR", "1"));
    assert!(plain.contains("T01 egress_absent (error)"), "{plain}");
    assert!(plain.contains("T11 audit_unusable (error)"), "{plain}");
    for screen in [&plain, &screen(path, ("TERM", "dumb"))] {
        assert!(!screen.contains('\x1b'), "{screen:?}");
        let wide = |line: &&str| line.chars().count() > 80 && !line.starts_with("    ");
        assert_eq!(screen.lines().find(wide), None);
    }
}

/// What docs/reference.md promises of `--json`.
#[tokio::test]
async fn the_json_has_every_check_and_names_each_finding() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    let toml = "[egress]\naddresses = [\"203.0.113.77\"]\n[policy]\npresets = []\n";
    std::fs::write(&path, toml).unwrap();
    let path = path.to_str().unwrap();
    let flags = [
        "check", "--deep", "--json", "--config", path, "--ignore", "T10",
    ];
    let ended = sealway(&flags).await;
    assert_eq!((ended.status, ended.stderr.as_str()), (1, ""), "{ended:?}");
    let result: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let keys = |value: &serde_json::Value| {
        let object = value.as_object().unwrap();
        object.keys().cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(keys(&result), "checks examined findings version well");
    assert_eq!(
        (&result["version"], &result["well"]),
        (&1.into(), &false.into())
    );
    assert_eq!(result["examined"], path);
    let checks = result["checks"].as_array().unwrap();
    let ids: Vec<_> = checks
        .iter()
        .map(|check| check["id"].as_str().unwrap())
        .collect();
    let all: Vec<_> = (1..=13).map(|at| format!("T{at:02}")).collect();
    assert_eq!(ids, all);
    let results = ["finding", "skipped", "skipped"];
    for ((at, reason), wanted) in [(0, false), (3, true), (9, true)].into_iter().zip(results) {
        let check = &checks[at];
        assert_eq!(keys(check), "facts id reason result subject");
        assert_eq!(check["result"], wanted, "{check}");
        assert_eq!(check["reason"].is_string(), reason, "{check}");
    }
    let finding = &result["findings"][0];
    assert_eq!(keys(finding), "cause code commands cure id severity");
    assert_eq!(finding["code"], "egress_absent");
    assert_eq!(
        (&finding["id"], &finding["severity"]),
        (&"T01".into(), &"error".into())
    );
}

#[tokio::test]
async fn wrong_flags_and_a_wrong_configuration_are_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sealway.toml");
    std::fs::write(&path, "[limits]\ntunnels = \"many\"\n").unwrap();
    let path = path.to_str().unwrap();
    let wrong = sealway(&["check", "--deep", "--json", "--config", path]).await;
    assert_eq!((wrong.status, wrong.stdout.as_str()), (2, ""), "{wrong:?}");
    assert!(wrong.stderr.contains("limits.tunnels"), "{wrong:?}");
    for flags in [
        &["check", "--json"][..],
        &["check", "--verbose"],
        &["check", "--ignore", "T09"],
        &["check", "--deep", "--offline"],
        &["check", "--deep", "--ignore", "s3cret-canary"],
    ] {
        let refused = sealway(flags).await;
        assert_eq!(refused.status, 2, "{refused:?}");
    }
    // Without --deep a wrong configuration has the status of today.
    let shallow = sealway(&["check", "--config", path]).await;
    assert_eq!(shallow.status, 78, "{shallow:?}");
}

/// The clock and Landlock are those of the machine that runs the tests.
const RUN: [&str; 6] = ["check", "--deep", "--ignore", "T09", "--ignore", "T10"];
