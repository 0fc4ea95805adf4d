//! Devices on the path that drop ClientHellos: large ones, and those in two segments.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::HOST;
use support::config::Config;
use support::daemon::Daemon;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::fake::Fake;
use super::run::{Doctor, tunnel, tunnel_to};

/// What a device does not let pass.
#[derive(Clone, Copy)]
pub(super) enum Drops {
    /// A ClientHello of more than one segment, between the tunnel and the provider: silently.
    Large,
    /// The same with a reset.
    LargeByReset,
    /// The first connection only, as a network does that loses packets or a machine that is loaded.
    LargeOnce,
    /// A ClientHello whose record is not in the first segment behind CONNECT, between the client and the tunnel.
    Split,
    /// Nothing.
    Nothing,
}

async fn device(drops: Drops, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(drops, listener, to));
    address
}

pub(super) async fn serve(drops: Drops, listener: TcpListener, to: SocketAddr) {
    let mut first = true;
    while let Ok((near, _)) = listener.accept().await {
        let drops = match drops {
            Drops::LargeOnce if first => Drops::LargeByReset,
            Drops::LargeOnce => Drops::Nothing,
            always => always,
        };
        first = false;
        tokio::spawn(pass(drops, near, to));
    }
}

async fn pass(drops: Drops, mut near: TcpStream, to: SocketAddr) -> Option<()> {
    let mut far = TcpStream::connect(to).await.ok()?;
    if matches!(drops, Drops::Split) {
        // CONNECT and its answer.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(near.read_u8().await.ok()?);
        }
        far.write_all(&head).await.ok()?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(far.read_u8().await.ok()?);
        }
        near.write_all(&answer).await.ok()?;
        if !answer.starts_with(b"HTTP/1.1 200") {
            return copy_bidirectional(&mut near, &mut far).await.ok().map(drop);
        }
    }
    let mut first = vec![0; 16 << 10];
    let count = near.read(&mut first).await.ok()?;
    let whole = first
        .get(3..5)
        .map(|two| 5 + usize::from(u16::from_be_bytes([two[0], two[1]])))?;
    match drops {
        Drops::Large if whole > 1000 => {
            // Reads on and answers nothing.
            while near.read(&mut first).await.is_ok_and(|count| count > 0) {}
            return None;
        }
        Drops::LargeByReset if whole > 1000 => return None,
        Drops::Split if count < whole => return None,
        _ => {}
    }
    far.write_all(&first[..count]).await.ok()?;
    copy_bidirectional(&mut near, &mut far).await.ok().map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_drops_large_hellos_is_found_and_the_api_is_asked_with_a_small_one() {
    let fake = Fake::start().await;
    for (drops, wanted) in [
        (Drops::Large, &["big_hello_dropped"][..]),
        (Drops::LargeByReset, &["big_hello_dropped"]),
        (Drops::LargeOnce, &[]),
        (Drops::Nothing, &[]),
    ] {
        let before = fake.requests();
        let device = device(drops, fake.address).await;
        let (_daemon, proxy) = tunnel_to(device).await;
        let endpoint = format!("{HOST}:{}", device.port());
        let doctor = Doctor::new(&proxy, &fake).key("GEMINI_API_KEY", "well");
        // Only silence costs the whole limit.
        let limit = if matches!(drops, Drops::Large) {
            "6"
        } else {
            "25"
        };
        let doctor = doctor.with(&["--quick", "--timeout", limit, "--endpoint", &endpoint]);
        assert_eq!(doctor.codes().await, wanted);
        assert_eq!(fake.requests(), before + 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_drops_split_hellos_is_found() {
    let fake = Fake::start().await;
    let (daemon, _) = tunnel(&fake).await;
    let proxy = format!("http://{}", device(Drops::Split, daemon.proxy_addr()).await);
    let doctor = Doctor::new(&proxy, &fake).key("GEMINI_API_KEY", "well");
    assert_eq!(doctor.codes().await, ["split_hello_dropped"]);
    // --quick has no time for it, and no finding.
    assert!(doctor.with(&["--quick"]).codes().await.is_empty());
}

/// With `--ignore D10` the provider sees no connection from this machine.
#[tokio::test(flavor = "multi_thread")]
async fn an_ignored_direct_connection_is_not_made() {
    let fake = Fake::start().await;
    let provider = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = provider.local_addr().unwrap().to_string();
    let made = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&made);
    tokio::spawn(async move {
        while provider.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let closed = Daemon::start(&Config::closed()).await;
    let proxy = format!("http://{}", closed.proxy_addr());
    let mut doctor = Doctor::new(&proxy, &fake).with(&["--quick", "--endpoint", &endpoint]);
    assert_eq!(doctor.codes().await, ["tunnel_refused"]);
    assert_eq!(made.load(Ordering::SeqCst), 0);
    doctor.check_everything();
    let codes = doctor.codes().await;
    assert_eq!(codes, ["tunnel_refused", "direct_connection_possible"]);
    support::wait_until("the connection", async || made.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_connection_is_found_by_each_family() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    let v6 = TcpListener::bind("[::1]:0").await.unwrap();
    let v6 = v6.local_addr().unwrap();
    let closed = Daemon::start(&Config::closed()).await;
    let refusing = format!("http://{}", closed.proxy_addr());
    for (proxy, endpoint, wanted) in [
        // The tunnel refuses a host that is an address, so these have its code too.
        (
            &proxy,
            fake.address,
            &["tunnel_refused", "direct_connection_possible"][..],
        ),
        (
            &refusing,
            v6,
            &[
                "tunnel_refused",
                "direct_connection_possible",
                "ipv6_bypasses_tunnel",
            ],
        ),
    ] {
        let mut doctor = Doctor::new(proxy, &fake).with(&[
            "--quick",
            "--egress",
            "203.0.113.7",
            "--endpoint",
            &endpoint.to_string(),
        ]);
        doctor.check_everything();
        assert_eq!(doctor.codes().await, wanted, "{endpoint}");
    }
}
