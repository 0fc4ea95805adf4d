//! The output and exit status of the commands: 0 done, 2 wrong flags, 78 wrong configuration, 1
//! anything else; flags and environment mean the same; and the defaults without either.

use serde_json::{Value, json};
use support::client::{connect, http_get};
use support::command::{running, sealway, sealway_with};
use support::config::Config;
use support::dns::{Dns, Say};
use support::namespace::{in_own_network, run};
use support::raw::RawUpstream;
use tempfile::TempDir;

#[tokio::test]
async fn wrong_flags_exit_with_2() {
    let wrong: [&[&str]; 16] = [
        &[],
        &["audit"],
        &["audit", "verify"],
        &["audit", "report"],
        &["audit", "report", "--format", "xml", "x"],
        &["bogus"],
        &["run", "--bogus"],
        &["run", "extra"],
        &["run", "--listen", "9293"],
        &["run", "--listen", "localhost:9293"],
        &["run", "--egress", "203.0.113.0/24"],
        &["run", "--allow", "*.com"],
        &["run", "--allow", "a b"],
        &["check", "--bogus"],
        &["user"],
        &["user", "add"],
    ];
    for arguments in wrong {
        let ended = sealway(arguments).await;
        assert_eq!(
            (ended.status, ended.stdout.as_str()),
            (2, ""),
            "{arguments:?}: {ended:?}"
        );
        assert!(ended.stderr.contains("--help"), "{arguments:?}: {ended:?}");
    }
}

#[tokio::test]
async fn help_prints_an_example_and_version_prints_the_revision() {
    let commands: [&[&str]; 13] = [
        &[],
        &["top"],
        &["audit"],
        &["audit", "verify"],
        &["audit", "report"],
        &["run"],
        &["check"],
        &["explain"],
        &["user"],
        &["user", "add"],
        &["user", "list"],
        &["user", "remove"],
        &["user", "rotate"],
    ];
    for command in commands {
        let help = sealway(&[command, &["--help"]].concat()).await;
        assert_eq!((help.status, help.stderr.as_str()), (0, ""), "{command:?}");
        let (_, example) = help
            .stdout
            .split_once("Example")
            .unwrap_or_else(|| panic!("{command:?}: {}", help.stdout));
        assert!(
            example.contains(&[&["sealway"], command].concat().join(" ")),
            "{command:?}: {example}"
        );
    }
    let version = sealway(&["--version"]).await;
    let wanted = format!(
        "sealway {} (revision {})\n",
        sealway::VERSION,
        sealway::REVISION
    );
    assert_eq!((version.status, version.stdout), (0, wanted));
}

#[tokio::test]
async fn every_problem_of_a_file_is_printed_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(
        &directory,
        &format!(
            "[limits]\ntunnels = \"many\"\nbogus = 1\n\n[timeouts]\nidle = \"soon\"\n[policy]\nallow = [\"*.com\"]\n{HARMLESS}"
        ),
    );
    for verb in ["run", "check"] {
        let ended = sealway(&[verb, "--config", &file]).await;
        assert_eq!((ended.status, ended.stdout.as_str()), (78, ""), "{ended:?}");
        let lines: Vec<&str> = ended.stderr.lines().collect();
        for (line, key) in [
            (2, "limits.tunnels"),
            (3, "limits.bogus"),
            (6, "timeouts.idle"),
            (8, "policy.allow"),
        ] {
            let place = format!("sealway: {file}:{line}: {key}: ");
            assert!(
                lines.iter().any(|line| line.starts_with(&place)),
                "{place} in {}",
                ended.stderr
            );
        }
        assert_eq!(lines.len(), 4, "{}", ended.stderr);
    }
}

#[tokio::test]
async fn an_unusable_file_exits_with_78() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory
        .path()
        .join("missing.toml")
        .to_str()
        .unwrap()
        .to_string();
    let broken = write(&directory, &format!("{HARMLESS}[policy\nallow = 1\n"));
    let folder = directory.path().to_str().unwrap().to_string();
    for (file, reason) in [
        (&missing, "cannot be read"),
        (&broken, "sealway.toml:7: "),
        (&folder, "cannot be read"),
    ] {
        for verb in ["run", "check"] {
            let ended = sealway(&[verb, "--config", file]).await;
            assert_eq!(ended.status, 78, "{ended:?}");
            assert!(
                ended.stderr.contains(file.as_str()) && ended.stderr.contains(reason),
                "{reason}: {ended:?}"
            );
        }
    }
}

/// `run` starts without the address and waits; `egress_changes` tests that.
#[tokio::test]
async fn check_reports_each_egress_address_of_another_host() {
    for (addresses, missing) in [
        (&["127.0.0.2", "192.0.2.77"][..], 1),
        (&["192.0.2.77"], 1),
        (&["2001:db8::77", "192.0.2.77", "127.0.0.2"], 2),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let dns = Dns::start(Say::NoSuchName).await;
        let config = Config::closed().egress(addresses).to_toml() + &dns.section("2s");
        let file = write(&directory, &config);
        let ended = sealway(&["check", "--config", &file]).await;
        assert_eq!(ended.status, 78, "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), missing, "{ended:?}");
        let is_named =
            |line: &str| line.contains("egress.addresses: ") && line.contains("77 is not");
        assert!(ended.stderr.lines().all(is_named), "{ended:?}");
    }
}

#[tokio::test]
async fn a_port_in_use_exits_with_1() {
    let holder = RawUpstream::start().await;
    let taken = holder.addr().to_string();
    for (listen, admin) in [
        (taken.as_str(), "127.0.0.1:0"),
        ("127.0.0.1:0", taken.as_str()),
    ] {
        let ended = sealway(&[
            "run",
            "--egress",
            "127.0.0.2",
            "--listen",
            listen,
            "--admin",
            admin,
        ])
        .await;
        assert_eq!(ended.status, 1, "{ended:?}");
        assert!(
            ended.stderr.contains(&taken) && ended.stderr.contains("in use"),
            "{ended:?}"
        );
    }
}

/// Its workers share the port with each other and with no other process.
#[tokio::test]
async fn the_port_of_another_daemon_is_in_use() {
    let other = running(
        &[],
        &[
            "run",
            "--egress",
            "127.0.0.2",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ],
    )
    .await;
    let taken = other.proxy_addr().to_string();
    let ended = sealway(&[
        "run",
        "--egress",
        "127.0.0.2",
        "--listen",
        &taken,
        "--admin",
        "127.0.0.1:0",
    ])
    .await;
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(
        ended.stderr.contains(&taken) && ended.stderr.contains("in use"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn an_open_listener_exits_with_78() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("users.toml"), "").unwrap();
    std::fs::set_permissions(
        directory.path().join("users.toml"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let (open, clear) = ("open relay", "allow_cleartext");
    let (users, clients) = (
        "[auth]\nusers_file = \"users.toml\"",
        "[auth]\nclients = [\"192.0.2.0/24\"]",
    );
    let cases = [
        ("", "", vec![open, clear]),
        ("allow_cleartext = true", "", vec![open]),
        ("", users, vec![clear]),
        ("", clients, vec![clear]),
        ("allow_cleartext = true", users, vec![]),
        ("allow_cleartext = true", clients, vec![]),
    ];
    for address in ["0.0.0.0:0", "[::]:0"] {
        for (listener, auth, reasons) in &cases {
            let listener = format!("[[listener]]\naddress = \"{address}\"\n{listener}\n{auth}\n");
            let file = write(
                &directory,
                &format!(
                    "{listener}[admin]\naddress = \"\"\n[egress]\naddresses = [\"127.0.0.2\"]"
                ),
            );
            if reasons.is_empty() {
                running(&[], &["run", "--config", &file]).await;
                continue;
            }
            let ended = sealway(&["run", "--config", &file]).await;
            assert_eq!(ended.status, 78, "{ended:?}");
            for reason in [open, clear] {
                assert_eq!(
                    ended.stderr.contains(reason),
                    reasons.contains(&reason),
                    "{address} {reason}: {ended:?}"
                );
            }
            assert!(
                ended
                    .stderr
                    .contains(&format!("{file}:2: listener.address: ")),
                "{ended:?}"
            );
        }
    }
    let ended = sealway(&["run", "--listen", "0.0.0.0:0", "--admin", ""]).await;
    assert!(
        ended.status == 78 && ended.stderr.contains("--listen: "),
        "{ended:?}"
    );
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn flags_and_environment_mean_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(
        &directory,
        &Config::closed().allow("replaced.example").to_toml(),
    );
    let settings = [
        ("config", file.as_str()),
        ("listen", "127.0.0.1:0,127.0.0.4:0"),
        ("egress", "127.0.0.3,127.0.0.5"),
        ("allow", "a.example,*.b.example:8443"),
        ("admin", "127.0.0.6:0"),
    ];
    let names: Vec<String> = settings
        .iter()
        .map(|(name, _)| format!("SEALWAY_{}", name.to_uppercase()))
        .collect();
    let environment: Vec<_> = names
        .iter()
        .map(String::as_str)
        .zip(settings.iter().map(|(_, value)| *value))
        .collect();
    let by_environment = running(&environment, &["run"]).await;

    let mut flags = vec!["run".to_string()];
    for (name, value) in settings {
        // A list with commas in the environment is a repeated flag.
        flags.extend(
            value
                .split(',')
                .flat_map(|value| [format!("--{name}"), value.to_string()]),
        );
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let by_flags = running(&[], &flags).await;
    let over = [
        ("SEALWAY_EGRESS", "192.0.2.77"),
        ("SEALWAY_LISTEN", "192.0.2.77:1"),
        ("SEALWAY_ADMIN", ""),
    ];
    let flags_win = running(&over, &flags).await;
    for started in [&by_environment, &by_flags, &flags_win] {
        assert_eq!(
            started.start["egress"],
            json!(["127.0.0.3", "127.0.0.5"]),
            "{}",
            started.start
        );
        assert_eq!(
            hosts(&started.start["listeners"]),
            ["127.0.0.1", "127.0.0.4"],
            "{}",
            started.start
        );
        assert_eq!(
            started
                .admin_addr()
                .map(|address| address.ip().to_string())
                .as_deref(),
            Some("127.0.0.6")
        );
        assert_eq!(started.start["policy"], by_flags.start["policy"]);
    }
    let other = running(&[], &["run", "--config", &file]).await;
    assert_ne!(
        other.start["policy"], by_flags.start["policy"],
        "--allow replaces the file's value"
    );
    let unwatched = running(&[("SEALWAY_ADMIN", "")], &["run", "--config", &file]).await;
    assert_eq!(
        unwatched.admin_addr(),
        None,
        "an empty address turns the admin listener off"
    );
}

#[tokio::test]
async fn check_says_ok_or_every_problem_of_the_machine() {
    let (directory, dns) = (
        tempfile::tempdir().unwrap(),
        Dns::start(Say::addresses(&["203.0.113.9"], 60)).await,
    );
    let good = Config::closed().section(&dns.section("2s")).to_toml();
    let ok = sealway(&["check", "--config", &write(&directory, &good)]).await;
    assert!(
        ok.status == 0 && ok.stdout.starts_with("ok") && ok.stderr.is_empty(),
        "{ok:?}"
    );
    let file = write(&directory, &good);
    let ok = sealway_with(&[("SEALWAY_CONFIG", &file)], &["check"]).await;
    assert_eq!(ok.status, 0, "{ok:?}");

    dns.say(Say::Failure);
    let (first, second) = (RawUpstream::start().await, RawUpstream::start().await);
    let bad = good.replace("127.0.0.2", "192.0.2.77").replacen(
        "127.0.0.1:0",
        &first.addr().to_string(),
        1,
    );
    let bad = bad.replacen("127.0.0.1:0", &second.addr().to_string(), 1);
    let ended = sealway(&["check", "--config", &write(&directory, &bad)]).await;
    assert_eq!((ended.status, ended.stdout.as_str()), (78, ""), "{ended:?}");
    for problem in [
        "192.0.2.77",
        &first.addr().to_string(),
        &second.addr().to_string(),
        "dns",
    ] {
        assert!(
            ended.stderr.contains(problem),
            "{problem}: {}",
            ended.stderr
        );
    }
    assert_eq!(ended.stderr.lines().count(), 4, "{}", ended.stderr);
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn unset_keys_have_their_defaults() {
    in_own_network("unset_keys_have_their_defaults", async {
        let daemon = running(&[], &["run"]).await;
        assert_eq!(
            daemon.start["listeners"],
            json!(["127.0.0.1:9293"]),
            "{}",
            daemon.start
        );
        assert_eq!(daemon.start["admin"], "127.0.0.1:9294", "{}", daemon.start);
        assert_eq!(
            daemon.start["egress"],
            json!(["127.0.0.1"]),
            "no default route: {}",
            daemon.start
        );
        let ready = http_get(daemon.admin_addr().unwrap(), "/readyz").await;
        let want = "no egress address: there was no default route to take one from; set egress.addresses, or reload when there is a route\n";
        assert_eq!(ready, (503, want.to_string()));
        let other = connect(daemon.proxy_addr(), "storage.googleapis.com:443", &[]).await;
        assert_eq!(other.status_line, "HTTP/1.1 403 Forbidden (host_denied)");
        // The host is allowed, but there is no DNS here.
        let gemini = connect(
            daemon.proxy_addr(),
            "generativelanguage.googleapis.com:443",
            &[],
        )
        .await;
        assert!(
            gemini.status_line.contains("(dns_"),
            "{}",
            gemini.status_line
        );
        drop(daemon);

        run("ip address add 192.0.2.7/32 dev lo");
        run("ip route add default dev lo src 192.0.2.7");
        let daemon = running(&[], &["run", "--listen", "127.0.0.1:0", "--admin", ""]).await;
        assert_eq!(
            daemon.start["egress"],
            json!(["192.0.2.7"]),
            "{}",
            daemon.start
        );
    });
}

#[tokio::test]
async fn check_compares_what_it_could_read_with_the_machine() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(
        &directory,
        &format!("bogus = 1\n[egress]\naddresses = [\"192.0.2.77\"]\n{HARMLESS}"),
    );
    let ended = sealway(&["check", "--config", &file]).await;
    let both =
        ended.stderr.contains(&format!("{file}:1: bogus: ")) && ended.stderr.contains("192.0.2.77");
    assert!(
        ended.status == 78 && both,
        "a problem of the file hides one of the machine: {ended:?}"
    );
}

#[tokio::test]
async fn a_variable_that_is_set_and_empty_is_not_set() {
    // The form that a compose file produces: SEALWAY_EGRESS=${EGRESS:-}
    let empty = [
        ("SEALWAY_CONFIG", ""),
        ("SEALWAY_LISTEN", ""),
        ("SEALWAY_EGRESS", ""),
        ("SEALWAY_ALLOW", ""),
    ];
    let flags = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let daemon = running(&empty, &flags).await;
    assert_eq!(
        daemon.start["policy"],
        running(&[], &flags).await.start["policy"]
    );
    let directory = tempfile::tempdir().unwrap();
    let file = write(&directory, &Config::closed().to_toml());
    let daemon = running(&empty[1..], &["run", "--config", &file]).await;
    assert_eq!(
        (hosts(&daemon.start["listeners"]), &daemon.start["egress"]),
        (vec!["127.0.0.1"], &json!(["127.0.0.2"]))
    );
}

fn write(directory: &TempDir, toml: &str) -> String {
    let file = directory.path().join("sealway.toml");
    std::fs::write(&file, toml).unwrap();
    file.to_str().unwrap().into()
}

fn hosts(addresses: &Value) -> Vec<&str> {
    let addresses = addresses.as_array().unwrap().iter();
    addresses
        .map(|address| address.as_str().unwrap().rsplit_once(':').unwrap().0)
        .collect()
}

/// Keeps `check` away from ports that others may hold and from the network: it looks this name up.
const HARMLESS: &str = "\
[[listener]]
address = \"127.0.0.1:0\"
[admin]
address = \"\"
[dns.hosts]
\"generativelanguage.googleapis.com\" = [\"127.0.0.1\"]
";
