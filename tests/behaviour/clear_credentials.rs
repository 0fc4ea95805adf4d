//! The warnings about listeners that receive users' credentials or tokens without TLS from other machines: from `check`, and
//! in the log of `run` at the start and at a reload.

use support::command::sealway;
use support::config::Config;
use support::raw::RawUpstream;
use support::users;

/// The sections of a configuration, and for each expected warning the line and words that it has.
type Case = (&'static str, &'static [(usize, &'static str)]);

const USERS: &str = "[auth]\nusers_file = \"users.toml\"\n";
const CASES: [Case; 14] = [
    ("address = \"192.0.2.1:9293\"", &[(2, "192.0.2.1:9293")]),
    ("address = \"0.0.0.0:9293\"", &[(2, "0.0.0.0:9293")]),
    ("address = \"[::]:9293\"", &[(2, "[::]:9293")]),
    (
        "address = \"[2001:db8::1]:9293\"",
        &[(2, "[2001:db8::1]:9293")],
    ),
    ("address = \"127.0.0.9:9293\"", &[]),
    ("address = \"[::1]:9293\"", &[]),
    ("address = \"[::ffff:127.0.0.1]:9293\"", &[]),
    (
        "address = \"192.0.2.1:1\"\nallow_cleartext = true\n[[listener]]\naddress = \"127.0.0.1:1\"\n[[listener]]\n\
         address = \"[2001:db8::2]:2\"",
        &[(2, "192.0.2.1:1"), (7, "[2001:db8::2]:2")],
    ),
    (
        "address = \"192.0.2.1:1\"\nproxy_protocol = { from = [\"192.0.2.7\"] }",
        &[(2, "balancers")],
    ),
    // One of the two balancers is another machine.
    (
        "address = \"192.0.2.1:1\"\nproxy_protocol = { from = [\"127.0.0.0/8\", \"2001:db8::/64\"] }",
        &[(2, "balancers")],
    ),
    (
        "address = \"0.0.0.0:1\"\nproxy_protocol = { from = [\"127.0.0.1\", \"::1\"] }",
        &[],
    ),
    // A network that holds more than loopback.
    (
        "address = \"0.0.0.0:1\"\nproxy_protocol = { from = [\"127.0.0.0/7\"] }",
        &[(2, "balancers")],
    ),
    ("socket = \"clients\"", &[(2, "clients")]),
    (
        "socket = \"clients\"\nproxy_protocol = { from = [\"127.0.0.1\"] }",
        &[],
    ),
];

#[tokio::test]
async fn check_names_each_listener_that_takes_credentials_in_clear() {
    for (listener, expected) in CASES {
        let text = format!("[[listener]]\n{listener}\nallow_cleartext = true\n{USERS}");
        let warnings = warnings(&text).await;
        assert_eq!(warnings.len(), expected.len(), "{listener}: {warnings:#?}");
        for (warning, (line, named)) in warnings.iter().zip(expected) {
            let key = if listener.starts_with("socket") {
                "socket"
            } else {
                "address"
            };
            let place = format!("sealway.toml:{line}: listener.{key}: ");
            assert!(
                warning.contains(&place) && warning.contains(named) && warning.contains("tls = {"),
                "{listener}: {warning}"
            );
        }
    }
}

/// Nobody sends credentials, or only this machine.
#[tokio::test]
async fn check_is_silent_where_no_credentials_cross_a_network() {
    for (auth, warned) in [
        ("clients = [\"192.0.2.0/24\"]", 0),
        (
            "users_file = \"users.toml\"\nclients = [\"127.0.0.0/8\", \"::1\"]",
            0,
        ),
        (
            "users_file = \"users.toml\"\nclients = [\"127.0.0.0/8\", \"192.0.2.7\"]",
            1,
        ),
        ("users_file = \"users.toml\"\nclients = []", 1),
    ] {
        let text = format!(
            "[[listener]]\naddress = \"0.0.0.0:9293\"\nallow_cleartext = true\n[auth]\n{auth}\n"
        );
        let warnings = warnings(&text).await;
        assert_eq!(warnings.len(), warned, "{auth}: {warnings:#?}");
    }
    // The declared client does not say who can read the network to the balancer.
    let behind = "[[listener]]\naddress = \"0.0.0.0:9293\"\nallow_cleartext = true\nproxy_protocol = { from = [\"192.0.2.7\"] }\n\
                  [auth]\nusers_file = \"users.toml\"\nclients = [\"127.0.0.0/8\"]\n";
    assert_eq!(warnings(behind).await.len(), 1);
}

#[tokio::test]
async fn check_names_an_admin_listener_whose_tokens_cross_a_network() {
    for (keys, warned) in [
        ("address = \"192.0.2.1:9294\"", true),
        (
            "address = \"[::]:9294\"\nclients = [\"192.0.2.7\", \"127.0.0.1\"]",
            true,
        ),
        (
            "address = \"0.0.0.0:9294\"\nclients = [\"127.0.0.0/8\", \"::1\"]",
            false,
        ),
        ("address = \"127.0.0.1:9294\"", false),
        ("address = \"[::1]:9294\"", false),
        ("address = \"\"", false),
    ] {
        let text = format!("[admin]\ntoken_file = \"admin.token\"\n{keys}\n");
        let warnings = checked(&text, "tokens of Prometheus and operators without TLS").await;
        let named: Vec<_> = warnings
            .iter()
            .filter(|line| line.contains("sealway.toml:3: admin.address: "))
            .collect();
        assert_eq!(
            (warnings.len(), named.len()),
            (usize::from(warned), usize::from(warned)),
            "{keys}: {warnings:#?}"
        );
    }
}

#[tokio::test]
async fn the_log_names_the_listener_at_the_start_and_at_a_reload() {
    let upstream = RawUpstream::start().await;
    let config =
        Config::to(upstream.addr()).listener("address = \"0.0.0.0:0\"\nallow_cleartext = true");
    let config = users::with_users(config, "");
    let directory = users::tempdir();
    users::write(
        &directory.path().join("users.toml"),
        &users::user("app", "secret", ""),
    );
    let mut daemon = support::daemon::Daemon::start_in(directory, &config).await;
    let about_clear = |line: &serde_json::Value| is_about_clear(&line.to_string());
    daemon.line("the warning at the start", about_clear).await;
    daemon.reload(&config.to_toml()).await;
    daemon
        .line("the end of the reload", |line| {
            line["message"] == "configuration reloaded"
        })
        .await;
    let log = daemon.log_text();
    let warnings: Vec<_> = log.lines().filter(|line| is_about_clear(line)).collect();
    assert_eq!(warnings.len(), 2, "{log}");
    for warning in warnings {
        assert!(
            warning.contains("WARN") && warning.contains("listener.address: 0.0.0.0:0 "),
            "{warning}"
        );
    }
}

/// The warnings of `check` about credentials in clear.
async fn warnings(text: &str) -> Vec<String> {
    checked(text, CLEAR).await
}

/// The lines of `check` with these words about a configuration.
async fn checked(text: &str, words: &str) -> Vec<String> {
    let directory = users::tempdir();
    users::write(
        &directory.path().join("users.toml"),
        &users::user("app", "secret", ""),
    );
    let file = directory.path().join("sealway.toml");
    std::fs::write(&file, text).unwrap();
    let ended = sealway(&["check", "--offline", "--config", file.to_str().unwrap()]).await;
    assert_eq!(ended.status, 0, "{text}: {ended:?}");
    let lines = ended.stderr.lines().filter(|line| line.contains(words));
    lines.map(str::to_owned).collect()
}

fn is_about_clear(line: &str) -> bool {
    line.contains(CLEAR)
}

const CLEAR: &str = "credentials without TLS";
