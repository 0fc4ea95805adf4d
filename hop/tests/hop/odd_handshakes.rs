//! Handshakes that no honest client makes: each ends in an alert or a session, within the deadline, and costs others nothing.

use std::process::Stdio;

use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::bounds::hello;
use crate::core::Core;
use crate::program::Hop;
use crate::zoo::{Authority, Wanted, write};

/// The server answers the hello as a whole one, or refuses it; it holds no more than 5 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_hello_in_records_of_one_byte_is_a_hello() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "").await;
    let whole = hello(&hop);
    let pieces: Vec<u8> = whole[5..]
        .iter()
        .flat_map(|byte| [22, 3, 1, 0, 1, *byte])
        .collect();
    let mut client = TcpStream::connect(hop.address).await.unwrap();
    client.write_all(&pieces).await.unwrap();
    let mut kind = [0; 3];
    soon("an answer", client.read_exact(&mut kind))
        .await
        .unwrap();
    assert_eq!(kind, [22, 3, 3], "a ServerHello");
    let _session = hop.connect().await;
    core.client().await;
}

/// 64 KiB is the most that a message of the handshake may have (rustls); RFC 8446 would allow 16 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn a_huge_certificate_chain_is_refused_before_it_is_judged() {
    let core = Core::start().await;
    let authority = Authority::new("client CA");
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "ca.pem", &authority.pem());
    let hop = Hop::start_in(folder, &core, ", client_ca = \"ca.pem\"", "").await;
    let mut huge = authority.issue(&Wanted::client(7));
    let (leaf, own) = (huge.chain[0].clone(), authority.der());
    huge.chain = [leaf]
        .into_iter()
        .chain(std::iter::repeat_n(own, 400))
        .collect();
    let bytes: usize = huge.chain.iter().map(|one| one.len()).sum();
    assert!(bytes > 0x1_0000, "{bytes}");
    let client = hop.client().with(&huge);
    // In TLS 1.3 the client learns of it when it reads.
    let ended = match client.connect(hop.address).await {
        Ok(mut session) => soon("an end", session.read(&mut [0; 1])).await.map(drop),
        Err(error) => Err(error),
    };
    ended.unwrap_err();
    let event = core.event("handshake_refused").await;
    assert_eq!(event["reason"], "malformed", "{event}");
    let good = authority.issue(&Wanted::client(8));
    let _session = hop.client().with(&good).connect(hop.address).await.unwrap();
    core.client().await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs openssl(1)")]
async fn a_renegotiation_is_refused() {
    let core = Core::start().await;
    let hop = Hop::start(&core, "", "").await;
    let mut client = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", &hop.address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // The daemon gets a client with its first byte.
    let mut typed = client.stdin.take().unwrap();
    typed.write_all(b"!\n").await.unwrap();
    let _daemon = core.client().await;
    // The command of s_client for it.
    typed.write_all(b"R\n").await.unwrap();
    let mut said = String::new();
    let mut errors = client.stderr.take().unwrap();
    soon("the end of s_client", errors.read_to_string(&mut said))
        .await
        .unwrap();
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(said.contains("no renegotiation"), "{said}");
}
