//! `/status` equals the metrics, the audit records and the configuration, shows nothing to
//! strangers, and off loopback nothing without the token. Some tests create a network namespace.

use std::net::SocketAddr;

use serde_json::{Value, json};
use support::client::{connect, connect_head, dial, read_reply};
use support::command;
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{in_own_network, run};
use support::raw::{RawUpstream, Tunnel, pass};
use support::users;
use support::users::{basic, start_with_users, user};
use support::{HOST, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn the_status_equals_the_metrics() {
    let upstream = RawUpstream::start().await;
    let folks = [
        user("alice", "secret", "tunnels = 7"),
        user("bob", "secret", ""),
    ]
    .concat();
    let daemon = start_with_users(Config::to(upstream.addr()), &folks, "").await;
    let fresh = status(&daemon).await;
    assert_eq!(fresh["tunnels"]["active"], 0);
    assert_eq!(
        (&fresh["denials"], &fresh["refusals"], &fresh["last_reload"]),
        (&json!([]), &json!([]), &Value::Null)
    );
    assert_eq!(
        fresh["users"],
        json!({"configured": 2, "active": 0, "busiest": []})
    );

    let as_alice = [("Proxy-Authorization", basic("alice", "secret"))]
        .map(|(name, value)| (name, value.leak() as &str));
    let as_bob = [("Proxy-Authorization", basic("bob", "secret"))]
        .map(|(name, value)| (name, value.leak() as &str));
    let mut first = Tunnel::open_with(&daemon, &upstream, &as_alice).await;
    let _second = Tunnel::open_with(&daemon, &upstream, &as_alice).await;
    let third = Tunnel::open_with(&daemon, &upstream, &as_bob).await;
    pass(&mut first.client, &mut first.upstream, &[1; 50_000]).await;
    pass(&mut first.upstream, &mut first.client, &[1; 70_000]).await;
    third.close().await;
    connect(daemon.proxy_addr(), "evil.example:443", &as_alice).await;
    connect(daemon.proxy_addr(), "evil.example:443", &as_alice).await;
    connect(daemon.proxy_addr(), &upstream.authority(), &[]).await;
    daemon
        .metric_until(
            "sealway_tunnels_closed_total{code=\"closed_by_client\"}",
            |closed| closed == 1.0,
        )
        .await;
    daemon
        .metric_until("sealway_tunnel_bytes_total{direction=\"down\"}", |bytes| {
            bytes > 70_000.0
        })
        .await;

    let said = status(&daemon).await;
    assert_eq!(
        (&said["version"], &said["revision"]),
        (&json!(sealway::VERSION), &json!(sealway::REVISION))
    );
    assert!(
        said["uptime_seconds"].as_f64().unwrap() > 0.0
            && said["ts"].as_str().unwrap().ends_with('Z'),
        "{said}"
    );
    assert_eq!(said["not_ready"], json!([]));
    for (pointer, series) in [
        ("/tunnels/active", "sealway_tunnels_active"),
        ("/tunnels/max", "sealway_tunnels_max"),
        ("/totals/opened", "sealway_tunnels_opened_total"),
        (
            "/totals/closed",
            "sealway_tunnels_closed_total{code=\"closed_by_client\"}",
        ),
        (
            "/totals/bytes_up",
            "sealway_tunnel_bytes_total{direction=\"up\"}",
        ),
        (
            "/totals/bytes_down",
            "sealway_tunnel_bytes_total{direction=\"down\"}",
        ),
        (
            "/totals/bytes_spliced",
            "sealway_relayed_bytes_total{path=\"splice\"}",
        ),
        (
            "/totals/bytes_copied",
            "sealway_relayed_bytes_total{path=\"copy\"}",
        ),
        (
            "/egress/0/ports_in_use",
            "sealway_egress_ports_in_use{address=\"127.0.0.2\"}",
        ),
        (
            "/egress/0/ports_busiest",
            "sealway_egress_ports_busiest{address=\"127.0.0.2\"}",
        ),
        ("/egress_ports_max", "sealway_egress_ports_max"),
    ] {
        assert_eq!(
            said.pointer(pointer).and_then(Value::as_f64),
            daemon.metric(series).await,
            "{pointer}: {said}"
        );
    }
    let egress = &said["egress"][0];
    assert_eq!(
        (&egress["address"], &egress["up"]),
        (&json!("127.0.0.2"), &json!(true))
    );
    assert_eq!(egress["not_global"], "loopback (RFC 1122)");
    let bytes = daemon
        .metric("sealway_user_bytes_total{user=\"alice\"}")
        .await
        .unwrap() as u64;
    assert!(bytes > 1_000, "{bytes}");
    // Users and totals count the same bytes, those of the handshakes too.
    let of_bob = daemon
        .metric("sealway_user_bytes_total{user=\"bob\"}")
        .await
        .unwrap();
    let up = daemon
        .metric("sealway_tunnel_bytes_total{direction=\"up\"}")
        .await
        .unwrap();
    daemon
        .metric_until("sealway_tunnel_bytes_total{direction=\"down\"}", |down| {
            up + down == bytes as f64 + of_bob
        })
        .await;
    let busiest = json!([{"name": "alice", "tunnels": 2, "tunnels_max": 7, "bytes": bytes}]);
    assert_eq!(
        said["users"],
        json!({"configured": 2, "active": 1, "busiest": busiest})
    );
    assert_eq!(
        (&said["totals"]["denied"], &said["denials_minutes"]),
        (&json!(3), &json!(15))
    );
    let denials = json!([
        {"code": "host_denied", "recent": 2, "total": 2, "cause": "no preset and no rule allows this host, or none of the user's rules does",
         "cure": "ask the operator to add it to policy.allow"},
        {"code": "auth_required", "recent": 1, "total": 1, "cause": "credentials are required",
         "cure": "put them into the proxy URL, http://NAME:SECRET@HOST:PORT"},
    ]);
    assert_eq!(said["denials"], denials);
}

#[tokio::test]
async fn the_last_refusals_equal_their_audit_records() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    Tunnel::open(&daemon, &upstream).await.close().await;
    let (mut records, mut clients) = (vec![], 0);
    // About three dozen of each code, each from a client of its own.
    for number in 0..108_u8 {
        let authority = match number % 3 {
            0 => format!("evil{number}.example:443"),
            1 => format!("{HOST}:{}", 1_000 + u16::from(number)),
            _ => "\u{1b}[31m bad".to_owned(),
        };
        refused_from([127, 0, 0, 3 + number], daemon.proxy_addr(), &authority).await;
        clients += 1;
    }
    while records.len() < clients {
        let record = daemon.tunnel_record().await;
        if record["outcome"] == "denied" {
            records.push(record);
        }
    }
    let said = status(&daemon).await;
    let refusals = said["refusals"].as_array().unwrap();
    // Each code keeps its newest 32.
    assert_eq!(refusals.len(), 3 * 32, "{said}");
    let fields = [
        "ts", "id", "outcome", "code", "client", "user", "host", "port", "sni", "error",
    ];
    let known = |record: &Value| -> Value {
        let kept = fields.iter().filter(|field| !record[**field].is_null());
        let kept = kept.map(|field| ((*field).to_owned(), record[*field].clone()));
        kept.chain([("count".to_owned(), json!(1))])
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    // Two workers may end two attempts in either order.
    for code in ["host_denied", "port_denied", "bad_request"] {
        let newest = records
            .iter()
            .filter(|record| record["code"] == code)
            .map(known)
            .rev()
            .take(31)
            .collect::<Vec<_>>();
        assert!(
            newest.len() == 31 && newest.iter().all(|record| refusals.contains(record)),
            "{code}: {said}"
        );
    }
    let at = |refusal: Option<&Value>| refusal.unwrap()["ts"].to_string();
    assert!(
        at(refusals.first()) > at(refusals.last()),
        "the newest first: {said}"
    );
    every_field_stands_in_the_reference(&said);
}

async fn refused_from(client: [u8; 4], proxy: SocketAddr, authority: &str) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((client, 0).into()).unwrap();
    let mut stream = soon("a connection", socket.connect(proxy)).await.unwrap();
    stream
        .write_all(connect_head(authority, &[]).as_bytes())
        .await
        .unwrap();
    assert!(read_reply(stream).await.status() >= 400);
}

/// Also those of a refusal, a user and a denial.
fn every_field_stands_in_the_reference(said: &Value) {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference.md")).unwrap();
    let section = page
        .split("\n### Status\n")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let mut seen = 0;
    let mut left = vec![said];
    while let Some(value) = left.pop() {
        left.extend(value.as_array().into_iter().flatten());
        for (key, value) in value.as_object().into_iter().flatten() {
            assert!(
                section.contains(&format!("`{key}`")),
                "{key} does not stand in docs/reference.md"
            );
            left.push(value);
            seen += 1;
        }
    }
    assert!(seen > 100, "{said}");
}

#[tokio::test]
async fn a_refused_reload_is_shown_until_one_succeeds() {
    let mut daemon = Daemon::start(&Config::closed()).await;
    let before = status(&daemon).await["policy"]["hash"].clone();
    for wrong in ["[limits]\ntunels = 5\n", "[policy\n"] {
        let record = daemon.reload(&(Config::closed().to_toml() + wrong)).await;
        let said = status(&daemon).await;
        let reload = &said["last_reload"];
        assert_eq!(
            (&reload["result"], &reload["error"]),
            (&json!("failed"), &record["error"]),
            "{said}"
        );
        assert_eq!(
            (&said["policy"]["hash"], &said["policy"]["mode"]),
            (&before, &json!("enforce"))
        );
    }
    let allowing = Config::closed()
        .allow("a.example")
        .policy("mode = \"report\"")
        .to_toml();
    let record = daemon.reload(&allowing).await;
    let said = status(&daemon).await;
    assert_eq!(
        said["last_reload"],
        json!({"ts": said["last_reload"]["ts"], "result": "ok"})
    );
    assert_eq!(
        said["policy"],
        json!({"hash": record["policy"], "mode": "report"})
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn the_status_shows_a_lost_address() {
    in_own_network("the_status_shows_a_lost_address", async {
        run("ip address add 192.0.2.7/32 dev lo");
        let daemon = Daemon::start(&Config::closed().egress(&["192.0.2.7"])).await;
        assert_eq!(status(&daemon).await["not_ready"], json!([]));
        run("ip address del 192.0.2.7/32 dev lo");
        let lost = async {
            loop {
                let said = status(&daemon).await;
                if said["egress"][0]["up"] == false {
                    return said;
                }
                support::tick().await;
            }
        };
        let said = soon("the loss", lost).await;
        assert_eq!(
            said["not_ready"],
            json!(["egress address missing: 192.0.2.7"])
        );
        assert_eq!(said["egress"][0]["not_global"], "documentation (RFC 5737)");
    });
}

#[tokio::test]
async fn without_a_token_requests_by_name_are_refused() {
    let daemon = Daemon::start(&Config::closed()).await;
    let own = daemon.admin_addr();
    for host in [
        own.to_string(),
        format!("localhost:{}", own.port()),
        "127.0.0.1".to_owned(),
        "[::1]:80".to_owned(),
    ] {
        for path in ["/status", "/metrics", "/", "/readyz", "/healthz"] {
            assert_eq!(
                ask(own, path, &[("Host", &host)]).await.0,
                200,
                "{host} {path}"
            );
        }
    }
    for host in [
        "rebound.example",
        &format!("rebound.example:{}", own.port()),
        "127.0.0.1.rebound.example",
        "",
    ] {
        for path in ["/status", "/metrics", "/", "/readyz", "/healthz", "/none"] {
            let (status, head, body) = ask(
                own,
                path,
                &[("Host", host), ("Origin", "http://rebound.example")],
            )
            .await;
            assert_eq!(status, 421, "{host} {path}");
            assert!(
                !body.contains("sealway_") && !body.contains("127.0.0.2"),
                "{body}"
            );
            assert!(!head.to_lowercase().contains("access-control"), "{head}");
        }
    }
    let absolute = "http://rebound.example/status";
    assert_eq!(
        ask(own, absolute, &[("Host", &own.to_string())]).await.0,
        421
    );
}

#[tokio::test]
async fn every_response_forbids_caching_framing_and_sniffing() {
    let daemon = Daemon::start(&Config::closed()).await;
    for path in ["/", "/status", "/metrics", "/healthz", "/readyz", "/none"] {
        let (_, head, body) = ask(daemon.admin_addr(), path, &[("Host", "localhost")]).await;
        let head = head.to_lowercase();
        for line in [
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(
                head.contains(&format!("\r\n{line}\r\n")),
                "{path} has no {line}: {head}"
            );
        }
        let policy = head
            .split("\r\ncontent-security-policy: ")
            .nth(1)
            .unwrap()
            .split("\r\n")
            .next()
            .unwrap();
        assert!(
            policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        if path == "/" {
            assert!(
                head.contains("\r\ncontent-type: text/html; charset=utf-8\r\n"),
                "{head}"
            );
            for part in [
                "script-src 'sha256-",
                "style-src 'sha256-",
                "connect-src 'self'",
                "base-uri 'none'",
                "form-action 'none'",
            ] {
                assert!(policy.contains(part), "{policy}");
            }
            assert!(!policy.contains("unsafe"), "{policy}");
            let elsewhere = body.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !elsewhere.contains("://") && !body.contains("innerHTML"),
                "{body}"
            );
            assert!(
                !body.contains("style=\"") && !body.contains("onclick"),
                "the policy would refuse it"
            );
        }
    }
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
fn off_loopback_every_page_requires_the_token() {
    in_own_network("off_loopback_every_page_requires_the_token", async {
        run("ip address add 192.0.2.1/32 dev lo");
        let directory = users::tempdir();
        users::write(&directory.path().join("token"), &format!("{TOKEN}\n"));
        let config = Config::closed()
            .admin_at("192.0.2.1:0")
            .admin("token_file = \"token\"");
        let config = config.section("[timeouts]\ndrain_delay = \"1m\"");
        let mut daemon = Daemon::start_in(directory, &config).await;
        let own = daemon.admin_addr();
        let (right, other) = (format!("Bearer {TOKEN}"), format!("Bearer {OTHER}"));
        for path in ["/status", "/metrics", "/none"] {
            for shown in [
                None,
                Some("Bearer"),
                Some(other.as_str()),
                Some(&right[..right.len() - 1]),
            ] {
                let headers: Vec<_> = shown
                    .map(|shown| ("Authorization", shown))
                    .into_iter()
                    .chain([("Host", "x")])
                    .collect();
                let (status, head, body) = ask(own, path, &headers).await;
                assert_eq!(status, 401, "{path} {shown:?}");
                assert!(
                    head.to_lowercase()
                        .contains("\r\nwww-authenticate: bearer realm=\"sealway\"\r\n"),
                    "{head}"
                );
                assert!(body.len() < 100 && !body.contains("ready"), "{body}");
            }
        }
        for (path, wanted) in [
            ("/status", 200),
            ("/metrics", 200),
            ("/readyz", 200),
            ("/none", 404),
        ] {
            let headers = [("Authorization", right.as_str()), ("Host", "proxy.example")];
            assert_eq!(ask(own, path, &headers).await.0, wanted, "{path}");
        }
        for path in ["/", "/healthz", "/readyz"] {
            assert_eq!(
                ask(own, path, &[("Host", "proxy.example")]).await.0,
                200,
                "{path}"
            );
        }
        // A leaked token is replaced without a restart, and it cannot be removed while the listener
        // is reachable.
        users::write(&daemon.path("token"), OTHER);
        daemon.reload(&config.to_toml()).await;
        assert_eq!(
            ask(own, "/status", &[("Authorization", &right)]).await.0,
            401
        );
        assert_eq!(
            ask(own, "/status", &[("Authorization", &other)]).await.0,
            200
        );
        let record = daemon.reload(&Config::closed().to_toml()).await;
        assert_eq!(record["result"], "failed", "{record}");
        assert_eq!(ask(own, "/status", &[]).await.0, 401);
        assert!(!daemon.log_text().contains(TOKEN) && !daemon.log_text().contains(OTHER));
        // A probe learns without the token whether the daemon is ready, and with it the reasons.
        daemon.signal("TERM");
        soon("a daemon that drains", async {
            while ask(own, "/readyz", &[]).await.0 == 200 {}
        })
        .await;
        assert!(ask(own, "/readyz", &[]).await.2.ends_with("not ready\n"));
        assert!(
            ask(own, "/readyz", &[("Authorization", &other)])
                .await
                .2
                .ends_with("draining\n")
        );
    });
}

#[tokio::test]
async fn run_refuses_an_admin_address_off_loopback_without_a_token() {
    let directory = users::tempdir();
    users::write(&directory.path().join("token"), "tooshort");
    users::write(&directory.path().join("open"), TOKEN);
    std::fs::set_permissions(
        directory.path().join("open"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let cases = [
        ("", "admin.address"),
        ("token_file = \"token\"", "admin.token_file"),
        ("token_file = \"open\"", "admin.token_file"),
    ];
    for (line, key) in cases {
        let file = directory.path().join("sealway.toml");
        std::fs::write(
            &file,
            Config::closed().admin_at("0.0.0.0:0").admin(line).to_toml(),
        )
        .unwrap();
        for command in ["run", "check"] {
            let ended = command::sealway(&[command, "--config", file.to_str().unwrap()]).await;
            assert_eq!(ended.status, 78, "{ended:?}");
            assert!(
                ended.stderr.contains(key) && !ended.stderr.contains(TOKEN),
                "{ended:?}"
            );
        }
    }
    let ended = command::sealway(&["run", "--admin", "0.0.0.0:0"]).await;
    assert!(
        ended.status == 78 && ended.stderr.contains("--admin: "),
        "{ended:?}"
    );
}

async fn status(daemon: &Daemon) -> Value {
    let (status, body) = daemon.admin_get("/status").await;
    assert_eq!(status, 200);
    serde_json::from_str(&body).unwrap()
}

/// The status, head and body of a page, for a request with these headers only.
async fn ask(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let mut stream = dial(address).await;
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    stream
        .write_all(
            format!("GET {target} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").as_bytes(),
        )
        .await
        .unwrap();
    let mut answer = String::new();
    soon(target, stream.read_to_string(&mut answer))
        .await
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status");
    (status, format!("{head}\r\n"), body.to_owned())
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210";
