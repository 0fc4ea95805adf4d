//! What refusing a flood costs those who are in: `cargo bench --bench refusals -- --help`.
//!
//! One daemon with one worker on a core of its own. Tunnels that are open send a kilobyte there and back at an even pace,
//! in turn without and with a flood of connections that `limits.accept_rate` refuses. What counts is the ratio of the
//! 99th percentiles of one round, and the daemon's CPU time for each refusal. The tunnels' both ends have real-time
//! priority (sched(7), which needs root) and the flood has the lowest, so that it disturbs the daemon and not the
//! stopwatch. Without a flood both cores are kept awake by loops of the lowest priority, for waking a sleeping core of a
//! virtual machine takes milliseconds; the flood does the same. Never leaves loopback.
#![allow(missing_docs)]

#[path = "../tunnel/hello.rs"]
mod hello;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

/// What refusing a flood costs those who are in.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds, each without and with a flood.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of each half of a round.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Connections a second that the flood tries to make.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Tunnels that are open.
    #[arg(long, default_value_t = 20)]
    tunnels: usize,
    /// Another binary than that of this checkout.
    #[arg(long)]
    sealway: Option<String>,
    /// Floods this address until standard input ends: the harness's own use.
    #[arg(long, hide = true)]
    flood: Option<SocketAddr>,
    /// Keeps both cores awake until standard input ends: the harness's own use.
    #[arg(long, hide = true)]
    spin: bool,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The daemon; dropped, it is killed.
struct Daemon {
    child: Child,
    proxy: SocketAddr,
    admin: SocketAddr,
    _directory: tempfile::TempDir,
}

/// One half of a round.
struct Half {
    latencies: Vec<Duration>,
    cpu: Duration,
    refused: u64,
    took: Duration,
}

fn main() -> ExitCode {
    if std::env::args_os().len() < 2 {
        // `cargo test --all-targets` runs every benchmark without an argument; `cargo bench` always passes one.
        println!("a benchmark, not a test: cargo bench --bench refusals -- --help");
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    let done = match options.flood {
        Some(address) => flood(address, options.rate),
        None if options.spin => spin(),
        None => run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("refusals: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    pin(1)?;
    // Threads that are started from here on inherit it.
    let own = std::process::id().to_string();
    run_to_end(Command::new("chrt").args(["--fifo", "-p", "10", &own]))?;
    let upstream = echo()?;
    let daemon = Daemon::start(options.sealway.as_deref().unwrap_or(env!("CARGO_BIN_EXE_sealway")), upstream)?;
    let tunnels = (0..options.tunnels).map(|_| daemon.open(upstream)).collect::<io::Result<Vec<_>>>()?;
    // Who has been silent may come at once; that is over before the first round.
    let flooding = ["--flood".to_owned(), daemon.proxy.to_string(), "--rate".to_owned(), options.rate.to_string()];
    drop(Nuisance::start(&flooding)?.after(Duration::from_secs(2)));
    println!("round | quiet p50, p99 | flooded p50, p99 | ratio p50, p99 | refused a second | CPU for each");
    let (mut ratios, mut costs, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        let during = |nuisance: &[String]| -> io::Result<Half> {
            let _until_the_end = Nuisance::start(nuisance)?;
            half(&daemon, &tunnels, options)
        };
        let (quiet, flooded) = (during(&["--spin".to_owned()])?, during(&flooding)?);
        let (calm, busy) = (quiet.percentiles(), flooded.percentiles());
        let ratio = |at: fn(&(Duration, Duration)) -> Duration| at(&busy).as_secs_f64() / at(&calm).as_secs_f64();
        let (half, most) = (ratio(|of| of.0), ratio(|of| of.1));
        let cost = flooded.cpu.saturating_sub(quiet.cpu).as_secs_f64() * 1e6 / flooded.refused as f64;
        let rate = flooded.refused as f64 / flooded.took.as_secs_f64();
        println!(
            "{round} | {:?}, {:?} | {:?}, {:?} | {half:.2}, {most:.2} | {rate:.0} | {cost:.1} us",
            calm.0, calm.1, busy.0, busy.1
        );
        ratios.push(most);
        costs.push(cost);
        rates.push(rate);
    }
    let (ratio, rate, cost) = (median(&mut ratios), median(&mut rates), median(&mut costs));
    println!("median: p99 {ratio:.2} times that without a flood, {rate:.0} refused a second, {cost:.1} us of CPU each");
    Ok(())
}

/// Every tunnel at its pace, for the time of a half.
fn half(daemon: &Daemon, tunnels: &[TcpStream], options: &Options) -> io::Result<Half> {
    // What begins or ends is not measured.
    std::thread::sleep(Duration::from_millis(300));
    let (cpu, refused, began) = (daemon.cpu()?, daemon.refused()?, Instant::now());
    let until = began + Duration::from_secs(options.seconds);
    let latencies = std::thread::scope(|scope| {
        let pings =
            tunnels.iter().enumerate().map(|(number, tunnel)| scope.spawn(move || pings(tunnel, number, until)));
        let pings: Vec<_> = pings.collect();
        pings.into_iter().map(|ping| ping.join().unwrap_or_else(|_| Err(io::Error::other("a ping panicked")))).collect()
    });
    let latencies: io::Result<Vec<Vec<Duration>>> = latencies;
    let took = began.elapsed();
    let (cpu, refused) = (daemon.cpu()?.saturating_sub(cpu), daemon.refused()? - refused);
    Ok(Half { latencies: latencies?.concat(), cpu, refused, took })
}

/// A kilobyte there and back every 20 ms, the tunnels one after the other.
fn pings(mut tunnel: &TcpStream, number: usize, until: Instant) -> io::Result<Vec<Duration>> {
    let (mut latencies, mut bytes) = (Vec::new(), [7; 1_024]);
    std::thread::sleep(Duration::from_micros(397 * number as u64));
    while Instant::now() < until {
        let sent = Instant::now();
        tunnel.write_all(&bytes)?;
        tunnel.read_exact(&mut bytes)?;
        latencies.push(sent.elapsed());
        std::thread::sleep(PING.saturating_sub(sent.elapsed()));
    }
    Ok(latencies)
}

impl Half {
    fn percentiles(&self) -> (Duration, Duration) {
        let mut sorted = self.latencies.clone();
        sorted.sort();
        let at = |part: usize| sorted.get(sorted.len() * part / 100).copied().unwrap_or_default();
        (at(50), at(99))
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl Daemon {
    fn start(sealway: &str, upstream: SocketAddr) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("sealway.toml");
        let config = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[egress]\naddresses = [\"127.0.0.2\"]\n\
             [policy]\npresets = []\nallow = [\"{}:{}\"]\nallow_destinations = [\"127.0.0.1/32\"]\n\
             [dns.hosts]\n\"{}\" = [\"127.0.0.1\"]\n[limits]\naccept_rate = {ACCEPT_RATE}\n[relay]\nworkers = 1\n",
            hello::HOST,
            upstream.port(),
            hello::HOST
        );
        fs::write(&file, config)?;
        let command = ["--other", "0", "taskset", "-c", "0", sealway, "run", "--config"];
        let mut child = Command::new("chrt").args(command).arg(&file).stderr(Stdio::piped()).spawn()?;
        let log = child.stderr.take().ok_or_else(|| io::Error::other("no standard error"))?;
        let mut lines = BufReader::new(log).lines();
        let start = loop {
            let line = lines.next().ok_or_else(|| io::Error::other("the daemon did not start"))??;
            let line: serde_json::Value = serde_json::from_str(&line)?;
            if line.pointer("/event").is_some_and(|event| event == "start") {
                break line;
            }
        };
        // Somebody must read the records.
        std::thread::spawn(move || lines.for_each(drop));
        let address = |at| start.pointer(at).and_then(|address| address.as_str()?.parse().ok());
        let (proxy, admin) = (address("/listeners/0"), address("/admin"));
        let (Some(proxy), Some(admin)) = (proxy, admin) else { return Err(io::Error::other("no address")) };
        Ok(Self { child, proxy, admin, _directory: directory })
    }

    fn open(&self, upstream: SocketAddr) -> io::Result<TcpStream> {
        let mut tunnel = TcpStream::connect(self.proxy)?;
        tunnel.set_nodelay(true)?;
        tunnel.set_read_timeout(Some(PATIENCE))?;
        tunnel.write_all(format!("CONNECT {}:{} HTTP/1.1\r\n\r\n", hello::HOST, upstream.port()).as_bytes())?;
        tunnel.read_exact(&mut [0; "HTTP/1.1 200 Connection established\r\n\r\n".len()])?;
        tunnel.write_all(hello::CLIENT_HELLO)?;
        tunnel.read_exact(&mut vec![0; hello::answer().len()])?;
        Ok(tunnel)
    }

    /// What its worker has used; the writer of records and the admin listener are threads of their own.
    fn cpu(&self) -> io::Result<Duration> {
        let mut used = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            used += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(used))
    }

    fn refused(&self) -> io::Result<u64> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let series = "sealway_tunnels_denied_total{code=\"client_limit\"} ";
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.parse().ok());
        value.ok_or_else(|| io::Error::other("no count of refusals"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _it_has_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// An upstream that greets and then sends everything back.
fn echo() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || greet_and_echo(stream));
        }
    });
    Ok(address)
}

fn greet_and_echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.read_exact(&mut vec![0; hello::CLIENT_HELLO.len()])?;
    stream.write_all(&hello::answer())?;
    let mut buffer = [0; 4_096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => stream.write_all(buffer.get(..read).unwrap_or_default())?,
        }
    }
}

/// This program in another process, of the lowest priority; dropped, it ends.
struct Nuisance(Child);

impl Nuisance {
    fn start(arguments: &[String]) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        let command = Command::new("chrt").args(["--idle", "0"]).arg(own).args(arguments).stdin(Stdio::piped()).spawn();
        Ok(Self(command?))
    }

    fn after(self, time: Duration) -> Self {
        std::thread::sleep(time);
        self
    }
}

impl Drop for Nuisance {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _reaped = self.0.wait();
    }
}

/// On any core: connects, asks for what is not allowed and reads the answer, `rate` times a second if the machine can, until
/// standard input ends or a minute is over.
fn flood(proxy: SocketAddr, rate: u64) -> io::Result<()> {
    pin_to(&[0, 1])?;
    let (over, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let threads: Vec<_> = (0..FLOODERS)
        .map(|number| {
            let (over, next) = (Arc::clone(&over), Arc::clone(&next));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) && began.elapsed() < FLOOD_MAX {
                    let due = next.fetch_add(BATCH, Ordering::Relaxed) * 1_000_000_000 / rate;
                    std::thread::sleep(Duration::from_nanos(due).saturating_sub(began.elapsed()));
                    // All connect before one is waited for. One that the kernel cannot make is one less.
                    let asked: Vec<_> = (0..BATCH).filter_map(|_| ask(proxy, number).ok()).collect();
                    asked.into_iter().for_each(|stream| drop(read_answer(stream)));
                }
            })
        })
        .collect();
    io::stdin().read_to_end(&mut Vec::new())?;
    over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    Ok(())
}

fn spin() -> io::Result<()> {
    let began = Instant::now();
    for core in [0, 1] {
        pin(core)?;
        std::thread::spawn(move || {
            while began.elapsed() < FLOOD_MAX {
                std::hint::spin_loop();
            }
        });
    }
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn ask(proxy: SocketAddr, number: u8) -> io::Result<TcpStream> {
    // As few calls as can be: it shares two cores with what it floods.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::from((IpAddr::V4(Ipv4Addr::new(127, 0, 9, number + 1)), 0)).into())?;
    socket.connect(&proxy.into())?;
    let mut stream: TcpStream = socket.into();
    stream.write_all(b"CONNECT nobody.example:443 HTTP/1.1\r\n\r\n")?;
    Ok(stream)
}

fn read_answer(mut stream: TcpStream) -> io::Result<()> {
    stream.read(&mut [0; 1_024]).map(drop)
}

fn run_to_end(command: &mut Command) -> io::Result<()> {
    if command.status()?.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?} failed"))) }
}

fn pin(core: usize) -> io::Result<()> {
    pin_to(&[core])
}

fn pin_to(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().try_for_each(|core| set.set(*core))?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Of one flooder at once.
const BATCH: u64 = 16;
const PING: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);
/// Their addresses are the flood's: each may have this many connections a second.
const FLOODERS: u8 = 4;
const ACCEPT_RATE: u32 = 5;
/// Whoever started it may be gone.
const FLOOD_MAX: Duration = Duration::from_secs(60);
