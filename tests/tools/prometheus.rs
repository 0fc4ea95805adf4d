//! A real Prometheus scrapes the real daemon while tunnels open, end and are refused: promtool
//! accepts `deploy/prometheus` and `deploy/grafana`, their expressions have data, and the alert
//! fires. Needs the Debian package `prometheus`.

use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use support::client::{connect, connect_head, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::monitoring::{ALERTS, CONFIG, RECORDING, TESTS, alerts, panels, records};
use support::prometheus::{Prometheus, promtool};
use support::tls::TlsUpstream;
use support::users;
use support::users::{basic, user, with_users, write};
use support::{HOST, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsConnector, client, server};

#[tokio::test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs prometheus and promtool"
)]
async fn promtool_accepts_metrics_rules_and_configuration() {
    let place = Place::start().await;
    let (status, page) = place.daemon.admin_get("/metrics").await;
    assert_eq!(status, 200);
    assert_eq!(
        promtool(&["check", "metrics"], &page),
        "",
        "no advice is left"
    );
    let said = promtool(&["check", "rules", RECORDING, ALERTS], "");
    let counted = |count: usize| said.contains(&format!("SUCCESS: {count} rules found"));
    assert!(
        counted(records().len()) && counted(alerts().len()),
        "not as many as were read here: {said}"
    );
    promtool(&["check", "config", CONFIG], "");
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs prometheus and promtool"
)]
fn every_alert_fires_in_time_and_not_early() {
    promtool(&["test", "rules", TESTS], "");
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs prometheus and promtool"
)]
async fn every_expression_has_data_and_the_alert_fires() {
    let mut place = Place::start().await;
    let prometheus = Prometheus::start(place.daemon.admin_addr()).await;
    // Counters must be scraped before they grow.
    prometheus
        .until(
            "count_over_time(sealway_tunnels_opened_total[1m]) > 1",
            |seen| !seen.is_empty(),
        )
        .await;
    prometheus
        .until("instance:sealway_ready:bool", |ready| {
            ready.len() == 1 && ready[0].1 == 1.0
        })
        .await;
    // Whether this machine's clock is synchronised does not matter here.
    let alarms = prometheus
        .query("ALERTS{alertname!=\"SealwayClockUnsynchronised\"}")
        .await;
    assert!(
        alarms.is_empty(),
        "an alarm before there was anything: {alarms:?}"
    );
    let _open = place.traffic().await;

    for (record, expression) in records() {
        has_data(&prometheus, &record, &expression, &record).await;
    }
    for panel in panels() {
        for target in panel["targets"].as_array().unwrap() {
            has_data(
                &prometheus,
                panel["title"].as_str().unwrap(),
                target["expr"].as_str().unwrap(),
                "",
            )
            .await;
        }
    }
    all_rules_are_evaluated(&prometheus).await;

    // These alerts fire at once; the others take the minutes that tests/prometheus/alerts.test.yml
    // gives them.
    prometheus
        .until(&firing("SealwayAuthLockouts"), |alert| alert.len() == 1)
        .await;
    assert_eq!(
        place.daemon.reload("no_such_key = 1").await["result"],
        "failed"
    );
    prometheus
        .until(&firing("SealwayReloadFailed"), |alert| alert.len() == 1)
        .await;
    assert!(prometheus.query(&firing("SealwayDown")).await.is_empty());
    place.daemon.signal("TERM");
    // Two pending signals of one number are one signal.
    place
        .daemon
        .line("draining", |line| line["message"] == "draining")
        .await;
    place.daemon.signal("TERM");
    assert!(place.daemon.exit_status().await.success());
    let pending = "ALERTS{alertname=\"SealwayDown\", severity=\"critical\", job=\"sealway\"}";
    prometheus.until(pending, |alert| alert.len() == 1).await;
    prometheus
        .until("instance:sealway_ready:bool", |ready| {
            ready.len() == 1 && ready[0].1 == 0.0
        })
        .await;
}

/// The query that Grafana would send.
async fn has_data(prometheus: &Prometheus, what: &str, expression: &str, recorded: &str) {
    let asked = expression
        .replace("$__rate_interval", "1m")
        .replace("$instance", ".*");
    assert!(
        !asked.contains('$'),
        "{what}: a variable that is not known: {asked}"
    );
    prometheus
        .until(&asked, |samples| !samples.is_empty())
        .await;
    if !recorded.is_empty() {
        prometheus
            .until(recorded, |samples| !samples.is_empty())
            .await;
    }
}

/// Prometheus itself reports of each rule whether it could be evaluated.
async fn all_rules_are_evaluated(prometheus: &Prometheus) {
    let answer = prometheus.get("/api/v1/rules").await;
    let groups = answer["data"]["groups"].as_array().unwrap();
    let rules: Vec<_> = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert_eq!(rules.len(), records().len() + alerts().len());
    for rule in rules {
        assert_eq!(
            (&rule["health"], &rule["lastError"]),
            (&"ok".into(), &serde_json::Value::Null),
            "{rule}"
        );
    }
}

fn firing(alert: &str) -> String {
    format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}")
}

/// A daemon with users, destination ranges and a low bound on guessed credentials, before a real
/// TLS upstream.
struct Place {
    daemon: Daemon,
    upstream: TlsUpstream,
}

type Session = (client::TlsStream<TcpStream>, server::TlsStream<TcpStream>);

impl Place {
    async fn start() -> Place {
        let upstream = TlsUpstream::start(&TLS13, &[]).await;
        let directory = users::tempdir();
        write(
            &directory.path().join("users.toml"),
            &user("alice", "one", ""),
        );
        std::fs::write(directory.path().join("ranges.txt"), "203.0.113.0/24\n").unwrap();
        let config = Config::to(upstream.addr()).policy("destination_ranges = \"ranges.txt\"");
        let daemon = Daemon::start_in(directory, &with_users(config, "lockout_failures = 2")).await;
        Place { daemon, upstream }
    }

    /// Tunnels that carry bytes and end, one that stays open, refusals before and after the 200,
    /// and a locked address.
    async fn traffic(&self) -> Session {
        for _ in 0..5 {
            let (mut client, mut server) = self.session().await;
            client.shutdown().await.unwrap();
            server.shutdown().await.unwrap();
            let ends = async {
                (
                    client.read_to_end(&mut Vec::new()).await,
                    server.read_to_end(&mut Vec::new()).await,
                )
            };
            let (client_end, server_end) = soon("both ends", ends).await;
            client_end.unwrap();
            server_end.unwrap();
        }
        let proxy = self.daemon.proxy_addr();
        for authority in ["evil.example:443", "203.0.113.9:443"] {
            assert_eq!(
                connect(
                    proxy,
                    authority,
                    &[("Proxy-Authorization", &basic("alice", "one"))]
                )
                .await
                .status(),
                403
            );
        }
        for (guess, code) in ["auth_failed", "auth_failed", "auth_locked", "auth_locked"]
            .into_iter()
            .enumerate()
        {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
            let mut stream = socket.connect(proxy).await.unwrap();
            let credentials = basic("alice", &format!("guess {guess}"));
            let head = connect_head(
                &self.upstream.authority(),
                &[("Proxy-Authorization", &credentials)],
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let status_line = read_reply(stream).await.status_line;
            assert!(status_line.ends_with(&format!("({code})")), "{status_line}");
        }
        let open = self.session().await;
        // The upstream has this one in its queue: the last connection of the test.
        let stream = self.connect().await;
        let other = ServerName::try_from("other.example").unwrap();
        let refused = TlsConnector::from(self.upstream.client()).connect(other, stream);
        assert!(
            soon("the alert", refused).await.is_err(),
            "SNI differs from the CONNECT host"
        );
        open
    }

    async fn connect(&self) -> TcpStream {
        let credentials = basic("alice", "one");
        let headers = [("Proxy-Authorization", credentials.as_str())];
        connect(
            self.daemon.proxy_addr(),
            &self.upstream.authority(),
            &headers,
        )
        .await
        .established()
    }

    /// A TLS session through the tunnel, after one question and its answer.
    async fn session(&self) -> Session {
        let stream = self.connect().await;
        let connector = TlsConnector::from(self.upstream.client());
        let name = ServerName::try_from(HOST).unwrap();
        let (client, (mut server, _)) = tokio::join!(
            async {
                soon("the TLS handshake", connector.connect(name, stream))
                    .await
                    .expect("TLS handshake")
            },
            self.upstream.accept()
        );
        let mut client = client;
        let mut received = [0; 1000];
        client.write_all(&[7; 1000]).await.unwrap();
        soon("the question", server.read_exact(&mut received))
            .await
            .unwrap();
        server.write_all(&[8; 1000]).await.unwrap();
        soon("the answer", client.read_exact(&mut received))
            .await
            .unwrap();
        (client, server)
    }
}
