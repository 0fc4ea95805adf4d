//! What the memory of the daemon and of its hop holds while a client's session is alive, read as root of a namespace of the
//! test: nothing of the inner session, and in the daemon neither the hop's private key nor its token.

use rustls::pki_types::ServerName;
use support::client::connect_head;
use support::config::Config;
use support::daemon::Daemon;
use support::memory::{holds, memory_of};
use support::namespace::in_own_network;
use support::proxied::listener;
use support::tls::TlsUpstream;
use support::users::{basic, user, with_users};
use support::{HOST, soon};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::core::TOKEN;
use crate::program::Hop;
use crate::zoo::write;

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn neither_process_holds_inner_plaintext_and_the_daemon_no_key_and_no_token() {
    in_own_network(
        "neither_process_holds_inner_plaintext_and_the_daemon_no_key_and_no_token",
        async {
            let upstream = TlsUpstream::start(&rustls::version::TLS13, &[]).await;
            let folder = tempfile::tempdir().unwrap();
            write(&folder, "hop.token", TOKEN);
            write(&folder, "users.toml", &user("alice", SECRET, ""));
            let keys = ", identity = true, token_file = \"hop.token\"";
            let config = Config::to(upstream.addr()).listener(&listener(&["127.0.0.1"], keys));
            let daemon = Daemon::start_in(folder, &with_users(config, "")).await;
            let folder = tempfile::tempdir().unwrap();
            let hop = Hop::start_before(daemon.proxy_addr(), folder, "", "").await;

            let mut outer = hop.connect().await;
            let credentials = basic("alice", SECRET);
            let fields = [("Proxy-Authorization", credentials.as_str())];
            let head = connect_head(&upstream.authority(), &fields);
            ask(&mut outer, &head).await;
            let connector = TlsConnector::from(upstream.client());
            let name = ServerName::try_from(HOST).unwrap();
            let (client, accepted) =
                tokio::join!(connector.connect(name, outer), upstream.accept());
            let (mut client, (mut server, _)) = (client.unwrap(), accepted);
            // Both ways, so often that it would be in each buffer on the way.
            let (up, down) = (UP.repeat(4_000), DOWN.repeat(4_000));
            let (mut at_server, mut at_client) = (vec![0; up.len()], vec![0; down.len()]);
            client.write_all(&up).await.unwrap();
            client.flush().await.unwrap();
            let read = server.read_exact(&mut at_server);
            soon("the client's bytes", read).await.unwrap();
            server.write_all(&down).await.unwrap();
            server.flush().await.unwrap();
            let read = client.read_exact(&mut at_client);
            soon("the server's bytes", read).await.unwrap();
            assert!(at_server == up && at_client == down);

            let of_daemon = memory_of(daemon.pid());
            let of_hop = memory_of(hop.child.id().unwrap());
            for marker in [UP, DOWN] {
                assert!(
                    !holds(&of_daemon, marker),
                    "the daemon holds inner plaintext"
                );
                assert!(!holds(&of_hop, marker), "the hop holds inner plaintext");
            }
            // What the hop needs is there, so this search can find things.
            assert!(holds(&of_hop, TOKEN.as_bytes()));
            assert!(
                !holds(&of_daemon, TOKEN.as_bytes()),
                "the daemon holds the token"
            );
            assert!(
                !holds(&of_daemon, SECRET.as_bytes()) && !holds(&of_daemon, credentials.as_bytes())
            );
            let key = std::fs::read_to_string(hop.folder.path().join("hop.key")).unwrap();
            assert!(key_is_in(&of_hop, &key), "the hop has its key");
            assert!(
                !key_is_in(&of_daemon, &key),
                "the daemon holds the private key"
            );
        },
    );
}

/// Sends a head and reads its reply, which must be a 200.
async fn ask(outer: &mut (impl AsyncRead + AsyncWrite + Unpin), head: &str) {
    outer.write_all(head.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n\r\n") {
        reply.push(soon("the reply", outer.read_u8()).await.unwrap());
    }
    assert!(reply.starts_with(b"HTTP/1.1 200 "));
}

/// Whether memory has the private key of P-256: as in its file, or as the number in either order of bytes.
fn key_is_in(memory: &[Vec<u8>], pem: &str) -> bool {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let der = der.secret_der();
    // ECPrivateKey of RFC 5915: version 1, and then an octet string of 32 bytes.
    let at = der
        .windows(5)
        .position(|at| at == [2, 1, 1, 4, 32])
        .unwrap()
        + 5;
    let number = der[at..at + 32].to_vec();
    let reversed: Vec<u8> = number.iter().rev().copied().collect();
    let line = pem.lines().nth(1).unwrap();
    [&number, &reversed, line.as_bytes()]
        .into_iter()
        .any(|form| holds(memory, form))
}

const UP: &[u8] = b"prompt-that-only-the-two-ends-may-see-5d1c";
const DOWN: &[u8] = b"answer-that-only-the-two-ends-may-see-a90e";
const SECRET: &str = "S3cret-of-alice-that-is-long-enough-to-be-found";
