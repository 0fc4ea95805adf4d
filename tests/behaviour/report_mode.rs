//! `policy.mode = "report"`: a host or an SNI that policy would refuse passes, is recorded and
//! counted; everything else is refused as usual. With "enforce" nothing is reported.

use serde_json::Value;
use support::HOST;
use support::client::connect;
use support::command::sealway;
use support::config::Config;
use support::daemon::Daemon;
use support::dns::{Dns, Say};
use support::made_answer::MadeAnswer;
use support::made_hello::{HOST_NAME, MadeHello};
use support::namespace::in_own_network;
use support::raw::{RawUpstream, pass, read_to_end, read_to_give_up};
use support::refusal;
use support::refusal::{count, refused, send};
use support::users::{basic, start_with_users, user};
use support::wait_until;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// In a network of its own, because a host without a rule is reached on port 443 only.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_host_that_no_rule_names_passes_on_443_and_is_recorded() {
    in_own_network(
        "a_host_that_no_rule_names_passes_on_443_and_is_recorded",
        async {
            let upstream = RawUpstream::start_at("127.0.0.1:443").await;
            let unknown = Config::closed().resolve("unknown.example", &["127.0.0.1"]);
            let mut daemon = Daemon::start(&unknown.clone().policy(REPORT)).await;
            let client = connect(daemon.proxy_addr(), "unknown.example:443", &[])
                .await
                .established();
            let hello = [MadeHello::naming("unknown.example").bytes()];
            let record = passes(&mut daemon, client, &upstream, &hello).await;
            assert_eq!(
                (&record["would_deny"], &record["host"]),
                (&"host_denied".into(), &"unknown.example".into())
            );
            assert_eq!(reported(&daemon).await, [1.0, 0.0, 0.0]);

            // The first of several verdicts: in enforce mode it would have ended the attempt.
            let client = connect(daemon.proxy_addr(), "unknown.example:443", &[])
                .await
                .established();
            let record = passes(
                &mut daemon,
                client,
                &upstream,
                &[MadeHello::naming("evil.example").bytes()],
            )
            .await;
            assert_eq!(record["would_deny"], "host_denied", "{record}");
            assert_eq!(reported(&daemon).await, [2.0, 0.0, 0.0]);

            let other_port = connect(daemon.proxy_addr(), "unknown.example:8443", &[]).await;
            let record = refused(&mut daemon, other_port, "port_denied").await;
            assert_eq!(record.get("would_deny"), None, "{record}");

            assert_eq!(daemon.reload(&unknown.to_toml()).await["result"], "ok");
            let reply = connect(daemon.proxy_addr(), "unknown.example:443", &[]).await;
            let record = refused(&mut daemon, reply, "host_denied").await;
            assert_eq!(record.get("would_deny"), None, "{record}");
            assert_eq!(reported(&daemon).await, [2.0, 0.0, 0.0]);
            assert!(upstream.is_untouched().await);
        },
    );
}

#[tokio::test]
async fn a_host_that_the_users_rules_do_not_name_passes_and_is_recorded() {
    let upstream = RawUpstream::start().await;
    let alice = user("alice", "secret", "allow = [\"other.example\"]");
    let config = Config::to(upstream.addr());
    let mut daemon = start_with_users(config.clone().policy(REPORT), &alice, "").await;
    let credentials = basic("alice", "secret");
    let headers = [("Proxy-Authorization", credentials.as_str())];
    let client = connect(daemon.proxy_addr(), &upstream.authority(), &headers)
        .await
        .established();
    let record = passes(
        &mut daemon,
        client,
        &upstream,
        &[MadeHello::naming(HOST).bytes()],
    )
    .await;
    assert_eq!(
        (&record["would_deny"], &record["user"]),
        (&"host_denied".into(), &"alice".into()),
        "{record}"
    );
    assert_eq!(reported(&daemon).await, [1.0, 0.0, 0.0]);
    let stranger = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
    refused(&mut daemon, stranger, "auth_required").await;

    let mut daemon = start_with_users(config, &alice, "").await;
    let reply = connect(daemon.proxy_addr(), &upstream.authority(), &headers).await;
    refused(&mut daemon, reply, "host_denied").await;
}

/// The dialled upstream is that of the CONNECT host: there is no other.
#[tokio::test]
async fn an_sni_that_is_another_or_missing_passes_and_is_recorded() {
    let (upstream, mut daemon) = start(REPORT).await;
    let cases = [
        (
            MadeHello::naming("evil.example").bytes(),
            "sni_mismatch",
            [0.0, 0.0, 1.0],
        ),
        (
            MadeHello::bare().versions(&[0x0304]).bytes(),
            "sni_missing",
            [0.0, 1.0, 1.0],
        ),
    ];
    for (hello, code, counted) in cases {
        let client = established(&daemon, &upstream).await;
        let record = passes(&mut daemon, client, &upstream, &[hello]).await;
        assert_eq!(
            (&record["would_deny"], &record["host"]),
            (&code.into(), &HOST.into()),
            "{record}"
        );
        assert_eq!(record["upstream"], upstream.addr().to_string(), "{record}");
        assert_eq!(reported(&daemon).await, counted);
    }
    let client = established(&daemon, &upstream).await;
    let record = passes(
        &mut daemon,
        client,
        &upstream,
        &[MadeHello::naming(HOST).bytes()],
    )
    .await;
    assert_eq!(
        record.get("would_deny"),
        None,
        "nothing to report: {record}"
    );
    assert_eq!(reported(&daemon).await, [0.0, 1.0, 1.0]);
}

#[tokio::test]
async fn a_second_hello_with_another_name_passes_and_is_recorded() {
    let (upstream, mut daemon) = start(REPORT).await;
    let hellos = [HOST, "evil.example"].map(|name| MadeHello::naming(name).bytes());
    let client = established(&daemon, &upstream).await;
    let record = passes(&mut daemon, client, &upstream, &hellos).await;
    assert_eq!(
        (&record["would_deny"], &record["hello_retry"]),
        (&"sni_mismatch".into(), &true.into()),
        "{record}"
    );
    assert_eq!(
        (&record["sni"], reported(&daemon).await),
        (&HOST.into(), [0.0, 0.0, 1.0]),
        "{record}"
    );

    // Two verdicts of one attempt count once.
    let hellos = [
        MadeHello::bare().versions(&[0x0304]).bytes(),
        MadeHello::naming("evil.example").bytes(),
    ];
    let client = established(&daemon, &upstream).await;
    let record = passes(&mut daemon, client, &upstream, &hellos).await;
    assert_eq!(
        (&record["would_deny"], reported(&daemon).await),
        (&"sni_missing".into(), [0.0, 1.0, 1.0]),
        "{record}"
    );

    // The rest of a second hello is judged as usual.
    let mut client = established(&daemon, &upstream).await;
    let mut served = upstream.accept().await;
    pass(&mut client, &mut served, &MadeHello::naming(HOST).bytes()).await;
    pass(&mut served, &mut client, &MadeAnswer::retry().bytes()).await;
    send(&mut client, &below_the_floor("evil.example")).await;
    assert_eq!(read_to_end(&mut client).await, PROTOCOL_VERSION);
    assert_eq!(daemon.tunnel_record().await["code"], "tls_version_denied");
    assert_eq!(
        read_to_give_up(&mut served).await,
        b"",
        "a byte of the refused second hello went upstream"
    );
}

#[tokio::test]
async fn report_mode_still_refuses_everything_else() {
    let (upstream, mut daemon) = start(&format!("{REPORT}\nech = \"deny\"")).await;
    let other_port = connect(daemon.proxy_addr(), &format!("{HOST}:443"), &[]).await;
    refused(&mut daemon, other_port, "port_denied").await;
    let literal = connect(daemon.proxy_addr(), &upstream.addr().to_string(), &[]).await;
    refused(&mut daemon, literal, "ip_literal_denied").await;
    let ech = MadeHello::naming("evil.example")
        .extension(0xfe0d, &ech_outer())
        .bytes();
    let cases = [
        (
            below_the_floor(HOST),
            PROTOCOL_VERSION,
            "tls_version_denied",
        ),
        (
            below_the_floor("evil.example"),
            PROTOCOL_VERSION,
            "tls_version_denied",
        ),
        (ech, ACCESS_DENIED, "ech_denied"),
        (
            MadeHello::naming("a\0b").bytes(),
            DECODE_ERROR,
            "client_hello_malformed",
        ),
    ];
    for (hello, alert, code) in cases {
        let before = count(&daemon, code).await;
        let mut client = established(&daemon, &upstream).await;
        send(&mut client, &hello).await;
        assert_eq!(read_to_end(&mut client).await, alert, "{code}");
        let record = daemon.tunnel_record().await;
        assert_eq!(
            (&record["code"], record.get("would_deny")),
            (&code.into(), None),
            "{record}"
        );
        assert_eq!(count(&daemon, code).await, before + 1.0);
        upstream.was_given_up().await;
    }
    assert_eq!(reported(&daemon).await, [0.0; 3]);
}

/// An address of this machine is refused, named by a rule or not.
#[tokio::test]
async fn the_address_guard_still_refuses_reported_names() {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr())
        .resolve("unknown.example", &["127.0.0.1"])
        .policy(REPORT);
    let toml = config.to_toml().replace(&config.allow_destinations(), "");
    let mut daemon = Daemon::start(&config).await;
    assert_eq!(daemon.reload(&toml).await["result"], "ok");
    let named = connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
    let record = refused(&mut daemon, named, "destination_denied").await;
    assert_eq!(record.get("would_deny"), None, "{record}");
    let unnamed = connect(daemon.proxy_addr(), "unknown.example:443", &[]).await;
    let record = refusal::refused_again(&mut daemon, unnamed, "destination_denied", 2).await;
    assert_eq!(record["would_deny"], "host_denied", "{record}");
    assert_eq!(reported(&daemon).await, [1.0, 0.0, 0.0]);
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn enforce_mode_reports_nothing() {
    for mode in ["", "mode = \"enforce\""] {
        let (upstream, mut daemon) = start(mode).await;
        let reply = connect(daemon.proxy_addr(), "unknown.example:443", &[]).await;
        let record = refused(&mut daemon, reply, "host_denied").await;
        assert_eq!(record.get("would_deny"), None, "{record}");
        let nameless = MadeHello::bare().versions(&[0x0304]).bytes();
        for (hello, code) in [
            (MadeHello::naming("evil.example").bytes(), "sni_mismatch"),
            (nameless, "sni_missing"),
        ] {
            let mut client = established(&daemon, &upstream).await;
            send(&mut client, &hello).await;
            assert_eq!(read_to_end(&mut client).await, UNRECOGNIZED_NAME, "{code}");
            let record = daemon.tunnel_record().await;
            assert_eq!(
                (&record["code"], record.get("would_deny")),
                (&code.into(), None),
                "{record}"
            );
        }
        assert_eq!(reported(&daemon).await, [0.0; 3]);
        assert!(
            !daemon.log_text().contains("report"),
            "{}",
            daemon.log_text()
        );
    }
}

#[tokio::test]
async fn a_reload_from_report_to_enforce_refuses_the_next_tunnel() {
    let (upstream, mut daemon) = start(REPORT).await;
    let reporting = daemon
        .line("the start", |line| line["event"] == "start")
        .await["policy"]
        .clone();
    warned(&daemon, 1).await;
    let mut live = established(&daemon, &upstream).await;
    let mut served = upstream.accept().await;
    let hello = MadeHello::naming("evil.example").bytes();

    let reload = daemon.reload(&Config::to(upstream.addr()).to_toml()).await;
    assert_eq!(reload["result"], "ok", "{reload}");
    assert_eq!(
        (&reload["policy_before"], reload["policy"] == reporting),
        (&reporting, false),
        "{reload}"
    );
    assert_eq!(warnings(&daemon), 1, "{}", daemon.log_text());
    let mut next = established(&daemon, &upstream).await;
    send(&mut next, &hello).await;
    assert_eq!(read_to_end(&mut next).await, UNRECOGNIZED_NAME);
    assert_eq!(daemon.tunnel_record().await["code"], "sni_mismatch");
    // A tunnel keeps the configuration of its accept.
    pass(&mut live, &mut served, &hello).await;

    let again = daemon
        .reload(&Config::to(upstream.addr()).policy(REPORT).to_toml())
        .await;
    assert_eq!(again["policy"], reporting, "{again}");
    warned(&daemon, 2).await;
}

#[tokio::test]
async fn check_warns_that_names_are_only_reported() {
    let (directory, dns) = (
        tempfile::tempdir().unwrap(),
        Dns::start(Say::addresses(&["203.0.113.9"], 60)).await,
    );
    for (mode, warned) in [("", false), (REPORT, true)] {
        let file = directory.path().join("sealway.toml");
        std::fs::write(
            &file,
            Config::closed()
                .policy(mode)
                .section(&dns.section("2s"))
                .to_toml(),
        )
        .unwrap();
        let checked = sealway(&["check", "--config", file.to_str().unwrap()]).await;
        assert!(
            checked.status == 0 && checked.stdout.starts_with("ok: "),
            "{checked:?}"
        );
        let warning = checked
            .stderr
            .starts_with("sealway: warning: policy.mode is \"report\"");
        assert_eq!(
            (warning, checked.stderr.is_empty()),
            (warned, !warned),
            "{checked:?}"
        );
    }
}

/// An upstream, and a daemon that may reach it as [`HOST`], with these lines of `[policy]`.
async fn start(policy: &str) -> (RawUpstream, Daemon) {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr()).policy(policy)).await;
    (upstream, daemon)
}

async fn established(daemon: &Daemon, upstream: &RawUpstream) -> TcpStream {
    connect(daemon.proxy_addr(), &upstream.authority(), &[])
        .await
        .established()
}

/// Each hello must arrive unchanged; all except the last get a retry. Returns the record of the
/// tunnel.
async fn passes(
    daemon: &mut Daemon,
    mut client: TcpStream,
    upstream: &RawUpstream,
    hellos: &[Vec<u8>],
) -> Value {
    let mut served = upstream.accept().await;
    for (nth, hello) in hellos.iter().enumerate() {
        pass(&mut client, &mut served, hello).await;
        let answer = if nth + 1 == hellos.len() {
            MadeAnswer::tls13()
        } else {
            MadeAnswer::retry()
        };
        pass(&mut served, &mut client, &answer.bytes()).await;
    }
    pass(&mut client, &mut served, b"up").await;
    pass(&mut served, &mut client, b"down").await;
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut served).await, b"");
    drop(served);
    assert_eq!(read_to_end(&mut client).await, b"");
    let record = daemon.tunnel_record().await;
    assert_eq!(
        (&record["outcome"], &record["code"]),
        (&"allowed".into(), &"closed_by_client".into()),
        "{record}"
    );
    record
}

/// `sealway_would_deny_total` for each code.
async fn reported(daemon: &Daemon) -> [f64; 3] {
    let mut counted = [0.0; 3];
    for (count, code) in counted
        .iter_mut()
        .zip(["host_denied", "sni_missing", "sni_mismatch"])
    {
        let series = format!("sealway_would_deny_total{{code=\"{code}\"}}");
        *count = daemon
            .metric(&series)
            .await
            .unwrap_or_else(|| panic!("no series {series}"));
    }
    counted
}

/// Waits until the log has this many warnings of report mode.
async fn warned(daemon: &Daemon, times: usize) {
    wait_until("a warning of report mode", async || {
        warnings(daemon) >= times
    })
    .await;
    assert_eq!(warnings(daemon), times, "{}", daemon.log_text());
}

/// The number of warnings of report mode in the log.
fn warnings(daemon: &Daemon) -> usize {
    let log = daemon.log_text();
    log.lines()
        .filter(|line| line.contains("\"WARN\"") && line.contains("policy.mode is"))
        .count()
}

fn below_the_floor(name: &str) -> Vec<u8> {
    MadeHello::bare()
        .server_names(&[(HOST_NAME, name)])
        .versions(&[0x0302, 0x0301])
        .bytes()
}

/// An encrypted_client_hello in the form that a client sends (RFC 9849, section 5).
fn ech_outer() -> Vec<u8> {
    [&[0, 0, 1, 0, 1, 7, 0, 32][..], &[9; 32], &[0, 16], &[9; 16]].concat()
}

const REPORT: &str = "mode = \"report\"";
const ACCESS_DENIED: &[u8] = &[21, 3, 3, 0, 2, 2, 49];
const DECODE_ERROR: &[u8] = &[21, 3, 3, 0, 2, 2, 50];
const PROTOCOL_VERSION: &[u8] = &[21, 3, 3, 0, 2, 2, 70];
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
