//! Listeners with TLS: a healthy one has no finding, and each fault of scheme and certificate has its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS12;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::fake::{Fake, server};
use super::run::{Doctor, tunnel};
use crate::zoo::{Authority, Issued, Wanted, write};

/// A listener that ends TLS and carries the rest to the tunnel. With an authority it wants a client certificate.
pub(super) async fn listener(
    own: &Issued,
    clients: Option<&Authority>,
    to: SocketAddr,
) -> SocketAddr {
    listener_with(own, clients, to, rustls::ALL_VERSIONS).await
}

/// The same with these versions of TLS.
async fn listener_with(
    own: &Issued,
    clients: Option<&Authority>,
    to: SocketAddr,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> SocketAddr {
    let mut config = server(own, versions);
    if let Some(authority) = clients {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap();
        config = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(own.chain.clone(), own.key())
            .unwrap();
    }
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // As some servers do: no alert for bytes that are not TLS.
                let mut first = [0];
                if stream.peek(&mut first).await.is_ok() && first != [HANDSHAKE] {
                    return;
                }
                let Ok(mut near) = acceptor.accept(stream).await else {
                    return;
                };
                let Ok(mut far) = TcpStream::connect(to).await else {
                    return;
                };
                let _ended = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

/// A certificate of 127.0.0.1 that ends then.
pub(super) fn certificate_until(authority: &Authority, end: SystemTime) -> Issued {
    authority.issue(&Wanted {
        names: vec![SanType::IpAddress([127, 0, 0, 1].into())],
        purpose: ExtendedKeyUsagePurpose::ServerAuth,
        expires: Some(end),
        ..Wanted::client(8)
    })
}

pub(super) fn certificate(authority: &Authority, from: i32, until: i32) -> Issued {
    authority.issue(&Wanted {
        names: vec![SanType::IpAddress([127, 0, 0, 1].into())],
        purpose: ExtendedKeyUsagePurpose::ServerAuth,
        from,
        until,
        ..Wanted::client(8)
    })
}

/// A certificate for another host.
fn elsewhere(authority: &Authority) -> Issued {
    authority.issue(&Wanted {
        names: vec![SanType::DnsName("hop.example.com".try_into().unwrap())],
        purpose: ExtendedKeyUsagePurpose::ServerAuth,
        ..Wanted::client(9)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_the_proxys_certificate_is_found_and_a_good_one_is_not() {
    let fake = Fake::start().await;
    let (daemon, _) = tunnel(&fake).await;
    let authority = Authority::new("proxy CA");
    let other = Authority::new("unknown CA");
    let ca = write(&fake.folder, "proxy.pem", &authority.pem());
    for (own, wanted) in [
        (certificate(&authority, 2024, 2100), &[][..]),
        (
            certificate(&authority, 2020, 2021),
            &["proxy_certificate_expired"],
        ),
        (
            certificate(&authority, 2090, 2100),
            &["proxy_certificate_expired"],
        ),
        (elsewhere(&authority), &["proxy_certificate_name"]),
        (
            certificate(&other, 2024, 2100),
            &["proxy_certificate_untrusted"],
        ),
    ] {
        let address = listener(&own, None, daemon.proxy_addr()).await;
        let doctor =
            Doctor::new(&format!("https://{address}"), &fake).key("GEMINI_API_KEY", "well");
        let doctor = doctor.with(&["--quick", "--proxy-ca", ca.to_str().unwrap()]);
        assert_eq!(doctor.codes().await, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wanted_client_certificate_is_found_and_used() {
    let fake = Fake::start().await;
    let (daemon, _) = tunnel(&fake).await;
    let (authority, clients) = (Authority::new("proxy CA"), Authority::new("client CA"));
    let ca = write(&fake.folder, "proxy.pem", &authority.pem());
    let own = certificate(&authority, 2024, 2100);
    // In TLS 1.2 the alert ends the handshake, in TLS 1.3 it comes behind it.
    for versions in [rustls::ALL_VERSIONS, &[&TLS12]] {
        let to = daemon.proxy_addr();
        let address = listener_with(&own, Some(&clients), to, versions).await;
        let doctor =
            Doctor::new(&format!("https://{address}"), &fake).key("GEMINI_API_KEY", "well");
        let doctor = doctor.with(&["--quick", "--proxy-ca", ca.to_str().unwrap()]);
        assert_eq!(doctor.codes().await, ["proxy_wants_certificate"]);
        for (issuer, wanted) in [
            (&clients, &[][..]),
            (&authority, &["proxy_refuses_certificate"]),
        ] {
            let client = issuer.issue(&Wanted::client(3));
            let cert = write(&fake.folder, "client.pem", &client.pem);
            let key = write(&fake.folder, "client.key", &client.key_pem);
            let with = [
                "--cert",
                cert.to_str().unwrap(),
                "--cert-key",
                key.to_str().unwrap(),
            ];
            assert_eq!(doctor.clone().with(&with).codes().await, wanted);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_scheme_is_found_in_both_directions() {
    let fake = Fake::start().await;
    let (daemon, _) = tunnel(&fake).await;
    let authority = Authority::new("proxy CA");
    let own = certificate(&authority, 2024, 2100);
    let tls = listener(&own, None, daemon.proxy_addr()).await;
    for (proxy, wanted, command) in [
        (
            format!("http://{tls}"),
            "proxy_speaks_tls",
            format!("export HTTPS_PROXY=https://{tls}"),
        ),
        (
            format!("http://a:CANARY@{tls}"),
            "proxy_speaks_tls",
            format!("export HTTPS_PROXY=https://NAME:SECRET@{tls}"),
        ),
        (
            format!("https://{}", daemon.proxy_addr()),
            "proxy_speaks_cleartext",
            format!("export HTTPS_PROXY=http://{}", daemon.proxy_addr()),
        ),
    ] {
        let doctor = Doctor::new(&proxy, &fake).with(&["--quick"]);
        assert_eq!(doctor.codes().await, [wanted]);
        assert_eq!(
            doctor.run().await.json()["findings"][0]["commands"][0],
            command
        );
    }
}

/// A server that answers each connection with these bytes, or only the first one.
async fn answers(bytes: &'static [u8], once: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let served = async move {
                let _asked = stream.read(&mut [0; 4096]).await;
                let _sent = stream.write_all(bytes).await;
                let _closed = stream.shutdown().await;
                // So that the close is no reset, which would overtake the answer.
                while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {}
            };
            if once {
                drop(listener);
                return served.await;
            }
            tokio::spawn(served);
        }
    });
    address
}

/// Servers that are neither Sealway nor a hop.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_scheme_is_found_by_the_first_bytes_of_any_server() {
    let fake = Fake::start().await;
    let alert = b"\x15\x03\x03\x00\x02\x02\x32";
    for (scheme, bytes, once, wanted) in [
        (
            "https",
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            false,
            "proxy_speaks_cleartext",
        ),
        (
            "https",
            b"SSH-2.0-OpenSSH_9.9\r\n",
            false,
            "proxy_speaks_cleartext",
        ),
        ("https", b"", false, "proxy_closed"),
        ("https", alert, false, "proxy_tls_failed"),
        ("http", alert, false, "proxy_speaks_tls"),
        // The alert says it; another connection may not be possible.
        ("http", alert, true, "proxy_speaks_tls"),
    ] {
        let address = answers(bytes, once).await;
        let doctor = Doctor::new(&format!("{scheme}://{address}"), &fake);
        let codes = doctor.with(&["--quick"]).codes().await;
        assert_eq!(codes, [wanted], "{scheme} {bytes:?}");
    }
}

/// The first byte of a ClientHello's record.
const HANDSHAKE: u8 = 22;
