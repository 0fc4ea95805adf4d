//! The ClientHello reaches the upstream unchanged, once and in order, in whatever pieces it arrives
//! at the proxy; a hello without a server name gets an alert, and no byte of it goes upstream.

use support::client::{connect, connect_head, dial, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::raw::{RawUpstream, pass, read_to_end};
use support::soon;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn every_recorded_hello_arrives_as_it_was_sent() {
    let upstream = RawUpstream::start().await;
    let mut daemon = Daemon::start(&every_name(&upstream)).await;
    let mut hellos = 0;
    for recorded in Recorded::all()
        .iter()
        .filter(|recorded| recorded.sni.is_some())
    {
        let mut client = tunnel_for(&daemon, &upstream, recorded).await;
        client
            .write_all(&recorded.bytes)
            .await
            .expect("send the hello");
        arrives_once(recorded, client, &upstream, &recorded.bytes).await;
        let record = daemon.tunnel_record().await;
        assert_eq!(
            record["sni"].as_str(),
            recorded.sni.as_deref(),
            "{}: {record}",
            recorded.name
        );
        assert_eq!(
            record["hello_bytes"],
            recorded.bytes.len(),
            "{}: {record}",
            recorded.name
        );
        assert_eq!(
            record["hello_records"], recorded.records,
            "{}: {record}",
            recorded.name
        );
        hellos += 1;
    }
    assert_eq!(hellos, 54);
}

#[tokio::test]
async fn a_hello_byte_by_byte_arrives_unchanged() {
    for name in ["curl-openssl", "openssl-3.5-recsplit512"] {
        let (upstream, daemon, recorded) = setting(name).await;
        let mut client = tunnel_for(&daemon, &upstream, &recorded).await;
        for byte in &recorded.bytes {
            client.write_all(&[*byte]).await.expect("send one byte");
            tokio::task::yield_now().await;
        }
        arrives_once(&recorded, client, &upstream, &recorded.bytes).await;
    }
}

#[tokio::test]
async fn a_hello_in_many_records_arrives_unchanged() {
    let cuts = [
        vec![1; 60],
        vec![3],
        vec![4, 2, 32],
        vec![16; 120],
        vec![512; 3],
    ];
    for sizes in cuts {
        let (upstream, daemon, recorded) = setting("chromium156").await;
        let mut client = tunnel_for(&daemon, &upstream, &recorded).await;
        let records = recorded.in_records(&sizes);
        client.write_all(&records).await.expect("send the records");
        arrives_once(&recorded, client, &upstream, &records).await;
    }
}

#[tokio::test]
async fn a_hello_sent_with_the_head_arrives() {
    let (upstream, daemon, recorded) = setting("curl-openssl").await;
    let mut client = dial(daemon.proxy_addr()).await;
    let head = connect_head(&upstream.authority(), &[]).into_bytes();
    client
        .write_all(&[head, recorded.bytes.clone()].concat())
        .await
        .unwrap();
    let client = read_reply(client).await.established();
    arrives_once(&recorded, client, &upstream, &recorded.bytes).await;
}

#[tokio::test]
async fn half_a_hello_sent_with_the_head_arrives() {
    let (upstream, daemon, recorded) = setting("chromium156").await;
    let (first, second) = recorded.bytes.split_at(1000);
    let mut client = dial(daemon.proxy_addr()).await;
    let head = connect_head(&upstream.authority(), &[]).into_bytes();
    client.write_all(&[&head, first].concat()).await.unwrap();
    let mut client = read_reply(client).await.established();
    client.write_all(second).await.unwrap();
    arrives_once(&recorded, client, &upstream, &recorded.bytes).await;
}

#[tokio::test]
async fn bytes_sent_with_the_hello_follow_it() {
    let (upstream, daemon, recorded) = setting("curl-openssl").await;
    let mut client = dial(daemon.proxy_addr()).await;
    let head = connect_head(&upstream.authority(), &[]).into_bytes();
    // The change_cipher_spec of middlebox compatibility, which may come at any time (RFC 8446, appendix D.4).
    let early = [recorded.bytes.as_slice(), &[20, 3, 3, 0, 1, 1]].concat();
    client
        .write_all(&[head, early.clone()].concat())
        .await
        .unwrap();
    let client = read_reply(client).await.established();
    arrives_once(&recorded, client, &upstream, &early).await;
}

#[tokio::test]
async fn a_hello_without_a_name_gets_an_alert() {
    let (upstream, mut daemon, recorded) = setting("openssl-3.0-nosni").await;
    let mut client = connect(daemon.proxy_addr(), &upstream.authority(), &[])
        .await
        .established();
    client.write_all(&recorded.bytes).await.unwrap();
    let answer = read_to_end(&mut client).await;
    assert!(
        matches!(answer[..], [21, 3, _, 0, 2, 2, 112]),
        "no fatal unrecognized_name: {answer:02x?}"
    );

    let record = daemon.tunnel_record().await;
    assert_eq!(
        (&record["outcome"], &record["code"]),
        (&"denied".into(), &"sni_missing".into()),
        "{record}"
    );
    upstream.was_given_up().await;
}

/// An upstream, a daemon that may reach it, and a recording.
async fn setting(name: &str) -> (RawUpstream, Daemon, Recorded) {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    (upstream, daemon, Recorded::named(name))
}

/// A daemon that may reach the upstream under every name that was recorded.
fn every_name(upstream: &RawUpstream) -> Config {
    let mut names: Vec<String> = Recorded::all()
        .into_iter()
        .filter_map(|recorded| recorded.sni)
        .collect();
    names.sort();
    names.dedup();
    assert!(names.len() > 1, "the recordings name several hosts");
    names.iter().fold(Config::closed(), |config, name| {
        config.host(name, upstream.addr())
    })
}

/// The client's end after the 200 for the name in the recording.
async fn tunnel_for(daemon: &Daemon, upstream: &RawUpstream, recorded: &Recorded) -> TcpStream {
    let host = recorded.sni.as_deref().expect("a name");
    let authority = format!("{host}:{}", upstream.addr().port());
    connect(daemon.proxy_addr(), &authority, &[])
        .await
        .established()
}

/// Accepts at the upstream, answers the hello, lets the client send a last line and end, and
/// compares all received bytes.
async fn arrives_once(
    recorded: &Recorded,
    mut client: TcpStream,
    upstream: &RawUpstream,
    sent: &[u8],
) {
    let mut served = upstream.accept().await;
    let mut received = vec![0; sent.len()];
    let read = tokio::io::AsyncReadExt::read_exact(&mut served, &mut received);
    soon(&recorded.name, read).await.expect("read the hello");
    assert!(
        received == sent,
        "{}: the hello arrived changed",
        recorded.name
    );
    pass(&mut served, &mut client, &recorded.server_hello()).await;
    client.write_all(b"the end").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(
        read_to_end(&mut served).await,
        b"the end",
        "{}",
        recorded.name
    );
    drop(served);
    assert!(
        read_to_end(&mut client).await.is_empty(),
        "{}",
        recorded.name
    );
}
