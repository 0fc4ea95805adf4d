//! Post-quantum handshakes, X25519MLKEM768, of real stacks at both ends: hellos of 1,300 bytes and
//! more in several segments and records, answers of the same size, and retries to and from the
//! hybrid group.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use serde_json::Value;
use support::client::{connect_head, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::RawUpstream;
use support::{HOST, payload, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

#[tokio::test]
async fn a_large_hello_and_answer_pass_in_several_segments() {
    for segment in [None, Some(1_400), Some(536), Some(100)] {
        let mut ends = Ends::new(&[X25519MLKEM768, X25519], &[X25519MLKEM768]).await;
        ends.segment_bytes = segment;
        let record = ends.session(HandshakeKind::Full).await;
        assert_eq!(record["hello_records"], 1, "{record}");
        assert!(
            record["hello_bytes"].as_u64() > Some(1_216),
            "no share of ML-KEM-768: {record}"
        );
        says(&record, "X25519MLKEM768", false);
        assert_eq!(ends.negotiated("X25519MLKEM768").await, Some(1.0));
    }
}

#[tokio::test]
async fn a_large_hello_and_answer_pass_in_several_records() {
    for (fragment, segment) in [
        (1_000, None),
        (512, Some(536)),
        (512, Some(100)),
        (64, None),
        (64, Some(536)),
    ] {
        let mut ends = Ends::new(&[X25519MLKEM768, X25519], &[X25519MLKEM768]).await;
        ends.segment_bytes = segment;
        ends.in_records_of(fragment);
        let record = ends.session(HandshakeKind::Full).await;
        let (bytes, records) = (
            record["hello_bytes"].as_u64().unwrap(),
            record["hello_records"].as_u64().unwrap(),
        );
        assert!(
            records > 1 && records == bytes.div_ceil(fragment as u64),
            "records of {fragment}: {record}"
        );
        says(&record, "X25519MLKEM768", false);
    }
}

#[tokio::test]
async fn a_retry_to_the_hybrid_group_makes_the_second_hello_the_large_one() {
    for (fragment, segment) in [
        (None, None),
        (None, Some(536)),
        (Some(512), None),
        (Some(300), Some(100)),
    ] {
        let mut ends = Ends::new(&[X25519, X25519MLKEM768], &[X25519MLKEM768]).await;
        ends.segment_bytes = segment;
        fragment
            .into_iter()
            .for_each(|fragment| ends.in_records_of(fragment));
        let record = ends.session(HandshakeKind::FullWithHelloRetryRequest).await;
        assert!(
            record["hello_bytes"].as_u64() < Some(600),
            "the first hello has a small share: {record}"
        );
        says(&record, "X25519MLKEM768", true);
    }
}

#[tokio::test]
async fn a_retry_from_the_hybrid_group_passes() {
    for fragment in [None, Some(512)] {
        let mut ends = Ends::new(&[X25519MLKEM768, SECP256R1], &[SECP256R1]).await;
        ends.segment_bytes = Some(536);
        fragment
            .into_iter()
            .for_each(|fragment| ends.in_records_of(fragment));
        let record = ends.session(HandshakeKind::FullWithHelloRetryRequest).await;
        assert!(
            record["hello_bytes"].as_u64() > Some(1_216),
            "no share of ML-KEM-768: {record}"
        );
        says(&record, "secp256r1", true);
    }
}

/// A client and a server of rustls over aws-lc, and a daemon between them.
struct Ends {
    upstream: RawUpstream,
    daemon: Daemon,
    client: ClientConfig,
    server: ServerConfig,
    /// The largest segment that the client sends; None leaves it to the kernel.
    segment_bytes: Option<u32>,
}

impl Ends {
    async fn new(offered: &[Group], taken: &[Group]) -> Ends {
        let identity =
            rcgen::generate_simple_self_signed([HOST.to_string()]).expect("a certificate");
        let leaf = identity.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(leaf.clone()).expect("a root");
        let client = ClientConfig::builder_with_provider(provider(offered))
            .with_protocol_versions(TLS13)
            .unwrap();
        let server = ServerConfig::builder_with_provider(provider(taken))
            .with_protocol_versions(TLS13)
            .unwrap();
        let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der())
            .expect("a key in PKCS #8");
        let upstream = RawUpstream::start().await;
        Ends {
            daemon: Daemon::start(&Config::to(upstream.addr())).await,
            upstream,
            client: client.with_root_certificates(roots).with_no_client_auth(),
            server: server
                .with_no_client_auth()
                .with_single_cert(vec![leaf], key)
                .expect("a certificate and its key"),
            segment_bytes: None,
        }
    }

    /// Both sides cut their messages into records of this size, headers included.
    fn in_records_of(&mut self, bytes: usize) {
        self.client.max_fragment_size = Some(bytes);
        self.server.max_fragment_size = Some(bytes);
    }

    /// A session with a payload in each direction and a clean end; returns the audit record. Two
    /// TLS states are too large for the stack of a future.
    async fn session(&mut self, kind: HandshakeKind) -> Value {
        Box::pin(self.whole_session(kind)).await
    }

    async fn whole_session(&mut self, kind: HandshakeKind) -> Value {
        let (mut client, mut server) = self.handshake().await;
        assert_eq!(client.get_ref().1.handshake_kind(), Some(kind));
        let (up, down) = (payload::bytes(1, 50_000), payload::bytes(2, 50_000));
        soon("the payload", async {
            tokio::join!(talk(&mut client, &up, &down), talk(&mut server, &down, &up))
        })
        .await;
        client.shutdown().await.unwrap();
        assert_eq!(soon("the end", server.read(&mut [0])).await.unwrap(), 0);
        server.shutdown().await.unwrap();
        assert_eq!(soon("the end", client.read(&mut [0])).await.unwrap(), 0);
        let record = self.daemon.tunnel_record().await;
        assert_eq!(
            (&record["code"], &record["outcome"]),
            (&"closed_by_client".into(), &"allowed".into()),
            "{record}"
        );
        record
    }

    async fn handshake(&self) -> (client::TlsStream<TcpStream>, server::TlsStream<TcpStream>) {
        let name = ServerName::try_from(HOST).expect("a name");
        let connector = TlsConnector::from(Arc::new(self.client.clone()));
        let acceptor = TlsAcceptor::from(Arc::new(self.server.clone()));
        let connected = async {
            connector
                .connect(name, self.established().await)
                .await
                .expect("TLS handshake")
        };
        let accepted = async {
            acceptor
                .accept(self.upstream.accept().await)
                .await
                .expect("TLS handshake")
        };
        soon("the TLS handshake", async {
            tokio::join!(connected, accepted)
        })
        .await
    }

    /// A connection after the 200 that sends segments of a given size: the kernel cuts at
    /// TCP_MAXSEG (tcp(7)).
    async fn established(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(bytes) = self.segment_bytes {
            socket2::SockRef::from(&socket)
                .set_tcp_mss(bytes)
                .expect("TCP_MAXSEG");
        }
        let mut stream = soon("a TCP connection", socket.connect(self.daemon.proxy_addr()))
            .await
            .expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        let head = connect_head(&self.upstream.authority(), &[]);
        stream
            .write_all(head.as_bytes())
            .await
            .expect("send the CONNECT head");
        read_reply(stream).await.established()
    }

    async fn negotiated(&self, group: &str) -> Option<f64> {
        self.daemon
            .metric(&format!(
                "sealway_tls_negotiated_total{{version=\"1.3\",group=\"{group}\"}}"
            ))
            .await
    }
}

/// Sends all of `sent` and reads exactly `awaited`.
async fn talk(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    sent: &[u8],
    awaited: &[u8],
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        writer.write_all(sent).await.expect("send");
        writer.flush().await.expect("send");
    };
    let mut received = vec![0; awaited.len()];
    let (_, read) = tokio::join!(send, reader.read_exact(&mut received));
    read.expect("receive");
    assert!(received == awaited, "the payload arrived changed");
}

fn says(record: &Value, group: &str, hello_retry: bool) {
    assert_eq!(record["group"], group, "{record}");
    assert_eq!(record["hello_retry"], hello_retry, "{record}");
    assert_eq!(record["tls_version"], "1.3", "{record}");
    assert_eq!(record["cipher"], "TLS_AES_256_GCM_SHA384", "{record}");
    assert_eq!(record["sni"], HOST, "{record}");
}

fn provider(groups: &[Group]) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: groups.to_vec(),
        ..default_provider()
    })
}

type Group = &'static dyn SupportedKxGroup;

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
