//! Faults of the environment, the URL, CONNECT, the key and the session with the provider: each is the only finding.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::version::TLS12;
use support::HOST;
use support::config::Config;
use support::daemon::Daemon;
use support::users::{start_with_users, user};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::fake::{Fake, issued, server};
use super::run::{Doctor, tunnel, tunnel_to};
use crate::zoo::{Authority, write};

fn well(proxy: &str, fake: &Fake) -> Doctor {
    Doctor::new(proxy, fake)
        .key("GEMINI_API_KEY", "well")
        .with(&["--quick"])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_environment_does_is_found() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    for (name, value, wanted) in [
        ("NO_PROXY", "localhost,.googleapis.com", "no_proxy_matches"),
        (
            "https_proxy",
            "http://other.example:1",
            "proxy_cases_differ",
        ),
        ("no_grpc_proxy", "*", "no_grpc_proxy_matches"),
        (
            "grpc_proxy",
            "http://user:CANARY@other.example:1",
            "grpc_proxy_differs",
        ),
        ("JAVA_TOOL_OPTIONS", "-Xmx1g", "java_ignores_variables"),
        ("NODE_VERSION", "22.1.0", "node_fetch_ignores_variables"),
    ] {
        assert_eq!(
            well(&proxy, &fake).env(name, value).codes().await,
            [wanted],
            "{name}"
        );
    }
    let named = well("http://other.example:1", &fake).with(&["--proxy", &proxy]);
    assert_eq!(named.codes().await, ["proxy_variable_differs"]);
    let unset = well("", &fake);
    assert_eq!(unset.codes().await, ["proxy_not_set"]);
    let ignored = unset.with(&["--ignore", "d01"]);
    assert!(ignored.codes().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_url_is_found() {
    let fake = Fake::start().await;
    let (daemon, proxy) = tunnel(&fake).await;
    let at = daemon.proxy_addr();
    for (url, wanted) in [
        (format!("socks5://{at}"), "proxy_url_scheme"),
        (at.to_string(), "proxy_url_no_scheme"),
        ("http://127.0.0.1:x".to_owned(), "proxy_url_invalid"),
        (
            "http://no-such-host.invalid:9293".to_owned(),
            "proxy_dns_failed",
        ),
    ] {
        assert_eq!(well(&url, &fake).codes().await, [wanted], "{url}");
    }
    let config = Config::to(fake.address);
    let guarded = start_with_users(config, &user("alice", "CANARY@x", ""), "").await;
    let raw = format!("http://alice:CANARY@x@{}", guarded.proxy_addr());
    assert_eq!(well(&raw, &fake).codes().await, ["proxy_url_encoding"]);
    let encoded = raw.replace("CANARY@x", "CANARY%40x");
    assert!(well(&encoded, &fake).codes().await.is_empty());
    drop(proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_tunnel_refuses_has_the_tunnels_code() {
    let fake = Fake::start().await;
    let config = Config::to(fake.address);
    let guarded = start_with_users(config, &user("alice", "CANARY-right", ""), "").await;
    let at = guarded.proxy_addr();
    let closed = Daemon::start(&Config::closed()).await.proxy_addr();
    let strict = Daemon::start(&Config::closed()).await;
    for (proxy, code) in [
        (format!("http://{at}"), "auth_required"),
        (format!("http://alice:CANARY-wrong@{at}"), "auth_failed"),
        (format!("http://{}", strict.proxy_addr()), "host_denied"),
    ] {
        let report = well(&proxy, &fake).run().await.json();
        let finding = &report["findings"][0];
        assert_eq!(finding["code"], "tunnel_refused", "{report}");
        let cause = finding["cause"].as_str().unwrap();
        assert!(cause.contains(code), "{cause}");
    }
    // Its daemon has ended.
    assert_eq!(
        well(&format!("http://{closed}"), &fake).codes().await,
        ["proxy_connect_refused"]
    );
    let (daemon, _) = tunnel(&fake).await;
    let open = format!("http://alice:CANARY@{}", daemon.proxy_addr());
    assert_eq!(
        well(&open, &fake).codes().await,
        ["proxy_needs_no_credentials"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_service_at_the_proxys_port_is_found() {
    let fake = Fake::start().await;
    for (answer, wanted) in [
        (
            &b"HTTP/1.1 403 Forbidden\r\nServer: squid/6.1\r\nContent-Length: 0\r\n\r\n"[..],
            "other_proxy",
        ),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "proxy_not_http"),
        (b"", "proxy_closed"),
    ] {
        let address = service(answer).await;
        assert_eq!(
            well(&format!("http://{address}"), &fake).codes().await,
            [wanted]
        );
    }
    // Accepts, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", silent.local_addr().unwrap());
    assert_eq!(
        well(&proxy, &fake).with(&["--timeout", "1"]).codes().await,
        ["connect_timeout"]
    );
}

/// A service that reads a little, answers this and closes.
async fn service(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _asked = stream.read(&mut [0; 4096]).await;
                let _sent = stream.write_all(answer).await;
                // Drains, so that the close is no reset that overtakes the answer.
                let _closed = stream.shutdown().await;
                while stream
                    .read(&mut [0; 4096])
                    .await
                    .is_ok_and(|count| count > 0)
                {}
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_malformed_key_is_found_and_never_sent() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    let unset = Doctor::new(&proxy, &fake).with(&["--quick", "--key-env", "GEMINI_API_KEY"]);
    assert_eq!(unset.codes().await, ["key_not_set"]);
    for key in ["\"quoted\"", "two words", "line\n", "ä"] {
        let doctor = Doctor::new(&proxy, &fake)
            .key("GEMINI_API_KEY", key)
            .with(&["--quick"]);
        assert_eq!(doctor.codes().await, ["key_malformed"], "{key:?}");
    }
    let none = Doctor::new(&proxy, &fake)
        .with(&["--quick"])
        .run()
        .await
        .json();
    assert_eq!(none["checks"][10]["reason"], "no key was given");
    assert_eq!((&none["well"], fake.requests()), (&true.into(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_certificate_of_the_provider_is_found_and_the_key_is_not_sent() {
    let (right, other) = (
        Authority::new("provider CA"),
        Authority::new("Inspection CA"),
    );
    for (issued, wanted, named) in [
        // A device that opens TLS signs again with an authority of its own.
        (other.server(&[HOST]), "tls_is_opened", "Inspection CA"),
        (
            right.server(&["other.example"]),
            "tls_wrong_name",
            "other.example",
        ),
        (
            issued(&right, HOST, 2020, 2021),
            "tls_not_valid_now",
            "2021",
        ),
    ] {
        let fake = Fake::with(&right, &issued, rustls::ALL_VERSIONS).await;
        let (_daemon, proxy) = tunnel(&fake).await;
        let report = well(&proxy, &fake).run().await.json();
        assert_eq!(report["findings"][0]["code"], wanted, "{report}");
        assert_eq!(report["findings"].as_array().unwrap().len(), 1, "{report}");
        assert!(
            report["findings"][0]["cause"]
                .as_str()
                .unwrap()
                .contains(named),
            "{report}"
        );
        assert_eq!(fake.requests(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_of_the_tunnel_has_its_code() {
    let authority = Authority::new("provider CA");
    let fake = Fake::with(&authority, &authority.server(&[HOST]), &[&TLS12]).await;
    let daemon = Daemon::start(&Config::to(fake.address).policy("min_tls = \"1.3\"")).await;
    let report = well(&format!("http://{}", daemon.proxy_addr()), &fake)
        .run()
        .await
        .json();
    assert_eq!(report["findings"][0]["code"], "tunnel_alert", "{report}");
    let cause = report["findings"][0]["cause"].as_str().unwrap();
    assert!(cause.contains("server_tls_version_denied"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_or_silent_stream_and_a_dead_idle_session_are_found() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    let cut = Doctor::new(&proxy, &fake).key("GEMINI_API_KEY", "cut");
    assert_eq!(cut.codes().await, ["stream_cut"]);
    // A NAT that forgets each connection after a quarter of a second.
    let forgetful = forgetful(fake.address).await;
    let (_daemon, proxy) = tunnel_to(forgetful).await;
    let port = forgetful.port();
    let idle =
        Doctor::new(&proxy, &fake).with(&["--idle", "2", "--endpoint", &format!("{HOST}:{port}")]);
    assert_eq!(idle.codes().await, ["idle_session_cut"]);
}

/// A provider that closes each session after the handshake, with TLS's own message or without.
async fn closing(authority: &Authority, with_message: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = server(&authority.server(&[HOST]), rustls::ALL_VERSIONS);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                match with_message {
                    true => stream.shutdown().await.ok()?,
                    false => stream.get_mut().0.shutdown().await.ok()?,
                }
                // No reset, whatever the client still sends.
                let (stream, _) = stream.get_mut();
                while stream.read(&mut [0; 4096]).await.ok()? > 0 {}
                Some(())
            });
        }
    });
    address
}

/// Providers end idle sessions themselves, which is no fault of the path.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_that_the_provider_closes_is_no_finding() {
    let fake = Fake::start().await;
    let authority = Authority::new("closing CA");
    let ca = write(&fake.folder, "closing.pem", &authority.pem());
    for with_message in [true, false] {
        let provider = closing(&authority, with_message).await;
        let (_daemon, proxy) = tunnel_to(provider).await;
        let endpoint = format!("{HOST}:{}", provider.port());
        let doctor = Doctor::new(&proxy, &fake)
            .with(&["--idle", "1", "--endpoint", &endpoint])
            .with(&["--endpoint-ca", ca.to_str().unwrap()]);
        assert_eq!(doctor.codes().await, [""; 0], "{with_message}");
        let facts = doctor.run().await.json()["checks"][13]["facts"].to_string();
        assert!(facts.contains("provider closed"), "{facts}");
    }
}

/// A relay that resets both sides once nothing passed for 250 ms, after the handshake: after the client's answer to the
/// server's first flight.
async fn forgetful(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                let (mut up, mut down) = ([0; 8192], [0; 8192]);
                let (mut answered, mut armed) = (false, false);
                loop {
                    let forgotten = tokio::time::sleep(std::time::Duration::from_millis(250));
                    tokio::select! {
                        read = near.read(&mut up) => match read {
                            Ok(count) if count > 0 => {
                                armed |= answered;
                                far.write_all(&up[..count]).await.unwrap();
                            }
                            _ => return,
                        },
                        read = far.read(&mut down) => match read {
                            Ok(count) if count > 0 => {
                                answered = true;
                                near.write_all(&down[..count]).await.unwrap();
                            }
                            _ => return,
                        },
                        () = forgotten, if armed => {
                            for stream in [&near, &far] {
                                socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
                            }
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_flags_and_unreadable_files_exit_with_2() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let empty = write(&folder, "empty.pem", "");
    let empty = empty.to_str().unwrap();
    for arguments in [
        &["--proxy-ca", "/nonexistent"][..],
        &["--proxy-ca", empty],
        &["--cert", empty],
        &["--cert", empty, "--cert-key", empty],
        &["--ignore", "D99"],
        &["--provider", "CANARY-as-a-provider"],
        &["--egress", "x"],
        &["--key-stdin", "--key-env", "X"],
        &["--bogus"],
    ] {
        let ran = Doctor::new("http://127.0.0.1:9", &fake)
            .with(arguments)
            .run_unchecked()
            .await;
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (2, ""),
            "{arguments:?}: {ran:?}"
        );
        assert!(!ran.stderr.is_empty());
    }
}
