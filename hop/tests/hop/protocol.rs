//! What TLS may be: versions, ALPN, no resumption; and what is no TLS.

use rustls::{AlertDescription as Alert, Error};
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::core::Core;
use crate::program::{BEGINNING, Hop, ONLY_1_2, ONLY_1_3};

#[tokio::test(flavor = "multi_thread")]
async fn http_1_1_is_the_one_protocol_inside() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "").await;
    let offers = |names: &[&str]| {
        let mut client = hop.client();
        client.alpn = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        client
    };
    for (offered, chosen) in [
        (&[][..], None),
        (&["h2", "http/1.1"][..], Some(&b"http/1.1"[..])),
    ] {
        let session = offers(offered).connect(hop.address).await.unwrap();
        assert_eq!(session.get_ref().1.alpn_protocol(), chosen);
        assert_eq!(core.client().await.header.alpn(), chosen);
    }
    let refused = offers(&["h2"]).connect(hop.address).await.unwrap_err();
    let inner = refused.get_ref().unwrap().downcast_ref::<Error>().unwrap();
    assert_eq!(inner, &Error::AlertReceived(Alert::NoApplicationProtocol));
    assert_eq!(
        core.event("handshake_refused").await["reason"],
        "no_application_protocol"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_is_resumed() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "").await;
    for versions in [ONLY_1_2, ONLY_1_3] {
        let mut client = hop.client();
        client.versions = versions;
        let config = std::sync::Arc::new(client.config());
        let connector = tokio_rustls::TlsConnector::from(config);
        for _ in 0..3 {
            let stream = TcpStream::connect(hop.address).await.unwrap();
            let name = crate::program::NAME.try_into().unwrap();
            let mut session = soon("a handshake", connector.connect(name, stream))
                .await
                .unwrap();
            session.write_all(&[BEGINNING]).await.unwrap();
            session.flush().await.unwrap();
            let mut daemon = core.client().await.stream;
            // A ticket would come before these bytes.
            daemon.write_all(b"x").await.unwrap();
            soon("a byte", session.read_exact(&mut [0; 1]))
                .await
                .unwrap();
            let kind = session.get_ref().1.handshake_kind();
            assert_ne!(kind, Some(rustls::HandshakeKind::Resumed));
            assert_eq!(session.get_ref().1.tls13_tickets_received(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_cleartext_is_told_what_it_needs() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "").await;
    for request in [
        "CONNECT example.com:443 HTTP/1.1\r\nProxy-Authorization: Basic c2VjcmV0OnNlY3JldA==\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        format!("POST / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)),
    ] {
        let mut client = TcpStream::connect(hop.address).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        soon("a reply", client.read_to_string(&mut reply)).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 400 Bad Request (tls_required)\r\n"), "{reply}");
        assert!(reply.contains("details=\"tls_required\"") && reply.contains("\r\n\r\ntls_required: "));
        let event = core.event("tls_required").await;
        assert_eq!((&event["client"], &event["reason"]), (&"127.0.0.1".into(), &"tls_required".into()));
        assert!(!event.to_string().contains("c2Vj"));
    }
    assert_eq!(hop.handshakes("tls_required").await, 3.0);
    assert!(core.is_idle().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_gets_an_alert_and_a_probe_no_event() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "").await;
    for (garbage, alert_bytes) in [
        &[0x80, 0x2e, 1, 3, 1, 0, 0x15][..],
        &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3],
        &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0],
        &[0; 64],
    ]
    .map(|garbage| (garbage, 7))
    .into_iter()
    // rustls says nothing to a client that begins with a record of application data.
    .chain([(&[0x17, 3, 3, 0, 1, 0][..], 0)])
    {
        let mut client = TcpStream::connect(hop.address).await.unwrap();
        client.write_all(garbage).await.unwrap();
        let mut reply = Vec::new();
        soon("an alert", client.read_to_end(&mut reply))
            .await
            .unwrap();
        assert_eq!(reply.len(), alert_bytes, "{garbage:?}: {reply:?}");
        assert!(reply.is_empty() || reply[0] == 0x15, "{reply:?}");
        assert_eq!(
            core.event("handshake_refused").await["reason"],
            "malformed",
            "{garbage:?}"
        );
    }
    drop(TcpStream::connect(hop.address).await.unwrap());
    support::wait_until("the probe is counted", async || {
        hop.handshakes("closed_by_client").await == 1.0
    })
    .await;
    assert_eq!(hop.metrics().await["sealway_hop_events_waiting"], 0.0);
    // Such clients cost the others nothing.
    let _session = hop.connect().await;
    assert!(core.client().await.tls().client_ssl());
}

/// The tables of the reference name every metric and every reason.
#[test]
fn the_reference_names_every_metric_and_every_reason() {
    let page = std::fs::read_to_string(support::root().join("docs/reference.md")).unwrap();
    for family in sealway_hop::metrics::FAMILIES {
        let row = format!("| `{}` | {} |", family.name, family.kind);
        let found = page.lines().find(|line| line.starts_with(&row));
        assert!(
            found.is_some_and(|line| line.ends_with(&format!("| {} |", family.help))),
            "{row}"
        );
    }
    for refusal in sealway_hop::refusal::Refusal::ALL {
        assert!(
            page.contains(&format!("`{}`", refusal.code())),
            "{}",
            refusal.code()
        );
    }
}
