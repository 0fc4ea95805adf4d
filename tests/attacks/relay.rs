//! Attacks on the bytes of a tunnel: urgent data at a moment when the daemon does not read, and
//! bytes after a fatal alert.

use std::time::Duration;

use serde_json::Value;
use socket2::SockRef;
use support::made_answer::MadeAnswer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::raw::{RawUpstream, Tunnel, pass};
use support::{payload, soon};

/// The daemon does not read a side while the other side does not read its bytes, so no event
/// reports an urgent byte there. When the other side reads again, the daemon meets the urgent byte
/// during its work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn an_urgent_byte_after_a_full_sink_is_never_lost() {
    for (mode, pipes) in [
        ("splice", ""),
        ("splice", "pipe2:error=EMFILE"),
        ("adaptive", ""),
    ] {
        for direction in ["up", "down"] {
            for behind in [b"".as_slice(), b"and more"] {
                urgent_behind_a_full_sink(mode, pipes, direction, behind).await;
            }
        }
    }
}

async fn urgent_behind_a_full_sink(mode: &str, pipes: &str, direction: &str, behind: &[u8]) {
    let case = format!("{mode} {pipes:?} {direction} {behind:?}");
    let upstream = RawUpstream::start().await;
    let config =
        Config::to(upstream.addr()).section(&format!("[relay]\nmode = {mode:?}\nworkers = 1"));
    let mut daemon = match pipes {
        "" => Daemon::start(&config).await,
        failing => Daemon::start_with_failing(&config, failing).await,
    };
    let Tunnel {
        client,
        upstream,
        hello,
        server_hello,
    } = Tunnel::open(&daemon, &upstream).await;
    let (mut from, mut to, greeting) = match direction {
        "up" => (client, upstream, hello.len()),
        _ => (upstream, client, server_hello.len()),
    };
    SockRef::from(&to).set_recv_buffer_size(64 << 10).unwrap();
    let mut sent = fill(&daemon, direction, &mut from, greeting).await;
    assert!(pipes.is_empty() || daemon.injected() > 0, "{case}");
    SockRef::from(&from).send_out_of_band(b"!").unwrap();
    sent.push(b'!');
    from.write_all(behind).await.unwrap();
    sent.extend_from_slice(behind);
    from.shutdown().await.unwrap();
    SockRef::from(&to).set_recv_buffer_size(1 << 20).unwrap();
    let mut received = Vec::new();
    match soon("an end", to.read_to_end(&mut received)).await {
        Ok(_) => assert!(
            received == sent,
            "{case}: {} bytes of {} and a clean end",
            received.len(),
            sent.len()
        ),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{case}");
            assert!(sent.starts_with(&received), "{case}");
            let record = daemon.tunnel_record().await;
            let code = if direction == "up" {
                "reset_by_client"
            } else {
                "reset_by_upstream"
            };
            assert_eq!(
                (&record["code"], &record["error"]),
                (&code.into(), &"urgent data".into()),
                "{case}: {record}"
            );
        }
    }
}

/// Sends until the daemon holds bytes that the other side does not read, and has read all sent
/// bytes or stopped reading.
async fn fill(daemon: &Daemon, direction: &str, from: &mut TcpStream, greeting: usize) -> Vec<u8> {
    let series = format!("sealway_tunnel_bytes_total{{direction=\"{direction}\"}}");
    let mut sent = Vec::new();
    for seed in 0..4_096 {
        let chunk = payload::bytes(seed, 64 << 10);
        soon("room for a chunk", from.write_all(&chunk))
            .await
            .unwrap();
        sent.extend_from_slice(&chunk);
        let all = (greeting + sent.len()) as f64;
        let mut waited = 0;
        while daemon.metric(&series).await != Some(all) {
            tokio::time::sleep(TICK).await;
            waited += 1;
            if waited == STALLED_TICKS {
                return sent;
            }
        }
    }
    panic!("128 MiB went into a tunnel that nobody reads")
}

/// One side ends the handshake with an alert and continues to send: in the same segment, in the
/// next one, in pieces, and after the upstream has asked for a second hello. Nobody judges those
/// bytes.
#[tokio::test]
async fn nothing_passes_after_the_fatal_alert() {
    let mut setting = Setting::start().await;
    for code in ["alert_by_upstream", "alert_by_client"] {
        for retried in [false, true] {
            for alert in [ALERT, CLOSE_NOTIFY] {
                for (behind, piece) in [
                    (b"".as_slice(), 7),
                    (b"", 1),
                    (b"unjudged", 99),
                    (b"unjudged", 1),
                ] {
                    let case = format!(
                        "{code}, retried {retried}, {alert:?} then {behind:?}, pieces of {piece}"
                    );
                    setting
                        .ends_with_an_alert(code, retried, &[alert, behind].concat(), piece, &case)
                        .await;
                }
            }
        }
    }
}

/// A warning ends nothing, and the bytes after it are judged as usual.
#[tokio::test]
async fn bytes_after_a_warning_alert_are_judged() {
    let mut setting = Setting::start().await;
    let (mut client, mut served) = setting.greeted(false).await;
    pass(&mut served, &mut client, WARNING).await;
    served.write_all(b"unjudged").await.unwrap();
    assert_eq!(until_the_end(&mut client).await, b"");
    let record = setting.daemon.tunnel_record().await;
    assert_eq!(record["code"], "server_not_tls", "{record}");
    let (mut client, mut served) = setting.greeted(false).await;
    pass(&mut client, &mut served, WARNING).await;
    client.write_all(b"unjudged").await.unwrap();
    assert_eq!(until_the_end(&mut served).await, b"");
    let record = setting.daemon.tunnel_record().await;
    assert_eq!(record["code"], "client_hello_malformed", "{record}");
}

struct Setting {
    daemon: Daemon,
    upstream: RawUpstream,
    hello: Vec<u8>,
}

impl Setting {
    async fn start() -> Setting {
        let upstream = RawUpstream::start().await;
        let daemon = Daemon::start(&Config::to(upstream.addr())).await;
        Setting {
            daemon,
            upstream,
            hello: Recorded::named("curl-openssl").bytes,
        }
    }

    /// The upstream has the first hello; `retried`: the client has the request for a second one.
    async fn greeted(&self, retried: bool) -> (TcpStream, TcpStream) {
        let mut client = connect(self.daemon.proxy_addr(), &self.upstream.authority(), &[])
            .await
            .established();
        client.write_all(&self.hello).await.unwrap();
        let mut served = self.upstream.accept().await;
        soon(
            "the hello",
            served.read_exact(&mut vec![0; self.hello.len()]),
        )
        .await
        .unwrap();
        if retried {
            pass(&mut served, &mut client, &MadeAnswer::retry().bytes()).await;
        }
        (client, served)
    }

    #[allow(clippy::too_many_arguments, reason = "the case and its name")]
    async fn ends_with_an_alert(
        &mut self,
        code: &str,
        retried: bool,
        said: &[u8],
        piece: usize,
        case: &str,
    ) {
        let (client, served) = self.greeted(retried).await;
        let (mut from, mut to, who) = match code {
            "alert_by_client" => (client, served, "client"),
            _ => (served, client, "upstream"),
        };
        for piece in said.chunks(piece) {
            // The end may arrive before the last piece.
            let _may_be_over = from.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        let alert = &said[..ALERT.len()];
        let mut heard = vec![0; alert.len()];
        soon("the alert", to.read_exact(&mut heard))
            .await
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(heard, alert, "{case}");
        for stream in [&mut to, &mut from] {
            let _may_be_over = stream.write_all(&MadeAnswer::tls13().bytes()).await;
            let _may_be_over = stream.write_all(b"more that nobody has judged").await;
        }
        assert_eq!(
            until_the_end(&mut to).await,
            b"",
            "{case}: behind the alert"
        );
        assert_eq!(
            until_the_end(&mut from).await,
            b"",
            "{case}: at the side that has sent it"
        );
        let record = self.daemon.tunnel_record().await;
        assert_eq!(
            (&record["outcome"], &record["code"]),
            (&"failed".into(), &code.into()),
            "{case}: {record}"
        );
        let error = format!("the {who} ended the handshake with TLS alert {}", alert[6]);
        assert_eq!(record["error"], Value::from(error), "{case}: {record}");
        assert_eq!(record.get("tls_version"), None, "{case}: {record}");
        let moved =
            [&record["bytes_up"], &record["bytes_down"]].map(|bytes| bytes.as_u64().unwrap());
        let retry = if retried {
            MadeAnswer::retry().bytes().len()
        } else {
            0
        };
        let (up, down) = if who == "client" {
            (alert.len(), 0)
        } else {
            (0, alert.len())
        };
        assert_eq!(
            moved,
            [self.hello.len() + up, retry + down].map(|bytes| bytes as u64),
            "{case}: {record}"
        );
    }
}

/// The bytes up to a clean end or a reset.
async fn until_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // The test accepts both kinds of end.
    let _end = soon("the end of a connection", stream.read_to_end(&mut bytes)).await;
    bytes
}

const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 40];
const CLOSE_NOTIFY: &[u8] = &[21, 3, 3, 0, 2, 1, 0];
const WARNING: &[u8] = &[21, 3, 3, 0, 2, 1, 90];
const TICK: Duration = Duration::from_millis(5);
/// The daemon has moved nothing for this many ticks: the other side is full.
const STALLED_TICKS: usize = 40;
