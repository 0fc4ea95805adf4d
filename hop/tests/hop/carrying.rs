//! A session carries bytes, ends and resets as they are.

use std::pin::Pin;
use std::task::{Context, Poll};

use nix::sys::signal::Signal;
use support::soon;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::core::Core;
use crate::program::Hop;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_declared_and_its_bytes_go_both_ways() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "").await;
    let mut client = hop.connect().await;
    let mut declared = core.client().await;
    let addresses = declared.header.proxied_address().unwrap();
    assert_eq!(addresses.source, client.get_ref().0.local_addr().unwrap());
    assert_eq!(addresses.destination, hop.address);
    let tls = declared.tls();
    assert!(tls.client_ssl() && !tls.client_cert_conn() && tls.verify() != 0);
    assert_eq!(tls.version(), Some("TLSv1.3"));
    assert!(tls.cipher().unwrap().starts_with("TLS_AES_"), "{tls:?}");
    assert!(
        declared.group().contains("MLKEM768"),
        "{}",
        declared.group()
    );
    assert_eq!((declared.names().len(), declared.custom(0xe4)), (0, None));

    // More than every buffer on the way holds.
    let bytes: Vec<u8> = (0..4 << 20).map(|n: u32| (n / 7) as u8).collect();
    let (up, down) = (bytes.clone(), bytes.clone());
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_core, mut to_core) = declared.stream.split();
    let (mut got_up, mut got_down) = (vec![0; up.len()], vec![0; down.len()]);
    let all = async {
        tokio::try_join!(
            async {
                to_client.write_all(&up).await?;
                to_client.flush().await
            },
            async { to_core.write_all(&down).await },
            async { from_core.read_exact(&mut got_up).await.map(drop) },
            async { from_client.read_exact(&mut got_down).await.map(drop) },
        )
    };
    soon("all bytes both ways", all).await.unwrap();
    assert!(got_up == bytes && got_down == bytes);
    assert_eq!(hop.metrics().await["sealway_hop_sessions"], 1.0);
    client = from_client.unsplit(to_client);
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_an_end_and_the_other_direction_goes_on() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "").await;
    // The client ends first, with close_notify.
    let (mut client, mut daemon) = (hop.connect().await, core.client().await.stream);
    client.write_all(b"last").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    soon("the client's end", daemon.read_to_end(&mut got))
        .await
        .unwrap();
    assert_eq!(got, b"last");
    daemon.write_all(b"answer").await.unwrap();
    drop(daemon);
    let mut answer = Vec::new();
    // Without close_notify this is an error.
    soon("the daemon's end", client.read_to_end(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, b"answer");

    // The daemon ends first.
    let (mut client, mut daemon) = (hop.connect().await, core.client().await.stream);
    daemon.write_all(b"refused").await.unwrap();
    daemon.shutdown().await.unwrap();
    let mut got = Vec::new();
    soon("the daemon's end", client.read_to_end(&mut got))
        .await
        .unwrap();
    assert_eq!(got, b"refused");
    client.write_all(b"more").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    soon("the client's end", daemon.read_to_end(&mut got))
        .await
        .unwrap();
    assert_eq!(got, b"more");
    no_sessions(&hop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fin_without_close_notify_is_an_end_too() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "").await;
    let (client, mut daemon) = (hop.connect().await, core.client().await.stream);
    let (mut raw, _) = client.into_inner();
    raw.shutdown().await.unwrap();
    let mut got = Vec::new();
    soon("the client's end", daemon.read_to_end(&mut got))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_a_reset_on_the_other_side() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "").await;
    let (client, mut daemon) = (hop.connect().await, core.client().await.stream);
    reset(client.into_inner().0);
    assert_reset(&mut daemon).await;

    let (client, daemon) = (hop.connect().await, core.client().await.stream);
    reset(daemon);
    assert_reset(&mut client.into_inner().0).await;

    // The daemon resets while the client takes nothing, so that the hop cannot read from the daemon.
    let (client, mut daemon) = (hop.connect().await, core.client().await.stream);
    let stuffed = async { while daemon.write_all(&[0; 65_536]).await.is_ok() {} };
    assert!(
        tokio::time::timeout(std::time::Duration::from_millis(500), stuffed)
            .await
            .is_err()
    );
    reset(daemon);
    no_sessions(&hop).await;
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_silent_after_the_daemons_end_is_reset() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "[timeouts]\nhalf_close = \"200ms\"\n").await;
    let (mut client, daemon) = (hop.connect().await, core.client().await.stream);
    drop(daemon);
    let mut got = Vec::new();
    soon("the daemon's end", client.read_to_end(&mut got))
        .await
        .unwrap();
    no_sessions(&hop).await;
    // Behind the hop's FIN only a write shows the reset.
    let (mut raw, _) = client.into_inner();
    let refused = async { while raw.write_all(b"x").await.is_ok() {} };
    soon("a reset", refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_at_a_time_is_as_good_as_all_at_once() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "").await;
    let raw = TcpStream::connect(hop.address).await.unwrap();
    raw.set_nodelay(true).unwrap();
    let mut client = hop.client().over(ByteByByte(raw)).await.unwrap();
    let mut daemon = core.client().await.stream;
    client
        .write_all(b"CONNECT example.com:443 HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut got = [0; 36];
    soon("the head", daemon.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"CONNECT example.com:443 HTTP/1.1\r\n\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_hop_ends_its_connections_as_resets() {
    let core = Core::start().await;
    let mut hop = Hop::start(&core, "", "").await;
    let (client, mut daemon) = (hop.connect().await, core.client().await.stream);
    hop.signal(Signal::SIGKILL);
    soon("the hop's end", hop.child.wait()).await.unwrap();
    assert_reset(&mut daemon).await;
    assert_reset(&mut client.into_inner().0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_drains_and_then_resets() {
    let core = Core::start().await;
    let mut hop = Hop::start(&core, "", "[timeouts]\ndrain = \"300ms\"\n").await;
    let (client, mut daemon) = (hop.connect().await, core.client().await.stream);
    hop.signal(Signal::SIGTERM);
    hop.logged("draining").await;
    assert!(
        TcpStream::connect(hop.address).await.is_err(),
        "it still listens"
    );
    assert_reset(&mut daemon).await;
    assert_reset(&mut client.into_inner().0).await;
    assert!(
        soon("the hop's end", hop.child.wait())
            .await
            .unwrap()
            .success()
    );
}

pub(crate) async fn assert_reset(stream: &mut TcpStream) {
    let mut bytes = [0; 4_096];
    let reset = async {
        loop {
            match stream.read(&mut bytes).await {
                Ok(0) => panic!("an end in order"),
                Ok(_) => {}
                Err(error) => return error.kind(),
            }
        }
    };
    assert_eq!(
        soon("a reset", reset).await,
        std::io::ErrorKind::ConnectionReset
    );
}

async fn no_sessions(hop: &Hop) {
    support::wait_until("no session is left", async || {
        hop.metrics().await["sealway_hop_sessions"] == 0.0
    })
    .await;
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
}

/// Sends each byte in a segment of its own.
struct ByteByByte(TcpStream);

impl AsyncRead for ByteByByte {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for ByteByByte {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, &bytes[..1])
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
