//! Every refusal after the 200: the exact alert or a plain close, the audit record, the metric, and
//! an upstream that received no byte.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig};
use sealway::outcome::{DenyReason, End, Failure, Reply};
use serde_json::Value;
use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::hello::Recorded;
use support::made_hello::{HOST_NAME, MadeHello, record};
use support::raw::{RawUpstream, read_to_end};
use support::refusal::{count, send};
use support::tls::TlsUpstream;
use support::{HOST, soon};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

#[test]
fn these_tests_know_every_code_after_the_200() {
    let denied = DenyReason::ALL.iter().map(|reason| End::from(*reason));
    let failed = Failure::ALL.iter().map(|failure| End::from(*failure));
    let behind = denied
        .chain(failed)
        .filter(|end| !matches!(end.reply(), Reply::Http(..)))
        .map(End::code);
    // Ends by the peers, the server's answer, faults and the stop of the daemon, lost addresses, and
    // TLS instead of a CONNECT have tests of their own.
    let elsewhere = |code: &str| {
        code.starts_with("server_")
            || code.contains("_by_")
            || [
                "drained",
                "egress_lost",
                "internal_error",
                "tls_on_cleartext",
            ]
            .contains(&code)
    };
    let behind: Vec<_> = behind.filter(|code| !elsewhere(code)).collect();
    let here = [
        "not_tls",
        "client_hello_malformed",
        "client_hello_too_large",
        "sni_missing",
        "sni_mismatch",
    ];
    assert_eq!(
        behind,
        [
            here.as_slice(),
            &["tls_version_denied", "ech_denied", "client_hello_timeout"]
        ]
        .concat()
    );
}

#[tokio::test]
async fn bytes_other_than_tls_are_closed_silently() {
    let mut setting = Setting::new(|config| config).await;
    let ssl2 = [&[0x80, 0x2e, 1, 0, 2][..], &[0; 43]].concat();
    let tls_alert = record(21, &[2, 40]);
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n",
        b"SSH-2.0-x\r\n".as_slice(),
        &ssl2,
        &tls_alert,
        &record(23, b"x"),
        &[22, 2, 0],
    ] {
        setting.refuses(bytes, CLOSE, "not_tls").await;
    }
}

#[tokio::test]
async fn a_malformed_hello_gets_an_alert() {
    let mut setting = Setting::new(|config| config).await;
    let good = MadeHello::naming(HOST);
    let message = good.message();
    let (first, second) = message.split_at(60);
    let mut long_vector = good.bytes();
    long_vector[43] = 32; // a session id that runs over what follows
    let malformed = [
        record(22, &[message.as_slice(), b"\0"].concat()),
        record(22, &[2, 0, 0, 1, 0]),
        record(22, b""),
        [&[22, 3, 3, 0xff, 0xff][..], &message].concat(),
        [
            record(22, first),
            record(23, b"between"),
            record(22, second),
        ]
        .concat(),
        [record(22, first), record(21, &[1, 0])].concat(),
        good.clone()
            .extension(0xff01, b"\0")
            .extension(0xff01, b"\0")
            .bytes(),
        good.clone().server_names(&[(HOST_NAME, HOST)]).bytes(),
        MadeHello::bare().extension(0, b"").bytes(),
        MadeHello::bare()
            .extension(43, &[3, 3, 4])
            .server_names(&[(HOST_NAME, HOST)])
            .bytes(),
        long_vector,
    ];
    for bytes in malformed {
        setting
            .refuses(&bytes, DECODE_ERROR, "client_hello_malformed")
            .await;
    }
}

#[tokio::test]
async fn a_truncated_hello_gets_an_alert() {
    let mut setting = Setting::new(|config| config).await;
    let (half, _) = setting.hello.split_at(100);
    let mut client = setting.established().await;
    client.write_all(half).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await, DECODE_ERROR);
    setting.has_told("client_hello_malformed", "denied").await;
}

#[tokio::test]
async fn a_large_hello_gets_an_alert() {
    let mut setting =
        Setting::new(|config| config.section("[limits]\nclient_hello_bytes = 2048")).await;
    let padded = |bytes| {
        MadeHello::naming(HOST)
            .extension(21, &vec![0; bytes])
            .bytes()
    };
    let unpadded = padded(0).len();
    setting
        .refuses(
            &padded(2049 - unpadded),
            DECODE_ERROR,
            "client_hello_too_large",
        )
        .await;
    // The header alone is enough.
    setting
        .refuses(&padded(10_000)[..9], DECODE_ERROR, "client_hello_too_large")
        .await;
    let mut client = setting.established().await;
    send(&mut client, &padded(2048 - unpadded)).await;
    let mut served = setting.upstream.accept().await;
    let mut hello = vec![0; 2048];
    let read = tokio::io::AsyncReadExt::read_exact(&mut served, &mut hello);
    soon("a hello of the greatest length", read).await.unwrap();
}

#[tokio::test]
async fn a_hello_without_sni_or_with_another_name_gets_an_alert() {
    let mut setting = Setting::new(|config| config).await;
    let bare = || MadeHello::bare().versions(&[0x0304]);
    setting
        .refuses(&bare().bytes(), UNRECOGNIZED_NAME, "sni_missing")
        .await;
    setting
        .refuses(&MadeHello::bare().bytes(), UNRECOGNIZED_NAME, "sni_missing")
        .await;
    setting
        .refuses(
            &Recorded::named("openssl-3.0-nosni").bytes,
            UNRECOGNIZED_NAME,
            "sni_missing",
        )
        .await;
    let others = [
        "storage.googleapis.com".to_string(),
        format!("{HOST}.."),
        format!("{HOST}.evil.example"),
        format!("sub.{HOST}"),
        HOST.replacen("generative", "", 1),
        HOST.replacen('.', "_", 1),
        "127.0.0.1".to_string(),
        "localhost".to_string(),
    ];
    for name in others {
        let record = setting
            .refuses(
                &MadeHello::naming(&name).bytes(),
                UNRECOGNIZED_NAME,
                "sni_mismatch",
            )
            .await;
        assert_eq!(
            (&record["sni"], &record["host"]),
            (&name.as_str().into(), &HOST.into()),
            "{record}"
        );
    }
    // These lists break RFC 6066 or name no host.
    let ip6 = "2001:db8::1";
    let broken: [&[(u8, &str)]; 9] = [
        &[(HOST_NAME, HOST), (HOST_NAME, "evil.example")],
        &[(HOST_NAME, "evil.example"), (HOST_NAME, HOST)],
        &[(HOST_NAME, HOST), (HOST_NAME, HOST)],
        &[(1, HOST)],
        &[(HOST_NAME, HOST), (1, HOST)],
        &[(HOST_NAME, "")],
        &[(HOST_NAME, ip6)],
        &[(HOST_NAME, "a\0b")],
        &[],
    ];
    for names in broken {
        setting
            .refuses(
                &bare().server_names(names).bytes(),
                DECODE_ERROR,
                "client_hello_malformed",
            )
            .await;
    }
}

#[tokio::test]
async fn the_case_of_sni_is_ignored() {
    let setting = Setting::new(|config| config).await;
    let mut client = setting.established().await;
    let hello = MadeHello::naming(&HOST.to_uppercase()).bytes();
    let mut served = setting.upstream.accept().await;
    support::raw::pass(&mut client, &mut served, &hello).await;
}

#[tokio::test]
async fn old_tls_gets_an_alert() {
    let named = |names: &MadeHello| names.clone().server_names(&[(HOST_NAME, HOST)]);
    let old: Vec<_> = [0x0300, 0x0301, 0x0302]
        .map(|version| named(&MadeHello::bare().legacy_version(version)))
        .into();
    let downgraded = named(&MadeHello::bare()).versions(&[0x0302, 0x0301]);
    let mut setting = Setting::new(|config| config).await;
    for hello in old.iter().chain([&downgraded]) {
        setting
            .refuses(&hello.bytes(), PROTOCOL_VERSION, "tls_version_denied")
            .await;
    }
    let mut setting = Setting::new(|config| config.policy("min_tls = \"1.3\"")).await;
    let tls12 = Recorded::named("openssl-3.0-tls12only").bytes;
    let record = setting
        .refuses(&tls12, PROTOCOL_VERSION, "tls_version_denied")
        .await;
    assert_eq!(
        record["tls_offered"],
        serde_json::json!(["1.2"]),
        "{record}"
    );
    setting
        .refuses(
            &named(&MadeHello::bare()).versions(&[0x0303]).bytes(),
            PROTOCOL_VERSION,
            "tls_version_denied",
        )
        .await;
}

#[tokio::test]
async fn denied_ech_gets_an_alert() {
    let mut setting = Setting::new(|config| config.policy("ech = \"deny\"")).await;
    for name in ["chromium156", "firefox-esr"] {
        let record = setting
            .refuses(&Recorded::named(name).bytes, ACCESS_DENIED, "ech_denied")
            .await;
        assert_eq!(record["ech"], true, "{record}");
        assert!(
            record["ja4"]
                .as_str()
                .is_some_and(|text| text.starts_with("t13d")),
            "{record}"
        );
    }
    let setting = Setting::new(|config| config).await;
    let mut client = setting.established().await;
    let mut served = setting.upstream.accept().await;
    support::raw::pass(
        &mut client,
        &mut served,
        &Recorded::named("chromium156").bytes,
    )
    .await;
}

#[tokio::test]
async fn a_late_hello_is_closed() {
    let mut setting =
        Setting::new(|config| config.section("[timeouts]\nclient_hello = \"200ms\"")).await;
    let half = setting.hello[..100].to_vec();
    for bytes in [b"".as_slice(), &half] {
        setting.refuses(bytes, CLOSE, "client_hello_timeout").await;
    }
}

#[tokio::test]
async fn a_real_client_names_the_alert() {
    let tls12 = TlsUpstream::start(&TLS12, &[]).await;
    let tls13 = TlsUpstream::start(&TLS13, &[]).await;
    let strict = Config::to(tls12.addr()).policy("min_tls = \"1.3\"");
    let open = Config::to(tls13.addr());
    let mut no_sni = ClientConfig::clone(&tls13.client());
    no_sni.enable_sni = false;
    let cases = [
        (
            strict,
            tls12.authority(),
            tls12.client(),
            HOST,
            AlertDescription::ProtocolVersion,
        ),
        (
            open.clone(),
            tls13.authority(),
            tls13.client(),
            "storage.googleapis.com",
            AlertDescription::UnrecognisedName,
        ),
        (
            open,
            tls13.authority(),
            Arc::new(no_sni),
            HOST,
            AlertDescription::UnrecognisedName,
        ),
    ];
    for (config, authority, client, name, alert) in cases {
        let daemon = Daemon::start(&config).await;
        let stream = connect(daemon.proxy_addr(), &authority, &[])
            .await
            .established();
        let name = ServerName::try_from(name).unwrap();
        let error = soon("an alert", TlsConnector::from(client).connect(name, stream))
            .await
            .unwrap_err();
        let error = error
            .get_ref()
            .and_then(|error| error.downcast_ref::<rustls::Error>());
        assert_eq!(error, Some(&rustls::Error::AlertReceived(alert)));
    }
}

/// A daemon and an upstream that must not receive a byte.
struct Setting {
    daemon: Daemon,
    upstream: RawUpstream,
    hello: Vec<u8>,
}

impl Setting {
    async fn new(settle: impl Fn(Config) -> Config) -> Setting {
        let upstream = RawUpstream::start().await;
        let daemon = Daemon::start(&settle(Config::to(upstream.addr()))).await;
        Setting {
            daemon,
            upstream,
            hello: Recorded::named("curl-openssl").bytes,
        }
    }

    async fn established(&self) -> tokio::net::TcpStream {
        connect(self.daemon.proxy_addr(), &self.upstream.authority(), &[])
            .await
            .established()
    }

    /// Sends `bytes` after the 200; exactly `answer` and a clean end must arrive. Returns the audit
    /// record.
    async fn refuses(&mut self, bytes: &[u8], answer: &[u8], code: &str) -> Value {
        let before = count(&self.daemon, code).await;
        let mut client = self.established().await;
        send(&mut client, bytes).await;
        let told = read_to_end(&mut client).await;
        assert_eq!(told, answer, "{code} for {bytes:02x?}");
        let record = self
            .has_told(
                code,
                if code.ends_with("timeout") {
                    "failed"
                } else {
                    "denied"
                },
            )
            .await;
        assert_eq!(count(&self.daemon, code).await, before + 1.0, "{record}");
        record
    }

    async fn has_told(&mut self, code: &str, outcome: &str) -> Value {
        let record = self.daemon.tunnel_record().await;
        assert_eq!(
            (&record["code"], &record["outcome"]),
            (&code.into(), &outcome.into()),
            "{record}"
        );
        assert_eq!(
            (&record["bytes_up"], &record["bytes_down"]),
            (&0.into(), &0.into()),
            "{record}"
        );
        self.upstream.was_given_up().await;
        record
    }
}

const CLOSE: &[u8] = &[];
const ACCESS_DENIED: &[u8] = &[21, 3, 3, 0, 2, 2, 49];
const DECODE_ERROR: &[u8] = &[21, 3, 3, 0, 2, 2, 50];
const PROTOCOL_VERSION: &[u8] = &[21, 3, 3, 0, 2, 2, 70];
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
