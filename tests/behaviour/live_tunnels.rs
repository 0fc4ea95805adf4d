//! An operator lists the live tunnels of a running daemon and ends some: what the list shows, which
//! tunnels end and how, which continue, and what the audit records say.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::client::{connect, dial, http_get};
use support::command::{Ended, sealway};
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::raw::{RawUpstream, Tunnel, pass, read_to_reset};
use support::refusal::refused;
use support::soon;
use support::users::{basic, start_with_users, user};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn a_list_shows_each_tunnels_user_and_state() {
    let upstream = RawUpstream::start().await;
    let users = user("alice", "a", "") + &user("bob", "b", "");
    let daemon = start_with_users(Config::to(upstream.addr()), &users, "").await;
    assert_eq!(listed(&daemon).await, Vec::<Value>::new());
    let mut alice = open(&daemon, &upstream, "alice", "a").await;
    let bob = open(&daemon, &upstream, "bob", "b").await;
    pass(&mut alice.client, &mut alice.upstream, &[1; 100_000]).await;
    pass(&mut alice.upstream, &mut alice.client, &[2; 50_000]).await;
    let up = (alice.hello.len() + 100_000) as u64;
    let down = (alice.server_hello.len() + 50_000) as u64;
    let all = until(&daemon, |all| {
        all.len() == 2 && all[0]["bytes_up"] == up && all[0]["bytes_down"] == down
    })
    .await;
    assert_eq!([&all[0]["user"], &all[1]["user"]], ["alice", "bob"]);
    let of = |stream: &tokio::net::TcpStream| stream.local_addr().unwrap().to_string();
    let egress = alice.upstream.peer_addr().unwrap().to_string();
    for (field, wanted) in [
        ("client", of(&alice.client)),
        ("host", support::HOST.to_owned()),
        ("egress", egress),
        ("upstream", upstream.addr().to_string()),
        ("phase", "relaying".to_owned()),
    ] {
        assert_eq!(all[0][field], wanted, "{field}");
    }
    assert_eq!(all[0]["port"], upstream.addr().port());
    let [age, silent] = ["age_seconds", "silent_seconds"].map(|key| all[0][key].as_f64().unwrap());
    assert!(
        0.0 <= silent && silent <= age && age < 60.0,
        "{age} {silent}"
    );
    // It is silent from now on.
    let silent = |of: &Value| of["silent_seconds"].as_f64().unwrap();
    until(&daemon, |all| {
        silent(&all[0]) > 0.3 && silent(&all[0]) <= all[0]["age_seconds"].as_f64().unwrap()
    })
    .await;
    alice.client.shutdown().await.unwrap();
    assert_eq!(
        support::payload::receive(&mut alice.upstream).await.bytes,
        0
    );
    until(&daemon, |all| all[0]["phase"] == "half_closed").await;
    let table = call(&daemon, &["tunnels", "--user", "alice"]).await;
    assert_eq!(
        (table.status, table.stdout.lines().count()),
        (0, 2),
        "{table:?}"
    );
    assert!(table.stdout.contains(&of(&alice.client)) && !table.stdout.contains("bob"));
    for (words, count) in [
        (
            &["tunnels", "--host", "GENERATIVELANGUAGE.googleapis.com."][..],
            3,
        ),
        (&["tunnels", "--host", "googleapis.com"], 1),
        (&["tunnels", "--user", "alice", "--host", "x.example"], 1),
        (&["tunnels", "--user", "Alice"], 1),
    ] {
        let table = call(&daemon, words).await;
        assert_eq!(table.stdout.lines().count(), count, "{words:?} {table:?}");
    }
    let json = call(&daemon, &["tunnels", "--user", "bob", "--json"]).await;
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["tunnels"].as_array().unwrap().len(), 1);
    assert_eq!(json["tunnels"][0]["client"], of(&bob.client));
    alice.upstream.shutdown().await.unwrap();
    bob.close().await;
    until(&daemon, |all| all.is_empty()).await;
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn sealway_end_resets_both_sides_by_id_and_writes_records() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        tunnels.push(Tunnel::open(&daemon, &upstream).await);
    }
    let all = until(&daemon, |all| all.len() == 3).await;
    let ids: Vec<String> = all
        .iter()
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect();
    let unknown = format!("{}ff", ids[0]);
    let words = [
        "end", &ids[0], &unknown, "no-id", &ids[2], &ids[0], "--reason", "stuck",
    ];
    let done = call(&daemon, &words).await;
    assert_eq!(done.status, 1, "two were not found: {done:?}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    for (line, wanted) in lines
        .iter()
        .zip(["ended", "not found", "not found", "ended", "ended"])
    {
        assert!(line.contains(wanted), "{lines:?}");
    }
    assert_eq!(lines[5], "2 ended");
    let mut second = tunnels.remove(1);
    for mut one in tunnels {
        assert_eq!(read_to_reset(&mut one.client).await, 0);
        assert_eq!(read_to_reset(&mut one.upstream).await, 0);
    }
    second.exchange(1).await;
    let act = daemon.event("operator_act").await;
    assert_eq!(
        (&act["act"], &act["reason"], &act["tunnels"]),
        (&"end".into(), &"stuck".into(), &2.into())
    );
    assert_eq!(act["ids"], serde_json::json!([ids[0], ids[2]]));
    let by = format!("by uid {}: stuck", nix::unistd::geteuid());
    for _ in 0..2 {
        let record = daemon.tunnel_record().await;
        assert_eq!(
            (&record["outcome"], &record["code"]),
            (&"allowed".into(), &"ended_by_operator".into())
        );
        assert_eq!(record["error"], by.as_str());
        assert!(record["id"] == ids[0].as_str() || record["id"] == ids[2].as_str());
    }
    let closed = "sealway_tunnels_closed_total{code=\"ended_by_operator\"}";
    assert_eq!(daemon.metric(closed).await, Some(2.0));
    assert_eq!(daemon.metric("sealway_tunnels_active").await, Some(1.0));
    // Ended tunnels are not found again, and the remaining one ends once for two operators at the
    // same time.
    let again = call(&daemon, &["end", &ids[0], "--reason", "again"]).await;
    assert_eq!(
        (again.status, again.stdout.contains("not found")),
        (1, true)
    );
    let words = ["end", &ids[1], "--reason", "two of us"];
    let (one, two) = tokio::join!(call(&daemon, &words), call(&daemon, &words));
    assert!(one.status == 0 || two.status == 0, "{one:?} {two:?}");
    assert_eq!(read_to_reset(&mut second.client).await, 0);
    assert_eq!(daemon.metric(closed).await, Some(3.0));
}

#[tokio::test]
async fn all_tunnels_of_a_user_or_a_network_end_and_no_others() {
    let upstream = RawUpstream::start().await;
    let users = user("alice", "a", "") + &user("bob", "b", "");
    let mut daemon = start_with_users(Config::to(upstream.addr()), &users, "").await;
    let mut of_alice = Vec::new();
    for _ in 0..100 {
        of_alice.push(open(&daemon, &upstream, "alice", "a").await);
    }
    let mut bob = open(&daemon, &upstream, "bob", "b").await;
    let done = call(
        &daemon,
        &["end", "--user", "alice", "--reason", "secret leaked"],
    )
    .await;
    assert_eq!(
        (done.status, done.stdout.as_str()),
        (0, "100 ended\n"),
        "{done:?}"
    );
    for mut tunnel in of_alice {
        assert_eq!(read_to_reset(&mut tunnel.client).await, 0);
        assert_eq!(read_to_reset(&mut tunnel.upstream).await, 0);
    }
    assert_eq!(daemon.event("operator_act").await["target"], "user alice");
    bob.exchange(3).await;
    let none = call(
        &daemon,
        &["end", "--client", "192.0.2.0/24", "--reason", "x"],
    )
    .await;
    assert_eq!((none.status, none.stdout.as_str()), (0, "0 ended\n"));
    bob.exchange(4).await;
    // The user may connect again: ending a tunnel is not a ban.
    let alice = open(&daemon, &upstream, "alice", "a").await;
    let done = call(
        &daemon,
        &["end", "--client", "127.0.0.0/8", "--reason", "all"],
    )
    .await;
    assert_eq!(done.stdout, "2 ended\n");
    for mut tunnel in [alice, bob] {
        assert_eq!(read_to_reset(&mut tunnel.client).await, 0);
    }
    assert_eq!(listed(&daemon).await, Vec::<Value>::new());
}

#[tokio::test]
async fn an_attempt_that_is_being_set_up_is_listed_and_ends_at_each_step() {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let failed = "sealway_tunnels_denied_total{code=\"ended_by_operator\"}";
    // The client has its 200 and is silent: a reset.
    let mut silent = connect(daemon.proxy_addr(), &upstream.authority(), &[])
        .await
        .established();
    let all = until(&daemon, |all| {
        all.len() == 1 && all[0]["phase"] == "client_hello"
    })
    .await;
    assert_eq!(all[0]["upstream"], upstream.addr().to_string());
    end_one(&daemon, &all).await;
    assert_eq!(read_to_reset(&mut silent).await, 0);
    upstream.was_given_up().await;
    assert_eq!(daemon.metric_until(failed, |count| count > 0.0).await, 1.0);
    // The upstream has the hello and is silent: a reset on both sides.
    let mut waiting = connect(daemon.proxy_addr(), &upstream.authority(), &[])
        .await
        .established();
    let hello = Recorded::named("curl-openssl").bytes.clone();
    waiting.write_all(&hello).await.unwrap();
    let mut accepted = upstream.accept().await;
    let mut received = vec![0; hello.len()];
    soon("the hello", accepted.read_exact(&mut received))
        .await
        .unwrap();
    let all = until(&daemon, |all| {
        all.len() == 1 && all[0]["phase"] == "server_hello"
    })
    .await;
    end_one(&daemon, &all).await;
    assert_eq!(read_to_reset(&mut waiting).await, 0);
    assert_eq!(read_to_reset(&mut accepted).await, 0);
    let record = daemon.line("the record", |line| {
        line["code"] == "ended_by_operator" && line["bytes_up"] == hello.len()
    });
    assert_eq!(record.await["outcome"], "failed");
    until(&daemon, |all| all.is_empty()).await;
}

#[tokio::test]
async fn an_attempt_in_its_dial_gets_a_reply_when_it_is_ended() {
    // A name server that never answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let servers = format!(
        "[dns]\nservers = [\"{}\"]\ntimeout = \"20s\"\n[timeouts]\nconnect = \"25s\"\n",
        silent.local_addr().unwrap()
    );
    let config = Config::closed().allow("slow.example").section(&servers);
    let mut daemon = Daemon::start(&config).await;
    let mut client = dial(daemon.proxy_addr()).await;
    client
        .write_all(b"CONNECT slow.example:443 HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let all = until(&daemon, |all| {
        all.len() == 1 && all[0]["phase"] == "resolving"
    })
    .await;
    assert_eq!(
        (&all[0]["egress"], &all[0]["host"]),
        (&Value::Null, &"slow.example".into())
    );
    end_one(&daemon, &all).await;
    let reply = support::client::read_reply(client).await;
    let record = refused(&mut daemon, reply, "ended_by_operator").await;
    assert!(
        record["error"].as_str().unwrap().ends_with(": set-up"),
        "{record}"
    );
    until(&daemon, |all| all.is_empty()).await;
}

#[tokio::test]
async fn a_wrong_request_to_end_tunnels_ends_none() {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    let all = until(&daemon, |all| all.len() == 1).await;
    let id = all[0]["id"].as_str().unwrap();
    let many: Vec<&str> = std::iter::once("end")
        .chain(std::iter::repeat_n(id, 1_001))
        .chain(["--reason", "x"])
        .collect();
    for (words, status) in [
        (&["end", "--reason", "x"][..], 2),
        (&["end", id], 2),
        (&["end", id, "--user", "alice", "--reason", "x"], 2),
        (&["end", id, "--reason", ""], 2),
        (&["end", id, "--reason", "a\u{1b}[2Jb"], 2),
        (&["end", "--client", "127.0.0.1/33", "--reason", "x"], 2),
        (&["end", "--client", "localhost", "--reason", "x"], 2),
        (&["end", "--user", "a:b", "--reason", "x"], 2),
        (&many, 2),
    ] {
        let ended = call(&daemon, words).await;
        assert_eq!(ended.status, status, "{ended:?}");
        assert!(!ended.stderr.contains('\u{1b}'), "{ended:?}");
    }
    for bad in [
        "{}",
        "{\"reason\":\"x\"}",
        "{\"ids\":[],\"reason\":\"x\"}",
        "{\"ids\":\"x\",\"reason\":\"x\"}",
        "{\"client\":\"127.0.0.1\",\"user\":\"a\",\"reason\":\"x\"}",
        "{\"client\":\"127.0.0.1\"}",
    ] {
        let admin = daemon.admin_addr();
        let mut stream = dial(admin).await;
        let request = format!(
            "POST /tunnels/end HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{bad}",
            bad.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer))
            .await
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{bad} {answer}");
    }
    tunnel.exchange(1).await;
    let acts = "sealway_operator_acts_total{act=\"end\"}";
    assert_eq!(daemon.metric(acts).await, Some(0.0));
}

/// By hand, with as many tunnels as 20,000 descriptors allow, for the figures in
/// docs/performance.md:
/// `LIVE_TUNNELS=7500 cargo test --release --test behaviour a_list_asks -- --nocapture`.
#[tokio::test]
async fn a_list_asks_no_worker_and_stalls_no_relay() {
    let wanted = std::env::var("LIVE_TUNNELS").map_or(200, |count| count.parse().unwrap());
    let upstream = RawUpstream::start().await;
    let limits = "[limits]\ntunnels = 20000\ntunnels_per_client = 0\naccept_rate = 1000000\nconnect_rate = 1000000\n";
    let daemon = Daemon::start(&Config::to(upstream.addr()).section(limits)).await;
    let mut tunnels = Vec::new();
    while tunnels.len() < wanted {
        tunnels.push(Tunnel::open(&daemon, &upstream).await);
    }
    let all = until(&daemon, |all| all.len() == wanted).await;
    let ids: std::collections::BTreeSet<_> = all.iter().map(|one| one["id"].to_string()).collect();
    assert_eq!(ids.len(), wanted, "each once");
    // Idle tunnels: a request to a worker would have woken it.
    let (before, mut times) = (worker_wakes(&daemon), Vec::new());
    for _ in 0..50 {
        let began = Instant::now();
        let (status, page) = http_get(daemon.admin_addr(), "/tunnels").await;
        times.push(began.elapsed());
        assert_eq!((status, page.matches("\"id\"").count()), (200, wanted));
    }
    let woken = worker_wakes(&daemon) - before;
    assert!(woken < 25, "50 lists have woken workers {woken} times");
    println!(
        "{wanted} tunnels: a list takes {:?} in the median, {:?} at most",
        nth(&mut times, 50),
        nth(&mut times, 100)
    );
    let mut last = tunnels.pop().unwrap();
    let mut quiet = exchanges(&mut last).await;
    // In a thread of its own, because this one measures.
    let (admin, is_over) = (daemon.admin_addr(), Arc::new(AtomicBool::new(false)));
    let over = Arc::clone(&is_over);
    let listing = std::thread::spawn(move || {
        let mut lists = 0;
        while !over.load(Ordering::Relaxed) {
            let mut stream = std::net::TcpStream::connect(admin).unwrap();
            let request =
                format!("GET /tunnels HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
            lists += 1;
        }
        lists
    });
    let mut busy = exchanges(&mut last).await;
    is_over.store(true, Ordering::Relaxed);
    println!("{} lists meanwhile", listing.join().unwrap());
    for (name, times) in [("without", &mut quiet), ("with", &mut busy)] {
        println!(
            "there and back {name} lists: {:?} in the median, p99 {:?}",
            nth(times, 50),
            nth(times, 99)
        );
    }
}

#[tokio::test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces and unshare(1)"
)]
async fn only_operators_see_tunnels() {
    let daemon = Daemon::start_among_strangers(&Config::closed()).await;
    assert_eq!(http_get(daemon.admin_addr(), "/tunnels").await.0, 403);
    let ended = call(&daemon, &["tunnels"]).await;
    assert_eq!(ended.status, 1);
    assert!(ended.stderr.contains("admin.token_file"), "{ended:?}");
}

/// The duration of 1,000 chunks to the upstream and back.
async fn exchanges(tunnel: &mut Tunnel) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..1_000 {
        let began = Instant::now();
        pass(&mut tunnel.client, &mut tunnel.upstream, &[7; 1_000]).await;
        pass(&mut tunnel.upstream, &mut tunnel.client, &[8; 1_000]).await;
        times.push(began.elapsed());
    }
    times
}

/// The time that this many of a hundred do not exceed.
fn nth(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// How often the daemon's workers went to sleep (proc_pid_status(5)).
fn worker_wakes(daemon: &Daemon) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let mut wakes = 0;
    for task in tasks {
        let task = task.unwrap().path();
        if std::fs::read_to_string(task.join("comm"))
            .unwrap()
            .starts_with("worker-")
        {
            let status = std::fs::read_to_string(task.join("status")).unwrap();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            wakes += line.unwrap().trim().parse::<u64>().unwrap();
        }
    }
    wakes
}

/// A tunnel with the credentials of a user.
async fn open(daemon: &Daemon, upstream: &RawUpstream, name: &str, secret: &str) -> Tunnel {
    let shown = basic(name, secret);
    Tunnel::open_with(daemon, upstream, &[("Proxy-Authorization", &shown)]).await
}

/// The live tunnels.
async fn listed(daemon: &Daemon) -> Vec<Value> {
    let (status, body) = daemon.admin_get("/tunnels").await;
    assert_eq!(status, 200, "{body}");
    let mut list: Value = serde_json::from_str(&body).unwrap();
    match list["tunnels"].take() {
        Value::Array(tunnels) => tunnels,
        other => panic!("no list: {other}"),
    }
}

/// Waits until the live tunnels are as wanted, and returns them.
async fn until(daemon: &Daemon, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let looking = async {
        loop {
            let all = listed(daemon).await;
            if wanted(&all) {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the tunnels as they should be", looking).await
}

/// Ends the only tunnel.
async fn end_one(daemon: &Daemon, all: &[Value]) {
    let id = all[0]["id"].as_str().unwrap();
    let done = call(daemon, &["end", id, "--reason", "set-up"]).await;
    assert_eq!((done.status, done.stderr.as_str()), (0, ""), "{done:?}");
}

/// Runs a command against this daemon.
async fn call(daemon: &Daemon, words: &[&str]) -> Ended {
    let admin = daemon.admin_addr().to_string();
    sealway(&[words, &["--admin", &admin]].concat()).await
}
