//! Bytes stay in the kernel: of two gigabytes that pass through a tunnel the daemon copies only the
//! greeting. strace(1) shows every call that reads or writes; without it the test fails.

use std::time::Duration;

use serde_json::Value;
use support::client::{connect, connect_head};
use support::config::Config;
use support::raw::{RawUpstream, Tunnel};
use support::trace::{Trace, Traced, peer_of};
use support::{payload, within};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn a_gigabyte_each_way_stays_in_the_kernel() {
    let passage = Passage::of(GIGABYTE, &[]).await;
    assert_eq!(
        passage.touched(),
        passage.greeting,
        "not the greeting alone"
    );
    assert_eq!(passage.spliced(), [GIGABYTE; 2], "{}", passage.record);
    let trace = passage.trace;
    assert!(trace.unmeasured().is_empty(), "{:#?}", trace.unmeasured());
    assert_eq!(trace.taken("<pipe:["), 0, "payload was read out of a pipe");
    // The kernel lists routes and the ports of a busy machine's former connections.
    let elsewhere = trace.bytes() - trace.taken("<NETLINK:[");
    assert!(
        elsewhere < ELSEWHERE_MAX,
        "{elsewhere} bytes went through the daemon in all"
    );
}

/// Shows that the trace can be trusted: without pipes the daemon copies, and the trace shows all
/// copied bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn the_trace_shows_copied_bytes() {
    let passage = Passage::of(COPIED, &PIPES).await;
    assert_eq!(passage.touched(), passage.greeting.with(COPIED));
    assert_eq!(passage.spliced(), [0; 2], "{}", passage.record);
}

/// A tunnel that carried this much in each direction, under trace.
struct Passage {
    client: String,
    upstream: String,
    greeting: Touched,
    record: Value,
    trace: Trace,
}

/// The bytes that passed through the daemon's memory, by the socket of origin or destination.
#[derive(Debug, PartialEq, Eq)]
struct Touched {
    from_client: u64,
    to_upstream: u64,
    from_upstream: u64,
    to_client: u64,
}

impl Passage {
    /// The calls in `failing` fail in the daemon.
    async fn of(size: u64, failing: &[&str]) -> Passage {
        let raw_upstream = RawUpstream::start().await;
        let mut daemon = Traced::start(&Config::to(raw_upstream.addr()), failing).await;
        let authority = raw_upstream.authority();
        let client = connect(daemon.proxy_addr(), &authority, &[])
            .await
            .established();
        let tunnel = Tunnel::over(client, &raw_upstream).await;
        let greeting = Touched::greeting(&authority, &tunnel);
        let (client, upstream) = (peer_of(&tunnel.client), peer_of(&tunnel.upstream));
        transfer(tunnel, size).await;
        let record = daemon.record("tunnel").await;
        Passage {
            client,
            upstream,
            greeting,
            record,
            trace: daemon.stop().await,
        }
    }

    fn touched(&self) -> Touched {
        Touched {
            from_client: self.trace.taken(&self.client),
            to_upstream: self.trace.given(&self.upstream),
            from_upstream: self.trace.taken(&self.upstream),
            to_client: self.trace.given(&self.client),
        }
    }

    /// The counts of the audit record, up and down.
    fn spliced(&self) -> [u64; 2] {
        ["spliced_up", "spliced_down"].map(|field| self.record[field].as_u64().expect("a number"))
    }
}

impl Touched {
    /// The bytes at the start of every tunnel, exactly.
    fn greeting(authority: &str, tunnel: &Tunnel) -> Touched {
        let (hello, server_hello) = (tunnel.hello.len() as u64, tunnel.server_hello.len() as u64);
        Touched {
            from_client: connect_head(authority, &[]).len() as u64 + hello,
            to_upstream: hello,
            from_upstream: server_hello,
            to_client: ESTABLISHED.len() as u64 + server_hello,
        }
    }

    /// As many more in each direction.
    fn with(&self, size: u64) -> Touched {
        Touched {
            from_client: self.from_client + size,
            to_upstream: self.to_upstream + size,
            from_upstream: self.from_upstream + size,
            to_client: self.to_client + size,
        }
    }
}

/// Moves `size` different bytes in each direction at once, up to the clean end of both directions.
async fn transfer(tunnel: Tunnel, size: u64) {
    let (up, down) = (payload::bytes(1, PATTERN), payload::bytes(2, PATTERN));
    let client = tokio::spawn(exchange(tunnel.client, up.clone(), down.clone(), size));
    let upstream = tokio::spawn(exchange(tunnel.upstream, down, up, size));
    let (client, upstream) = within(LONG, "both transfers", async {
        tokio::join!(client, upstream)
    })
    .await;
    client.unwrap();
    upstream.unwrap();
}

async fn exchange(mut stream: TcpStream, sent: Vec<u8>, awaited: Vec<u8>, size: u64) {
    let (reader, writer) = stream.split();
    tokio::join!(send(writer, &sent, size), receive(reader, &awaited, size));
}

/// Sends `size` bytes of a pattern again and again, then the end.
async fn send(mut to: impl AsyncWrite + Unpin, pattern: &[u8], size: u64) {
    let mut left = size;
    while left > 0 {
        let chunk = &pattern[..pattern.len().min(usize::try_from(left).unwrap())];
        to.write_all(chunk).await.expect("send the payload");
        left -= chunk.len() as u64;
    }
    to.shutdown().await.expect("end the direction");
}

/// Receives until the clean end and compares. A sum of a gigabyte would take a debug build longer than the transfer.
async fn receive(mut from: impl AsyncRead + Unpin, pattern: &[u8], size: u64) {
    let (mut received, mut buffer) = (0, vec![0; pattern.len()]);
    loop {
        let awaited = &pattern[usize::try_from(received % pattern.len() as u64).unwrap()..];
        let read = from
            .read(&mut buffer[..awaited.len()])
            .await
            .expect("receive the payload");
        if read == 0 {
            break;
        }
        assert!(
            buffer[..read] == awaited[..read],
            "changed behind byte {received}"
        );
        received += read as u64;
    }
    assert_eq!(received, size, "bytes until the clean end");
}

const GIGABYTE: u64 = 1 << 30;
const COPIED: u64 = 4 << 20;
/// Not a multiple or part of a buffer, a pipe or a page, so that swapped pieces are noticed.
const PATTERN: usize = 1_000_003;
const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
/// A process that cannot make these calls has no pipe.
const PIPES: [&str; 2] = ["pipe", "pipe2"];
/// Libraries, the configuration, the log: some 24,000 bytes. A gigabyte cannot hide in a thousandth of it.
const ELSEWHERE_MAX: u64 = 1 << 20;
/// Seconds are enough for the kernel. A daemon that copies, and is stopped at each call, takes minutes to fail.
const LONG: Duration = Duration::from_secs(300);
