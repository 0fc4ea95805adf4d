//! Before the ServerHello each direction continues, ends and is recorded by itself: a FIN, a reset,
//! a vanished peer and a full buffer, in every step of the set-up. No time limit is near, so only
//! the event itself can end an attempt. The daemon has room for one tunnel, so the next attempt
//! shows that the permit is free.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
mod blocked;

use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};
use support::client::{connect, connect_head, dial, http_get};
use support::config::Config;
use support::daemon::Daemon;
use support::dns::{Dns, Say};
use support::made_answer::MadeAnswer;
use support::made_hello::MadeHello;
use support::raw::{RawUpstream, pass, read_to_end, read_to_reset, reset};
use support::{HOST, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The expected record: outcome, code, and the bytes of each direction.
type Recorded = (&'static str, &'static str, usize, usize);

#[tokio::test]
async fn a_client_end_during_the_look_up_is_recorded() {
    let dns = Dns::start(Say::Nothing).await;
    let config = Config::closed().allow(&format!("{HOST}:443"));
    let config = config.section(&dns.section("1h"));
    let mut setting = Setting::new(config, None).await;
    let seen = std::cell::Cell::new(0);
    let asked = async || {
        dns.until(|asked| asked.len() > seen.get()).await;
        seen.set(dns.asked().len());
    };
    setting.client_ends_without_an_upstream(443, asked).await;
}

#[tokio::test]
async fn a_client_end_during_the_dial_is_recorded() {
    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let (_listener, address) = silent(SocketAddr::new(address, 0)).await;
        let config = Config::to(address).egress(&["127.0.0.2", "::1"]);
        let mut setting = Setting::new(config, None).await;
        let admin = setting.daemon.admin_addr();
        let dialling = async || {
            let dialling = async {
                while !http_get(admin, "/metrics").await.1.lines().any(uses_a_port) {
                    tokio::time::sleep(TICK).await;
                }
            };
            soon("a port in use", dialling).await;
        };
        setting
            .client_ends_without_an_upstream(address.port(), dialling)
            .await;
    }
}

#[tokio::test]
async fn an_end_of_either_side_before_the_client_hello_is_recorded() {
    let (mut setting, hello) = (Setting::with_upstream().await, hello());
    for part in [&hello[..0], &hello[..1], &hello[..hello.len() - 1]] {
        for (end, recorded) in [
            (End::ResetByClient, ("failed", "reset_by_client", 0, 0)),
            (End::FinOfUpstream, ("failed", "closed_by_upstream", 0, 0)),
            (End::ResetByUpstream, ("failed", "reset_by_upstream", 0, 0)),
        ] {
            let mut talk = setting.established().await;
            talk.client.write_all(part).await.unwrap();
            let served = setting.accept().await;
            talk.ends(served, end).await;
            setting.is_recorded(&format!("{end:?}"), recorded).await;
        }
    }
}

#[tokio::test]
async fn an_end_of_either_side_before_the_server_hello_is_recorded() {
    let (mut setting, hello) = (Setting::with_upstream().await, hello());
    let up = hello.len();
    for (end, recorded) in [
        (End::ResetByClient, ("failed", "reset_by_client", up, 0)),
        (End::FinOfUpstream, ("failed", "closed_by_upstream", up, 0)),
        (End::ResetByUpstream, ("failed", "reset_by_upstream", up, 0)),
    ] {
        let (talk, served) = setting.greeted(&hello).await;
        talk.ends(served, end).await;
        setting.is_recorded(&format!("{end:?}"), recorded).await;
        // The server waits for a second hello.
        let retry = MadeAnswer::retry().bytes();
        let (mut talk, mut served) = setting.greeted(&hello).await;
        pass(&mut served, &mut talk.client, &retry).await;
        talk.ends(served, end).await;
        let recorded = (recorded.0, recorded.1, up, retry.len());
        setting
            .is_recorded(&format!("{end:?}, retry"), recorded)
            .await;
    }
}

/// A FIN of the client becomes a FIN to the upstream, and the daemon reacts to whatever the
/// upstream does then.
#[tokio::test]
async fn a_half_closed_client_still_gets_the_answer() {
    let (mut setting, hello) = (Setting::with_upstream().await, hello());
    let up = hello.len();
    let answers = [
        MadeAnswer::tls13().bytes(),
        MadeAnswer::below(0x0303).bytes(),
    ];
    for in_one_segment in [false, true] {
        for answer in &answers {
            let (mut talk, mut served) = setting.half_closed(&hello, in_one_segment).await;
            pass(&mut served, &mut talk.client, answer).await;
            pass(&mut served, &mut talk.client, b"and what comes after it").await;
            drop(served);
            assert!(read_to_end(&mut talk.client).await.is_empty());
            let down = answer.len() + 23;
            let recorded = ("allowed", "closed_by_client", up, down);
            setting.is_recorded("answered", recorded).await;
            // The answer and the end at the same time.
            let (mut talk, mut served) = setting.half_closed(&hello, in_one_segment).await;
            served.write_all(answer).await.unwrap();
            drop(served);
            assert_eq!(read_to_end(&mut talk.client).await, *answer);
            let recorded = ("allowed", "closed_by_client", up, answer.len());
            setting.is_recorded("answered and closed", recorded).await;
        }
        let (mut talk, mut served) = setting.half_closed(&hello, in_one_segment).await;
        served.write_all(ALERT).await.unwrap();
        drop(served);
        assert_eq!(read_to_end(&mut talk.client).await, ALERT);
        let recorded = ("failed", "alert_by_upstream", up, ALERT.len());
        setting.is_recorded("alert", recorded).await;
        for (end, code) in [
            (End::FinOfUpstream, "closed_by_client"),
            (End::ResetByUpstream, "reset_by_upstream"),
        ] {
            let (talk, served) = setting.half_closed(&hello, in_one_segment).await;
            talk.ends(served, end).await;
            let recorded = ("failed", code, up, 0);
            setting
                .is_recorded(&format!("FIN, then {end:?}"), recorded)
                .await;
        }
        let (talk, mut served) = setting.half_closed(&hello, in_one_segment).await;
        reset(talk.client);
        let recorded = ("failed", "reset_by_client", up, 0);
        setting.is_recorded("FIN, then reset", recorded).await;
        // A socket that received a FIN reports a reset on write.
        served.write_all(b"too late").await.unwrap_err();
    }
}

/// A limit that expires is recorded as the fault of the side that the daemon waits for.
#[tokio::test]
async fn the_code_before_the_server_hello_names_the_late_side() {
    let limit = "server_hello = \"300ms\"";
    let mut setting = Setting::with_upstream_and(limit).await;
    let (hello, retry) = (hello(), MadeAnswer::retry().bytes());
    let (_talk, served) = setting.greeted(&hello).await;
    let recorded = ("failed", "server_hello_timeout", hello.len(), 0);
    setting.is_recorded("silent upstream", recorded).await;
    drop(served);
    let (_talk, served) = setting.half_closed(&hello, false).await;
    let recorded = ("failed", "closed_by_client", hello.len(), 0);
    setting.is_recorded("half-closed client", recorded).await;
    drop(served);
    let (mut talk, mut served) = setting.greeted(&hello).await;
    pass(&mut served, &mut talk.client, &retry).await;
    let recorded = ("failed", "client_hello_timeout", hello.len(), retry.len());
    setting.is_recorded("no second hello", recorded).await;
}

/// The way in which an attempt ends.
#[derive(Clone, Copy, Debug)]
enum End {
    ResetByClient,
    FinOfUpstream,
    ResetByUpstream,
}

struct Setting {
    daemon: Daemon,
    upstream: Option<RawUpstream>,
    /// The descriptors of the daemon without a tunnel.
    descriptors: usize,
    /// The descriptors that it keeps for the next tunnel after it has relayed one.
    pipes: usize,
}

struct Talk {
    client: TcpStream,
}

impl Setting {
    async fn with_upstream() -> Setting {
        Setting::with_upstream_and("server_hello = \"1h\"").await
    }

    async fn with_upstream_and(limit: &str) -> Setting {
        let upstream = RawUpstream::start().await;
        let config = Config::to(upstream.addr());
        let limits = format!("[timeouts]\nclient_hello = \"1h\"\n{limit}");
        Setting::new(config.section(&limits), Some(upstream)).await
    }

    async fn new(config: Config, upstream: Option<RawUpstream>) -> Setting {
        let config = config.section("[limits]\ntunnels = 1");
        let config = match upstream {
            Some(_) => config,
            None => config.section("[timeouts]\nconnect = \"1h\""),
        };
        let daemon = Daemon::start(&config).await;
        let mut descriptors = usize::MAX;
        for _ in 0..3 {
            descriptors = descriptors.min(daemon.open_descriptors().await);
        }
        Setting {
            daemon,
            upstream,
            descriptors,
            pipes: 0,
        }
    }

    /// A client that ends in either way, with or without the start of its session after the
    /// request.
    async fn client_ends_without_an_upstream(&mut self, port: u16, under_way: impl AsyncFn()) {
        let head = connect_head(&format!("{HOST}:{port}"), &[]);
        for behind in [Vec::new(), hello(), vec![22; 30_000]] {
            for is_reset in [false, true] {
                for at_once in [false, true] {
                    let mut client = dial(self.daemon.proxy_addr()).await;
                    let sent = [head.as_bytes(), &behind].concat();
                    client.write_all(&sent).await.unwrap();
                    if !at_once {
                        under_way().await;
                    }
                    if is_reset {
                        reset(client);
                    } else {
                        client.shutdown().await.unwrap();
                        assert!(read_to_end(&mut client).await.is_empty());
                    }
                    let record = self.record("without an upstream").await;
                    let code = if is_reset {
                        "reset_by_client"
                    } else {
                        "closed_by_client"
                    };
                    // A reset can overtake the request.
                    let is_silent = is_reset && at_once && record["host"].is_null();
                    assert!(record["code"] == code || is_silent, "{record}");
                }
            }
        }
    }

    /// After the 200.
    async fn established(&self) -> Talk {
        let authority = self.upstream.as_ref().unwrap().authority();
        let client = connect(self.daemon.proxy_addr(), &authority, &[])
            .await
            .established();
        Talk { client }
    }

    async fn accept(&self) -> TcpStream {
        self.upstream.as_ref().unwrap().accept().await
    }

    /// The upstream has the hello.
    async fn greeted(&self, hello: &[u8]) -> (Talk, TcpStream) {
        let mut talk = self.established().await;
        talk.client.write_all(hello).await.unwrap();
        let mut served = self.accept().await;
        let mut arrived = vec![0; hello.len()];
        soon("the hello", served.read_exact(&mut arrived))
            .await
            .unwrap();
        assert!(arrived == hello, "the hello arrived changed");
        (talk, served)
    }

    /// The upstream has the hello and the FIN after it.
    async fn half_closed(&self, hello: &[u8], in_one_segment: bool) -> (Talk, TcpStream) {
        if !in_one_segment {
            let (mut talk, mut served) = self.greeted(hello).await;
            talk.client.shutdown().await.unwrap();
            assert!(read_to_end(&mut served).await.is_empty());
            return (talk, served);
        }
        let talk = self.established().await;
        self.daemon.at_once(|| {
            let client = SockRef::from(&talk.client);
            client.send(hello).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let mut served = self.accept().await;
        let arrived = read_to_end(&mut served).await;
        assert!(arrived == hello, "the hello arrived changed");
        (talk, served)
    }

    /// Expects one record, and that the daemon holds nothing for the attempt.
    async fn record(&mut self, what: &str) -> Value {
        let record = self.daemon.tunnel_record().await;
        // A worker keeps the pipes of its tunnels, one for each direction.
        let pipes = if record["outcome"] == "allowed" { 8 } else { 0 };
        self.pipes = self.pipes.max(pipes);
        let free = (self.descriptors + self.pipes) as f64;
        for (series, is_free) in [
            ("process_open_fds", free),
            ("sealway_egress_ports_in_use{address=\"127.0.0.2\"}", 0.0),
        ] {
            let at_most = |now| now <= is_free;
            self.daemon.metric_until(series, at_most).await;
        }
        println!("{what}: {record}");
        record
    }

    async fn is_recorded(&mut self, what: &str, (outcome, code, up, down): Recorded) {
        let record = self.record(what).await;
        assert_eq!(
            (&record["outcome"], &record["code"]),
            (&outcome.into(), &code.into()),
            "{what}: {record}"
        );
        assert_eq!(
            (&record["bytes_up"], &record["bytes_down"]),
            (&up.into(), &down.into()),
            "{what}: {record}"
        );
    }
}

impl Talk {
    /// Ends it on one side and waits until the other side notices.
    async fn ends(mut self, mut served: TcpStream, end: End) {
        match end {
            End::ResetByClient => {
                reset(self.client);
                read_to_reset(&mut served).await;
            }
            End::FinOfUpstream => {
                served.shutdown().await.unwrap();
                ends(&mut self.client).await;
            }
            End::ResetByUpstream => {
                reset(served);
                ends(&mut self.client).await;
            }
        }
    }
}

/// Waits for the end of the connection, in any form.
async fn ends(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    let _clean_or_reset = soon("the end of the connection", stream.read_to_end(&mut bytes)).await;
    assert!(bytes.is_empty(), "{bytes:02x?}");
}

/// An address that never accepts: its queue is full, and the kernel drops every further SYN.
async fn silent(address: SocketAddr) -> ((Socket, TcpStream), SocketAddr) {
    let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let queued = TcpStream::connect(address).await.unwrap();
    ((listener, queued), address)
}

fn hello() -> Vec<u8> {
    MadeHello::naming(HOST).bytes()
}

fn uses_a_port(line: &str) -> bool {
    line.starts_with("sealway_egress_ports_in_use") && line.ends_with(" 1")
}

const TICK: Duration = Duration::from_millis(5);
/// A fatal handshake_failure.
const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 40];
