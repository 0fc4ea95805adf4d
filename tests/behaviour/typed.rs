//! Input in the form that people and their programs produce: lists with spaces, pasted hosts, names
//! with underscores and trailing dots, a length of zero, and files in the form that editors and
//! containers leave.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use support::client::{connect, dial, read_reply};
use support::command::{Ended, running, sealway_with};
use support::config::Config;
use support::daemon::Daemon;
use support::dns::{Dns, Say};
use support::made_hello::MadeHello;
use support::namespace::{in_own_network, run};
use support::raw::{RawUpstream, Tunnel, read_to_end, read_to_reset};
use support::{HOST, soon};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn spaces_around_the_entries_of_a_list_are_ignored() {
    let place = Place::new();
    let rules = " a.example.com , b.example.com:8443,\n\t*-api.example.com,, ";
    for (environment, flags) in [
        (vec![("SEALWAY_ALLOW", rules)], vec![]),
        (vec![], vec!["--allow", rules]),
    ] {
        for host in ["a.example.com", "b.example.com:8443", "eu-api.example.com"] {
            let ended = place
                .explain(&environment, &[&[host][..], &flags].concat())
                .await;
            assert_eq!(ended.status, 0, "{host}: {ended:?}");
        }
    }
    let environment = [
        ("SEALWAY_LISTEN", " 127.0.0.1:0 , 127.0.0.4:0\n"),
        ("SEALWAY_EGRESS", "127.0.0.3 ,127.0.0.5 "),
        ("SEALWAY_ADMIN", " "),
    ];
    let started = running(&environment, &["run"]).await;
    assert_eq!(
        started.start["listeners"].as_array().unwrap().len(),
        2,
        "{}",
        started.start
    );
    assert_eq!(
        started.start["egress"],
        serde_json::json!(["127.0.0.3", "127.0.0.5"])
    );
    assert_eq!(started.admin_addr(), None);
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn a_wrong_value_names_the_flag_or_variable() {
    let place = Place::new();
    for (flag, variable, value, wanted) in [
        (
            "--allow",
            "SEALWAY_ALLOW",
            "a.example.com, https://b.example.com/v1",
            "write b.example.com",
        ),
        (
            "--allow",
            "SEALWAY_ALLOW",
            "a.example.com b.example.com",
            "several rules",
        ),
        (
            "--listen",
            "SEALWAY_LISTEN",
            "9293",
            "such as 127.0.0.1:9293",
        ),
        (
            "--listen",
            "SEALWAY_LISTEN",
            "127.0.0.1:0, localhost:9293",
            "such as 127.0.0.1:9293",
        ),
        (
            "--egress",
            "SEALWAY_EGRESS",
            "203.0.113.0/24",
            "such as 203.0.113.7",
        ),
    ] {
        let by_variable = place
            .explain(&[(variable, value)], &["a.example.com"])
            .await;
        let by_flag = place.explain(&[], &["a.example.com", flag, value]).await;
        for (ended, name, other) in [(by_variable, variable, flag), (by_flag, flag, variable)] {
            assert_eq!(
                (ended.status, ended.stdout.as_str()),
                (2, ""),
                "{name}: {ended:?}"
            );
            assert!(
                ended.stderr.contains(&format!(" for {name}: ")),
                "{ended:?}"
            );
            assert!(
                !ended.stderr.contains(&format!(" for {other}")),
                "{ended:?}"
            );
            assert!(
                ended.stderr.contains(wanted) && ended.stderr.contains("--help"),
                "{ended:?}"
            );
        }
    }
    // Values that are wrong only in combination with the rest of the configuration.
    for (flag, variable, value) in [
        ("--listen", "SEALWAY_LISTEN", "0.0.0.0:9293"),
        ("--egress", "SEALWAY_EGRESS", "fe80::1"),
        ("--admin", "SEALWAY_ADMIN", "192.0.2.7:9294"),
        ("--admin", "SEALWAY_ADMIN", "localhost:9294"),
    ] {
        let by_variable = place
            .explain(&[(variable, value)], &["a.example.com"])
            .await;
        let by_flag = place.explain(&[], &["a.example.com", flag, value]).await;
        for (ended, name) in [(by_variable, variable), (by_flag, flag)] {
            assert_eq!(ended.status, 78, "{name}: {ended:?}");
            assert!(
                ended.stderr.contains(&format!("sealway: {name}: ")),
                "{ended:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_pasted_url_is_answered_with_its_host_and_without_its_password() {
    let place = Place::new();
    let url = "https://alice:pa55word@api.example.com/v1";
    for ended in [
        place
            .explain(&[("SEALWAY_ALLOW", url)], &["a.example.com"])
            .await,
        place.explain(&[], &["a.example.com", "--allow", url]).await,
        Place::with(&format!("[policy]\nallow = [{url:?}]"))
            .explain(&[], &["a.example.com"])
            .await,
    ] {
        assert!([2, 78].contains(&ended.status), "{ended:?}");
        assert!(
            ended.stderr.contains("write api.example.com") && !ended.stderr.contains("pa55word"),
            "{ended:?}"
        );
    }
    let asked = place.explain(&[], &["https://api.example.com/v1"]).await;
    assert!(
        asked.status == 2 && asked.stderr.contains("write api.example.com"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn explain_names_the_deciding_pattern() {
    let place = Place::with(
        "[policy]\npresets = []\nallow = [\"*-aiplatform.googleapis.com\"]\nallow_destinations = [\"127.0.0.1\"]\n\
         [dns.hosts]\n\"eu-aiplatform.googleapis.com\" = [\"127.0.0.1\"]\n\"aiplatform.googleapis.com\" = []",
    );
    let allowed = place.explain(&[], &["eu-aiplatform.googleapis.com"]).await;
    let line = allowed
        .stdout
        .lines()
        .find(|line| line.starts_with("name:"))
        .unwrap_or_else(|| panic!("{allowed:?}"));
    assert!(
        line.contains("*-aiplatform.googleapis.com:443") && line.contains("named by policy.allow"),
        "{line}"
    );
    assert_eq!(allowed.status, 0, "{allowed:?}");
    let refused = place.explain(&[], &["aiplatform.googleapis.com"]).await;
    assert!(
        refused.status == 1 && refused.stdout.contains("host_denied"),
        "{refused:?}"
    );
}

/// httpx, aiohttp, undici and Bun put the dot of `https://host./` into CONNECT and into SNI.
#[tokio::test]
async fn a_trailing_dot_is_ignored_on_both_sides() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    for (asked, named) in [("{}.", "{}."), ("{}.", "{}"), ("{}", "{}."), ("{}", "{}")] {
        let host = |text: &str| text.replace("{}", HOST);
        reaches(&daemon, &upstream, &host(asked), &host(named)).await;
        let record = daemon.tunnel_record().await;
        assert_eq!(
            (record["host"].as_str(), record["sni"].as_str()),
            (Some(HOST), Some(host(named).as_str()))
        );
    }
    for other in [
        format!("{HOST}.."),
        format!(".{HOST}"),
        "googleapis.com.".to_owned(),
    ] {
        let mut client = connect(daemon.proxy_addr(), &upstream.authority(), &[])
            .await
            .established();
        client
            .write_all(&MadeHello::naming(&other).bytes())
            .await
            .unwrap();
        let mut alert = Vec::new();
        soon("an alert", client.read_to_end(&mut alert))
            .await
            .unwrap();
        assert_eq!(alert, [21, 3, 3, 0, 2, 2, 112], "{other}");
        assert_eq!(daemon.tunnel_record().await["code"], "sni_mismatch");
    }
}

/// Buckets and services have such names (RFC 2181, section 11): looked up in DNS, requested and
/// named in SNI.
#[tokio::test]
async fn a_host_with_an_underscore_is_reached() {
    let upstream = RawUpstream::start().await;
    let dns = Dns::start(Say::addresses(&["127.0.0.1"], 60)).await;
    let port = upstream.addr().port();
    let config = Config::closed()
        .allow(&format!("my_bucket.storage.example:{port}"))
        .allow(&format!("*.named_below.example:{port}"))
        .section(&dns.section("5s"));
    let mut daemon = Daemon::start(&config).await;
    for host in ["my_bucket.storage.example", "_a_.named_below.example"] {
        reaches(&daemon, &upstream, host, host).await;
        assert_eq!(daemon.tunnel_record().await["host"], host);
        assert!(
            dns.asked().iter().any(|(asked, _)| asked == host),
            "{:?}",
            dns.asked()
        );
    }
    let reply = connect(
        daemon.proxy_addr(),
        &format!("other_bucket.storage.example:{port}"),
        &[],
    )
    .await;
    assert_eq!(reply.status_line, "HTTP/1.1 403 Forbidden (host_denied)");
}

#[tokio::test]
async fn a_content_length_of_zero_is_accepted() {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let reply = connect(
        daemon.proxy_addr(),
        &upstream.authority(),
        &[("Content-Length", "0")],
    )
    .await;
    let mut client = reply.established();
    client
        .write_all(&MadeHello::naming(HOST).bytes())
        .await
        .unwrap();
    assert_eq!(upstream.accept().await.read_u8().await.unwrap(), 22);
    for (name, value) in [
        ("Content-Length", "1"),
        ("Content-Length", "0x0"),
        ("Transfer-Encoding", "chunked"),
    ] {
        let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[(name, value)]).await;
        assert_eq!(
            reply.status_line, "HTTP/1.1 400 Bad Request (bad_request)",
            "{name}: {value}"
        );
    }
}

/// The other end's view of a close with unread bytes (RFC 1122, section 4.2.2.13).
#[tokio::test]
async fn a_close_with_unread_bytes_is_recorded_with_the_kernels_error() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    for seed in 0..4 {
        let mut tunnel = Tunnel::open(&daemon, &upstream).await;
        if seed % 2 == 0 {
            tunnel.exchange(seed).await;
        }
        tunnel
            .upstream
            .write_all(b"nobody reads this")
            .await
            .unwrap();
        soon("bytes at the client", tunnel.client.peek(&mut [0; 17]))
            .await
            .unwrap();
        if seed >= 2 {
            tunnel.client.shutdown().await.unwrap();
            assert_eq!(read_to_end(&mut tunnel.upstream).await, b"");
            drop(tunnel.client);
        } else {
            drop(tunnel.client);
            read_to_reset(&mut tunnel.upstream).await;
        }
        let record = daemon.tunnel_record().await;
        assert_eq!(record["code"], "reset_by_client", "{record}");
        // EPIPE: it had ended its side normally before.
        let wanted = if seed >= 2 {
            "Broken pipe (os error 32)"
        } else {
            "Connection reset by peer (os error 104)"
        };
        assert_eq!(record["error"], wanted, "{seed}: {record}");
    }
}

/// `-Djdk.tls.namedGroups=x25519,secp256r1,x25519` of a stock JDK, and more extensions than any
/// client sends.
#[tokio::test]
async fn a_hello_that_the_rfcs_allow_passes_unchanged() {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let groups = MadeHello::naming(HOST).extension(10, &[0, 6, 0, 29, 0, 23, 0, 29]);
    let many = (0x5000..0x5000 + 200).fold(MadeHello::naming(HOST), |hello, kind| {
        hello.extension(kind, &[])
    });
    for hello in [groups, many] {
        let mut client = connect(daemon.proxy_addr(), &upstream.authority(), &[])
            .await
            .established();
        client.write_all(&hello.bytes()).await.unwrap();
        let mut received = vec![0; hello.bytes().len()];
        let mut accepted = upstream.accept().await;
        soon("the hello", accepted.read_exact(&mut received))
            .await
            .unwrap();
        assert_eq!(received, hello.bytes());
    }
}

/// Editors on Windows write one at the start of every file.
#[tokio::test]
async fn a_byte_order_mark_is_ignored_in_every_file() {
    let place = Place::with(
        "[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"token\"\n[auth]\nusers_file = \"users.toml\"\n\
         [policy]\ndestination_ranges = \"ranges\"\ndestination_ranges_minus = \"minus.json\"",
    );
    let secret = format!(
        "[users.alice]\r\nsecrets = [\"sha256:{}\"]\r\n",
        "5a".repeat(32)
    );
    let files = [
        ("token", format!("{}\r\n", "k".repeat(40))),
        ("users.toml", secret),
        ("ranges", "142.250.0.0/15\r\n".to_owned()),
        (
            "minus.json",
            "{\"prefixes\": [{\"ipv4Prefix\": \"142.250.0.0/24\"}]}".to_owned(),
        ),
    ];
    for (name, text) in &files {
        place.write(name, format!("\u{feff}{text}").as_bytes(), 0o600);
    }
    let config = std::fs::read_to_string(place.path("sealway.toml")).unwrap();
    place.write(
        "sealway.toml",
        format!("\u{feff}{config}").as_bytes(),
        0o600,
    );
    let listed = place.call(&["user", "list"]).await;
    assert_eq!(
        (listed.status, listed.stdout.as_str()),
        (0, "alice  secrets 1\n"),
        "{listed:?}"
    );
    assert_eq!(place.call(&["user", "rotate", "alice"]).await.status, 0);
    assert!(
        place
            .call(&["user", "list"])
            .await
            .stdout
            .starts_with("alice  secrets 2")
    );

    // A value that is not understood is reported by its name.
    let utf_16: Vec<u8> = "\u{feff}x"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (name, _) in files.iter().chain(&[("sealway.toml", String::new())]) {
        let before = std::fs::read(place.path(name)).unwrap();
        for (bytes, wanted) in [
            (&utf_16[..], "UTF-16: save it as UTF-8"),
            (b"caf\xe9", "UTF-8, from byte 4 on"),
        ] {
            place.write(name, bytes, 0o600);
            let ended = place.call(&["user", "list"]).await;
            assert!(
                ended.status == 78 && ended.stderr.contains(name),
                "{ended:?}"
            );
            assert!(ended.stderr.contains(wanted), "{wanted}: {ended:?}");
        }
        place.write(name, &before, 0o600);
    }
}

/// The form of secrets in containers: 0444, owned by another user, on a mount that nobody inside
/// can change.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_secret_on_a_read_only_mount_may_be_readable_by_others() {
    in_own_network(
        "a_secret_on_a_read_only_mount_may_be_readable_by_others",
        async {
            let place = Place::with(
                "[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"mounted/token\"\n\
             [auth]\nusers_file = \"mounted/users.toml\"",
            );
            for folder in ["secrets", "mounted"] {
                std::fs::create_dir(place.path(folder)).unwrap();
            }
            let (secrets, mounted) = (place.path("secrets"), place.path("mounted"));
            run(&format!("mount -t tmpfs tmpfs {secrets}"));
            place.write("secrets/token", "k".repeat(40).as_bytes(), 0o444);
            place.write("secrets/users.toml", b"[users.alice]\n", 0o444);
            run(&format!("mount --bind {secrets} {mounted}"));
            let exposed = place.call(&["user", "list"]).await;
            assert_eq!(
                exposed.status, 78,
                "who owns it could chmod it: {exposed:?}"
            );
            assert_eq!(
                exposed.stderr.matches("others can read it").count(),
                2,
                "{exposed:?}"
            );
            run(&format!("mount -o remount,bind,ro {mounted}"));
            let listed = place.call(&["user", "list"]).await;
            assert_eq!(
                (listed.status, listed.stdout.as_str()),
                (0, "alice  secrets 0\n"),
                "{listed:?}"
            );
            for mode in [0o446, 0o464] {
                place.write("secrets/users.toml", b"[users.alice]\n", mode);
                let writable = place.call(&["user", "list"]).await;
                assert_eq!(writable.status, 78, "{mode:o}: {writable:?}");
            }
        },
    );
}

/// A pipeline has other addresses and ports, no name server, and no secrets.
#[tokio::test]
async fn check_offline_checks_the_configuration_only() {
    let holder = RawUpstream::start().await;
    let text = format!(
        "[egress]\naddresses = [\"192.0.2.77\"]\n[[listener]]\naddress = \"192.0.2.77:9293\"\nallow_cleartext = true\n\
         [admin]\naddress = \"{}\"\ntoken_file = \"/nowhere/token\"\n[audit]\nfile = \"/nowhere/audit.jsonl\"\n\
         [dns]\nservers = [\"127.0.0.1:9\"]\ntimeout = \"1ms\"\n[policy]\ndestination_ranges = \"/nowhere/goog.json\"\n\
         [auth]\nusers_file = \"$CREDENTIALS_DIRECTORY/users\"\n",
        holder.addr()
    );
    let place = Place::new();
    place.write("sealway.toml", text.as_bytes(), 0o644);
    let here = place.call(&["check"]).await;
    assert_eq!(here.status, 78, "{here:?}");
    let offline = place.call(&["check", "--offline"]).await;
    assert!(
        offline.status == 0 && offline.stdout.starts_with("ok: "),
        "{offline:?}"
    );
    for named in [
        "/nowhere/token",
        "/nowhere/goog.json",
        "$CREDENTIALS_DIRECTORY/users",
    ] {
        assert!(
            offline
                .stderr
                .contains(&format!("sealway: warning: {named}: does not exist")),
            "{named}: {offline:?}"
        );
    }
    // The fourth line is about the credentials that the listener takes in clear.
    assert_eq!(offline.stderr.lines().count(), 4, "{offline:?}");
    assert!(offline.stderr.contains("without TLS"), "{offline:?}");

    // Files that exist are read whatever their mode: everybody can read a checkout.
    place.write(
        "users.toml",
        b"[users.alice]\nsecrets = [\"my-secret\"]\n",
        0o644,
    );
    place.write(
        "sealway.toml",
        b"[auth]\nusers_file = \"users.toml\"\n[policy]\nallow = [\"*.com\"]\n",
        0o644,
    );
    let wrong = place.call(&["check", "--offline"]).await;
    assert_eq!((wrong.status, wrong.stdout.as_str()), (78, ""), "{wrong:?}");
    assert!(
        wrong.stderr.contains("policy.allow") && wrong.stderr.contains("users.alice.secrets"),
        "{wrong:?}"
    );
    assert!(!wrong.stderr.contains("mode is"), "{wrong:?}");
    place.write("users.toml", b"[users.alice]\n", 0o644);
    place.write(
        "sealway.toml",
        b"[auth]\nusers_file = \"users.toml\"\n",
        0o644,
    );
    assert_eq!(place.call(&["check", "--offline"]).await.status, 0);
    assert_eq!(
        place.call(&["run"]).await.status,
        78,
        "where it is for, its mode counts"
    );
}

/// Requests `host` with a ClientHello that names `named`, and expects all of it at the upstream.
async fn reaches(daemon: &Daemon, upstream: &RawUpstream, host: &str, named: &str) {
    let mut client = dial(daemon.proxy_addr()).await;
    let head = format!("CONNECT {host}:{} HTTP/1.1\r\n\r\n", upstream.addr().port());
    client.write_all(head.as_bytes()).await.unwrap();
    let mut client = read_reply(client).await.established();
    let hello = MadeHello::naming(named).bytes();
    client.write_all(&hello).await.unwrap();
    let mut received = vec![0; hello.len()];
    let mut accepted = upstream.accept().await;
    soon("the hello", accepted.read_exact(&mut received))
        .await
        .unwrap();
    assert_eq!(received, hello);
}

/// A folder with a configuration.
struct Place {
    directory: TempDir,
}

impl Place {
    /// Three names have addresses, and nothing is looked up.
    fn new() -> Place {
        Place::with(
            "[policy]\npresets = []\nallow_destinations = [\"127.0.0.1\"]\n[dns.hosts]\n\
             \"a.example.com\" = [\"127.0.0.1\"]\n\"b.example.com\" = [\"127.0.0.1\"]\n\
             \"eu-api.example.com\" = [\"127.0.0.1\"]",
        )
    }

    fn with(text: &str) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let text = format!("[egress]\naddresses = [\"127.0.0.2\"]\n{text}\n");
        std::fs::write(directory.path().join("sealway.toml"), text).unwrap();
        Place { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory
            .path()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) {
        std::fs::write(self.path(name), bytes).unwrap();
        std::fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    /// Runs a command with this configuration.
    async fn call(&self, arguments: &[&str]) -> Ended {
        sealway_with(
            &[],
            &[arguments, &["--config", &self.path("sealway.toml")]].concat(),
        )
        .await
    }

    async fn explain(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Ended {
        let file = self.directory.path().join("sealway.toml");
        let config = ["explain", "--config", file.to_str().unwrap()];
        sealway_with(environment, &[&config[..], arguments].concat()).await
    }
}
