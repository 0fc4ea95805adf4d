//! `policy.destination_ranges`: an address outside of them is refused, addresses inside and exempt
//! ones are allowed; a wrong file prevents the start and makes a reload change nothing; the age of
//! the list is shown.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::json;
use support::client::connect;
use support::command::sealway;
use support::config::Config;
use support::daemon::Daemon;
use support::dns::{Dns, Say};
use support::namespace::{OtherHost, in_own_network};
use support::raw::{RawUpstream, Tunnel};
use support::refusal::refused_again;
use support::soon;
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Another host answers for Google's addresses.
#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn an_address_is_dialled_inside_and_refused_outside() {
    in_own_network("an_address_is_dialled_inside_and_refused_outside", async {
        let (_google, upstream) = google();
        let directory = tempfile::tempdir().unwrap();
        write(
            &directory,
            "goog.json",
            &published(&["142.250.0.0/15", "10.0.0.0/8"], None),
        );
        write(&directory, "cloud.json", &cloud(&["142.251.0.0/16"]));
        let names: [(&str, &[&str], Option<&str>); 7] = [
            ("inside.example", &["142.250.1.95"], None),
            ("exempt.example", &["127.0.0.1"], None),
            (
                "outside.example",
                &["142.252.0.0"],
                Some("142.252.0.0 is outside of policy.destination_ranges"),
            ),
            (
                "minus.example",
                &["142.251.1.1"],
                Some("142.251.1.1 is outside of policy.destination_ranges"),
            ),
            (
                "mixed.example",
                &["142.250.1.95", "142.249.255.255"],
                Some("142.249.255.255 is outside of"),
            ),
            (
                "exempt-and-outside.example",
                &["127.0.0.1", "8.8.8.8"],
                Some("8.8.8.8 is outside of"),
            ),
            (
                "private.example",
                &["10.0.0.7"],
                Some("10.0.0.7 is private (RFC 1918)"),
            ),
        ];
        let port = upstream.addr().port();
        let mut config = Config::closed()
            .egress(&["192.0.2.1", "127.0.0.2"])
            .policy(BOTH);
        for (name, addresses, _) in names {
            config = config
                .allow(&format!("{name}:{port}"))
                .resolve(name, addresses);
        }
        let exempt = RawUpstream::start_at(&format!("127.0.0.1:{port}")).await;
        let mut daemon = Daemon::start_in(directory, &config).await;
        let mut denied = 0;
        for (name, _, refused) in names {
            let reply = connect(daemon.proxy_addr(), &format!("{name}:{port}"), &[]).await;
            let Some(error) = refused else {
                let client = reply.established();
                let dialled = if name.starts_with("inside") {
                    &upstream
                } else {
                    &exempt
                };
                let _dialled = dialled.accept().await;
                drop(client);
                assert_eq!(
                    daemon.tunnel_record().await["code"],
                    "closed_by_client",
                    "{name}"
                );
                continue;
            };
            denied += 1;
            let record = refused_again(&mut daemon, reply, "destination_denied", denied).await;
            assert!(
                record["error"].as_str().unwrap().contains(error),
                "{record}"
            );
        }
        assert!(upstream.is_untouched().await && exempt.is_untouched().await);
    });
}

fn google() -> (OtherHost, RawUpstream) {
    let google = OtherHost::start();
    let address: SocketAddr = "142.250.1.95:0".parse().unwrap();
    let listener = google.listen(address);
    (google, RawUpstream::elsewhere(listener, address.ip()))
}

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_reload_reads_the_range_files_and_a_wrong_one_changes_nothing() {
    in_own_network(
        "a_reload_reads_the_range_files_and_a_wrong_one_changes_nothing",
        async {
            let (_google, upstream) = google();
            let directory = tempfile::tempdir().unwrap();
            write(&directory, "goog.json", "# as lines\n142.250.0.0/15\n");
            write(&directory, "cloud.json", "192.0.2.0/24");
            let config = Config::to(upstream.addr())
                .egress(&["192.0.2.1"])
                .policy(BOTH);
            let mut daemon = Daemon::start_in(directory, &config).await;
            Tunnel::open(&daemon, &upstream).await.close().await;
            let start = daemon
                .line("the start", |line| line["event"] == "start")
                .await;

            let wrong = [
                (
                    "142.250.0.0/15\n142.250.0.0/33\n",
                    "goog.json:2: policy.destination_ranges: not an address",
                ),
                (
                    "",
                    "goog.json: policy.destination_ranges: contains no network",
                ),
                (
                    "{\"prefixes\": [\n{}]}",
                    "goog.json:2: policy.destination_ranges: an entry has",
                ),
                (
                    "192.0.2.0/25",
                    "policy.destination_ranges: policy.destination_ranges_minus removes every address",
                ),
            ];
            for (text, reason) in wrong {
                std::fs::write(daemon.path("goog.json"), text).unwrap();
                let reload = daemon.reload(&config.to_toml()).await;
                assert_eq!(
                    (&reload["result"], &reload["policy"]),
                    (&json!("failed"), &start["policy"]),
                    "{reload}"
                );
                assert!(
                    reload["error"].as_str().unwrap().contains(reason),
                    "{reason}: {reload}"
                );
                Tunnel::open(&daemon, &upstream).await.close().await;
            }
            // The configuration is unchanged; only the file differs.
            std::fs::write(daemon.path("goog.json"), "8.8.8.0/24").unwrap();
            let reload = daemon.reload(&config.to_toml()).await;
            assert_eq!(
                (&reload["result"], reload["policy"] == start["policy"]),
                (&json!("ok"), false),
                "{reload}"
            );
            let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
            assert_eq!(
                reply.status_line,
                "HTTP/1.1 403 Forbidden (destination_denied)"
            );
            std::fs::write(daemon.path("goog.json"), "142.250.0.0/16\n142.251.0.0/16").unwrap();
            let reload = daemon.reload(&config.to_toml()).await;
            assert_eq!(
                reload["policy"], start["policy"],
                "the same addresses are the same policy: {reload}"
            );
            Tunnel::open(&daemon, &upstream).await.close().await;
        },
    );
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn a_wrong_range_file_exits_with_78() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("folder")).unwrap();
    write(&directory, "good", "142.250.0.0/15");
    write(&directory, "empty", "# nothing\n");
    write(&directory, "page", "<html>\n");
    write(
        &directory,
        "cut.json",
        "{\"prefixes\": [\n{\"ipv4Prefix\": \"8.8.4.0/24\"},\n",
    );
    write(&directory, "large", &"142.250.0.0/15\n".repeat(1_200_000));
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let cases = [
        (
            "missing.json",
            "missing.json: policy.destination_ranges: cannot be read: ",
        ),
        (
            "folder",
            "folder: policy.destination_ranges: is not a regular file",
        ),
        (
            "fifo",
            "fifo: policy.destination_ranges: is not a regular file",
        ),
        (
            "empty",
            "empty: policy.destination_ranges: contains no network",
        ),
        (
            "page",
            "page:1: policy.destination_ranges: not an address or a network",
        ),
        ("cut.json", "cut.json:3: policy.destination_ranges: EOF"),
        (
            "large",
            "large: policy.destination_ranges: is larger than 16777216 bytes",
        ),
    ];
    for (name, problem) in cases {
        let as_minus = problem.replace("ranges: ", "ranges_minus: ");
        let given = format!("destination_ranges = \"{name}\"");
        let minus = format!("destination_ranges = \"good\"\ndestination_ranges_minus = \"{name}\"");
        for (lines, problem) in [(given, problem), (minus, as_minus.as_str())] {
            for verb in ["run", "check"] {
                fails(&directory, &lines, verb, problem).await;
            }
        }
    }
    let minus_only = "destination_ranges_minus = \"good\"";
    fails(
        &directory,
        minus_only,
        "run",
        "policy.destination_ranges_minus: removes nothing",
    )
    .await;
    let nothing_left = "destination_ranges = \"good\"\ndestination_ranges_minus = \"good\"";
    fails(
        &directory,
        nothing_left,
        "run",
        "policy.destination_ranges: policy.destination_ranges_minus removes",
    )
    .await;
}

#[tokio::test]
async fn the_age_is_that_of_the_older_file() {
    let directory = tempfile::tempdir().unwrap();
    write(
        &directory,
        "goog.json",
        &published(&["142.250.0.0/15"], Some(days_ago(2))),
    );
    write(&directory, "cloud.json", "192.0.2.0/24");
    let mut daemon = Daemon::start_in(directory, &Config::closed().policy(BOTH)).await;
    is_about(&daemon, 2).await;

    // Without a creationTime the age is that of the file.
    File::options()
        .append(true)
        .open(daemon.path("cloud.json"))
        .unwrap()
        .set_modified(days_ago(9))
        .unwrap();
    assert_eq!(
        daemon
            .reload(&Config::closed().policy(BOTH).to_toml())
            .await["result"],
        "ok"
    );
    is_about(&daemon, 9).await;
    assert!(
        !daemon.log_text().contains("ranges are old"),
        "{}",
        daemon.log_text()
    );

    std::fs::write(
        daemon.path("goog.json"),
        published(&["142.250.0.0/15"], Some(days_ago(31))),
    )
    .unwrap();
    assert_eq!(
        daemon
            .reload(&Config::closed().policy(BOTH).to_toml())
            .await["result"],
        "ok"
    );
    is_about(&daemon, 31).await;
    let warning = daemon.line("a warning at the reload", is_warning).await;
    assert_eq!(warning["age_days"], 31, "{warning}");
    assert!(
        warning["file"].as_str().unwrap().ends_with("goog.json"),
        "{warning}"
    );

    assert_eq!(
        daemon.reload(&Config::closed().to_toml()).await["result"],
        "ok"
    );
    let page = daemon.admin_get("/metrics").await.1;
    assert!(
        !page.contains("sealway_destination_ranges"),
        "no ranges, no series: {page}"
    );
}

#[tokio::test]
async fn the_start_and_check_warn_of_an_old_list() {
    let dns = Dns::start(Say::addresses(&["203.0.113.9"], 60)).await;
    for (days, old) in [(29, false), (31, true)] {
        let directory = tempfile::tempdir().unwrap();
        write(
            &directory,
            "goog.json",
            &published(&["142.250.0.0/15"], Some(days_ago(days))),
        );
        let config = Config::closed()
            .policy("destination_ranges = \"goog.json\"")
            .section(&dns.section("2s"));
        let daemon = Daemon::start_in(directory, &config).await;
        if old {
            soon(
                "a warning at the start",
                daemon.line("a warning", is_warning),
            )
            .await;
        }
        let file = daemon.path("sealway.toml");
        let checked = sealway(&["check", "--config", file.to_str().unwrap()]).await;
        assert!(
            checked.status == 0 && checked.stdout.starts_with("ok: "),
            "{checked:?}"
        );
        let warning = "goog.json: the destination ranges are 31 days old";
        assert_eq!(
            (checked.stderr.contains(warning), checked.stderr.is_empty()),
            (old, !old),
            "{checked:?}"
        );
    }
}

async fn is_about(daemon: &Daemon, days: u64) {
    let age = daemon
        .metric("sealway_destination_ranges_age_seconds")
        .await
        .expect("a series");
    let wanted = (days * DAY) as f64;
    assert!(
        (wanted..wanted + 120.0).contains(&age),
        "{age} seconds for {days} days"
    );
}

fn is_warning(line: &serde_json::Value) -> bool {
    line["level"] == "WARN"
        && line["message"]
            .as_str()
            .is_some_and(|text| text.contains("destination ranges are old"))
}

/// Runs the command with these lines of `[policy]`; it must report this problem and no other.
async fn fails(directory: &TempDir, lines: &str, verb: &str, problem: &str) {
    let file = directory.path().join("sealway.toml");
    let hosts = "\"generativelanguage.googleapis.com\" = [\"127.0.0.1\"]";
    std::fs::write(
        &file,
        Config::closed().policy(lines).to_toml() + "\n" + hosts,
    )
    .unwrap();
    let ended = sealway(&[verb, "--config", file.to_str().unwrap()]).await;
    assert_eq!((ended.status, ended.stdout.as_str()), (78, ""), "{ended:?}");
    assert!(ended.stderr.contains(problem), "{problem}: {ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}

/// The form in which Google publishes `goog.json`: a time without a zone.
fn published(networks: &[&str], made: Option<SystemTime>) -> String {
    let prefixes: Vec<_> = networks
        .iter()
        .map(|network| json!({ "ipv4Prefix": network }))
        .collect();
    let mut list = json!({ "syncToken": "1795132800000", "prefixes": prefixes });
    if let Some(made) = made {
        let text = OffsetDateTime::from(made).format(&Rfc3339).unwrap();
        list["creationTime"] = text.trim_end_matches('Z').into();
    }
    serde_json::to_string_pretty(&list).unwrap()
}

/// The form in which Google publishes `cloud.json`.
fn cloud(networks: &[&str]) -> String {
    let entry = |network: &&str| json!({ "ipv4Prefix": network, "service": "Google Cloud", "scope": "us-east1" });
    json!({ "syncToken": "1", "prefixes": networks.iter().map(entry).collect::<Vec<_>>() })
        .to_string()
}

fn days_ago(days: u64) -> SystemTime {
    SystemTime::now() - Duration::from_secs(days * DAY)
}

fn write(directory: &TempDir, name: &str, text: &str) {
    std::fs::write(Path::new(directory.path()).join(name), text).unwrap();
}

const BOTH: &str = "destination_ranges = \"goog.json\"\ndestination_ranges_minus = \"cloud.json\"";
const DAY: u64 = 86_400;
