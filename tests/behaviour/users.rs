//! `sealway user add|list|remove|rotate`: the file afterwards, the output, and the effect in a
//! running daemon after SIGHUP.

use std::fs::{Permissions, metadata, read_to_string, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use support::HOST;
use support::client::{Reply, connect};
use support::command;
use support::command::{Ended, sealway};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::RawUpstream;
use support::refusal::refused;
use support::soon;
use support::users::{basic, start_with_users, stored, tempdir, user, with_users, write};
use tempfile::TempDir;

#[tokio::test]
async fn the_first_user_has_a_file_made_for_the_owner_only() {
    let place = Place::new();
    let added = place.user("add", "alice").await;
    assert_eq!(added.status, 0, "{added:?}");
    let secret = place.secret_of("alice", &added);
    assert_eq!(mode(&place.users), 0o600);
    let text = read_to_string(&place.users).unwrap();
    assert!(
        text.contains(&stored(&secret)) && !text.contains(&secret),
        "{text}"
    );
    assert!(!added.stderr.contains(&secret), "printed twice");
    let other = place.secret_of("bob", &place.user("add", "bob").await);
    assert_ne!(secret, other);
}

#[tokio::test]
async fn the_printed_url_is_that_of_the_listener_for_clients() {
    let core = "[[listener]]\naddress = \"127.0.0.1:7002\"\n\
                proxy_protocol = { from = [\"127.0.0.1/32\"], identity = true, token_file = \"token\" }\n";
    let tls = "[[listener]]\naddress = \"192.0.2.1:7001\"\n\
               tls = { certificate = \"c\", key = \"k\", core = \"127.0.0.1:7002\", token_file = \"token\" }\n";
    let plain = "[[listener]]\naddress = \"127.0.0.1:7003\"\n";
    for (listeners, wanted) in [
        (
            [core, tls].concat(),
            "https://alice:SECRET@192.0.2.1:7001\n",
        ),
        (
            [core, plain].concat(),
            "http://alice:SECRET@127.0.0.1:7003\n",
        ),
        (core.to_owned(), "http://alice:SECRET@127.0.0.1:7002\n"),
    ] {
        let folder = tempdir();
        let config = folder.path().join("sealway.toml");
        write(&folder.path().join("token"), &"0".repeat(64));
        let text = format!("{listeners}[auth]\nusers_file = \"users.toml\"\n");
        std::fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap();
        let added = sealway(&["user", "add", "alice", "--config", config]).await;
        assert_eq!(added.status, 0, "{added:?}");
        let secret = added.stdout.split([':', '@']).nth(2).unwrap();
        assert_eq!(added.stdout.replace(secret, "SECRET"), wanted);
    }
}

#[test]
fn the_users_file_may_be_a_credential_of_systemds() {
    let (place, credentials) = (tempdir(), tempdir());
    let config = place.path().join("sealway.toml");
    write(&credentials.path().join("users"), &user("alice", "one", ""));
    set_permissions(
        credentials.path().join("users"),
        Permissions::from_mode(0o400),
    )
    .unwrap();
    for prefix in ["$CREDENTIALS_DIRECTORY", "${CREDENTIALS_DIRECTORY}"] {
        std::fs::write(
            &config,
            format!("[auth]\nusers_file = \"{prefix}/users\"\n"),
        )
        .unwrap();
        let list = |directory: Option<&Path>| {
            let mut command = std::process::Command::new(support::sealway());
            command
                .args(["user", "list", "--config"])
                .arg(&config)
                .env_remove("CREDENTIALS_DIRECTORY");
            command
                .envs(directory.map(|directory| ("CREDENTIALS_DIRECTORY", directory)))
                .output()
                .unwrap()
        };
        let listed = list(Some(credentials.path()));
        assert!(
            listed.status.success() && listed.stdout.starts_with(b"alice  secrets 1"),
            "{listed:?}"
        );
        let outside = list(None);
        assert_eq!(outside.status.code(), Some(78));
        let reason = String::from_utf8(outside.stderr).unwrap();
        assert!(
            reason.contains("sealway.toml:2: auth.users_file: CREDENTIALS_DIRECTORY is not set"),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn a_user_is_accepted_after_a_reload_and_refused_after_the_next() {
    let (upstream, place, mut daemon) = running().await;
    let added = place.user("add", "alice").await;
    // In the form that the operator reads: http://NAME:SECRET@HOST:PORT
    let url = added.stdout.trim();
    let (user, address) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('@')
        .unwrap();
    assert_eq!(address, daemon.proxy_addr().to_string());
    let secret = user.strip_prefix("alice:").unwrap();
    assert_eq!(
        refusal_code(ask(&daemon, &upstream, "alice", secret).await),
        "auth_failed",
        "not before the reload"
    );
    reload(&mut daemon).await;
    assert_eq!(ask(&daemon, &upstream, "alice", secret).await.status(), 200);

    assert_eq!(place.user("remove", "alice").await.status, 0);
    assert_eq!(
        ask(&daemon, &upstream, "alice", secret).await.status(),
        200,
        "not before the reload"
    );
    reload(&mut daemon).await;
    assert_eq!(
        refusal_code(ask(&daemon, &upstream, "alice", secret).await),
        "auth_failed"
    );
    assert!(!read_to_string(&place.users).unwrap().contains("alice"));
}

#[tokio::test]
async fn a_rotation_fails_no_request() {
    let (upstream, place, mut daemon) = running().await;
    let first = place.secret_of("alice", &place.user("add", "alice").await);
    reload(&mut daemon).await;
    // Clients that connect without a pause, first with the old secret, later with the new one.
    let (secret, mut told) = tokio::sync::watch::channel(first);
    let (proxy, authority) = (daemon.proxy_addr(), upstream.authority());
    let accepting = tokio::spawn(async move {
        loop {
            drop(upstream.accept_whenever().await);
        }
    });
    let (asked, asking) = tokio::sync::watch::channel(0_usize);
    let client = tokio::spawn(async move {
        loop {
            let now = told.borrow_and_update().clone();
            let header = basic("alice", &now);
            let reply = connect(proxy, &authority, &[("Proxy-Authorization", &header)]).await;
            assert_eq!(reply.status(), 200, "{}", reply.status_line);
            asked.send_modify(|count| *count += 1);
        }
    });
    let more = |asking: &tokio::sync::watch::Receiver<usize>| {
        let (mut asking, before) = (asking.clone(), *asking.borrow());
        async move {
            soon(
                "more requests",
                asking.wait_for(|count| *count >= before + 20),
            )
            .await
            .map(|count| *count)
        }
    };
    for _ in 0..3 {
        more(&asking).await.expect("the client has failed");
        let next = place.secret_of("alice", &place.user("rotate", "alice").await);
        reload(&mut daemon).await;
        more(&asking).await.expect("the client has failed");
        secret.send(next).unwrap();
    }
    more(&asking).await.expect("the client has failed");
    client.abort();
    accepting.abort();
    assert_eq!(
        daemon
            .metric("sealway_tunnels_denied_total{code=\"auth_failed\"}")
            .await,
        Some(0.0)
    );
}

#[tokio::test]
async fn a_rotated_secret_works_beside_the_one_before_it() {
    let (upstream, place, mut daemon) = running().await;
    let first = place.secret_of("alice", &place.user("add", "alice").await);
    let second = place.secret_of("alice", &place.user("rotate", "alice").await);
    reload(&mut daemon).await;
    for secret in [&first, &second] {
        assert_eq!(ask(&daemon, &upstream, "alice", secret).await.status(), 200);
    }
    let third = place.secret_of("alice", &place.user("rotate", "alice").await);
    reload(&mut daemon).await;
    assert_eq!(
        refusal_code(ask(&daemon, &upstream, "alice", &first).await),
        "auth_failed"
    );
    for secret in [&second, &third] {
        assert_eq!(ask(&daemon, &upstream, "alice", secret).await.status(), 200);
    }
}

#[tokio::test]
async fn the_users_file_keeps_what_others_wrote() {
    let place = Place::new();
    write(&place.users, &format!("# Ours.\n\n{OPERATORS}"));
    set_permissions(&place.users, Permissions::from_mode(0o640)).unwrap();
    for (verb, name) in [
        ("add", "carol"),
        ("rotate", "carol"),
        ("add", "dotted.name_-9"),
        ("remove", "carol"),
    ] {
        let ended = place.user(verb, name).await;
        assert_eq!(ended.status, 0, "{ended:?}");
        let text = read_to_string(&place.users).unwrap();
        assert!(
            text.starts_with(&format!("# Ours.\n\n{OPERATORS}")),
            "after {verb} {name}:\n{text}"
        );
        assert_eq!(mode(&place.users), 0o640);
    }
    let rotated = place.user("rotate", "bob").await;
    assert_eq!(rotated.status, 0, "{rotated:?}");
    let text = read_to_string(&place.users).unwrap();
    for kept in [
        "# Ours.",
        "# bob is from the build farm",
        "disabled = true",
        "tunnels = 7 # enough",
        "[users.alice]",
    ] {
        assert!(text.contains(kept), "{kept} is gone:\n{text}");
    }
    let list = sealway(&["user", "list", "--config", &place.config]).await;
    assert_eq!(
        list.stdout,
        "alice  secrets 1  disabled\nbob  secrets 2  tunnels 7\ndotted.name_-9  secrets 1\n",
        "{list:?}"
    );
}

#[tokio::test]
async fn a_failed_command_changes_nothing() {
    let place = Place::new();
    write(&place.users, OPERATORS);
    let long = "a".repeat(129);
    for name in ["", " ", "a b", "a:b", "ä", "a\tb", "a\nb", "a\u{7f}", &long] {
        let ended = place.user("add", name).await;
        assert_eq!(
            (ended.status, ended.stdout.as_str()),
            (1, ""),
            "{name:?}: {ended:?}"
        );
        assert!(
            ended.stderr.contains("1 to 128 printable ASCII"),
            "{ended:?}"
        );
    }
    for (verb, name) in [("add", "bob"), ("remove", "nobody"), ("rotate", "nobody")] {
        let ended = place.user(verb, name).await;
        assert_eq!(
            (ended.status, ended.stdout.as_str()),
            (1, ""),
            "{verb} {name}: {ended:?}"
        );
        assert!(ended.stderr.contains(name), "{ended:?}");
    }
    assert_eq!(read_to_string(&place.users).unwrap(), OPERATORS);
    let nowhere = sealway(&["user", "add", "alice"]).await;
    assert!(
        nowhere.status == 78 && nowhere.stderr.contains("auth.users_file"),
        "{nowhere:?}"
    );
}

/// Account names of other systems, with every character that a program between here and a client
/// could mishandle.
#[tokio::test]
async fn a_name_of_any_printable_characters_works_everywhere() {
    let (upstream, place, mut daemon) = running().await;
    let long = "n".repeat(128);
    let names = [
        "svc-llm@corp.example",
        "CORP\\svc",
        "a\"b'c",
        "x/y?z#%20",
        "[{=,;|~}]",
        "--",
        &long,
    ];
    let mut secrets = Vec::new();
    for name in names {
        let added = sealway(&["user", "add", "--config", &place.config, "--", name]).await;
        assert_eq!(added.status, 0, "{name}: {added:?}");
        // A client parses the URL into the same parts.
        let (user, address) = added
            .stdout
            .trim()
            .strip_prefix("http://")
            .unwrap()
            .split_once('@')
            .unwrap();
        assert_eq!(address, daemon.proxy_addr().to_string(), "{name}");
        let (encoded, secret) = user.split_once(':').unwrap();
        assert_eq!(decoded(encoded), name);
        secrets.push(secret.to_owned());
    }
    reload(&mut daemon).await;
    for (name, secret) in names.iter().zip(&secrets) {
        assert_eq!(
            ask(&daemon, &upstream, name, secret).await.status(),
            200,
            "{name}"
        );
        let record = daemon.tunnel_record().await;
        assert_eq!(record["user"], *name, "{record}");
        let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
        let series = format!("sealway_user_tunnels_active{{user=\"{escaped}\"}}");
        assert!(daemon.metric(&series).await.is_some(), "{series}");
    }
    let (_, status) = daemon.admin_get("/status").await;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["users"]["configured"], names.len() as u64);
    let list = sealway(&["user", "list", "--config", &place.config]).await;
    assert!(names.iter().all(|name| {
        list.stdout
            .lines()
            .any(|line| line.starts_with(&format!("{name}  secrets 1")))
    }));
    let removed = sealway(&[
        "user",
        "remove",
        "--config",
        &place.config,
        "--",
        "CORP\\svc",
    ])
    .await;
    assert_eq!(removed.status, 0, "{removed:?}");
}

#[tokio::test]
async fn an_htpasswd_file_is_imported_with_new_secrets() {
    let (upstream, place, mut daemon) = running().await;
    let kept = place.secret_of("alice", &place.user("add", "alice").await);
    let file = place.users.with_file_name("htpasswd");
    let import = || async {
        let (file, config) = (file.to_str().unwrap(), place.config.as_str());
        sealway(&["user", "import", file, "--config", config]).await
    };
    let before = read_to_string(&place.users).unwrap();
    std::fs::write(&file, "bob:$2y$05$x\nb ob:$2y$05$y\n").unwrap();
    let wrong = import().await;
    assert_eq!((wrong.status, wrong.stdout.as_str()), (1, ""), "{wrong:?}");
    assert!(
        wrong.stderr.contains("htpasswd:2: ") && !wrong.stderr.contains("$2y"),
        "{wrong:?}"
    );
    assert_eq!(
        read_to_string(&place.users).unwrap(),
        before,
        "all or nothing"
    );

    std::fs::write(
        &file,
        "\u{feff}# team\r\nalice:$2y$05$x\r\nsvc,\"llm\"@corp.example:$6$s$h:x\r\nbob:\r\n",
    )
    .unwrap();
    let imported = import().await;
    assert_eq!(imported.status, 0, "{imported:?}");
    assert!(
        imported.stderr.contains("alice exists already"),
        "{imported:?}"
    );
    let mut rows = csv::Reader::from_reader(imported.stdout.as_bytes());
    assert_eq!(rows.headers().unwrap(), vec!["user", "secret", "proxy"]);
    let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
    assert_eq!(
        rows.iter().map(|row| &row[0]).collect::<Vec<_>>(),
        ["svc,\"llm\"@corp.example", "bob"]
    );
    let text = read_to_string(&place.users).unwrap();
    reload(&mut daemon).await;
    for row in &rows {
        assert!(!text.contains(&row[1]) && text.contains(&stored(&row[1])));
        assert!(
            row[2].ends_with(&format!(":{}@{}", &row[1], daemon.proxy_addr())),
            "{row:?}"
        );
        assert_eq!(
            ask(&daemon, &upstream, &row[0], &row[1]).await.status(),
            200,
            "{row:?}"
        );
    }
    assert_eq!(
        ask(&daemon, &upstream, "alice", &kept).await.status(),
        200,
        "who was there keeps the secret"
    );
}

/// Percent-decoded (RFC 3986, section 2.1).
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        (bytes, rest) = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digits = String::from_utf8(vec![*high, *low]).unwrap();
                (
                    [bytes, vec![u8::from_str_radix(&digits, 16).unwrap()]].concat(),
                    tail,
                )
            }
            _ => ([bytes, vec![*first]].concat(), tail),
        };
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn users_added_at_the_same_time_are_all_kept() {
    let place = Place::new();
    let names: Vec<String> = (0..8).map(|number| format!("user{number}")).collect();
    let mut adding = tokio::task::JoinSet::new();
    for name in names.clone() {
        let config = place.config.clone();
        adding.spawn(async move { sealway(&["user", "add", &name, "--config", &config]).await });
    }
    for ended in adding.join_all().await {
        assert_eq!(ended.status, 0, "{ended:?}");
    }
    let list = sealway(&["user", "list", "--config", &place.config])
        .await
        .stdout;
    let wanted: String = names
        .iter()
        .map(|name| format!("{name}  secrets 1\n"))
        .collect();
    assert_eq!(list, wanted);
}

#[tokio::test]
async fn a_file_that_others_can_read_is_refused() {
    let place = Place::new();
    write(&place.users, OPERATORS);
    for (mode, fits) in [
        (0o644, false),
        (0o604, false),
        (0o660, false),
        (0o602, false),
        (0o640, true),
        (0o400, true),
    ] {
        set_permissions(&place.users, Permissions::from_mode(mode)).unwrap();
        for verb in ["check", "run"] {
            if fits && verb == "run" {
                let _listens = command::running(&[], &["run", "--config", &place.config]).await;
                continue;
            }
            let ended = sealway(&[verb, "--config", &place.config]).await;
            let named = ended
                .stderr
                .contains(&format!("{}: its mode is 0{mode:o}", place.users.display()));
            assert_eq!(
                (ended.status == 78 && named),
                !fits,
                "{verb} {mode:o}: {ended:?}"
            );
        }
    }
}

#[tokio::test]
async fn each_key_that_narrows_a_user_applies() {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr())
        .host("other.example", upstream.addr())
        .egress(&["127.0.0.2", "127.0.0.3"]);
    let allow = format!(
        "allow = [\"other.example:{}\", \"elsewhere.example\"]",
        upstream.addr().port()
    );
    let users = [
        user("narrow", "1", &allow),
        user("pinned", "2", "egress = [\"127.0.0.3\"]"),
        user("gone", "3", "expires = \"2020-01-01T00:00:00Z\""),
        user("going", "4", "expires = \"2999-01-01T00:00:00+01:00\""),
        user("off", "5", "disabled = true"),
    ];
    let mut daemon = start_with_users(config, &users.concat(), "").await;
    let reply = ask(&daemon, &upstream, "narrow", "1").await;
    assert_eq!(
        refused(&mut daemon, reply, "host_denied").await["user"],
        "narrow"
    );
    for (name, secret) in [("gone", "3"), ("off", "5")] {
        assert_eq!(
            refusal_code(ask(&daemon, &upstream, name, secret).await),
            "auth_failed"
        );
    }
    assert!(upstream.is_untouched().await);
    let elsewhere = format!("other.example:{}", upstream.addr().port());
    let reply = connect(
        daemon.proxy_addr(),
        &elsewhere,
        &[("Proxy-Authorization", &basic("narrow", "1"))],
    )
    .await;
    assert_eq!(reply.status(), 200);
    upstream.accept().await;
    // Each reply is kept until the accept: an upstream that is given up earlier is reset, and never
    // accepted.
    let going = ask(&daemon, &upstream, "going", "4").await;
    assert_eq!(going.status(), 200);
    upstream.accept().await;
    for _ in 0..4 {
        let pinned = ask(&daemon, &upstream, "pinned", "2").await;
        assert_eq!(pinned.status(), 200);
        assert_eq!(
            upstream
                .accept()
                .await
                .peer_addr()
                .unwrap()
                .ip()
                .to_string(),
            "127.0.0.3"
        );
    }
}

#[tokio::test]
async fn a_user_egress_address_that_is_not_configured_is_refused() {
    let place = Place::new();
    write(
        &place.users,
        &user("alice", "one", "egress = [\"127.0.0.2\", \"127.0.0.9\"]"),
    );
    for verb in ["check", "run"] {
        let ended = sealway(&[verb, "--config", &place.config]).await;
        let named = ended
            .stderr
            .contains("users.toml:3: users.alice.egress: \"127.0.0.9\": ");
        assert!(
            ended.status == 78 && named && !ended.stderr.contains("127.0.0.2"),
            "{ended:?}"
        );
    }
}

/// A configuration and the users file that it names, which does not exist yet.
struct Place {
    config: String,
    users: PathBuf,
    _directory: TempDir,
}

impl Place {
    fn new() -> Place {
        let directory = tempdir();
        let config = directory.path().join("sealway.toml");
        std::fs::write(
            &config,
            with_users(Config::closed().resolve(HOST, &["127.0.0.1"]), "").to_toml(),
        )
        .unwrap();
        Place {
            config: config.to_str().unwrap().into(),
            users: directory.path().join("users.toml"),
            _directory: directory,
        }
    }

    async fn user(&self, verb: &str, name: &str) -> Ended {
        sealway(&["user", verb, name, "--config", &self.config]).await
    }

    /// The secret in the only printed line: 256 bits, in letters that no client escapes.
    fn secret_of(&self, name: &str, ended: &Ended) -> String {
        assert_eq!(
            (ended.status, ended.stdout.lines().count()),
            (0, 1),
            "{ended:?}"
        );
        let rest = ended
            .stdout
            .strip_prefix(&format!("http://{name}:"))
            .unwrap_or_else(|| panic!("{ended:?}"));
        let (secret, _) = rest.split_once('@').unwrap();
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        assert!(secret.len() == 43 && secret.bytes().all(safe), "{secret}");
        secret.into()
    }
}

/// A daemon without users, and a configuration for the command line with its users file and its
/// address.
async fn running() -> (RawUpstream, Place, Daemon) {
    let upstream = RawUpstream::start().await;
    let daemon = start_with_users(Config::to(upstream.addr()), "", "lockout_failures = 1000").await;
    let place = Place::new();
    let users = daemon.path("users.toml");
    let auth = format!(
        "[[listener]]\naddress = \"{}\"\n[auth]\nusers_file = {users:?}\n",
        daemon.proxy_addr()
    );
    std::fs::write(&place.config, auth).unwrap();
    (upstream, Place { users, ..place }, daemon)
}

async fn ask(daemon: &Daemon, upstream: &RawUpstream, name: &str, secret: &str) -> Reply {
    connect(
        daemon.proxy_addr(),
        &upstream.authority(),
        &[("Proxy-Authorization", &basic(name, secret))],
    )
    .await
}

async fn reload(daemon: &mut Daemon) {
    daemon.signal("HUP");
    assert_eq!(daemon.event("reload").await["result"], "ok");
}

/// The code in a refusal's status line.
fn refusal_code(reply: Reply) -> String {
    let (_, code) = reply
        .status_line
        .split_once('(')
        .unwrap_or_else(|| panic!("{}", reply.status_line));
    code.trim_end_matches(')').into()
}

fn mode(file: &Path) -> u32 {
    metadata(file).unwrap().permissions().mode() & 0o777
}

const OPERATORS: &str = "\
# bob is from the build farm
[users.bob]
secrets = [\"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"]
tunnels = 7 # enough

[users.alice]
secrets = [\"sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\"]
disabled = true
";
