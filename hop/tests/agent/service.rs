//! The agent as a service: readiness, the wait for it, the end, a UNIX socket, files, certificates.

use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use support::client::http_get;
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::node::{Manner, Node};
use crate::program::{Agent, command};
use crate::zoo::{Authority, write};

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_upstreams_and_wait_waits_for_it() {
    let authority = Authority::new("CA");
    let a = Node::start(&authority, Manner::Echo).await;
    let b = Node::start(&authority, Manner::Echo).await;
    let (url_a, url_b) = (a.url(), b.url());
    let [at_a, at_b] = [a.kill().await, b.kill().await];
    let agent = Agent::start_before(&authority, &format!("{url_a},{url_b}"), &[]).await;
    let wait = |max: &str| {
        let mut wait = command(&agent.folder);
        wait.args(["wait", "--max", max, "--admin", &agent.admin.to_string()]);
        wait
    };
    let late = soon("wait", wait("300ms").output()).await.unwrap();
    assert_eq!(late.status.code(), Some(1));
    let said = String::from_utf8(late.stderr).unwrap();
    let refused = "down: Connection refused";
    assert!(
        said.contains(&format!("{at_a}: {refused}"))
            && said.contains(&format!("{at_b}: {refused}")),
        "{said}"
    );
    assert_eq!(http_get(agent.admin, "/readyz").await.0, 503);
    // One is enough.
    let waiting = wait("60s").spawn().unwrap();
    let _b = Node::start_at(&at_b.to_string(), &authority, Manner::Echo).await;
    let waited = soon("wait", waiting.wait_with_output()).await.unwrap();
    assert!(waited.status.success(), "{waited:?}");
    assert_eq!(http_get(agent.admin, "/readyz").await.0, 200);
    for (path, wanted) in [("/healthz", 200), ("/metrics", 200), ("/", 404)] {
        assert_eq!(http_get(agent.admin, path).await.0, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_unreadies_and_waits_for_tunnels_and_takes_new_ones() {
    let authority = Authority::new("CA");
    let node = Node::start(&authority, Manner::Echo).await;
    let mut agent = Agent::start_warm(&authority, &[&node], &[]).await;
    let mut tunnel = agent.open("a.example:443").await;
    agent.signal(Signal::SIGTERM);
    agent.logged("draining").await;
    assert_eq!(http_get(agent.admin, "/readyz").await.0, 503);
    let mut late = agent.open("b.example:443").await;
    for open in [&mut tunnel, &mut late] {
        open.write_all(b"x").await.unwrap();
        soon("the echo", open.read_exact(&mut [0; 1]))
            .await
            .unwrap();
    }
    drop((tunnel, late));
    let status = soon("the end", agent.child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlives_the_drain_is_reset() {
    let authority = Authority::new("CA");
    let node = Node::start(&authority, Manner::Echo).await;
    let short = [("SEALWAY_AGENT_DRAIN", "50ms")];
    let mut agent = Agent::start_warm(&authority, &[&node], &short).await;
    let mut tunnel = agent.open("a.example:443").await;
    agent.signal(Signal::SIGTERM);
    let seen = soon("the reset", tunnel.read(&mut [0; 1])).await;
    assert_eq!(
        seen.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    let status = soon("the end", agent.child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_replaces_a_dead_one_and_is_removed() {
    let authority = Authority::new("CA");
    let node = Node::start(&authority, Manner::Echo).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    // Its owner was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listen = format!("unix:{}", path.display());
    let set = [("SEALWAY_AGENT_LISTEN", listen.as_str())];
    let mut agent = Agent::start(&authority, &[&node], &set).await;
    // Any process that may open it uses the agent's identity.
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let mut client = UnixStream::connect(&path).await.unwrap();
    client
        .write_all(b"CONNECT a.example:443 HTTP/1.1\r\n\r\nping")
        .await
        .unwrap();
    let wanted = b"HTTP/1.1 200 Connection established\r\n\r\nping";
    let mut bytes = vec![0; wanted.len()];
    soon("the reply and the echo", client.read_exact(&mut bytes))
        .await
        .unwrap();
    assert_eq!(bytes, wanted);
    client.shutdown().await.unwrap();
    assert_eq!(soon("the end", client.read(&mut [0; 1])).await.unwrap(), 0);
    agent.signal(Signal::SIGTERM);
    soon("the end", agent.child.wait()).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_come_from_a_file_or_a_credential_that_others_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "ca.pem", &Authority::new("CA").pem());
    let text = "# two nodes\nhttps://n:hunter2@127.0.0.1:1\nhttps://n:hunter2@127.0.0.1:2\n";
    let file = write(&folder, "sealway-agent-upstreams", text);
    for (name, value) in [
        ("SEALWAY_AGENT_UPSTREAMS_FILE", file.as_path()),
        ("CREDENTIALS_DIRECTORY", folder.path()),
    ] {
        let mut check = command(&folder);
        check.arg("check").env(name, value);
        let checked = soon("check", check.output()).await.unwrap();
        assert_eq!(checked.stdout, b"ok: 2 upstream(s)\n", "{checked:?}");
        check.env("SEALWAY_AGENT_UPSTREAMS", "https://n:s@127.0.0.1:3");
        let both = soon("check", check.output()).await.unwrap();
        assert_eq!(both.status.code(), Some(78));
    }
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut check = command(&folder);
    check
        .arg("check")
        .env("SEALWAY_AGENT_UPSTREAMS_FILE", &file);
    let exposed = soon("check", check.output()).await.unwrap();
    let said = String::from_utf8(exposed.stderr).unwrap();
    assert!(
        exposed.status.code() == Some(78) && said.contains("chmod 0640"),
        "{said}"
    );
    assert!(!said.contains("hunter2"));
}
