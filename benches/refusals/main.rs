//! What refusing a flood costs those who are in: `cargo bench --bench refusals -- --help`.
//!
//! One daemon with one worker on core 0. Tunnels that are open send a kilobyte there and back at an even pace, in turn
//! without and with a flood of connections that `limits.accept_rate` refuses. What counts is the ratio of the 99th
//! percentiles of one round, and the daemon's CPU time for each refusal.
//!
//! The tunnels' ends and the flood have core 1, the ends before the flood, so that it disturbs the daemon as a network
//! would, and not the stopwatch. All have real-time priority (sched(7)), so that what else runs on the machine is not
//! measured. Loops of the lowest priority keep both cores awake throughout, for waking a sleeping core of a virtual machine
//! takes milliseconds. It needs root and ip(8), and happens in a network namespace of its own, which goes with it.
#![allow(missing_docs)]

mod daemon;
mod flood;
#[path = "../tunnel/hello.rs"]
mod hello;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use daemon::Daemon;
use flood::{DAEMON, DEVICE};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;

/// What refusing a flood costs those who are in.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds, each without and with a flood.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of each half of a round.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Connections a second that the flood makes; some are let in, for each address may have a few.
    #[arg(long, default_value_t = 20_500)]
    rate: u64,
    /// Tunnels that are open.
    #[arg(long, default_value_t = 20)]
    tunnels: usize,
    /// Another binary than that of this checkout.
    #[arg(long)]
    sealway: Option<String>,
    /// Floods this address until standard input ends: the harness's own use.
    #[arg(long, hide = true)]
    flood: Option<SocketAddrV4>,
    /// Keeps both cores awake until standard input ends: the harness's own use.
    #[arg(long, hide = true)]
    spin: bool,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
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
        Some(address) => flood::run(address, options.rate),
        None if options.spin => spin(),
        None => measure(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("refusals: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> io::Result<()> {
    // Threads and processes that are started from here on inherit all three.
    make_network()?;
    pin(1)?;
    run(&format!("chrt --fifo -p 10 {}", std::process::id()))?;
    let upstream = echo()?;
    let daemon = Daemon::start(
        options
            .sealway
            .as_deref()
            .unwrap_or(env!("CARGO_BIN_EXE_sealway")),
        upstream,
    )?;
    let tunnels = (0..options.tunnels)
        .map(|_| daemon.open(upstream))
        .collect::<io::Result<Vec<_>>>()?;
    let _awake = Helper::start(("--idle", "0"), &["--spin"])?;
    let (to, rate) = (daemon.proxy.to_string(), options.rate.to_string());
    let flood = || Helper::start(("--fifo", "5"), &["--flood", &to, "--rate", &rate]);
    // Who has been silent may come at once; that is over before the first round.
    flood()?.lives(Duration::from_secs(2))?;
    println!(
        "round | quiet p50, p99 | flooded p50, p99 | ratio p50, p99 | refused a second | CPU for each"
    );
    let (mut ratios, mut costs, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        let quiet = half(&daemon, &tunnels, options)?;
        let flooding = flood()?;
        let flooded = half(&daemon, &tunnels, options)?;
        flooding.lives(Duration::ZERO)?;
        let (calm, busy) = (quiet.percentiles(), flooded.percentiles());
        let ratio = |at: fn(&(Duration, Duration)) -> Duration| {
            at(&busy).as_secs_f64() / at(&calm).as_secs_f64()
        };
        let (half, most) = (ratio(|of| of.0), ratio(|of| of.1));
        let cost =
            flooded.cpu.saturating_sub(quiet.cpu).as_secs_f64() * 1e6 / flooded.refused as f64;
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
    println!(
        "median: p99 {ratio:.2} times that without a flood, {rate:.0} refused a second, {cost:.1} us of CPU each"
    );
    Ok(())
}

/// Every tunnel at its pace, for the time of a half.
fn half(daemon: &Daemon, tunnels: &[TcpStream], options: &Options) -> io::Result<Half> {
    // What begins or ends is not measured.
    std::thread::sleep(Duration::from_millis(300));
    let (cpu, refused, began) = (daemon.cpu()?, daemon.refused()?, Instant::now());
    let until = began + Duration::from_secs(options.seconds);
    let latencies = std::thread::scope(|scope| {
        let pings = tunnels
            .iter()
            .enumerate()
            .map(|(number, tunnel)| scope.spawn(move || pings(tunnel, number, until)));
        let pings: Vec<_> = pings.collect();
        pings
            .into_iter()
            .map(|ping| {
                ping.join()
                    .unwrap_or_else(|_| Err(io::Error::other("a ping panicked")))
            })
            .collect()
    });
    let latencies: io::Result<Vec<Vec<Duration>>> = latencies;
    let took = began.elapsed();
    let (cpu, refused) = (
        daemon.cpu()?.saturating_sub(cpu),
        daemon.refused()? - refused,
    );
    Ok(Half {
        latencies: latencies?.concat(),
        cpu,
        refused,
        took,
    })
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
        let at = |part: usize| {
            sorted
                .get(sorted.len() * part / 100)
                .copied()
                .unwrap_or_default()
        };
        (at(50), at(99))
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
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

/// This program in another process; dropped, it ends.
struct Helper(Child);

impl Helper {
    fn start(policy: (&str, &str), arguments: &[&str]) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        let command = Command::new("chrt")
            .args([policy.0, policy.1])
            .arg(own)
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn();
        Ok(Self(command?))
    }

    /// Ends it after some time, which it must have lived to see.
    fn lives(mut self, time: Duration) -> io::Result<()> {
        std::thread::sleep(time);
        match self.0.try_wait()? {
            None => Ok(()),
            Some(status) => Err(io::Error::other(format!("the flood has ended: {status}"))),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _reaped = self.0.wait();
    }
}

/// A namespace with loopback and the network that the flood comes from. The device stays while nobody holds it.
fn make_network() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    run("ip link set lo up")?;
    run(&format!("ip tuntap add dev {DEVICE} mode tun"))?;
    run(&format!("ip address add {DAEMON}/24 dev {DEVICE}"))?;
    run(&format!("ip link set {DEVICE} up"))
}

fn spin() -> io::Result<()> {
    for core in [0, 1] {
        pin(core)?;
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

fn run(command: &str) -> io::Result<()> {
    let mut words = command.split(' ');
    let done = Command::new(words.next().unwrap_or_default())
        .args(words)
        .status();
    let done = done.map_err(|error| io::Error::other(format!("{command}: {error}")))?;
    if done.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "{command} failed; this needs root"
        )))
    }
}

fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

const PING: Duration = Duration::from_millis(20);
