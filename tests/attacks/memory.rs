//! Attacks on memory: as much as one peer can make the daemon hold, many times. What each takes is stated in
//! docs/reference.md; here it is held.

mod handshakes;

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use support::client::{connect, connect_head, dial};
use support::config::Config;
use support::daemon::Daemon;
use support::dns::{Dns, Say};
use support::raw::{RawUpstream, Tunnel};
use support::soon;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_holds_no_more_than_is_stated() {
    let upstream = RawUpstream::start().await;
    let authority = upstream.authority();
    let (dns, config) = (
        Dns::start(Say::Nothing).await,
        Config::to(upstream.addr()).allow("*.peer.example"),
    );
    let config = config.section(&dns.section("60s")).section(
        "[limits]\naccept_rate = 0\nconnect_rate = 0\n[timeouts]\nrequest = \"60s\"\nconnect = \"60s\"\nclient_hello = \"60s\"\n[relay]\nworkers = 2",
    );
    let daemon = Daemon::start(&config).await;
    let proxy = daemon.proxy_addr();
    // What the first ones make the daemon take for all that follow.
    let _warm = hold(&daemon, 20, || async {
        Tunnel::open(&daemon, &upstream).await
    })
    .await;

    let (tunnel, _held) = hold(&daemon, MANY, || async {
        Tunnel::open(&daemon, &upstream).await
    })
    .await;
    let (silent, _held) = hold(&daemon, MANY, || dial(proxy)).await;
    let head = [
        b"CONNECT a.example:443 HTTP/1.1\r\nA: ",
        &vec![b'x'; HEAD_BYTES - 50][..],
    ]
    .concat();
    let (head, _held) = hold(&daemon, MANY, || send(proxy, &head)).await;
    // Its queue of 128 would be full.
    let accepting = tokio::spawn(async move {
        let mut accepted = Vec::new();
        loop {
            accepted.push(upstream.accept_whenever().await);
        }
    });
    let hello = unfinished_hello();
    let (hello, _held) = hold(&daemon, MANY, || async {
        let mut client = connect(proxy, &authority, &[]).await.established();
        write_slowly(&mut client, &hello).await;
        client
    })
    .await;
    let mut names = (0..).map(|number| connect_head(&format!("n{number}.peer.example:443"), &[]));
    let (look_up, _held) = hold(&daemon, MANY, || {
        let head = names.next().unwrap();
        async move { send(proxy, head.as_bytes()).await }
    })
    .await;
    accepting.abort();
    for (what, takes, stated) in [
        ("a silent tunnel", tunnel, 2),
        ("a silent connection", silent, 5),
        ("an unfinished head", head, HEAD_BYTES / 1_024 + 5),
        ("an unfinished hello", hello, HELLO_BYTES / 1_024 + 8),
        ("a look-up that waits", look_up, 6),
    ] {
        assert!(
            takes <= stated * 1_024,
            "{what} takes {takes} bytes, and {stated} KiB are stated"
        );
    }
}

/// Makes so many and keeps them; gives how many bytes of the daemon's memory each takes.
async fn hold<T, F: Future<Output = T>>(
    daemon: &Daemon,
    many: usize,
    mut make: impl FnMut() -> F,
) -> (usize, Vec<T>) {
    let (before, descriptors) = (daemon.resident_kib(), count_descriptors(daemon.pid()));
    let mut held = Vec::new();
    for _ in 0..many {
        held.push(make().await);
    }
    let taken_in = async {
        while count_descriptors(daemon.pid()) < descriptors + many
            || !is_read(daemon.proxy_addr().port())
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the daemon to read all that was sent", taken_in).await;
    (
        daemon.resident_kib().saturating_sub(before) * 1_024 / many,
        held,
    )
}

/// Whether nothing is on its way to this port: nothing unsent, unread or not accepted (proc_net_tcp: the local and the
/// remote address, the state, and both queues in hexadecimal).
fn is_read(port: u16) -> bool {
    let (table, port) = (
        std::fs::read_to_string("/proc/net/tcp").unwrap(),
        format!(":{port:04X}"),
    );
    table.lines().skip(1).all(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (unsent, unread) = words[4].split_once(':').unwrap();
        let is_empty = |queue: &str| queue.bytes().all(|digit| digit == b'0');
        (!words[1].ends_with(&port) || is_empty(unread))
            && (!words[2].ends_with(&port) || is_empty(unsent))
    })
}

fn count_descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

async fn send(proxy: std::net::SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut client = dial(proxy).await;
    write_slowly(&mut client, bytes).await;
    client
}

/// In pieces that the daemon is likely to read one by one.
async fn write_slowly(client: &mut TcpStream, bytes: &[u8]) {
    for piece in bytes.chunks(5_000) {
        soon("the daemon reads", client.write_all(piece))
            .await
            .unwrap();
        tokio::task::yield_now().await;
    }
}

/// As many bytes of a ClientHello as the default limit lets it be, but for the last.
fn unfinished_hello() -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    let length = HELLO_BYTES - 4 - 5 * 5;
    let message = [
        &[1][..],
        &(length as u32).to_be_bytes()[1..],
        &vec![0; length],
    ]
    .concat();
    let mut records: Vec<u8> = message.chunks(16_000).flat_map(record).collect();
    records.pop();
    records
}

const MANY: usize = 200;
const HEAD_BYTES: usize = 16_384;
const HELLO_BYTES: usize = 65_536;
