//! From the judged ClientHello to the final ServerHello: which bytes pass in which order, which are
//! refused and with which alert, and the audit record and metrics; with real TLS at both ends and
//! with bytes made by hand.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::crypto::ring::kx_group::{SECP256R1, X25519};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};
use serde_json::Value;
use support::client::{connect, tls_connect};
use support::config::Config;
use support::daemon::Daemon;
use support::made_answer::{KEY_SHARE, MadeAnswer, SUPPORTED_VERSIONS};
use support::made_hello::{HOST_NAME, MadeHello, record};
use support::raw::{RawUpstream, pass, read_to_end, read_to_give_up, read_to_reset, reset};
use support::refusal::{count, send};
use support::{DEADLINE, HOST, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{spawn_blocking, yield_now};
use tokio_rustls::TlsAcceptor;

#[tokio::test]
async fn a_real_server_asks_for_another_key_share() {
    let tls = RealTls::start(&TLS13, &[SECP256R1]).await;
    let mut daemon = Daemon::start(&Config::to(tls.upstream.addr())).await;
    assert_eq!(
        tls.session(&daemon).await,
        HandshakeKind::FullWithHelloRetryRequest
    );
    let record = daemon.tunnel_record().await;
    assert_eq!(
        chosen(&record),
        ["1.3", "TLS13_CIPHER", "secp256r1"],
        "{record}"
    );
    assert_eq!(
        (&record["hello_retry"], &record["outcome"]),
        (&true.into(), &"allowed".into()),
        "{record}"
    );
    assert_eq!(negotiated(&daemon, "1.3", "secp256r1").await, 1.0);
    assert_eq!(negotiated(&daemon, "1.3", "x25519").await, 0.0);
}

#[tokio::test]
async fn the_record_has_the_choices_of_a_real_server() {
    let cases = [
        (&TLS13, ["1.3", "TLS13_CIPHER", "x25519"], "x25519"),
        (
            &TLS12,
            ["1.2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", ""],
            "none",
        ),
    ];
    for (version, wanted, group) in cases {
        let tls = RealTls::start(version, &[X25519, SECP256R1]).await;
        let mut daemon = Daemon::start(&Config::to(tls.upstream.addr())).await;
        assert_eq!(tls.session(&daemon).await, HandshakeKind::Full);
        let record = daemon.tunnel_record().await;
        assert_eq!(chosen(&record), wanted, "{record}");
        assert_eq!(record["hello_retry"], false, "{record}");
        assert_eq!(record.get("group").is_none(), group == "none", "{record}");
        assert_eq!(negotiated(&daemon, wanted[0], group).await, 1.0);
    }
}

#[tokio::test]
async fn a_real_session_is_resumed_and_its_early_data_arrives() {
    for version in [&TLS12, &TLS13] {
        let tls = RealTls::start(version, &[X25519, SECP256R1]).await;
        let mut daemon = Daemon::start(&Config::to(tls.upstream.addr())).await;
        assert_eq!(tls.session(&daemon).await, HandshakeKind::Full);
        assert_eq!(daemon.tunnel_record().await["outcome"], "allowed");
        let (kind, version) = if version == &TLS12 {
            (tls.session(&daemon).await, "1.2")
        } else {
            (
                tls.session_with_early_data(&daemon, b"said before the server has said a word")
                    .await,
                "1.3",
            )
        };
        assert_eq!(kind, HandshakeKind::Resumed);
        let record = daemon.tunnel_record().await;
        assert_eq!(
            (&record["tls_version"], &record["hello_retry"]),
            (&version.into(), &false.into()),
            "{record}"
        );
        assert_eq!(record["outcome"], "allowed", "{record}");
    }
}

#[tokio::test]
async fn a_second_hello_arrives_as_it_was_sent() {
    let mut setting = Setting::new(|config| config).await;
    let share = [&[0, 69, 0, 23, 0, 65][..], &[4; 65]].concat();
    let second = MadeHello::naming(HOST).extension(KEY_SHARE, &share);
    let cut = in_records(&second.message(), &[1, 2, 3, 50, 1]);
    let forms = [
        second.bytes(),
        cut.clone(),
        [CCS, &second.bytes()].concat(),
        [CCS, CCS, &cut].concat(),
        [WARNING, CCS, &second.bytes()].concat(),
        MadeHello::naming(&HOST.to_uppercase()).bytes(),
    ];
    for form in &forms {
        for piece in [form.len(), 7, 1] {
            let mut talk = setting.asked_again().await;
            let mut arrived = vec![0; form.len()];
            let sent = in_pieces(&mut talk.client, form, piece);
            let (_, read) = soon("the second hello", async {
                tokio::join!(sent, talk.served.read_exact(&mut arrived))
            })
            .await;
            read.unwrap();
            assert!(
                arrived == *form,
                "the second hello arrived changed: {arrived:02x?}"
            );
            pass(
                &mut talk.served,
                &mut talk.client,
                &MadeAnswer::tls13().bytes(),
            )
            .await;
            let record = setting.serves(talk).await;
            assert_eq!(
                (&record["hello_retry"], &record["group"]),
                (&true.into(), &"x25519".into()),
                "{record}"
            );
        }
    }
}

#[tokio::test]
async fn a_second_hello_without_sni_or_with_another_name_is_refused() {
    let mut setting = Setting::new(|config| config).await;
    let others = [
        "storage.googleapis.com",
        "evil.example",
        &HOST[1..],
        &format!("{HOST}.evil.example"),
    ];
    for name in others {
        let hello = MadeHello::naming(name);
        for bytes in [hello.bytes(), in_records(&hello.message(), &[40, 4])] {
            setting
                .refuses_again(&bytes, UNRECOGNIZED_NAME, "sni_mismatch")
                .await;
        }
    }
    let nameless = MadeHello::bare().versions(&[0x0304]).bytes();
    setting
        .refuses_again(&nameless, UNRECOGNIZED_NAME, "sni_missing")
        .await;
}

#[tokio::test]
async fn a_malformed_second_hello_is_refused() {
    let mut setting =
        Setting::new(|config| config.section("[limits]\nclient_hello_bytes = 2048")).await;
    let good = MadeHello::naming(HOST);
    let message = good.message();
    let (first, second) = message.split_at(60);
    let malformed = [
        record(22, &[message.as_slice(), b"\0"].concat()),
        record(22, &[2, 0, 0, 1, 0]),
        record(22, b""),
        [record(22, first), record(20, &[1]), record(22, second)].concat(),
        good.clone()
            .extension(0xff01, b"\0")
            .extension(0xff01, b"\0")
            .bytes(),
        good.clone().server_names(&[(HOST_NAME, HOST)]).bytes(),
        MadeHello::bare()
            .versions(&[0x0304])
            .server_names(&[(HOST_NAME, HOST), (HOST_NAME, "evil.example")])
            .bytes(),
    ];
    for bytes in malformed {
        setting
            .refuses_again(&bytes, DECODE_ERROR, "client_hello_malformed")
            .await;
    }
    let large = good.extension(21, &[0; 2048]).bytes();
    setting
        .refuses_again(&large, DECODE_ERROR, "client_hello_too_large")
        .await;
}

#[tokio::test]
async fn a_second_hello_with_old_tls_or_ech_is_refused() {
    let offering = |versions: &[u16]| {
        MadeHello::bare()
            .server_names(&[(HOST_NAME, HOST)])
            .versions(versions)
            .bytes()
    };
    let mut setting = Setting::new(|config| config).await;
    setting
        .refuses_again(
            &offering(&[0x0302, 0x0301]),
            PROTOCOL_VERSION,
            "tls_version_denied",
        )
        .await;
    let mut setting = Setting::new(|config| config.policy("min_tls = \"1.3\"")).await;
    setting
        .refuses_again(&offering(&[0x0303]), PROTOCOL_VERSION, "tls_version_denied")
        .await;
    let mut setting = Setting::new(|config| config.policy("ech = \"deny\"")).await;
    let outer = [&[0, 0, 1, 0, 1, 7, 0, 32][..], &[9; 32], &[0, 16], &[9; 16]].concat();
    let ech = MadeHello::naming(HOST).extension(0xfe0d, &outer).bytes();
    setting
        .refuses_again(&ech, ACCESS_DENIED, "ech_denied")
        .await;
}

#[tokio::test]
async fn an_unexpected_record_before_the_server_hello_is_refused() {
    let mut setting = Setting::new(|config| config).await;
    let (hello, plain) = (MadeHello::naming(HOST).bytes(), setting.hello.clone());
    let early = MadeHello::naming(HOST).extension(EARLY_DATA, b"").bytes();
    // With and without announced early data: no second hello, and no bytes of another protocol.
    for (first, bytes) in [
        (&plain, hello.clone()),
        (
            &plain,
            in_records(&MadeHello::naming("evil.example").message(), &[1, 1]),
        ),
        (&plain, vec![22]),
        (&plain, record(22, &[16, 0, 0, 0])),
        (&plain, record(23, b"not announced")),
        (&plain, b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        (&plain, record(24, b"\x01\0\x10")),
        (&early, hello.clone()),
        (&early, vec![23, 2, 0]),
    ] {
        let mut talk = setting.greeted(first).await;
        send(&mut talk.client, &bytes).await;
        setting
            .refused(talk, DECODE_ERROR, "client_hello_malformed")
            .await;
        // In one segment with the hello.
        let mut talk = setting.established().await;
        let sent = [first.as_slice(), &bytes].concat();
        send(&mut talk.client, &sent).await;
        let mut arrived = vec![0; first.len()];
        soon("the hello", talk.served.read_exact(&mut arrived))
            .await
            .unwrap();
        assert!(arrived == *first);
        talk.up = first.len();
        setting
            .refused(talk, DECODE_ERROR, "client_hello_malformed")
            .await;
    }
    // After the second hello there is no early data, and no third hello.
    for bytes in [record(23, b"too late"), hello] {
        let mut talk = setting.greeted(&early).await;
        talk.is_asked_again().await;
        talk.says(&early).await;
        send(&mut talk.client, &bytes).await;
        setting
            .refused(talk, DECODE_ERROR, "client_hello_malformed")
            .await;
    }
}

#[tokio::test]
async fn announced_early_data_arrives_in_order() {
    let mut setting = Setting::new(|config| config).await;
    let early = MadeHello::naming(HOST).extension(EARLY_DATA, b"").bytes();
    let second = MadeHello::naming(HOST).bytes();
    let data = record(23, &[0x77; 16_640]);
    let mut talk = setting.greeted(&early).await;
    for bytes in [CCS, &record(23, b"first"), &data, &record(23, b"last")] {
        talk.says(bytes).await;
    }
    talk.is_answered(&MadeAnswer::tls13().bytes()).await;
    setting.serves(talk).await;
    // Bytes in flight when the server asks again still arrive.
    let mut talk = setting.greeted(&early).await;
    talk.says(&data).await;
    talk.is_asked_again().await;
    talk.says(&[data.as_slice(), CCS, second.as_slice()].concat())
        .await;
    talk.is_answered(&MadeAnswer::tls13().bytes()).await;
    setting.serves(talk).await;
}

#[tokio::test]
async fn a_server_flight_out_of_turn_is_refused() {
    let mut setting = Setting::new(|config| config).await;
    let (retry, hello) = (MadeAnswer::retry().bytes(), MadeAnswer::tls13().bytes());
    let second = MadeHello::naming(HOST).bytes();
    // An answer to a missing or incomplete hello.
    for answer in [&retry, &hello, &[CCS, &hello].concat()] {
        for (half, _) in [second.split_at(0), second.split_at(50)] {
            let mut talk = setting.asked_again().await;
            send(&mut talk.client, half).await;
            send(&mut talk.served, answer).await;
            talk.down = if answer.starts_with(CCS) {
                None
            } else {
                talk.down
            };
            let passed = read_to_end(&mut talk.client).await;
            assert!(CCS.starts_with(&passed), "{passed:02x?}");
            setting.failed(talk, b"", "server_hello_malformed").await;
        }
        let mut talk = setting.greeted(&setting.hello.clone()).await;
        send(&mut talk.served, &[retry.as_slice(), answer].concat()).await;
        let passed = read_to_end(&mut talk.client).await;
        assert!(
            [retry.as_slice(), CCS].concat().starts_with(&passed),
            "{passed:02x?}"
        );
        (talk.down, talk.retried) = (None, true);
        setting.failed(talk, b"", "server_hello_malformed").await;
    }
    // A second retry.
    let mut talk = setting.asked_again().await;
    talk.says(&second).await;
    send(&mut talk.served, &retry).await;
    setting.failed(talk, b"", "server_hello_malformed").await;
}

#[tokio::test]
async fn an_upstream_without_tls_is_refused() {
    let mut setting = Setting::new(|config| config).await;
    let http = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".as_slice();
    for answer in [
        http,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\0",
        &[22, 2],
        &[21, 1],
        &[21, 9, 0, 0, 9],
        &record(23, b"x"),
    ] {
        let mut talk = setting.greeted(&setting.hello.clone()).await;
        send(&mut talk.served, answer).await;
        setting.failed(talk, b"", "server_not_tls").await;
    }
    // The server may speak first.
    let mut talk = setting.established().await;
    send(&mut talk.served, b"220 mail.example ESMTP\r\n").await;
    let hello = setting.hello.clone();
    talk.says(&hello).await;
    setting.failed(talk, b"", "server_not_tls").await;
}

#[tokio::test]
async fn a_malformed_server_hello_is_refused() {
    let mut setting = Setting::new(|config| config).await;
    let good = MadeAnswer::tls13();
    let message = good.message();
    let (first, second) = message.split_at(40);
    let mut overrun = good.bytes();
    overrun[43] = 33; // a session id that is longer than any
    let malformed = [
        record(22, b""),
        record(22, &[1, 0, 0, 0]),
        record(22, &[2, 0, 0, 0]),
        [&[22, 3, 3, 0xff, 0xff][..], &message].concat(),
        [
            record(22, first),
            record(23, b"between"),
            record(22, second),
        ]
        .concat(),
        [record(22, first), record(21, &[1, 0])].concat(),
        good.clone().extension(KEY_SHARE, &[0, 29, 0, 1, 9]).bytes(),
        MadeAnswer::below(0x0303)
            .extension(SUPPORTED_VERSIONS, &[3, 3])
            .bytes(),
        MadeAnswer::below(0x0303)
            .extension(SUPPORTED_VERSIONS, &[3, 4, 0])
            .bytes(),
        MadeAnswer::below(0x0304).bytes(),
        MadeAnswer::retry().extension(KEY_SHARE, &[0, 23]).bytes(),
        overrun,
        record(21, &[3, 40]),
        record(20, &[2]),
    ];
    for answer in malformed {
        let mut talk = setting.greeted(&setting.hello.clone()).await;
        send(&mut talk.served, &answer).await;
        setting.failed(talk, b"", "server_hello_malformed").await;
    }
    // It ends too early.
    let mut talk = setting.greeted(&setting.hello.clone()).await;
    send(&mut talk.served, &good.bytes()[..60]).await;
    talk.served.shutdown().await.unwrap();
    setting.failed(talk, b"", "server_hello_malformed").await;
}

#[tokio::test]
async fn a_server_hello_in_pieces_arrives_unchanged() {
    let mut setting = Setting::new(|config| config).await;
    let answer = MadeAnswer::tls13();
    let flight = [
        in_records(&answer.message(), &[1, 1, 2, 30]),
        CCS.to_vec(),
        record(23, &[7; 100]),
    ]
    .concat();
    for (bytes, piece) in [
        (answer.bytes(), 1),
        (flight.clone(), 1),
        (flight.clone(), flight.len()),
    ] {
        let mut talk = setting.greeted(&setting.hello.clone()).await;
        let mut arrived = vec![0; bytes.len()];
        let sent = in_pieces(&mut talk.served, &bytes, piece);
        let (_, read) = soon("the ServerHello", async {
            tokio::join!(sent, talk.client.read_exact(&mut arrived))
        })
        .await;
        read.unwrap();
        assert!(
            arrived == bytes,
            "the ServerHello arrived changed: {arrived:02x?}"
        );
        let record = setting.serves(talk).await;
        assert_eq!(
            chosen(&record),
            ["1.3", "TLS13_CIPHER", "x25519"],
            "{record}"
        );
    }
}

#[tokio::test]
async fn a_late_server_hello_times_out() {
    let mut setting =
        Setting::new(|config| config.section("[timeouts]\nserver_hello = \"300ms\"")).await;
    for answer in [b"".as_slice(), &MadeAnswer::tls13().bytes()[..60]] {
        let mut talk = setting.greeted(&setting.hello.clone()).await;
        send(&mut talk.served, answer).await;
        setting.failed(talk, b"", "server_hello_timeout").await;
    }
    // The second hello must arrive within the same time, and the client is the late side.
    let mut setting =
        Setting::new(|config| config.section("[timeouts]\nserver_hello = \"1s\"")).await;
    let talk = setting.asked_again().await;
    setting.failed(talk, b"", "client_hello_timeout").await;
}

#[tokio::test]
async fn a_server_that_chooses_old_tls_is_refused() {
    for (floor, versions) in [
        ("1.2", [0x0302, 0x0301, 0x0300, 0x0305].as_slice()),
        ("1.3", &[0x0303, 0x0302]),
    ] {
        let mut setting =
            Setting::new(|config| config.policy(&format!("min_tls = {floor:?}"))).await;
        for version in versions {
            let mut talk = setting.greeted(&setting.hello.clone()).await;
            send(&mut talk.served, &MadeAnswer::below(*version).bytes()).await;
            setting
                .ends(
                    talk,
                    [PROTOCOL_VERSION, PROTOCOL_VERSION],
                    "server_tls_version_denied",
                    "denied",
                )
                .await;
        }
        assert_eq!(negotiated(&setting.daemon, "1.2", "none").await, 0.0);
    }
}

#[tokio::test]
async fn the_client_gets_the_upstreams_alert() {
    let mut setting = Setting::new(|config| config).await;
    let refused = [21, 3, 3, 0, 2, 2, 40];
    for piece in [refused.len(), 1] {
        let mut talk = setting.greeted(&setting.hello.clone()).await;
        in_pieces(&mut talk.served, &refused, piece).await;
        talk.served.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut talk.client).await, refused);
        drop(talk.client);
        assert_eq!(read_to_give_up(&mut talk.served).await, b"");
        names_alert_40(&setting.has_told("alert_by_upstream", "failed").await);
    }
    // A warning is no refusal.
    let mut talk = setting.greeted(&setting.hello.clone()).await;
    talk.is_answered(WARNING).await;
    talk.is_answered(&MadeAnswer::below(0x0303).bytes()).await;
    assert_eq!(setting.serves(talk).await.get("error"), None);
}

#[tokio::test]
async fn the_client_gets_the_alert_before_a_reset() {
    // The close of a server with unread bytes. The alert is more informative than the reset, so the
    // client gets the alert.
    let mut setting = Setting::new(|config| config).await;
    let mut talk = setting.greeted(&setting.hello.clone()).await;
    talk.is_answered(&[21, 3, 3, 0, 2, 2, 40]).await;
    reset(talk.served);
    assert_eq!(read_to_end(&mut talk.client).await, b"");
    names_alert_40(&setting.has_told("alert_by_upstream", "failed").await);
}

#[tokio::test]
async fn each_end_before_the_server_hello_has_its_code() {
    let mut setting = Setting::new(|config| config).await;
    for retried in [false, true] {
        let mut talk = setting.greeted_or_asked_again(retried).await;
        talk.served.shutdown().await.unwrap();
        setting.failed(talk, b"", "closed_by_upstream").await;

        let mut talk = setting.greeted_or_asked_again(retried).await;
        reset(talk.served);
        assert_eq!(read_to_reset(&mut talk.client).await, 0);
        setting.has_told("reset_by_upstream", "failed").await;

        let mut talk = setting.greeted_or_asked_again(retried).await;
        reset(talk.client);
        assert_eq!(read_to_reset(&mut talk.served).await, 0);
        setting.has_told("reset_by_client", "failed").await;
    }
}

#[tokio::test]
async fn a_client_that_ended_its_side_still_gets_the_answer() {
    let mut setting = Setting::new(|config| config).await;
    let mut talk = setting.greeted(&setting.hello.clone()).await;
    talk.client.shutdown().await.unwrap();
    let answer = [MadeAnswer::tls13().bytes(), vec![0x17; 200_000]].concat();
    pass(&mut talk.served, &mut talk.client, &answer).await;
    assert_eq!(read_to_end(&mut talk.served).await, b"");
    pass(&mut talk.served, &mut talk.client, b"and more").await;
    drop(talk.served);
    assert_eq!(read_to_end(&mut talk.client).await, b"");
    let record = setting.daemon.tunnel_record().await;
    assert_eq!(
        (&record["code"], &record["outcome"]),
        (&"closed_by_client".into(), &"allowed".into()),
        "{record}"
    );
    assert_eq!(
        record["bytes_down"],
        answer.len() + b"and more".len(),
        "{record}"
    );
}

/// A daemon, an upstream in the test's hands, and the records so far.
struct Setting {
    daemon: Daemon,
    upstream: RawUpstream,
    hello: Vec<u8>,
    told: HashMap<&'static str, f64>,
}

/// One attempt: both ends, and how many bytes the daemon passed; None if that depends on timing.
struct Talk {
    client: TcpStream,
    served: TcpStream,
    up: usize,
    down: Option<usize>,
    retried: bool,
}

impl Setting {
    async fn new(settle: impl Fn(Config) -> Config) -> Setting {
        let upstream = RawUpstream::start().await;
        let daemon = Daemon::start(&settle(Config::to(upstream.addr()))).await;
        Setting {
            daemon,
            upstream,
            hello: MadeHello::naming(HOST).bytes(),
            told: HashMap::new(),
        }
    }

    /// After the 200, before the first hello.
    async fn established(&self) -> Talk {
        let client = connect(self.daemon.proxy_addr(), &self.upstream.authority(), &[])
            .await
            .established();
        let served = self.upstream.accept().await;
        Talk {
            client,
            served,
            up: 0,
            down: Some(0),
            retried: false,
        }
    }

    /// The upstream has the first hello.
    async fn greeted(&self, hello: &[u8]) -> Talk {
        let mut talk = self.established().await;
        talk.says(hello).await;
        talk
    }

    /// The client has the upstream's HelloRetryRequest.
    async fn asked_again(&self) -> Talk {
        let mut talk = self.greeted(&self.hello).await;
        talk.is_asked_again().await;
        talk
    }

    async fn greeted_or_asked_again(&self, retried: bool) -> Talk {
        if retried {
            self.asked_again().await
        } else {
            self.greeted(&self.hello).await
        }
    }

    /// Sends a requested second hello that must be refused with this alert.
    async fn refuses_again(&mut self, bytes: &[u8], alert: &[u8], code: &'static str) {
        let mut talk = self.asked_again().await;
        send(&mut talk.client, bytes).await;
        self.refused(talk, alert, code).await;
    }

    /// The client gets the alert, the upstream a close and no more bytes.
    async fn refused(&mut self, talk: Talk, alert: &[u8], code: &'static str) {
        self.ends(talk, [alert, b""], code, "denied").await;
    }

    /// The client gets this and a close; the upstream a close.
    async fn failed(&mut self, talk: Talk, to_client: &[u8], code: &'static str) {
        self.ends(talk, [to_client, b""], code, "failed").await;
    }

    async fn ends(&mut self, mut talk: Talk, last: [&[u8]; 2], code: &'static str, outcome: &str) {
        let [to_client, to_upstream] = last;
        assert_eq!(
            read_to_end(&mut talk.client).await,
            to_client,
            "the client, {code}"
        );
        assert_eq!(
            read_to_give_up(&mut talk.served).await,
            to_upstream,
            "the upstream, {code}"
        );
        let record = self.has_told(code, outcome).await;
        assert_eq!(record["bytes_up"], talk.up, "{record}");
        if let Some(down) = talk.down {
            assert_eq!(record["bytes_down"], down, "{record}");
        }
        assert_eq!(record["hello_retry"], talk.retried, "{record}");
    }

    /// The next audit record and the metric.
    async fn has_told(&mut self, code: &'static str, outcome: &str) -> Value {
        let record = self.daemon.tunnel_record().await;
        assert_eq!(
            (&record["code"], &record["outcome"]),
            (&code.into(), &outcome.into()),
            "{record}"
        );
        assert_eq!(record.get("tls_version"), None, "{record}");
        let times = self.told.entry(code).or_default();
        *times += 1.0;
        assert_eq!(count(&self.daemon, code).await, *times, "{code}");
        record
    }

    /// The tunnel opens and ends cleanly; returns its record.
    async fn serves(&mut self, mut talk: Talk) -> Value {
        talk.says(b"anything").await;
        talk.is_answered(b"whatever").await;
        talk.client.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut talk.served).await, b"");
        drop(talk.served);
        assert_eq!(read_to_end(&mut talk.client).await, b"");
        let record = self.daemon.tunnel_record().await;
        assert_eq!(
            (&record["code"], &record["outcome"]),
            (&"closed_by_client".into(), &"allowed".into()),
            "{record}"
        );
        record
    }
}

impl Talk {
    /// From the client to the upstream.
    async fn says(&mut self, bytes: &[u8]) {
        pass(&mut self.client, &mut self.served, bytes).await;
        self.up += bytes.len();
    }

    /// From the upstream to the client.
    async fn is_answered(&mut self, bytes: &[u8]) {
        pass(&mut self.served, &mut self.client, bytes).await;
        self.down = self.down.map(|down| down + bytes.len());
    }

    async fn is_asked_again(&mut self) {
        self.is_answered(&MadeAnswer::retry().bytes()).await;
        self.retried = true;
    }
}

/// A server and a client of rustls; the client sends a key share of x25519 and supports secp256r1.
struct RealTls {
    upstream: RawUpstream,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl RealTls {
    async fn start(version: &'static SupportedProtocolVersion, server_groups: &[Group]) -> RealTls {
        let identity =
            rcgen::generate_simple_self_signed([HOST.to_string()]).expect("a certificate");
        let leaf = identity.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(leaf.clone()).expect("a root");
        let client = ClientConfig::builder_with_provider(provider(&[X25519, SECP256R1]));
        let client = client
            .with_protocol_versions(&[version])
            .expect("a version");
        let mut client = client.with_root_certificates(roots).with_no_client_auth();
        client.enable_early_data = true;
        let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der())
            .expect("a key in PKCS #8");
        let server = ServerConfig::builder_with_provider(provider(server_groups));
        let server = server
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_no_client_auth();
        let mut server = server
            .with_single_cert(vec![leaf], key)
            .expect("a certificate and its key");
        server.max_early_data_size = 4096;
        RealTls {
            upstream: RawUpstream::start().await,
            client: Arc::new(client),
            server: Arc::new(server),
        }
    }

    /// One session with a message in each direction and a clean end.
    async fn session(&self, daemon: &Daemon) -> HandshakeKind {
        let (proxy, authority) = (daemon.proxy_addr(), self.upstream.authority());
        let accepted = async {
            TlsAcceptor::from(Arc::clone(&self.server))
                .accept(self.upstream.accept().await)
                .await
        };
        let connected = tls_connect(proxy, &authority, Arc::clone(&self.client));
        let (mut client, server) = tokio::join!(connected, accepted);
        let mut server = server.expect("TLS handshake");
        let talk = async {
            let mut heard = [0; 8];
            server.write_all(b"greeting").await.unwrap();
            client.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"greeting");
            client.write_all(b"response").await.unwrap();
            server.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"response");
            client.shutdown().await.unwrap();
            assert_eq!(server.read(&mut heard).await.unwrap(), 0);
            server.shutdown().await.unwrap();
            assert_eq!(client.read(&mut heard).await.unwrap(), 0);
        };
        soon("words both ways", talk).await;
        client
            .get_ref()
            .1
            .handshake_kind()
            .expect("a whole handshake")
    }

    /// A resumed session whose first bytes accompany the hello; tokio-rustls has that behind a
    /// feature, rustls itself does not.
    async fn session_with_early_data(
        &self,
        daemon: &Daemon,
        words: &'static [u8],
    ) -> HandshakeKind {
        let client = connect(daemon.proxy_addr(), &self.upstream.authority(), &[])
            .await
            .established();
        let served = self.upstream.accept().await;
        let (client_config, server_config) = (Arc::clone(&self.client), Arc::clone(&self.server));
        let (mut client, mut served) = (blocking(client), blocking(served));
        let server = spawn_blocking(move || {
            let mut tls = ServerConnection::new(server_config).unwrap();
            tls.complete_io(&mut served).unwrap();
            let mut heard = Vec::new();
            tls.early_data()
                .expect("early data was accepted")
                .read_to_end(&mut heard)
                .unwrap();
            rustls::Stream::new(&mut tls, &mut served)
                .write_all(&heard)
                .unwrap();
        });
        let client = spawn_blocking(move || {
            let mut tls =
                ClientConnection::new(client_config, ServerName::try_from(HOST).unwrap()).unwrap();
            tls.early_data()
                .expect("a ticket that allows it")
                .write_all(words)
                .unwrap();
            let mut echoed = vec![0; words.len()];
            rustls::Stream::new(&mut tls, &mut client)
                .read_exact(&mut echoed)
                .unwrap();
            assert_eq!(echoed, words);
            assert!(tls.is_early_data_accepted());
            tls.handshake_kind().expect("a whole handshake")
        });
        soon("the server", server).await.unwrap();
        soon("the client", client).await.unwrap()
    }
}

type Group = &'static dyn rustls::crypto::SupportedKxGroup;

fn provider(groups: &[Group]) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: groups.to_vec(),
        ..default_provider()
    })
}

fn blocking(stream: TcpStream) -> std::net::TcpStream {
    let stream = stream.into_std().expect("a socket");
    stream.set_nonblocking(false).expect("a blocking socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream
}

/// The server's choice in the record.
fn chosen(record: &Value) -> [&str; 3] {
    let text = |key| record[key].as_str().unwrap_or_default();
    let cipher = if text("cipher").starts_with("TLS_AES_") {
        "TLS13_CIPHER"
    } else {
        text("cipher")
    };
    [text("tls_version"), cipher, text("group")]
}

async fn negotiated(daemon: &Daemon, version: &str, group: &str) -> f64 {
    let series = format!("sealway_tls_negotiated_total{{version=\"{version}\",group=\"{group}\"}}");
    daemon
        .metric(&series)
        .await
        .unwrap_or_else(|| panic!("no series {series}"))
}

fn names_alert_40(record: &Value) {
    assert!(
        record["error"]
            .as_str()
            .is_some_and(|error| error.contains("alert 40")),
        "{record}"
    );
    assert_eq!(record.get("tls_version"), None, "{record}");
}

/// A message cut into handshake records of these sizes, followed by one with the rest.
fn in_records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let (mut rest, mut records) = (message, Vec::new());
    for size in sizes {
        let (fragment, next) = rest.split_at(*size);
        records.extend(record(22, fragment));
        rest = next;
    }
    records.extend(record(22, rest));
    records
}

/// Sends in segments of this size.
async fn in_pieces(stream: &mut TcpStream, bytes: &[u8], size: usize) {
    for piece in bytes.chunks(size) {
        send(stream, piece).await;
        yield_now().await;
    }
}

const EARLY_DATA: u16 = 42;
const CCS: &[u8] = &[20, 3, 3, 0, 1, 1];
const WARNING: &[u8] = &[21, 3, 3, 0, 2, 1, 90];
const ACCESS_DENIED: &[u8] = &[21, 3, 3, 0, 2, 2, 49];
const DECODE_ERROR: &[u8] = &[21, 3, 3, 0, 2, 2, 50];
const PROTOCOL_VERSION: &[u8] = &[21, 3, 3, 0, 2, 2, 70];
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
