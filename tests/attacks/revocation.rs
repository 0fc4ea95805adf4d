//! A reload or an expiry that withdraws a permission ends the live tunnels that admission would now
//! refuse.
//!
//! One table of rules, and two checks for each row: a tunnel opened under the old configuration
//! must end as revoked by that rule, and a new attempt under the new configuration must be refused
//! by the same rule.

mod rows;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use rows::{Row, Side, kept, revoked};
use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel, read_to_reset};
use support::users::{basic, start_with_users, tempdir, user, write};
use support::{soon, within};

#[tokio::test]
async fn every_rule_applies_to_new_and_live_tunnels() {
    let rows = futures_util::stream::iter(revoked())
        .map(tried)
        .buffer_unordered(AT_ONCE);
    let wrong: Vec<String> = rows.filter_map(async |result| result.err()).collect().await;
    assert!(
        wrong.is_empty(),
        "{} of {} rows: {wrong:#?}",
        wrong.len(),
        revoked().len()
    );
}

/// Limits are not permissions, and a secret is checked once.
#[tokio::test]
async fn a_change_of_no_permission_ends_nothing() {
    let rows = futures_util::stream::iter(kept())
        .map(stays)
        .buffer_unordered(AT_ONCE);
    rows.for_each(async |()| ()).await;
}

/// Without a reload, for a tunnel that flows and for one in set-up.
#[tokio::test]
async fn an_expiry_ends_only_the_users_tunnels() {
    let upstream = RawUpstream::start().await;
    let users = [user("alice", "one", ""), user("bob", "two", "")].concat();
    let mut daemon =
        start_with_users(Config::to(upstream.addr()).section(TIMEOUTS), &users, "").await;
    let [alices, bobs] =
        [("alice", "one"), ("bob", "two")].map(|(name, secret)| basic(name, secret));
    let [alices, bobs] = [&alices, &bobs].map(|value| [("Proxy-Authorization", value.as_str())]);
    let mut alice = Tunnel::open_with(&daemon, &upstream, &alices).await;
    let mut bob = Tunnel::open_with(&daemon, &upstream, &bobs).await;
    let late = connect(daemon.proxy_addr(), &upstream.authority(), &alices)
        .await
        .established();

    let expires = OffsetDateTime::now_utc() + MARGIN;
    let line = format!("expires = \"{}\"", expires.format(&Rfc3339).unwrap());
    write(
        &daemon.path("users.toml"),
        &[user("alice", "one", &line), user("bob", "two", "")].concat(),
    );
    daemon.signal("HUP");
    assert_eq!(daemon.event("reload").await["result"], "ok");
    alice.exchange(1).await;

    read_to_reset(&mut alice.client).await;
    assert!(
        OffsetDateTime::now_utc() >= expires,
        "it ended before its time"
    );
    says(
        &daemon.tunnel_record().await,
        "auth_failed",
        "the user has expired",
    );
    // Its snapshot lets it pass the set-up, and then the clock ends it.
    let mut late = Tunnel::over(late, &upstream).await;
    read_to_reset(&mut late.client).await;
    says(
        &daemon.tunnel_record().await,
        "auth_failed",
        "the user has expired",
    );
    bob.exchange(2).await;
    bob.close().await;
    assert_eq!(daemon.tunnel_record().await["code"], "closed_by_client");
}

/// Admission refuses a new attempt, and ends the live tunnel, by this row's rule.
async fn tried(row: Row) -> Result<(), String> {
    let (mut daemon, upstream) = start(&row.before).await;
    let mut live = open(&daemon, &upstream, &row)
        .await
        .map_err(|()| format!("{}: not open before", row.rule))?;
    put_in_force(&mut daemon, &row.after, upstream.addr()).await;
    let mut wrong = Vec::new();
    match (row.front, open(&daemon, &upstream, &row).await) {
        (Some(_), Err(())) | (None, Ok(_)) => {}
        (_, at_the_front) => wrong.push(format!("the front door opens: {}", at_the_front.is_ok())),
    }
    let reset = tokio::time::timeout(PATIENCE, live.client.read_u8()).await;
    if !matches!(&reset, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset) {
        wrong.push(format!("the live tunnel survives: {reset:?}"));
    }
    let (mut front, mut by) = (None, None);
    drop(live);
    for _ in 0..2 {
        let record = daemon.tunnel_record().await;
        match record["code"].as_str() {
            Some("revoked") => by = Some(record),
            code => {
                front = code
                    .filter(|_| record["outcome"] != "allowed")
                    .map(String::from)
            }
        }
    }
    if front.as_deref() != row.front {
        wrong.push(format!("the front door says {front:?}"));
    }
    let said = by.as_ref().map(|record| {
        (
            &record["revoked_by"],
            record["error"].as_str().unwrap_or_default(),
        )
    });
    if said.is_none_or(|(code, error)| {
        code != row.front.unwrap_or("egress_unavailable") || !error.contains(row.says)
    }) {
        wrong.push(format!("the live tunnel's record says {by:?}"));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("{}: {}", row.rule, wrong.join("; ")))
    }
}

/// The tunnel is open after the reload, for three times as long as a revoked one would be.
async fn stays(row: Row) {
    let (mut daemon, upstream) = start(&row.before).await;
    let mut live = open(&daemon, &upstream, &row).await.expect(row.rule);
    put_in_force(&mut daemon, &row.after, upstream.addr()).await;
    let until = Instant::now() + DRAIN * 3;
    while Instant::now() < until {
        within(PATIENCE, row.rule, live.exchange(1)).await;
        tokio::time::sleep(TICK).await;
    }
}

async fn start(side: &Side) -> (Daemon, RawUpstream) {
    let upstream = RawUpstream::start().await;
    let directory = tempdir();
    write(
        &directory.path().join("users.toml"),
        &side.users(upstream.addr()),
    );
    (
        Daemon::start_in(directory, &side.config(upstream.addr())).await,
        upstream,
    )
}

async fn put_in_force(daemon: &mut Daemon, side: &Side, upstream: SocketAddr) {
    write(&daemon.path("users.toml"), &side.users(upstream));
    let record = daemon.reload(&side.toml(upstream)).await;
    assert_eq!(record["result"], "ok", "{record}");
}

/// Runs the row's whole conversation; an error if the daemon ends it.
async fn open(daemon: &Daemon, upstream: &RawUpstream, row: &Row) -> Result<Tunnel, ()> {
    let credentials = basic("alice", "one");
    let headers = [("Proxy-Authorization", credentials.as_str())];
    let headers = if row.has_credentials {
        headers.as_slice()
    } else {
        &[]
    };
    let reply = connect(daemon.proxy_addr(), &upstream.authority(), headers).await;
    if reply.status() != 200 {
        return Err(());
    }
    let (mut client, mut served) = (reply.established(), upstream.accept().await);
    for (hello, answer) in &row.words {
        sent(&mut client, &mut served, hello).await?;
        sent(&mut served, &mut client, answer).await?;
    }
    Ok(Tunnel {
        client,
        upstream: served,
        hello: Vec::new(),
        server_hello: Vec::new(),
    })
}

async fn sent(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) -> Result<(), ()> {
    from.write_all(bytes).await.map_err(drop)?;
    let mut received = vec![0; bytes.len()];
    soon("bytes or an end", to.read_exact(&mut received))
        .await
        .map_err(drop)?;
    // A refusal after the 200 is an alert instead of an answer.
    if received == bytes { Ok(()) } else { Err(()) }
}

fn says(record: &Value, code: &str, error: &str) {
    assert_eq!(
        (&record["code"], &record["revoked_by"]),
        (&"revoked".into(), &code.into()),
        "{record}"
    );
    assert!(
        record["error"]
            .as_str()
            .is_some_and(|text| text.contains(error)),
        "{record}"
    );
}

const DRAIN: Duration = Duration::from_millis(200);
const TIMEOUTS: &str = "[timeouts]\ndrain = \"200ms\"";
/// From the reload to the expiry.
const MARGIN: Duration = Duration::from_secs(3);
/// Fifty times the drain.
const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);
/// Daemons.
const AT_ONCE: usize = 4;
