//! What a daemon that does not confirm an event leaves to the hop.

use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::program::Hop;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_waits_until_the_daemon_confirms_it() {
    let daemon = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let address = daemon.local_addr().unwrap();
    let mut hop = Hop::start_before(address, folder, "", "").await;
    // An end in order, as after a wrong token, and a reset.
    for ends_in_order in [true, false, true] {
        let (event, stream) = next(&daemon).await;
        assert!(event.contains("hop_started"), "{event}");
        if !ends_in_order {
            support::raw::reset(stream);
        }
    }
    let waits = async || hop.metrics().await["sealway_hop_events_waiting"] == 1.0;
    support::wait_until("it waits", waits).await;
    let (event, mut stream) = next(&daemon).await;
    assert!(event.contains("hop_started"), "{event}");
    stream.write_all(&[0x06]).await.unwrap();
    drop(stream);
    // Only now another one.
    let mut plain = TcpStream::connect(hop.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (event, _stream) = next(&daemon).await;
    assert!(event.contains("tls_required"), "{event}");
    hop.logged("the daemon does not take events of the hop; they wait")
        .await;
}

/// The next event and its connection, unanswered.
async fn next(daemon: &TcpListener) -> (String, TcpStream) {
    let (mut stream, _) = soon("an event", daemon.accept()).await.unwrap();
    let mut bytes = Vec::new();
    soon("its end", stream.read_to_end(&mut bytes))
        .await
        .unwrap();
    (String::from_utf8_lossy(&bytes).into_owned(), stream)
}
