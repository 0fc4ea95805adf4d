//! What the second connection gets when the upstream has closed a warm one, and when there is none.

use serde_json::{Value, json};
use support::HOST;
use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::made_hello::{MadeHello, record as tls_record};
use support::{soon, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::front_end::{Conduct, FrontEnd};
use super::{authority, config, dials, warm_up};

/// A daemon with one warm socket, which its front end treats like this, and a client whose tunnel has it.
struct Rig {
    upstream: FrontEnd,
    daemon: Daemon,
    client: TcpStream,
}

impl Rig {
    async fn new(conduct: Conduct) -> Rig {
        Rig::with(conduct, |config| config).await
    }

    async fn with(conduct: Conduct, change: impl Fn(Config) -> Config) -> Rig {
        let upstream = FrontEnd::start("127.0.0.1:0", move |nth| match nth {
            3 => conduct,
            _ => Conduct::Serve,
        });
        let upstream = upstream.await;
        let mut daemon = Daemon::start(&change(config(upstream.address, 1))).await;
        warm_up(&mut daemon, &upstream, 1).await;
        let reply = connect(daemon.proxy_addr(), &authority(upstream.address), &[]).await;
        let client = reply.established();
        Rig {
            upstream,
            daemon,
            client,
        }
    }

    /// Has the front end end the warm socket now.
    async fn end_the_warm_one(&self) {
        self.upstream.free();
        let over = async || self.upstream.connections()[3].is_over;
        wait_until("the upstream's end", over).await;
    }

    /// The record of a tunnel with a warm socket that was not dialled again.
    async fn ended(&mut self) -> Value {
        let record = self.daemon.tunnel_record().await;
        let facts = [record.get("warm"), record.get("redialled")];
        assert_eq!(facts, [Some(&json!(true)), None], "{record}");
        assert_eq!(dials(&self.daemon, "redial").await, 0);
        record
    }

    /// The bytes of the connection that was dialled instead.
    fn second(&self) -> Vec<u8> {
        let later = self.upstream.connections().split_off(4);
        later
            .into_iter()
            .map(|one| one.bytes)
            .max_by_key(Vec::len)
            .unwrap_or_default()
    }
}

/// A hello that announces early data, and some.
fn early() -> (Vec<u8>, Vec<u8>) {
    let hello = MadeHello::naming(HOST).extension(EARLY_DATA, b"").bytes();
    (hello, tls_record(23, &[0x77; 16_000]))
}

/// An upstream that has only ended its side would get the hello twice.
#[tokio::test]
async fn a_warm_one_that_has_ended_its_side_gets_no_hello() {
    let mut rig = Rig::new(Conduct::HalfCloseWhenTold).await;
    rig.end_the_warm_one().await;
    super::greet(&mut rig.client).await.expect("the answer");
    drop(rig.client);
    let record = rig.daemon.tunnel_record().await;
    assert_eq!(record["redialled"], json!(true), "{record}");
    assert_eq!(record["outcome"], "allowed", "{record}");
    let reset = async || rig.upstream.connections()[3].was_reset;
    wait_until("the reset of the warm one", reset).await;
    assert!(rig.upstream.connections()[3].bytes.is_empty());
}

#[tokio::test]
async fn a_warm_one_that_has_spoken_is_not_replaced() {
    let mut rig = Rig::new(Conduct::SpeakWhenTold).await;
    rig.end_the_warm_one().await;
    // The tunnel ends without the hello, or with it.
    let _gone = rig.client.write_all(&MadeHello::naming(HOST).bytes()).await;
    assert_eq!(rig.ended().await["outcome"], "failed");
}

#[tokio::test]
async fn a_mute_upstream_is_not_replaced() {
    let change = |config: Config| config.section("[timeouts]\nserver_hello = \"300ms\"");
    let mut rig = Rig::with(Conduct::StayMute, change).await;
    rig.client
        .write_all(&MadeHello::naming(HOST).bytes())
        .await
        .expect("send");
    assert_eq!(rig.ended().await["code"], "server_hello_timeout");
}

/// The client has gone, as far as anybody can tell.
#[tokio::test]
async fn a_client_that_has_ended_its_side_is_not_dialled_for() {
    let mut rig = Rig::new(Conduct::StayMute).await;
    rig.client
        .write_all(&MadeHello::naming(HOST).bytes())
        .await
        .expect("send");
    rig.client.shutdown().await.expect("end the side");
    assert_eq!(rig.ended().await["outcome"], "failed");
}

/// RFC 8470: only the client may repeat it.
#[tokio::test]
async fn early_data_is_not_sent_twice() {
    let (hello, data) = early();
    // Longer than the recorded hello, so that the front end has seen some of it.
    let mut rig = Rig::new(Conduct::CloseOnHello).await;
    rig.client
        .write_all(&[hello, data].concat())
        .await
        .expect("send");
    assert_eq!(rig.ended().await["outcome"], "failed");
    assert!(rig.second().is_empty());
}

/// What the first connection has not got goes to the second one, in order.
#[tokio::test]
async fn early_data_that_was_not_sent_follows_the_hello() {
    let (hello, data) = early();
    let mut rig = Rig::new(Conduct::CloseWhenTold).await;
    rig.end_the_warm_one().await;
    let sent = [hello, data].concat();
    rig.client.write_all(&sent).await.expect("send");
    let answered = soon("an answer", rig.client.read_u8()).await;
    assert_eq!(answered.expect("a byte"), 22);
    let all = async || rig.second().len() >= sent.len();
    wait_until("all bytes", all).await;
    assert!(rig.second() == sent);
    drop(rig.client);
    let record = rig.daemon.tunnel_record().await;
    assert_eq!(record["redialled"], json!(true), "{record}");
}

/// The second connection's bytes are judged as those of the first.
#[tokio::test]
async fn bytes_after_the_hello_are_judged_on_the_second_connection_too() {
    let mut rig = Rig::new(Conduct::CloseWhenTold).await;
    rig.end_the_warm_one().await;
    let hello = MadeHello::naming(HOST).bytes();
    let sent = [hello.clone(), tls_record(24, b"\x01\0\x10")].concat();
    rig.client.write_all(&sent).await.expect("send");
    let record = rig.daemon.tunnel_record().await;
    assert_eq!(record["code"], "client_hello_malformed", "{record}");
    let second = rig.second();
    assert!(hello.starts_with(&second), "{} bytes", second.len());
}

const EARLY_DATA: u16 = 42;
