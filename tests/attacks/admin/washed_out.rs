//! The refusals that an operator looks for in `/status` while another client is refused again and
//! again.

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use support::client::{connect_head, read_reply};
use support::config::Config;
use support::daemon::Daemon;
use support::soon;

#[tokio::test]
async fn a_flood_of_refusals_does_not_push_others_off_the_status_page() {
    let daemon = Daemon::start(&Config::closed()).await;
    refused(&daemon, 3, "wanted.example:443").await;
    refused(&daemon, 4, "wanted.example").await;
    for number in 0..300 {
        refused(&daemon, 9, &format!("evil{number}.example:443")).await;
    }
    let of_one = shown(&daemon).await;
    assert!(
        has(&of_one, 3, "host_denied"),
        "one client pushes the same code of another one out"
    );
    assert!(
        has(&of_one, 4, "bad_request"),
        "one client pushes another code out"
    );
    // A few refusals of many clients with another code: they displace no other code.
    for number in 0..400_u32 {
        let client = u8::try_from(10 + number % 100).expect("an address");
        refused(&daemon, client, &format!("evil{number}.example:443")).await;
    }
    let of_many = shown(&daemon).await;
    assert!(
        has(&of_many, 4, "bad_request"),
        "many clients push another code out"
    );
    assert!(
        of_many.len() <= 100
            && of_many
                .iter()
                .any(|refusal| refusal["client"].to_string().contains("127.0.0.109"))
    );
}

#[tokio::test]
async fn a_repeated_refusal_is_one_entry_with_a_count() {
    let daemon = Daemon::start(&Config::closed()).await;
    for _ in 0..20 {
        refused(&daemon, 3, "wanted.example:443").await;
    }
    refused(&daemon, 3, "other.example:443").await;
    let shown = shown(&daemon).await;
    let counts: Vec<_> = shown
        .iter()
        .map(|refusal| (refusal["host"].clone(), refusal["count"].clone()))
        .collect();
    assert_eq!(
        counts,
        [
            ("other.example".into(), 1.into()),
            ("wanted.example".into(), 20.into())
        ]
    );
}

async fn shown(daemon: &Daemon) -> Vec<Value> {
    let (status, page) = daemon.admin_get("/status").await;
    assert_eq!(status, 200);
    serde_json::from_str::<Value>(&page).expect("JSON")["refusals"]
        .as_array()
        .expect("a list")
        .clone()
}

fn has(shown: &[Value], client: u8, code: &str) -> bool {
    let from = format!("127.0.0.{client}:");
    shown.iter().any(|refusal| {
        refusal["code"] == code
            && refusal["client"]
                .as_str()
                .is_some_and(|client| client.starts_with(&from))
    })
}

/// An attempt of 127.0.0.`client` that is refused.
async fn refused(daemon: &Daemon, client: u8, authority: &str) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind(([127, 0, 0, client], 0).into())
        .expect("an address");
    let mut stream = soon("a connection", socket.connect(daemon.proxy_addr()))
        .await
        .expect("connect");
    stream
        .write_all(connect_head(authority, &[]).as_bytes())
        .await
        .expect("send");
    assert!(read_reply(stream).await.status() >= 400);
}
