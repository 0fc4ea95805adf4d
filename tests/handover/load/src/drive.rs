//! The clients: so many tunnels of each kind that stay, and newcomers all the time.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock::{milliseconds, now};
use crate::control::{Command, Commands, print};
use crate::frame::{Incoming, Outgoing};
use crate::kind::{Bulk, Kind};
use crate::peer::{Greeting, Peer, introduction};
use crate::stats::{Shared, Stats};

/// How many tunnels are being opened at once.
const OPENING: usize = 64;
/// How long opening one may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The number of the first newcomer.
const FIRST_NEWCOMER: u32 = 1_000_000;
const NEWCOMER_FRAME: usize = 64;

/// The clients' options.
#[derive(Args)]
pub(crate) struct Options {
    /// The proxy.
    #[arg(long)]
    proxy: SocketAddr,
    /// The destination of the CONNECT; without it the bytes begin with the ClientHello.
    #[arg(long)]
    authority: Option<String>,
    /// `NAME:SECRET` of a user; several have the tunnels in turn.
    #[arg(long)]
    user: Vec<String>,
    /// `NAME:SECRET` of the user whose rate is limited.
    #[arg(long)]
    paced_user: Option<String>,
    /// Tunnels that stay: `KIND=COUNT`, as often as wanted.
    #[arg(long, value_parser = parse_count)]
    tunnels: Vec<(Kind, u32)>,
    /// The number of the first of them.
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// How often an idle tunnel sends a frame, in milliseconds.
    #[arg(long, default_value_t = 2000)]
    ping_ms: u64,
    #[command(flatten)]
    bulk: Bulk,
    /// How many newcomers there are at once.
    #[arg(long, default_value_t = 4)]
    newcomers: u32,
    /// How long each of them rests between two tunnels, in milliseconds.
    #[arg(long, default_value_t = 20)]
    rest_ms: u64,
}

fn parse_count(text: &str) -> Result<(Kind, u32), String> {
    let (kind, count) = text.split_once('=').ok_or("this is KIND=COUNT")?;
    let kind = <Kind as clap::ValueEnum>::from_str(kind, true)?;
    Ok((kind, count.parse().map_err(|error| format!("{error}"))?))
}

/// What opening a tunnel takes.
struct Way {
    options: Options,
    greeting: Greeting,
}

/// The first line.
#[derive(Serialize)]
struct Opened {
    opened: u32,
    /// Their own addresses.
    locals: Vec<SocketAddr>,
    failed: u32,
    /// Why the first of them failed.
    reason: Option<String>,
    took_ms: f64,
}

/// Opens the tunnels, keeps them until it is told to finish, then reports each.
pub(crate) async fn run(options: Options, greeting: Greeting) -> io::Result<()> {
    let way = Rc::new(Way { options, greeting });
    let stats: Shared = Rc::new(RefCell::new(Stats::default()));
    let (finish, is_over) = watch::channel(false);
    let mut peers = open_all(&way, &stats, &is_over).await?;
    let mut newcomers = JoinSet::new();
    for number in 0..way.options.newcomers {
        let (way, stats, is_over) = (way.clone(), stats.clone(), is_over.clone());
        newcomers.spawn_local(async move { keep_coming(&way, number, &stats, is_over).await });
    }
    let mut commands = Commands::open();
    loop {
        match commands.next().await? {
            Command::Mark => print(&stats.borrow_mut().mark())?,
            Command::Ending => {}
            Command::Finish => break,
        }
    }
    finish.send_replace(true);
    while newcomers.join_next().await.is_some() {}
    print(&stats.borrow_mut().mark())?;
    while let Some(ended) = peers.join_next().await {
        if let Ok(report) = ended {
            print(&report)?;
        }
    }
    Ok(())
}

async fn open_all(
    way: &Rc<Way>,
    stats: &Shared,
    is_over: &watch::Receiver<bool>,
) -> io::Result<JoinSet<crate::peer::Report>> {
    let begin = now();
    let places = Rc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    let kinds = way.options.tunnels.iter();
    let kinds = kinds.flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count as usize));
    for (tunnel, kind) in (way.options.first..).zip(kinds) {
        let (way, places) = (way.clone(), places.clone());
        opening.spawn_local(async move {
            let _place = places.acquire().await;
            (tunnel, kind, way.open(tunnel, kind).await)
        });
    }
    let (mut peers, mut failed, mut reason) = (JoinSet::new(), 0, None);
    let (mut opened, mut locals) = (0, Vec::new());
    let ping = Duration::from_millis(way.options.ping_ms);
    let bulk = way.options.bulk.period();
    while let Some(ended) = opening.join_next().await {
        let Ok((tunnel, kind, result)) = ended else {
            continue;
        };
        match result {
            Ok(stream) => {
                opened += 1;
                locals.push(stream.local_addr()?);
                let plan = kind.client(ping, bulk);
                stats.borrow_mut().add(tunnel, kind, plan);
                let peer = Peer {
                    tunnel,
                    kind,
                    plan,
                    stats: stats.clone(),
                    finish: is_over.clone(),
                };
                peers.spawn_local(peer.run(stream));
            }
            Err(error) => {
                failed += 1;
                reason.get_or_insert_with(|| format!("{tunnel} ({kind:?}): {error}"));
            }
        }
    }
    print(&Opened {
        opened,
        locals,
        failed,
        reason,
        took_ms: milliseconds(now() - begin),
    })?;
    Ok(peers)
}

impl Way {
    /// A tunnel whose upstream knows its number and kind.
    async fn open(&self, tunnel: u32, kind: Kind) -> io::Result<TcpStream> {
        let opening = timeout(PATIENCE, self.open_patiently(tunnel, kind));
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "not open in time");
        opening.await.map_err(late)?
    }

    async fn open_patiently(&self, tunnel: u32, kind: Kind) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.options.proxy).await?;
        stream.set_nodelay(true)?;
        if let Some(authority) = &self.options.authority {
            let mut turns = self.options.user.iter().cycle();
            let user = if kind.is_paced() {
                self.options.paced_user.as_ref()
            } else {
                turns.nth(tunnel as usize % self.options.user.len().max(1))
            };
            connect(&mut stream, authority, user.map(String::as_str)).await?;
        }
        stream.write_all(&self.greeting.hello).await?;
        let mut answer = vec![0; self.greeting.answer.len()];
        stream.read_exact(&mut answer).await?;
        if answer != self.greeting.answer {
            return Err(io::Error::other("the answer arrived changed"));
        }
        stream.write_all(&introduction(tunnel, kind)).await?;
        Ok(stream)
    }

    /// A tunnel that carries one frame there and back.
    async fn visit(&self, tunnel: u32) -> io::Result<()> {
        let mut stream = self.open(tunnel, Kind::Newcomer).await?;
        let mut outgoing = Outgoing::new(tunnel);
        stream
            .write_all(outgoing.frame(NEWCOMER_FRAME, now()))
            .await?;
        let mut frame = [0; NEWCOMER_FRAME];
        timeout(PATIENCE, stream.read_exact(&mut frame)).await??;
        let mut incoming = Incoming::new(tunnel);
        incoming.take(&frame, |_| ()).map_err(io::Error::other)?;
        if incoming.sum() != outgoing.sum() {
            return Err(io::Error::other("the frame came back changed"));
        }
        stream.shutdown().await?;
        match timeout(PATIENCE, stream.read(&mut frame)).await?? {
            0 => Ok(()),
            _ => Err(io::Error::other("bytes after the last frame")),
        }
    }
}

async fn connect(stream: &mut TcpStream, authority: &str, user: Option<&str>) -> io::Result<()> {
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some(user) = user {
        let token = STANDARD.encode(user);
        head.push_str(&format!("Proxy-Authorization: Basic {token}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        let line = String::from_utf8_lossy(&answer);
        let line = line.lines().next().unwrap_or_default().to_string();
        return Err(io::Error::other(line));
    }
    Ok(())
}

/// One newcomer after the other until the run ends.
async fn keep_coming(way: &Way, number: u32, stats: &Shared, is_over: watch::Receiver<bool>) {
    let mut tunnel = FIRST_NEWCOMER + number;
    while !*is_over.borrow() {
        let begin = now();
        let result = way.visit(tunnel).await;
        let took = milliseconds(now() - begin);
        {
            let mut stats = stats.borrow_mut();
            stats.newcomers.worst_ms = stats.newcomers.worst_ms.max(took);
            match result {
                Ok(()) => stats.newcomers.served += 1,
                Err(error) => stats.refused(format!("{tunnel} after {took} ms: {error}")),
            }
        }
        tunnel += way.options.newcomers;
        tokio::time::sleep(Duration::from_millis(way.options.rest_ms)).await;
    }
}
