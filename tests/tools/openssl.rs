//! Handshakes of OpenSSL's own client and server through the tunnel: every version, a retry that
//! the server really requests, resumption, accepted and rejected 0-RTT data, client certificates,
//! h2; and the audit record of each.

use serde_json::{Value, json};
use support::HOST;
use support::config::Config;
use support::daemon::Daemon;
use support::openssl::{Identities, Server, Tool};

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs openssl(1)")]
async fn every_tls_version_and_the_servers_choices_are_recorded() {
    for (options, wanted) in [(TLS12, Chosen::TLS12), (TLS13, Chosen::TLS13)] {
        let mut setting = Setting::new(options).await;
        let said = setting.session(options, "New, ").await;
        assert!(
            said.iter().any(|line| line.contains("Verification: OK")),
            "{said:#?}"
        );
        setting.tells(wanted).await;
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs openssl(1)")]
async fn a_server_that_refuses_the_key_share_gets_a_second_hello() {
    let cases = [
        ("P-521:X25519", "X25519", "x25519"),
        ("X25519:P-384", "P-384", "secp384r1"),
        ("P-256:X448", "X448", "x448"),
        ("X25519:P-256", "P-256", "secp256r1"),
    ];
    for (offered, taken, group) in cases {
        let mut setting = Setting::new(&format!("{TLS13} -groups {taken}")).await;
        setting
            .session(&format!("{TLS13} -groups {offered}"), "New, ")
            .await;
        setting
            .tells(Chosen {
                group: Some(group),
                hello_retry: true,
                ..Chosen::TLS13
            })
            .await;
        let counted = format!("sealway_tls_negotiated_total{{version=\"1.3\",group=\"{group}\"}}");
        assert_eq!(
            setting.daemon.metric(&counted).await,
            Some(1.0),
            "{counted}"
        );
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs openssl(1)")]
async fn a_session_is_resumed() {
    for (options, wanted) in [(TLS12, Chosen::TLS12), (TLS13, Chosen::TLS13)] {
        let mut setting = Setting::new(options).await;
        setting
            .session(&format!("{options} -sess_out @/session"), "New, ")
            .await;
        setting.tells(wanted.clone()).await;
        setting
            .session(&format!("{options} -sess_in @/session"), "Reused, ")
            .await;
        setting.tells(wanted).await;
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs openssl(1)")]
async fn accepted_early_data_arrives() {
    let mut setting = Setting::new(&format!("{TLS13} -early_data")).await;
    setting
        .session(&format!("{TLS13} -sess_out @/session"), "New, ")
        .await;
    setting.tells(Chosen::TLS13).await;
    std::fs::write(setting.identities.path("early"), format!("{EARLY}\n")).unwrap();
    let said = setting
        .session(
            &format!("{TLS13} -sess_in @/session -early_data @/early"),
            "Reused, ",
        )
        .await;
    assert!(
        said.iter()
            .any(|line| line.contains("Early data was accepted")),
        "{said:#?}"
    );
    setting.server.tool.says(EARLY).await;
    setting.tells(Chosen::TLS13).await;
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs openssl(1)")]
async fn rejected_early_data_is_sent_again() {
    // The server asks for another key share, or is another one that does not know the session, with
    // and without support for early data.
    for (other_server, hello_retry) in [
        (None, true),
        (Some("-early_data"), false),
        (Some(""), false),
    ] {
        let mut setting = Setting::new(&format!("{TLS13} -early_data -groups X25519")).await;
        setting
            .session(
                &format!("{TLS13} -groups X25519 -sess_out @/session"),
                "New, ",
            )
            .await;
        setting.tells(Chosen::TLS13).await;
        if let Some(options) = other_server {
            setting
                .is_served_by_another(&format!("{TLS13} {options}"))
                .await;
        }
        std::fs::write(setting.identities.path("early"), format!("{EARLY}\n")).unwrap();
        let groups = if hello_retry {
            "P-256:X25519"
        } else {
            "X25519"
        };
        let resuming = format!("{TLS13} -groups {groups} -sess_in @/session -early_data @/early");
        let said = setting.session(&resuming, ", TLSv1.3").await;
        assert!(
            said.iter()
                .any(|line| line.contains("Early data was rejected")),
            "{said:#?}"
        );
        assert!(!setting.server.tool.has_said(EARLY));
        setting
            .tells(Chosen {
                hello_retry,
                ..Chosen::TLS13
            })
            .await;
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs openssl(1)")]
async fn a_client_certificate_passes() {
    for (options, wanted) in [(TLS12, Chosen::TLS12), (TLS13, Chosen::TLS13)] {
        let mut setting = Setting::new(&format!("{options} -Verify 1")).await;
        setting
            .session(&format!("{options} -cert @/client.pem"), "New, ")
            .await;
        setting.server.tool.says("Client certificate").await;
        setting
            .server
            .tool
            .says(&setting.identities.client_certificate())
            .await;
        setting.tells(wanted).await;
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs openssl(1)")]
async fn a_client_without_the_certificate_is_refused_by_the_server() {
    // The server's alert follows its hello, encrypted in TLS 1.3: handshake_failure,
    // certificate_required.
    for (options, wanted, alert) in [(TLS12, Chosen::TLS12, 40), (TLS13, Chosen::TLS13, 116)] {
        let mut setting = Setting::new(&format!("{options} -Verify 1")).await;
        setting
            .client(options)
            .says(&format!("SSL alert number {alert}"))
            .await;
        let record = setting.daemon.tunnel_record().await;
        assert_eq!(record["outcome"], "allowed", "{record}");
        wanted.is_in(&record);
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs openssl(1)")]
async fn alpn_negotiates_h2() {
    for (options, wanted) in [(TLS12, Chosen::TLS12), (TLS13, Chosen::TLS13)] {
        let mut setting = Setting::new(&format!("{options} -alpn h2,http/1.1")).await;
        let said = setting
            .session(&format!("{options} -alpn h2,http/1.1"), "New, ")
            .await;
        assert!(
            said.iter().any(|line| line == "ALPN protocol: h2"),
            "{said:#?}"
        );
        setting
            .server
            .tool
            .says("ALPN protocols selected: h2")
            .await;
        setting
            .tells(Chosen {
                alpn: json!(["h2", "http/1.1"]),
                ..wanted
            })
            .await;
    }
}

/// Two tools of OpenSSL with a daemon between them.
struct Setting {
    identities: Identities,
    server: Server,
    daemon: Daemon,
    sessions: usize,
}

/// The description of a handshake in an audit record.
#[derive(Clone)]
struct Chosen {
    version: &'static str,
    cipher: &'static str,
    group: Option<&'static str>,
    hello_retry: bool,
    alpn: Value,
}

impl Setting {
    async fn new(options: &str) -> Setting {
        let identities = Identities::generate();
        let server = identities.server(options).await;
        let daemon = Daemon::start(&Config::to(server.addr)).await;
        Setting {
            identities,
            server,
            daemon,
            sessions: 0,
        }
    }

    /// The old server has ended, and with it the keys of its tickets.
    async fn is_served_by_another(&mut self, options: &str) {
        self.server = self.identities.server(options).await;
        self.daemon = Daemon::start(&Config::to(self.server.addr)).await;
    }

    fn client(&self, options: &str) -> Tool {
        self.identities
            .client(self.daemon.proxy_addr(), self.server.addr.port(), options)
    }

    /// A session with a long line in each direction and a clean end; returns the client's output.
    async fn session(&mut self, options: &str, kind: &str) -> Vec<String> {
        self.sessions += 1;
        let mut client = self.client(options);
        let [up, down] =
            ["1 of the client", "2 of the server"].map(|whose| line(self.sessions, whose));
        client.send(&up).await;
        // Other output of the tool may precede it.
        assert!(self.server.tool.says(&up[..20]).await.ends_with(&up));
        self.server.tool.send(&down).await;
        assert!(client.says(&down[..20]).await.ends_with(&down));
        client.says(kind).await;
        client.end().await
    }

    /// The next audit record has a normal end and this description of the handshake. The server
    /// answers the client's last bytes with its own and a FIN, which may arrive before the
    /// client's. The client waits half a second for them: on a slow machine they find it closed,
    /// and its kernel answers with a reset.
    async fn tells(&mut self, wanted: Chosen) {
        let record = self.daemon.tunnel_record().await;
        let (outcome, code) = (
            record["outcome"].as_str().unwrap(),
            record["code"].as_str().unwrap(),
        );
        let ends = ["closed_by_client", "closed_by_upstream", "reset_by_client"];
        assert!(outcome == "allowed" && ends.contains(&code), "{record}");
        assert_eq!(
            (&record["host"], &record["sni"]),
            (&HOST.into(), &HOST.into()),
            "{record}"
        );
        let line = line(1, "").len() as u64;
        assert!(
            ["bytes_up", "bytes_down"]
                .iter()
                .all(|bytes| record[bytes].as_u64() > Some(line)),
            "{record}"
        );
        wanted.is_in(&record);
    }
}

impl Chosen {
    const TLS12: Chosen = Chosen {
        version: "1.2",
        cipher: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        group: None,
        hello_retry: false,
        alpn: Value::Null,
    };
    const TLS13: Chosen = Chosen {
        version: "1.3",
        cipher: "TLS_CHACHA20_POLY1305_SHA256",
        group: Some("x25519"),
        hello_retry: false,
        alpn: Value::Null,
    };

    fn is_in(&self, record: &Value) {
        assert_eq!(record["tls_version"], self.version, "{record}");
        assert_eq!(record["cipher"], self.cipher, "{record}");
        assert_eq!(record["group"].as_str(), self.group, "{record}");
        assert_eq!(record["hello_retry"], self.hello_retry, "{record}");
        assert_eq!(record["alpn"], self.alpn, "{record}");
    }
}

/// A line that differs from every other one from its first bytes on, and is longer than a record.
fn line(session: usize, whose: &str) -> String {
    let numbers: Vec<String> = (0..8_000).map(|number: u32| number.to_string()).collect();
    format!("{session}.{whose} {}", numbers.join(" "))
}

const TLS12: &str = "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256";
const TLS13: &str = "-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256";
const EARLY: &str = "0 said before the server has said a word";
