//! The upstream: it answers each ClientHello with the recorded flight and then does what the tunnel's kind says.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::control::{Command, Commands, print};
use crate::kind::{Bulk, Kind};
use crate::peer::{Greeting, INTRODUCTION, Peer, Report};
use crate::stats::{Shared, Stats};

/// How many clients may wait to be accepted.
const BACKLOG: u32 = 4096;

/// The upstream's options.
#[derive(Args)]
pub(crate) struct Options {
    /// The address to listen on.
    #[arg(long)]
    address: SocketAddr,
    #[command(flatten)]
    bulk: Bulk,
}

/// The first line.
#[derive(Serialize)]
struct Ready {
    listening: SocketAddr,
}

/// Listens until it is told to finish, then reports each tunnel.
pub(crate) async fn run(options: Options, greeting: Greeting) -> io::Result<()> {
    let socket = match options.address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(options.address)?;
    let listener = socket.listen(BACKLOG)?;
    print(&Ready {
        listening: listener.local_addr()?,
    })?;
    let stats: Shared = Rc::new(RefCell::new(Stats::default()));
    let (finish, is_over) = watch::channel(false);
    let mut peers = JoinSet::new();
    let mut reports = Vec::new();
    let mut commands = Commands::open();
    let greeting = Rc::new(greeting);
    let bulk = options.bulk.period();
    loop {
        tokio::select! {
            command = commands.next() => match command? {
                Command::Mark => print(&stats.borrow_mut().mark())?,
                Command::Ending => {
                    stats.borrow_mut().is_ending = true;
                    print(&stats.borrow_mut().mark())?;
                }
                Command::Finish => break,
            },
            stream = accept(&listener) => {
                let (greeting, stats, finish) = (greeting.clone(), stats.clone(), is_over.clone());
                peers.spawn_local(async move { answer(stream, &greeting, stats, finish, bulk).await });
            }
            Some(ended) = peers.join_next() => keep(&mut reports, ended.unwrap_or(None)),
        }
    }
    finish.send_replace(true);
    while let Some(ended) = peers.join_next().await {
        keep(&mut reports, ended.unwrap_or(None));
    }
    for report in &reports {
        print(report)?;
    }
    Ok(())
}

/// Keeps what is to be compared: the newcomers have been compared by the client, unless they failed.
fn keep(reports: &mut Vec<Report>, ended: Option<Report>) {
    reports.extend(ended.filter(|one| one.kind != Kind::Newcomer));
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => eprintln!("handover-load: accept: {error}"),
        }
    }
}

/// Nothing for a connection that ends before its introduction does.
async fn answer(
    mut stream: TcpStream,
    greeting: &Greeting,
    stats: Shared,
    finish: watch::Receiver<bool>,
    bulk: Duration,
) -> Option<Report> {
    stream.set_nodelay(true).ok()?;
    let mut hello = vec![0; greeting.hello.len()];
    stream.read_exact(&mut hello).await.ok()?;
    if hello != greeting.hello {
        eprintln!("handover-load: the ClientHello arrived changed");
        return None;
    }
    stream.write_all(&greeting.answer).await.ok()?;
    let mut introduction = [0; INTRODUCTION];
    stream.read_exact(&mut introduction).await.ok()?;
    let [a, b, c, d, kind, ..] = introduction;
    let tunnel = u32::from_le_bytes([a, b, c, d]);
    let kind = Kind::of(kind)?;
    let plan = kind.upstream(bulk);
    if kind != Kind::Newcomer {
        stats.borrow_mut().add(tunnel, kind, plan);
    }
    let peer = Peer {
        tunnel,
        kind,
        plan,
        stats,
        finish,
    };
    Some(peer.run(stream).await)
}
