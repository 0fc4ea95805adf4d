//! System calls that fail under traffic, each with the errors of its manual page: every attempt
//! ends with a reply and a record, received bytes are the right ones, no connection uses another
//! source address, and the daemon recovers when the calls succeed again.
//!
//! strace(1) makes the calls fail (`inject=`). Without it the tests fail.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use support::client::{connect_head, dial, try_http_get};
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::payload;
use support::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The result of one attempt, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    /// A tunnel, all its bytes, and a clean end.
    Whole,
    /// A reply other than 200: its code.
    Refused(String),
    /// A tunnel that ended early, with only right bytes before.
    Broken,
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn accepting() {
    for error in [
        "EMFILE",
        "ENFILE",
        "ENOBUFS",
        "ENOMEM",
        "EPERM",
        "EPROTO",
        "ECONNABORTED",
        "ENETDOWN",
        "EINTR",
    ] {
        // The connection stays in the queue and is accepted later.
        let seen = under(&format!("accept4:error={error}:when=2..40+2")).await;
        let whole = seen.get(&Seen::Whole).copied().unwrap_or(0);
        let told = seen
            .get(&Seen::Refused("tunnel_limit".into()))
            .copied()
            .unwrap_or(0);
        let sheds = matches!(error, "EMFILE" | "ENFILE");
        assert!(
            whole + told == ATTEMPTS && (sheds || told == 0),
            "{error}: {seen:?}"
        );
        assert!(whole > 0, "{error}: {seen:?}");
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn dialling() {
    let cases = [
        ("connect", "ECONNREFUSED", "connect_refused"),
        ("connect", "ENETUNREACH", "connect_unreachable"),
        ("connect", "EHOSTUNREACH", "connect_unreachable"),
        ("connect", "EACCES", "connect_unreachable"),
        ("connect", "EADDRNOTAVAIL", "egress_ports_exhausted"),
        ("connect", "EINTR", ""),
        ("connect", "EAGAIN", ""),
        ("connect", "ETIMEDOUT", "connect_timeout"),
        ("connect", "ECONNRESET", "connect_reset"),
        ("bind", "EADDRNOTAVAIL", "egress_unavailable"),
        ("bind", "EADDRINUSE", ""),
        ("bind", "EACCES", ""),
        ("socket", "EMFILE", "tunnel_limit"),
        ("socket", "ENOBUFS", ""),
        ("getsockname", "ENOBUFS", ""),
    ];
    for (call, error, code) in cases {
        // The first calls of the worker's thread and of the main thread belong to the start.
        let last = if call == "bind" { 12 } else { 38 };
        let seen = under(&format!("{call}:error={error}:when=12..{last}+3")).await;
        let refused: Vec<_> = seen.keys().filter(|seen| **seen != Seen::Whole).collect();
        println!("{call} {error}: {seen:?}");
        assert!(
            !refused.contains(&&Seen::Broken),
            "{call} {error}: {seen:?}"
        );
        assert!(
            code.is_empty() || refused.contains(&&Seen::Refused(code.into())),
            "{call} {error}: {seen:?}"
        );
        assert!(seen.contains_key(&Seen::Whole), "{call} {error}: {seen:?}");
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn relaying() {
    let cases = [
        ("splice", "EAGAIN"),
        ("splice", "EINTR"),
        ("splice", "ENOMEM"),
        ("splice", "EIO"),
        ("splice", "ECONNRESET"),
        ("pipe2", "EMFILE"),
        ("pipe2", "ENFILE"),
        ("shutdown", "ENOTCONN"),
        ("epoll_ctl", "ENOMEM"),
        ("epoll_ctl", "ENOSPC"),
        (EPOLL_WAIT, "EINTR"),
    ];
    for (call, error) in cases {
        let when = match call {
            "shutdown" => "12..38+7",
            // A worker that has a pipe keeps it.
            "pipe2" => "1..150",
            _ => "20..150+7",
        };
        let seen = under(&format!("{call}:error={error}:when={when}")).await;
        println!("{call} {error}: {seen:?}");
        let harmless = matches!(call, "pipe2" | EPOLL_WAIT) || matches!(error, "EAGAIN" | "EINTR");
        assert!(
            !harmless || seen.get(&Seen::Whole) == Some(&ATTEMPTS),
            "{call} {error}: {seen:?}"
        );
        assert!(seen.contains_key(&Seen::Whole), "{call} {error}: {seen:?}");
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs strace(1)")]
async fn greeting() {
    // A write that fails with any other error also affects the eventfd(2) with which threads wake
    // each other, where the kernel has no such error and the runtime of the admin listener gives
    // up. tests/behaviour/endings.rs covers peers that reset.
    for (call, errors) in [
        (
            "read",
            ["EINTR", "EAGAIN", "ENOMEM", "ECONNRESET"].as_slice(),
        ),
        ("write", &["EAGAIN"]),
    ] {
        for error in errors {
            let seen = under(&format!("{call}:error={error}:when=20..80+9")).await;
            println!("{call} {error}: {seen:?}");
            assert!(seen.contains_key(&Seen::Whole), "{call} {error}: {seen:?}");
        }
    }
}

/// Traffic while calls fail as `inject` says, except the first calls of each thread, and the
/// results of its clients. Afterwards everything must work as before.
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn under(inject: &str) -> BTreeMap<Seen, usize> {
    let upstream = echo().await;
    let config = Config::to(upstream).section(SETTINGS);
    let mut daemon = Daemon::start_with_failing(&config, inject).await;
    let before = daemon.open_descriptors().await;
    let mut seen = BTreeMap::new();
    for seed in 0..ATTEMPTS {
        let attempt = attempt(daemon.proxy_addr(), upstream, seed as u64);
        *seen
            .entry(within(HANG, &format!("an attempt under {inject}"), attempt).await)
            .or_insert(0) += 1;
    }
    // This many calls of the worker were more than `inject` names; a thread with fewer calls may
    // still meet the last of them. A record that could not be written is retried within a second,
    // and so is an address that could not be bound.
    daemon
        .metric_until("sealway_egress_up{address=\"127.0.0.2\"}", |up| up == 1.0)
        .await;
    let (mut attempts, mut whole) = (ATTEMPTS, seen.get(&Seen::Whole).copied().unwrap_or(0));
    let recovery = async {
        let mut in_a_row = 0;
        while in_a_row < 5 {
            while !matches!(
                try_http_get(daemon.admin_addr(), "/readyz").await,
                Ok((200, _))
            ) {
                support::tick().await;
            }
            let is_whole =
                attempt(daemon.proxy_addr(), upstream, attempts as u64).await == Seen::Whole;
            in_a_row = if is_whole { in_a_row + 1 } else { 0 };
            whole += usize::from(is_whole);
            attempts += 1;
        }
    };
    within(
        HANG,
        &format!("five whole attempts in a row after {inject}"),
        recovery,
    )
    .await;
    daemon
        .metric_until("sealway_tunnels_active", |active| active == 0.0)
        .await;
    daemon
        .metric_until(
            "sealway_egress_ports_in_use{address=\"127.0.0.2\"}",
            |ports| ports == 0.0,
        )
        .await;
    // Pipes that are kept for the next tunnel are no leak.
    daemon
        .metric_until("process_open_fds", |open| open <= (before + 16) as f64)
        .await;
    if inject.starts_with("pipe2") {
        // Greetings are always copied.
        let recorded = Recorded::named("curl-openssl");
        let greetings = attempts * (recorded.bytes.len() + recorded.server_hello().len());
        let copied = daemon
            .metric("sealway_relayed_bytes_total{path=\"copy\"}")
            .await;
        assert!(
            copied > Some(greetings as f64),
            "{copied:?} bytes copied, {greetings} of greetings, under {inject}"
        );
    }
    while whole > 0 {
        let record = daemon.tunnel_record().await;
        let code = record["code"].as_str().expect("a code");
        whole -= usize::from(code == "closed_by_client");
        assert!(
            record["egress"]
                .as_str()
                .is_none_or(|egress| egress.starts_with("127.0.0.2:")),
            "{inject}: {record}"
        );
        // A fault of this machine must be reported as such, with the kernel's error.
        assert!(
            code != "internal_error" || record["error"].is_string(),
            "{inject}: {record}"
        );
    }
    for (seen, count) in &seen {
        let Seen::Refused(code) = seen else { continue };
        let denied = daemon
            .metric(&format!("sealway_tunnels_denied_total{{code=\"{code}\"}}"))
            .await;
        // A reply that could not be written is counted too.
        assert!(
            denied.is_some_and(|denied| denied >= *count as f64),
            "{code} under {inject}: {denied:?} of {count}"
        );
    }
    assert!(daemon.injected() > 0, "no call failed under {inject}");
    daemon.signal("TERM");
    assert!(daemon.exit_status().await.success(), "after {inject}");
    seen
}

/// One tunnel: greetings, two hundred kilobytes in each direction, and its end.
async fn attempt(proxy: SocketAddr, upstream: SocketAddr, seed: u64) -> Seen {
    let mut stream = dial(proxy).await;
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let authority = format!("{}:{}", support::HOST, upstream.port());
    if stream
        .write_all(connect_head(&authority, &[]).as_bytes())
        .await
        .is_err()
    {
        return Seen::Broken;
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return Seen::Broken,
        }
    }
    let head = String::from_utf8(head).expect("a head is text");
    let line = head.lines().next().expect("a status line");
    if !line.contains(" 200 ") {
        let code = line
            .rsplit_once('(')
            .and_then(|(_, code)| code.strip_suffix(')'))
            .expect("a code");
        return Seen::Refused(code.into());
    }
    if converse(&mut stream, seed).await.is_some() {
        Seen::Whole
    } else {
        Seen::Broken
    }
}

/// None if it ended early. All received bytes must be the right ones in any case.
async fn converse(stream: &mut TcpStream, seed: u64) -> Option<()> {
    let recorded = Recorded::named("curl-openssl");
    stream.write_all(&recorded.bytes).await.ok()?;
    is_answered(stream, &recorded.server_hello()).await?;
    for round in 0..4 {
        let sent = payload::bytes(seed * 10 + round, 50_000);
        stream.write_all(&sent).await.ok()?;
        is_answered(stream, &sent).await?;
    }
    stream.shutdown().await.ok()?;
    (stream.read(&mut [0]).await.ok()? == 0).then_some(())
}

async fn is_answered(stream: &mut TcpStream, expected: &[u8]) -> Option<()> {
    let (mut came, mut buffer) = (0, vec![0; 65_536]);
    while came < expected.len() {
        let read = stream
            .read(&mut buffer)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        assert!(
            expected.get(came..came + read) == Some(&buffer[..read]),
            "other bytes than were sent came back"
        );
        came += read;
    }
    Some(())
}

/// An upstream that answers a recorded hello and then echoes. It accepts connections from the
/// static address only.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, from)) = listener.accept().await {
            assert_eq!(
                from.ip().to_string(),
                "127.0.0.2",
                "it left from another address"
            );
            tokio::spawn(async move {
                stream.set_nodelay(true)?;
                let recorded = Recorded::named("curl-openssl");
                let mut hello = vec![0; recorded.bytes.len()];
                stream.read_exact(&mut hello).await?;
                assert!(hello == recorded.bytes, "another hello than was sent");
                stream.write_all(&recorded.server_hello()).await?;
                let (mut reading, mut writing) = stream.split();
                tokio::io::copy(&mut reading, &mut writing).await?;
                writing.shutdown().await
            });
        }
    });
    address
}

/// Without epoll_wait(2), as on aarch64, the C library uses the other call.
const EPOLL_WAIT: &str = "?epoll_wait,epoll_pwait";
/// As many as the calls that `inject` names may affect.
const ATTEMPTS: usize = 40;
/// Longer than every deadline of the daemon.
const HANG: Duration = Duration::from_secs(30);
const SETTINGS: &str = "[timeouts]\nrequest = \"2s\"\nserver_hello = \"2s\"\nclient_hello = \"2s\"\nidle = \"3s\"\nhalf_close = \"3s\"\n\n[relay]\nworkers = 1";
