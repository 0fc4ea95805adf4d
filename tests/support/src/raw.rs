//! Tunnels to an upstream without TLS of its own: after a recorded greeting each end is a bare TCP
//! socket in the test's hands, so that every byte, FIN and RST is visible.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::connect;
use crate::daemon::Daemon;
use crate::hello::Recorded;
use crate::{HOST, payload, soon};

/// An upstream whose connections the test accepts itself.
pub struct RawUpstream {
    listener: TcpListener,
    address: Option<SocketAddr>,
}

impl RawUpstream {
    pub async fn start() -> RawUpstream {
        RawUpstream::start_at("127.0.0.1:0").await
    }

    pub async fn start_at(address: &str) -> RawUpstream {
        RawUpstream {
            listener: TcpListener::bind(address).await.expect("bind the upstream"),
            address: None,
        }
    }

    /// On another host, where `listener` answers for this address.
    pub fn elsewhere(listener: std::net::TcpListener, address: IpAddr) -> RawUpstream {
        let listener = TcpListener::from_std(listener).expect("a listener");
        let port = listener.local_addr().expect("a bound address").port();
        RawUpstream {
            listener,
            address: Some(SocketAddr::new(address, port)),
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
            .unwrap_or_else(|| self.listener.local_addr().expect("a bound address"))
    }

    /// The authority that a client requests.
    pub fn authority(&self) -> String {
        format!("{HOST}:{}", self.addr().port())
    }

    /// The next connection to this upstream; it must arrive soon.
    pub async fn accept(&self) -> TcpStream {
        soon("a connection to the upstream", self.accept_whenever()).await
    }

    /// The next connection to this upstream, if any.
    pub async fn accept_whenever(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().await.expect("accept");
        stream.set_nodelay(true).expect("nodelay");
        stream
    }

    /// Makes the kernel buffer little for connections that are accepted from now on.
    pub fn takes_little(&self) {
        SockRef::from(&self.listener)
            .set_recv_buffer_size(4 * 1024)
            .expect("a buffer size");
    }

    /// Whether no connection waits to be accepted.
    pub async fn is_untouched(&self) -> bool {
        tokio::time::timeout(Duration::ZERO, self.listener.accept())
            .await
            .is_err()
    }
}

impl RawUpstream {
    /// The dialled connection was given up before a byte was sent: it is reset, or this side never
    /// saw it established, because the ClientHello completes the handshake. The test knows that the
    /// attempt has ended.
    pub async fn was_given_up(&self) {
        if let Ok(accepted) = tokio::time::timeout(Duration::ZERO, self.listener.accept()).await {
            let (mut stream, _) = accepted.expect("accept");
            assert_eq!(read_to_reset(&mut stream).await, 0, "bytes went upstream");
        }
    }
}

/// An open tunnel: the client's socket and the upstream's socket.
pub struct Tunnel {
    pub client: TcpStream,
    pub upstream: TcpStream,
    /// The bytes of the ClientHello that went up.
    pub hello: Vec<u8>,
    /// The bytes of the ServerHello that came down.
    pub server_hello: Vec<u8>,
}

impl Tunnel {
    /// Opens a tunnel and exchanges the greetings of a recorded client.
    pub async fn open(daemon: &Daemon, upstream: &RawUpstream) -> Tunnel {
        Tunnel::open_with(daemon, upstream, &[]).await
    }

    /// The same with headers in the CONNECT.
    pub async fn open_with(
        daemon: &Daemon,
        upstream: &RawUpstream,
        headers: &[(&str, &str)],
    ) -> Tunnel {
        let client = connect(daemon.proxy_addr(), &upstream.authority(), headers)
            .await
            .established();
        Tunnel::over(client, upstream).await
    }

    /// The tunnel after a 200 that the client has just received, once the greetings are exchanged.
    pub async fn over(mut client: TcpStream, upstream: &RawUpstream) -> Tunnel {
        let recorded = Recorded::named("curl-openssl");
        let (hello, server_hello) = (recorded.bytes.clone(), recorded.server_hello());
        // Before the accept, because these bytes complete the handshake with the upstream.
        client.write_all(&hello).await.expect("send the hello");
        let mut accepted = upstream.accept().await;
        let mut received = vec![0; hello.len()];
        soon("the hello", accepted.read_exact(&mut received))
            .await
            .expect("receive the hello");
        assert!(received == hello, "the hello arrived changed");
        pass(&mut accepted, &mut client, &server_hello).await;
        Tunnel {
            client,
            upstream: accepted,
            hello,
            server_hello,
        }
    }

    /// Sends distinct bytes in each direction and checks that they arrive.
    pub async fn exchange(&mut self, seed: u64) {
        pass(
            &mut self.client,
            &mut self.upstream,
            &payload::bytes(seed, 1000),
        )
        .await;
        pass(
            &mut self.upstream,
            &mut self.client,
            &payload::bytes(!seed, 1000),
        )
        .await;
    }

    /// Ends both directions normally, client first.
    pub async fn close(mut self) {
        self.client
            .shutdown()
            .await
            .expect("end the client's direction");
        assert_eq!(payload::receive(&mut self.upstream).await.bytes, 0);
        self.upstream
            .shutdown()
            .await
            .expect("end the upstream's direction");
        assert_eq!(payload::receive(&mut self.client).await.bytes, 0);
    }
}

/// Sends `bytes` from one end and reads exactly them at the other.
pub async fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    let mut received = vec![0; bytes.len()];
    let (sent, read) = soon("bytes at the other end", async {
        tokio::join!(from.write_all(bytes), to.read_exact(&mut received))
    })
    .await;
    sent.expect("send");
    read.expect("receive");
    assert!(received == bytes, "{} bytes arrived changed", bytes.len());
}

/// All bytes until the clean end of the direction.
pub async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    soon("the end of the stream", stream.read_to_end(&mut bytes))
        .await
        .expect("a clean end");
    bytes
}

/// Closes a connection with a reset, like a crashed peer.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("linger");
}

/// All bytes that an upstream receives before it is given up, which is a reset.
pub async fn read_to_give_up(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match soon("a reset", stream.read_to_end(&mut bytes)).await {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => bytes,
        other => panic!("expected a reset, got {other:?} after {bytes:?}"),
    }
}

/// Reads to the end of the stream, which must be a reset and never a clean end; returns the bytes
/// before it.
pub async fn read_to_reset(stream: &mut TcpStream) -> usize {
    let mut bytes = Vec::new();
    match soon("a reset", stream.read_to_end(&mut bytes)).await {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => bytes.len(),
        other => panic!(
            "expected a reset, got {other:?} after {} bytes",
            bytes.len()
        ),
    }
}
