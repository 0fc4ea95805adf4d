//! The client agent: opens tunnels through a proxy, uses them, reports what arrived. Each working
//! tunnel has a blocking thread; idle ones have none. It takes commands as lines on standard input
//! and ends when that ends. Never measures the proxy.

use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::protocol::hello;
use crate::protocol::load::{Command, Kind, Reply, Report, Route, Task};
use crate::protocol::order::{ACKNOWLEDGED_BYTES, Order, TRAILER_BYTES};

/// Runs commands until standard input ends.
pub(crate) fn serve() -> io::Result<()> {
    let mut client = Client::default();
    for line in io::stdin().lock().lines() {
        let command = serde_json::from_str(&line?)?;
        let reply = client
            .obey(command)
            .unwrap_or_else(|error| Reply::Failed(error.to_string()));
        println!("{}", serde_json::to_string(&reply)?);
    }
    Ok(())
}

#[derive(Default)]
struct Client {
    held: Vec<TcpStream>,
    prepared: Option<Prepared>,
}

struct Prepared {
    route: Route,
    task: Task,
    tunnels: Vec<TcpStream>,
}

/// What the threads of a task share.
struct Run {
    route: Route,
    task: Task,
    started: Instant,
    begun: AtomicU64,
}

impl Client {
    fn obey(&mut self, command: Command) -> io::Result<Reply> {
        match command {
            Command::Hold { route, tunnels } => self.held.append(&mut open_all(&route, tunnels)?),
            Command::Release => self.held.clear(),
            Command::Prepare { route, task } => self.prepared = Some(prepare(route, task)?),
            Command::Go => return self.go().map(Reply::Done),
        }
        Ok(Reply::Ready)
    }

    fn go(&mut self) -> io::Result<Report> {
        let Some(Prepared {
            route,
            task,
            tunnels,
        }) = self.prepared.take()
        else {
            return Err(io::Error::other("nothing is prepared"));
        };
        let run = Run {
            route,
            task,
            started: Instant::now(),
            begun: AtomicU64::new(0),
        };
        let mut total = Report::default();
        std::thread::scope(|scope| {
            let work = |(number, tunnel)| {
                let run = &run;
                std::thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, move || run.drive(number, tunnel))
            };
            let tunnels = tunnels
                .into_iter()
                .map(Some)
                .chain(std::iter::repeat_with(|| None));
            let threads: Vec<_> = (0..task.tunnels)
                .zip(tunnels)
                .map(work)
                .collect::<io::Result<_>>()?;
            for thread in threads {
                let part = thread
                    .join()
                    .map_err(|_| io::Error::other("a thread of the client panicked"))??;
                total.add(part);
            }
            Ok::<_, io::Error>(())
        })?;
        total.seconds = run.started.elapsed().as_secs_f64();
        Ok(total)
    }
}

impl Run {
    fn drive(&self, number: u64, tunnel: Option<TcpStream>) -> io::Result<Report> {
        match (self.task.kind, tunnel) {
            (Kind::Exchange { up, down }, Some(tunnel)) => self.exchange(tunnel, up, down),
            (Kind::Stream { chunk, interval_us }, Some(tunnel)) => {
                let interval_ns = interval_us * 1_000;
                let phase_ns = interval_ns * number / self.task.tunnels;
                let order = Order::Stream {
                    chunk,
                    interval_ns,
                    phase_ns,
                    lasts_ns: self.task.lasts_ms * 1_000_000,
                };
                let report = receive(tunnel, order)?;
                Ok(Report {
                    units: report.bytes / chunk,
                    ..report
                })
            }
            (Kind::Down, Some(tunnel)) => receive(
                tunnel,
                Order::Down {
                    lasts_ns: self.task.lasts_ms * 1_000_000,
                },
            ),
            (Kind::Up, Some(tunnel)) => self.send(tunnel),
            (_, None) | (Kind::Setup, _) => self.set_up(),
        }
    }

    /// Whether time and limit allow one more unit.
    fn one_more(&self) -> bool {
        self.started.elapsed() < self.task.lasts()
            && self.begun.fetch_add(1, Ordering::Relaxed) < self.task.units_max
    }

    fn set_up(&self) -> io::Result<Report> {
        let mut report = Report::default();
        while self.one_more() {
            let mut tunnel = open(&self.route)?;
            // The client ends first; the end of the other direction shows that the whole tunnel is
            // down.
            tunnel.shutdown(Shutdown::Write)?;
            if tunnel.read(&mut [0])? != 0 {
                return Err(io::Error::other(
                    "bytes behind the greeting of a tunnel that is to end",
                ));
            }
            report.units += 1;
        }
        Ok(report)
    }

    fn exchange(&self, mut tunnel: TcpStream, up: u64, down: u64) -> io::Result<Report> {
        let mut report = Report::default();
        let (request, mut answer) = (opaque(up), opaque(down));
        while self.one_more() {
            tunnel.write_all(&request)?;
            tunnel.read_exact(&mut answer)?;
            report.units += 1;
            report.bytes += up + down;
        }
        Ok(report)
    }

    fn send(&self, mut tunnel: TcpStream) -> io::Result<Report> {
        let (mut bytes, piece) = (0, opaque(PIECE_BYTES));
        while self.started.elapsed() < self.task.lasts() {
            for _ in 0..ACKNOWLEDGED_BYTES / PIECE_BYTES {
                tunnel.write_all(&piece)?;
            }
            bytes += ACKNOWLEDGED_BYTES;
        }
        tunnel.read_exact(&mut opaque(bytes / ACKNOWLEDGED_BYTES))?;
        Ok(Report {
            units: bytes,
            bytes,
            reads: 0,
            seconds: 0.0,
        })
    }
}

impl Report {
    fn add(&mut self, part: Report) {
        self.units += part.units;
        self.bytes += part.bytes;
        self.reads += part.reads;
    }
}

fn prepare(route: Route, task: Task) -> io::Result<Prepared> {
    let order = match task.kind {
        Kind::Setup => {
            return Ok(Prepared {
                route,
                task,
                tunnels: Vec::new(),
            });
        }
        Kind::Exchange { up, down } => Some(Order::Exchange { up, down }),
        Kind::Up => Some(Order::Up),
        Kind::Stream { .. } | Kind::Down => None,
    };
    let mut tunnels = open_all(&route, task.tunnels)?;
    for tunnel in &mut tunnels {
        tunnel.write_all(&order.map(Order::encode).unwrap_or_default())?;
    }
    Ok(Prepared {
        route,
        task,
        tunnels,
    })
}

/// Several at once, because a proxy that leaves Nagle's algorithm on takes 40 ms for each.
fn open_all(route: &Route, tunnels: u64) -> io::Result<Vec<TcpStream>> {
    let share = |number: u64| (tunnels + number) / OPENERS;
    std::thread::scope(|scope| {
        let open = |number| {
            scope.spawn(move || {
                (0..share(number))
                    .map(|_| open(route))
                    .collect::<io::Result<Vec<_>>>()
            })
        };
        let openers: Vec<_> = (0..OPENERS).map(open).collect();
        let mut all = Vec::new();
        for opener in openers {
            all.append(
                &mut opener
                    .join()
                    .map_err(|_| io::Error::other("a thread of the client panicked"))??,
            );
        }
        Ok(all)
    })
}

/// Connects and exchanges the greetings.
fn open(route: &Route) -> io::Result<TcpStream> {
    let mut tunnel = TcpStream::connect(route.proxy)
        .map_err(|error| during("connecting to the proxy", &error))?;
    tunnel.set_nodelay(true)?;
    tunnel.set_read_timeout(Some(PATIENCE))?;
    tunnel.set_write_timeout(Some(PATIENCE))?;
    if let Some(head) = &route.connect {
        tunnel.write_all(head.as_bytes())?;
        established(&mut tunnel)?;
    }
    tunnel.write_all(hello::CLIENT_HELLO)?;
    let expected = hello::answer();
    let mut answer = vec![0; expected.len()];
    tunnel
        .read_exact(&mut answer)
        .map_err(|error| during("waiting for the upstream's greeting", &error))?;
    if answer != expected {
        return Err(io::Error::other("the upstream's greeting arrived changed"));
    }
    Ok(tunnel)
}

fn established(tunnel: &mut TcpStream) -> io::Result<()> {
    let (mut head, mut got) = ([0; 4_096], 0);
    while !head
        .get(..got)
        .is_some_and(|head| head.ends_with(b"\r\n\r\n"))
    {
        match tunnel.read(head.get_mut(got..).unwrap_or_default()) {
            Ok(0) if got == 0 => {
                return Err(io::Error::other("the proxy closed in place of a 200"));
            }
            // A refusal has a body after its head.
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) => return Err(during("waiting for the 200", &error)),
        }
    }
    let status = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if status.get(9..12) != Some(b"200") {
        return Err(io::Error::other(format!(
            "the proxy answered {}",
            String::from_utf8_lossy(status)
        )));
    }
    Ok(())
}

/// Reads to the end of the stream, whose last bytes are its length.
fn receive(mut tunnel: TcpStream, order: Order) -> io::Result<Report> {
    tunnel.write_all(&order.encode())?;
    let (mut buffer, mut report, mut last) = (opaque(BUFFER_BYTES), Report::default(), Vec::new());
    loop {
        let n = tunnel.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        report.reads += 1;
        report.bytes += n as u64;
        let tail = buffer
            .get(n.saturating_sub(TRAILER_BYTES as usize)..n)
            .unwrap_or_default();
        last.drain(..(last.len() + tail.len()).saturating_sub(TRAILER_BYTES as usize));
        last.extend_from_slice(tail);
    }
    let total = <[u8; 8]>::try_from(last.as_slice())
        .map(u64::from_le_bytes)
        .ok();
    report.bytes = report.bytes.saturating_sub(TRAILER_BYTES);
    if total != Some(report.bytes) {
        return Err(io::Error::other(format!(
            "the stream ended after {} bytes, before its own end",
            report.bytes
        )));
    }
    Ok(Report {
        units: report.bytes,
        ..report
    })
}

fn during(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn opaque(bytes: u64) -> Vec<u8> {
    vec![0; bytes as usize]
}

/// The longest silence of a peer.
const PATIENCE: Duration = Duration::from_secs(15);
const OPENERS: u64 = 16;
const STACK_BYTES: usize = 128 * 1024;
/// The load must make few calls where bytes are many.
const BUFFER_BYTES: u64 = 1 << 20;
const PIECE_BYTES: u64 = 256 * 1024;
