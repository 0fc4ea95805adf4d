//! Attempts that the client, or the end of the daemon, cuts off after the 200 and before the
//! server's answer: the view of both sides, the audit record and the metric.

use serde_json::Value;
use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::made_answer::MadeAnswer;
use support::raw::{RawUpstream, pass, read_to_end, read_to_give_up, reset};
use support::refusal::{count, send};
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_close_without_a_hello_is_closed_by_client() {
    let (mut daemon, mut client, mut served) = established("").await;
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await, b"");
    assert_eq!(read_to_give_up(&mut served).await, b"");
    has_failed(&mut daemon, "closed_by_client").await;
}

#[tokio::test]
async fn a_reset_inside_the_hello_is_reset_by_client() {
    let hello = Recorded::named("curl-openssl").bytes;
    for sent in [&hello[..0], &hello[..100]] {
        let (mut daemon, mut client, mut served) = established("").await;
        send(&mut client, sent).await;
        reset(client);
        assert_eq!(until_the_end_or_a_reset(&mut served).await, b"");
        has_failed(&mut daemon, "reset_by_client").await;
    }
}

#[tokio::test]
async fn a_close_instead_of_a_second_hello_is_closed_by_client() {
    let (mut daemon, mut client, mut served) = established("").await;
    pass(
        &mut client,
        &mut served,
        &Recorded::named("curl-openssl").bytes,
    )
    .await;
    pass(&mut served, &mut client, &MadeAnswer::retry().bytes()).await;
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await, b"");
    assert_eq!(read_to_give_up(&mut served).await, b"");
    let record = has_failed(&mut daemon, "closed_by_client").await;
    assert_eq!(record["hello_retry"], true, "{record}");
}

/// The daemon exits before its metrics can be read.
#[tokio::test]
async fn a_stop_before_the_hello_is_drained() {
    let hello = Recorded::named("curl-openssl").bytes;
    for sent in [&hello[..0], &hello[..100]] {
        let (mut daemon, mut client, mut served) =
            established("[timeouts]\ndrain = \"100ms\"").await;
        send(&mut client, sent).await;
        daemon.signal("TERM");
        assert_eq!(until_the_end_or_a_reset(&mut client).await, b"");
        assert_eq!(until_the_end_or_a_reset(&mut served).await, b"");
        let record = daemon.tunnel_record().await;
        assert_eq!(
            (&record["code"], &record["outcome"]),
            (&"drained".into(), &"failed".into()),
            "{record}"
        );
        assert_eq!(record["bytes_up"], 0, "{record}");
    }
}

#[tokio::test]
async fn a_stop_before_the_server_hello_is_drained() {
    let hello = Recorded::named("curl-openssl").bytes;
    let (mut daemon, mut client, mut served) = established("[timeouts]\ndrain = \"100ms\"").await;
    pass(&mut client, &mut served, &hello).await;
    daemon.signal("TERM");
    assert_eq!(until_the_end_or_a_reset(&mut served).await, b"");
    let record = daemon.tunnel_record().await;
    assert_eq!(
        (&record["code"], &record["bytes_up"]),
        (&"drained".into(), &hello.len().into()),
        "{record}"
    );
    assert_eq!(record["hello_retry"], false, "{record}");
}

/// Both ends after the 200.
async fn established(section: &str) -> (Daemon, TcpStream, TcpStream) {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr()).section(section)).await;
    let client = connect(daemon.proxy_addr(), &upstream.authority(), &[])
        .await
        .established();
    let served = upstream.accept().await;
    (daemon, client, served)
}

/// The only record and the metric.
async fn has_failed(daemon: &mut Daemon, code: &str) -> Value {
    let record = daemon.tunnel_record().await;
    assert_eq!(
        (&record["code"], &record["outcome"]),
        (&code.into(), &"failed".into()),
        "{record}"
    );
    assert_eq!(record.get("tls_version"), None, "{record}");
    assert_eq!(count(daemon, code).await, 1.0, "{code}");
    record
}

async fn until_the_end_or_a_reset(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _either_will_do = soon("the end of the stream", stream.read_to_end(&mut bytes)).await;
    bytes
}
