//! What people type and what their programs send: lists with spaces, hosts that are pasted, names with underscores and
//! trailing dots, a length of zero.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs
)]

#[path = "support/command.rs"]
mod command;
#[path = "support/dns.rs"]
mod dns;
#[path = "support/made_hello.rs"]
mod made_hello;
mod support;

use command::{Ended, running, sealway_with};
use dns::{Dns, Say};
use made_hello::MadeHello;
use support::client::{connect, dial, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::RawUpstream;
use support::{HOST, soon};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn spaces_around_the_entries_of_a_list_mean_nothing() {
    let place = Place::new();
    let rules = " a.example.com , b.example.com:8443,\n\t*-api.example.com,, ";
    for (environment, flags) in [(vec![("SEALWAY_ALLOW", rules)], vec![]), (vec![], vec!["--allow", rules])] {
        for host in ["a.example.com", "b.example.com:8443", "eu-api.example.com"] {
            let ended = place.explain(&environment, &[&[host][..], &flags].concat()).await;
            assert_eq!(ended.status, 0, "{host}: {ended:?}");
        }
    }
    let environment = [
        ("SEALWAY_LISTEN", " 127.0.0.1:0 , 127.0.0.4:0\n"),
        ("SEALWAY_EGRESS", "127.0.0.3 ,127.0.0.5 "),
        ("SEALWAY_ADMIN", " "),
    ];
    let started = running(&environment, &["run"]).await;
    assert_eq!(started.start["listeners"].as_array().unwrap().len(), 2, "{}", started.start);
    assert_eq!(started.start["egress"], serde_json::json!(["127.0.0.3", "127.0.0.5"]));
    assert_eq!(started.admin_addr(), None);
}

#[tokio::test]
async fn a_wrong_value_is_told_by_the_name_of_what_was_set() {
    let place = Place::new();
    for (flag, variable, value, wanted) in [
        ("--allow", "SEALWAY_ALLOW", "a.example.com, https://b.example.com/v1", "write b.example.com"),
        ("--allow", "SEALWAY_ALLOW", "a.example.com b.example.com", "several rules"),
        ("--listen", "SEALWAY_LISTEN", "9293", "such as 127.0.0.1:9293"),
        ("--listen", "SEALWAY_LISTEN", "127.0.0.1:0, localhost:9293", "such as 127.0.0.1:9293"),
        ("--egress", "SEALWAY_EGRESS", "203.0.113.0/24", "such as 203.0.113.7"),
    ] {
        let by_variable = place.explain(&[(variable, value)], &["a.example.com"]).await;
        let by_flag = place.explain(&[], &["a.example.com", flag, value]).await;
        for (ended, name, other) in [(by_variable, variable, flag), (by_flag, flag, variable)] {
            assert_eq!((ended.status, ended.stdout.as_str()), (2, ""), "{name}: {ended:?}");
            assert!(ended.stderr.contains(&format!(" for {name}: ")), "{ended:?}");
            assert!(!ended.stderr.contains(&format!(" for {other}")), "{ended:?}");
            assert!(ended.stderr.contains(wanted) && ended.stderr.contains("--help"), "{ended:?}");
        }
    }
    // What is wrong with the value only beside the rest of the configuration.
    for (flag, variable, value) in [
        ("--listen", "SEALWAY_LISTEN", "0.0.0.0:9293"),
        ("--egress", "SEALWAY_EGRESS", "fe80::1"),
        ("--admin", "SEALWAY_ADMIN", "192.0.2.7:9294"),
        ("--admin", "SEALWAY_ADMIN", "localhost:9294"),
    ] {
        let by_variable = place.explain(&[(variable, value)], &["a.example.com"]).await;
        let by_flag = place.explain(&[], &["a.example.com", flag, value]).await;
        for (ended, name) in [(by_variable, variable), (by_flag, flag)] {
            assert_eq!(ended.status, 78, "{name}: {ended:?}");
            assert!(ended.stderr.contains(&format!("sealway: {name}: ")), "{ended:?}");
        }
    }
}

#[tokio::test]
async fn a_pasted_url_is_told_the_host_and_its_password_is_not_shown() {
    let place = Place::new();
    let url = "https://alice:pa55word@api.example.com/v1";
    for ended in [
        place.explain(&[("SEALWAY_ALLOW", url)], &["a.example.com"]).await,
        place.explain(&[], &["a.example.com", "--allow", url]).await,
        Place::with(&format!("[policy]\nallow = [{url:?}]")).explain(&[], &["a.example.com"]).await,
    ] {
        assert!([2, 78].contains(&ended.status), "{ended:?}");
        assert!(ended.stderr.contains("write api.example.com") && !ended.stderr.contains("pa55word"), "{ended:?}");
    }
    let asked = place.explain(&[], &["https://api.example.com/v1"]).await;
    assert!(asked.status == 2 && asked.stderr.contains("write api.example.com"), "{asked:?}");
}

#[tokio::test]
async fn explain_names_the_pattern_that_decides() {
    let place = Place::with(
        "[policy]\npresets = []\nallow = [\"*-aiplatform.googleapis.com\"]\nallow_destinations = [\"127.0.0.1\"]\n\
         [dns.hosts]\n\"eu-aiplatform.googleapis.com\" = [\"127.0.0.1\"]\n\"aiplatform.googleapis.com\" = []",
    );
    let allowed = place.explain(&[], &["eu-aiplatform.googleapis.com"]).await;
    let line = allowed.stdout.lines().find(|line| line.starts_with("name:")).unwrap_or_else(|| panic!("{allowed:?}"));
    assert!(line.contains("*-aiplatform.googleapis.com:443") && line.contains("named by policy.allow"), "{line}");
    assert_eq!(allowed.status, 0, "{allowed:?}");
    let refused = place.explain(&[], &["aiplatform.googleapis.com"]).await;
    assert!(refused.status == 1 && refused.stdout.contains("host_denied"), "{refused:?}");
}

/// httpx, aiohttp, undici and Bun put the dot of `https://host./` into CONNECT and into SNI.
#[tokio::test]
async fn a_trailing_dot_is_the_same_name_on_both_sides() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    for (asked, named) in [("{}.", "{}."), ("{}.", "{}"), ("{}", "{}."), ("{}", "{}")] {
        let host = |text: &str| text.replace("{}", HOST);
        reaches(&daemon, &upstream, &host(asked), &host(named)).await;
        let record = daemon.tunnel_record().await;
        assert_eq!((record["host"].as_str(), record["sni"].as_str()), (Some(HOST), Some(host(named).as_str())));
    }
    for other in [format!("{HOST}.."), format!(".{HOST}"), "googleapis.com.".to_owned()] {
        let mut client = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await.established();
        client.write_all(&MadeHello::naming(&other).bytes()).await.unwrap();
        let mut alert = Vec::new();
        soon("an alert", client.read_to_end(&mut alert)).await.unwrap();
        assert_eq!(alert, [21, 3, 3, 0, 2, 2, 112], "{other}");
        assert_eq!(daemon.tunnel_record().await["code"], "sni_mismatch");
    }
}

/// Buckets and services have such names (RFC 2181, section 11): looked up in DNS, asked for and named in SNI.
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
        assert!(dns.asked().iter().any(|(asked, _)| asked == host), "{:?}", dns.asked());
    }
    let reply = connect(daemon.proxy_addr(), &format!("other_bucket.storage.example:{port}"), &[]).await;
    assert_eq!(reply.status_line, "HTTP/1.1 403 Forbidden (host_denied)");
}

#[tokio::test]
async fn a_length_of_zero_is_no_body() {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[("Content-Length", "0")]).await;
    let mut client = reply.established();
    client.write_all(&MadeHello::naming(HOST).bytes()).await.unwrap();
    assert_eq!(upstream.accept().await.read_u8().await.unwrap(), 22);
    for (name, value) in [("Content-Length", "1"), ("Content-Length", "0x0"), ("Transfer-Encoding", "chunked")] {
        let reply = connect(daemon.proxy_addr(), &upstream.authority(), &[(name, value)]).await;
        assert_eq!(reply.status_line, "HTTP/1.1 400 Bad Request (bad_request)", "{name}: {value}");
    }
}

/// Asks for `host` with a ClientHello that names `named`, and sees all of it at the upstream.
async fn reaches(daemon: &Daemon, upstream: &RawUpstream, host: &str, named: &str) {
    let mut client = dial(daemon.proxy_addr()).await;
    let head = format!("CONNECT {host}:{} HTTP/1.1\r\n\r\n", upstream.addr().port());
    client.write_all(head.as_bytes()).await.unwrap();
    let mut client = read_reply(client).await.established();
    let hello = MadeHello::naming(named).bytes();
    client.write_all(&hello).await.unwrap();
    let mut received = vec![0; hello.len()];
    let mut accepted = upstream.accept().await;
    soon("the hello", accepted.read_exact(&mut received)).await.unwrap();
    assert_eq!(received, hello);
}

/// A folder with a configuration.
struct Place {
    directory: TempDir,
}

impl Place {
    /// Where three names have addresses, and nothing is looked up.
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

    async fn explain(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Ended {
        let file = self.directory.path().join("sealway.toml");
        let config = ["explain", "--config", file.to_str().unwrap()];
        sealway_with(environment, &[&config[..], arguments].concat()).await
    }
}
