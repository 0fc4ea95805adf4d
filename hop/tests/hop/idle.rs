//! Connections without a request after their handshake: no attempt, bounded in time, and over when the hop drains or the
//! certificate is revoked.

use nix::sys::signal::Signal;
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::core::Core;
use crate::program::Hop;
use crate::zoo::{Authority, Wanted, write};

/// A client that sends nothing yet.
async fn silent(hop: &Hop) -> TlsStream<TcpStream> {
    let mut client = hop.client();
    client.begins = false;
    client.connect(hop.address).await.unwrap()
}

async fn is_idle(hop: &Hop, wanted: f64) {
    let idle = async || hop.metrics().await["sealway_hop_idle"] == wanted;
    support::wait_until("idle connections", idle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_gets_a_client_with_its_first_byte() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "").await;
    let mut client = silent(&hop).await;
    is_idle(&hop, 1.0).await;
    assert!(core.is_idle().await);
    client.write_all(b"CONNECT").await.unwrap();
    client.flush().await.unwrap();
    let mut declared = core.client().await;
    let mut bytes = [0; 7];
    soon("the first bytes", declared.stream.read_exact(&mut bytes))
        .await
        .unwrap();
    assert_eq!(&bytes, b"CONNECT");
    is_idle(&hop, 0.0).await;
    // One that ends without a byte is none.
    let mut client = silent(&hop).await;
    client.shutdown().await.unwrap();
    is_idle(&hop, 0.0).await;
    support::wait_until("both handshakes", async || {
        hop.handshakes("ok").await == 2.0
    })
    .await;
    assert!(core.is_idle().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_time_is_bounded_and_its_end_is_in_order() {
    let core = Core::start().await;
    let key = "[hop]\nidle = \"300ms\"\naddress = \"127.0.0.1:0\"\n";
    let hop = Hop::start(&core, "", key).await;
    let mut client = silent(&hop).await;
    let end = soon("the end", client.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap(), 0);
    assert!(core.is_idle().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_it_at_once() {
    let core = Core::start().await;
    let mut hop = Hop::start(&core, "", "").await;
    let mut client = silent(&hop).await;
    is_idle(&hop, 1.0).await;
    hop.signal(Signal::SIGTERM);
    let end = soon("the end", client.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap(), 0);
    let status = soon("the hop's end", hop.child.wait()).await.unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_ends_it() {
    let (core, authority) = (Core::start().await, Authority::new("client CA"));
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "ca.pem", &authority.pem());
    write(&folder, "crl.pem", &authority.list(&[], 2100));
    let tls = ", client_ca = \"ca.pem\", crl = [\"crl.pem\"]";
    let hop = Hop::start_in(folder, &core, tls, "").await;
    let mut client = hop.client().with(&authority.issue(&Wanted::client(7)));
    client.begins = false;
    let mut client = client.connect(hop.address).await.unwrap();
    is_idle(&hop, 1.0).await;
    write(&hop.folder, "crl.pem", &authority.list(&[7], 2100));
    hop.signal(Signal::SIGHUP);
    let end = soon("the reset", client.read(&mut [0; 1])).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(core.is_idle().await);
}
