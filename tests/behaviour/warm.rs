//! Warm upstream sockets (`dial.warm`): a tunnel to a busy name finds a connection that is open already. None of them
//! outlives a reload, a drain or the egress address, and a client does not notice when the upstream has closed one.

mod ends;
mod front_end;
mod many;
mod redial;
mod resent;

use std::net::SocketAddr;

use serde_json::{Value, json};
use support::HOST;
use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::wait_until;
use tokio::net::TcpStream;

use front_end::{Conduct, FrontEnd, greet};

/// A daemon with warm sockets to `upstream`.
fn config(upstream: SocketAddr, warm: usize) -> Config {
    Config::to(upstream).section(&format!("[dial]\nwarm = {warm}"))
}

fn authority(upstream: SocketAddr) -> String {
    format!("{HOST}:{}", upstream.port())
}

/// Opens a tunnel and exchanges the greetings.
async fn tunnel(daemon: &Daemon, upstream: SocketAddr) -> TcpStream {
    let reply = connect(daemon.proxy_addr(), &authority(upstream), &[]).await;
    let mut client = reply.established();
    greet(&mut client).await.expect("the answer to the hello");
    client
}

/// Opens a tunnel, ends it, and returns its record.
async fn visit(daemon: &mut Daemon, upstream: SocketAddr) -> Value {
    drop(tunnel(daemon, upstream).await);
    daemon.tunnel_record().await
}

/// Makes the name busy and waits until `sockets` are warm.
async fn warm_up(daemon: &mut Daemon, upstream: &FrontEnd, sockets: usize) {
    for _ in 0..3 {
        let record = visit(daemon, upstream.address).await;
        assert_eq!(record.get("warm"), None, "{record}");
    }
    upstream.until_accepted(3 + sockets).await;
    assert_eq!(metric(daemon, "sealway_warm_open").await, sockets);
}

async fn metric(daemon: &Daemon, series: &str) -> usize {
    daemon
        .metric(series)
        .await
        .unwrap_or_else(|| panic!("{series}")) as usize
}

async fn closed(daemon: &Daemon, reason: &str) -> usize {
    metric(
        daemon,
        &format!("sealway_warm_closed_total{{reason={reason:?}}}"),
    )
    .await
}

async fn dials(daemon: &Daemon, result: &str) -> usize {
    metric(
        daemon,
        &format!("sealway_warm_dials_total{{result={result:?}}}"),
    )
    .await
}

/// Each socket that was opened is used, closed or open. A page may show a socket on its way from one to the other, so the
/// sums agree on some page.
async fn assert_sums_agree(daemon: &Daemon) {
    wait_until("sums that agree", async || {
        let page = daemon.admin_get("/metrics").await.1;
        let [mut ends, mut opened] = [0.0; 2];
        for line in page.lines() {
            let Some((series, Ok(value))) =
                line.rsplit_once(' ').map(|(a, b)| (a, b.parse::<f64>()))
            else {
                continue;
            };
            match series {
                "sealway_warm_opened_total" => opened = value,
                "sealway_warm_open" | "sealway_warm_dials_total{result=\"hit\"}" => ends += value,
                _ if series.starts_with("sealway_warm_closed_total{") => ends += value,
                _ => {}
            }
        }
        ends == opened
    })
    .await;
}

#[tokio::test]
async fn no_socket_is_warm_by_default() {
    for section in ["", "[dial]\nwarm = 0"] {
        let upstream = FrontEnd::start("127.0.0.1:0", |_| Conduct::Serve).await;
        let config = Config::to(upstream.address).section(section);
        let mut daemon = Daemon::start(&config).await;
        for _ in 0..6 {
            let record = visit(&mut daemon, upstream.address).await;
            assert!(
                record["connect_ms"].is_number() && record.get("warm").is_none(),
                "{record}"
            );
        }
        assert_eq!(upstream.accepted(), 6);
        for series in ["sealway_warm_opened_total", "sealway_warm_open"] {
            assert_eq!(metric(&daemon, series).await, 0, "{series}");
        }
        assert_eq!(
            [dials(&daemon, "hit").await, dials(&daemon, "miss").await],
            [0, 0]
        );
        let status: Value = serde_json::from_str(&daemon.admin_get("/status").await.1).unwrap();
        assert_eq!(status["warm"], Value::Null);
    }
}

#[tokio::test]
async fn a_tunnel_to_a_busy_name_uses_a_warm_socket() {
    for (bind, egress) in [("127.0.0.1:0", "127.0.0.2"), ("[::1]:0", "::1")] {
        let upstream = FrontEnd::start(bind, |_| Conduct::Serve).await;
        let config = config(upstream.address, 2).egress(&[egress]);
        let mut daemon = Daemon::start(&config).await;
        warm_up(&mut daemon, &upstream, 2).await;
        // Two warm ones and no tunnel: two ports and two descriptors.
        let ports = format!("sealway_egress_ports_in_use{{address={egress:?}}}");
        assert_eq!(metric(&daemon, &ports).await, 2);
        assert_eq!(metric(&daemon, "sealway_tunnels_active").await, 0);

        let record = visit(&mut daemon, upstream.address).await;
        assert_eq!(
            (
                &record["warm"],
                record.get("connect_ms"),
                record.get("redialled")
            ),
            (&json!(true), None, None),
            "{record}"
        );
        assert_eq!(record["code"], "closed_by_client", "{record}");
        assert_eq!(record["upstream"], upstream.address.to_string());
        // The hello went over one of the two; another replaces it.
        upstream.until_accepted(6).await;
        assert_eq!(upstream.spoken_to(), 4);
        let connections = upstream.connections();
        assert!(
            connections
                .iter()
                .all(|one| one.peer.map(|peer| peer.ip()) == egress.parse().ok())
        );
        assert_eq!(dials(&daemon, "hit").await, 1);
        assert_sums_agree(&daemon).await;
        let status: Value = serde_json::from_str(&daemon.admin_get("/status").await.1).unwrap();
        let wanted =
            json!({ "max": 2, "open": 2, "opened": 3, "hits": 1, "misses": 0, "redials": 0 });
        assert_eq!(status["warm"], wanted);
    }
}

/// A tunnel with a warm socket counts for the demand as one that was dialled: more than may be opened for one tunnel.
#[tokio::test]
async fn each_of_many_tunnels_in_turn_finds_a_warm_socket() {
    let upstream = FrontEnd::start("127.0.0.1:0", |_| Conduct::Serve).await;
    let mut daemon = Daemon::start(&config(upstream.address, 2)).await;
    warm_up(&mut daemon, &upstream, 2).await;
    for nth in 1..=10 {
        let record = visit(&mut daemon, upstream.address).await;
        assert_eq!(record["warm"], json!(true), "{nth}: {record}");
        upstream.until_accepted(5 + nth).await;
    }
    assert_eq!(
        [dials(&daemon, "hit").await, dials(&daemon, "miss").await],
        [10, 0]
    );
    assert_sums_agree(&daemon).await;
}

/// A warm socket gets no byte of a client whose hello is refused.
#[tokio::test]
async fn a_refused_hello_does_not_reach_a_warm_socket() {
    use tokio::io::AsyncWriteExt;
    let upstream = FrontEnd::start("127.0.0.1:0", |_| Conduct::Serve).await;
    let other = "other.example";
    let config = config(upstream.address, 1).host(other, upstream.address);
    let mut daemon = Daemon::start(&config).await;
    warm_up(&mut daemon, &upstream, 1).await;
    // The SNI is HOST. The warm socket is used for whichever name has its address.
    let asked = format!("{other}:{}", upstream.address.port());
    let mut client = connect(daemon.proxy_addr(), &asked, &[])
        .await
        .established();
    let hello = support::hello::Recorded::named("curl-openssl").bytes;
    client.write_all(&hello).await.expect("send the hello");
    let record = daemon.tunnel_record().await;
    assert_eq!(
        (&record["code"], &record["warm"]),
        (&json!("sni_mismatch"), &json!(true)),
        "{record}"
    );
    wait_until("the reset of the warm one", async || {
        upstream.connections()[3].is_over
    })
    .await;
    assert!(upstream.connections()[3].bytes.is_empty() && upstream.connections()[3].was_reset);
}

/// A user with its own egress address gets no socket of another source.
#[tokio::test]
async fn a_warm_socket_is_used_from_its_own_source_only() {
    use support::users::{basic, start_with_users, user};
    let upstream = FrontEnd::start("127.0.0.1:0", |_| Conduct::Serve).await;
    let config = config(upstream.address, 2).egress(&["127.0.0.3", "127.0.0.4"]);
    let users = user("a", "first-secret-first-secret", "egress = [\"127.0.0.3\"]")
        + &user(
            "b",
            "second-secret-second-secret",
            "egress = [\"127.0.0.4\"]",
        );
    let mut daemon = start_with_users(config, &users, "").await;
    let visit = async |daemon: &mut Daemon, name: &str, secret: &str| {
        let header = [("Proxy-Authorization", &*basic(name, secret))];
        let reply = connect(daemon.proxy_addr(), &authority(upstream.address), &header).await;
        let mut client = reply.established();
        greet(&mut client).await.expect("the answer to the hello");
        drop(client);
        daemon.tunnel_record().await
    };
    // First the user of the second source, so that "the first source" is wrong too. The second user's name is busy already.
    let users = [
        ("b", "second-secret-second-secret", "127.0.0.4:", 3),
        ("a", "first-secret-first-secret", "127.0.0.3:", 1),
    ];
    let mut accepted = 0;
    let egress = |record: &Value| record["egress"].as_str().unwrap().to_string();
    for (name, secret, source, dialled) in users {
        for _ in 0..dialled {
            let record = visit(&mut daemon, name, secret).await;
            assert_eq!(record.get("warm"), None, "{record}");
            assert!(egress(&record).starts_with(source), "{record}");
        }
        // Its tunnels, and two sockets of its source.
        accepted += dialled + 2;
        upstream.until_accepted(accepted).await;
        let record = visit(&mut daemon, name, secret).await;
        assert_eq!(record["warm"], json!(true), "{record}");
        assert!(egress(&record).starts_with(source), "{record}");
        // Another socket replaces the one that was used.
        accepted += 1;
        upstream.until_accepted(accepted).await;
    }
}
