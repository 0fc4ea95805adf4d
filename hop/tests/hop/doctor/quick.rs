//! `--quick` ends within three seconds, whatever does not answer: the limits of the program in a clock that stands still
//! while it works, and the program itself where a name server, a proxy or a route is silent.

use std::time::{Duration, Instant};

use sealway_hop::doctor::checks::{self, Options};
use support::HOST;
use support::namespace::{in_own_network, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time;

use super::fake::Fake;
use super::machines::{Network, PROVIDER, STATIC};
use super::run::{Doctor, options, tunnel_to};

/// A proxy that waits before each answer to CONNECT, and behind whose 200 nothing answers. None: it never answers.
async fn proxy(wait: Option<Duration>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                if let (Ok(1..), Some(wait)) = (stream.read(&mut head).await, wait) {
                    time::sleep(wait).await;
                    let answer = b"HTTP/1.1 200 OK\r\n\r\n";
                    stream.write_all(answer).await.ok()?;
                }
                // The connection stays open, and nothing else is answered.
                std::future::pending::<Option<()>>().await
            });
        }
    });
    address.to_string()
}

/// What --quick has without --timeout.
fn quick(proxy: &str, spent: Duration) -> Options {
    Options {
        quick: true,
        spent,
        step: Duration::from_millis(1_200),
        idle: Duration::from_secs(60),
        gap: Duration::from_secs(10),
        ..options(proxy, None)
    }
}

/// The clock moves only while everything waits, so a slow machine changes nothing.
#[tokio::test(start_paused = true)]
async fn the_limits_of_quick_are_below_three_seconds() {
    let wait = Duration::from_millis;
    let (none, some) = (wait(0), wait(1_000));
    for (scheme, user, answers, spent, wanted, most) in [
        ("http", "", None, none, "connect_timeout", 1_200),
        ("https", "", None, none, "proxy_tls_failed", 1_200),
        ("http", "", Some(none), none, "provider_tls_failed", 2_400),
        ("http", "", Some(wait(1_100)), none, "time_used_up", 2_700),
        (
            "http",
            "a:b@",
            Some(wait(1_100)),
            none,
            "proxy_needs_no_credentials",
            2_700,
        ),
        ("http", "", Some(none), some, "time_used_up", 1_700),
    ] {
        let proxy = format!("{scheme}://{user}{}", proxy(answers).await);
        let began = time::Instant::now();
        let report = checks::run(quick(&proxy, spent)).await;
        let took = began.elapsed();
        let codes: Vec<_> = report
            .findings()
            .iter()
            .map(|one| one.verdict.code)
            .collect();
        assert_eq!(codes, [wanted], "{proxy}");
        if wanted == "time_used_up" {
            // Nobody knows whether the set-up is healthy, so it is not called so.
            let limit = format!("within {:.1} s", took.as_secs_f32());
            let finding = report.findings()[0];
            assert!(finding.cause().contains(&limit), "{}", finding.cause());
            let commands = finding.commands();
            assert_eq!(commands, ["sealway doctor --timeout 20 --verbose"]);
        }
        let most = wait(most);
        assert!(most <= took && took < most + wait(50), "{wanted}: {took:?}");
        assert!(took + spent < Duration::from_secs(3), "{wanted}: {took:?}");
    }
}

/// A run with the limits that a user has. The bound is far above three seconds, for a machine that is loaded, and far below
/// what a resolver or the kernel would wait.
async fn in_time(mut doctor: Doctor, code: &str) {
    doctor.as_a_user();
    let began = Instant::now();
    let codes = doctor.codes().await;
    let took = began.elapsed();
    println!("{code}: {took:.2?}");
    assert_eq!(codes, [code]);
    assert!(took < MOST, "{code}: {took:?}");
}

/// A resolver that waits 90 seconds holds neither the run nor its end.
#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs user namespaces")]
fn a_silent_name_server_does_not_hold_a_quick_run() {
    in_own_network("a_silent_name_server_does_not_hold_a_quick_run", async {
        let network = Network::start(&[PROVIDER]).await;
        let _tunnel = network.tunnel(&[STATIC], &[PROVIDER]).await;
        network.fake.allow(&[STATIC]);
        let silent = tempfile::NamedTempFile::new().unwrap();
        let text = "nameserver 192.0.2.99\noptions timeout:30 attempts:3\n";
        std::fs::write(silent.path(), text).unwrap();
        let path = silent.path().display();
        run(&format!("mount --bind {path} /etc/resolv.conf"));
        // So that packets to the name server are lost at once, not refused after a while.
        network
            .app
            .run("ip neigh add 192.0.2.99 lladdr 02:00:00:00:00:63 dev tun0");
        let named = network.doctor_of("http://alice:CANARY-s3cr%25t@tunnel.example:9293");
        in_time(named, "proxy_dns_failed").await;
        // The provider's name, which only the tunnel must know, is not known here either.
        network.forget_names();
        let mut unknown = network.doctor();
        unknown.as_a_user();
        let began = Instant::now();
        assert_eq!(unknown.codes().await, [""; 0]);
        assert!(began.elapsed() < MOST);
        for more in [&["--admin", "admin.example"][..], &["--print-rules"]] {
            let proxy = "http://alice:CANARY-s3cr%25t@tunnel.example:9293";
            let doctor = Doctor::new(proxy, &network.fake).on(&network.app);
            let mut doctor = doctor.with(&[&["--quick"], more].concat());
            doctor.as_a_user();
            let began = Instant::now();
            let ran = doctor.run_unchecked().await;
            assert_eq!(ran.status, 2, "{ran:?}");
            let took = began.elapsed();
            assert!(took < MOST, "{more:?}: {took:?}");
        }
    });
}

/// Packets to the proxy, and to the provider behind the tunnel, are lost without an answer.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces and nft(8)"
)]
fn a_black_hole_does_not_hold_a_quick_run() {
    in_own_network("a_black_hole_does_not_hold_a_quick_run", async {
        let network = Network::start(&[PROVIDER]).await;
        let _tunnel = network.tunnel(&[STATIC], &[PROVIDER]).await;
        let router = &network.router;
        router.run("nft add table inet hole");
        let chain = "{ type filter hook forward priority 0; policy drop; }";
        router.run(&format!("nft add chain inet hole rules {chain}"));
        in_time(network.doctor(), "connect_timeout").await;
        let (neighbour, device) = ("192.0.2.99 lladdr 02:00:00:00:00:63", "tun0");
        network
            .app
            .run(&format!("ip neigh add {neighbour} dev {device}"));
        let lost = network.doctor_of("https://alice:CANARY-s3cr%25t@192.0.2.99:9293");
        in_time(lost, "proxy_connect_timeout").await;
    });
}

/// A proxy, and a provider behind a tunnel, that accept and say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn quick_ends_in_time_when_nothing_answers() {
    let fake = Fake::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap();
    let (_daemon, behind) = tunnel_to(silent).await;
    let endpoint = format!("{HOST}:{}", silent.port());
    for (proxy, wanted) in [
        (format!("http://{silent}"), "connect_timeout"),
        (format!("https://{silent}"), "proxy_tls_failed"),
        (behind, "provider_tls_failed"),
    ] {
        let doctor = Doctor::new(&proxy, &fake)
            .key("GEMINI_API_KEY", "well")
            .with(&["--endpoint", &endpoint, "--quick"]);
        in_time(doctor, wanted).await;
    }
}

/// A resolver of the tests waits 90 s, and the kernel sends a SYN again for two minutes.
const MOST: Duration = Duration::from_secs(18);
