//! The cost of refusing a flood for open tunnels, and the records of the flood that remain: `cargo
//! bench --bench refusals -- --help`.
//!
//! One daemon with one worker on core 0. Without `--audit`, open tunnels send a kilobyte in each
//! direction at an even pace, in turn without and with a flood of connections that
//! `limits.accept_rate` refuses. The result is the ratio of the 99th percentiles of one round, and
//! the daemon's CPU time for each refusal. With `--audit`, a flood from a thousand addresses is
//! refused at four stages in turn while a good client opens tunnels; then the daemon is killed, and
//! its audit file is compared with the number of refusals.
//!
//! The good ends and the flood have core 1, the ends with priority over the flood, so that the
//! flood disturbs the daemon like a network, and not the stopwatch. All have real-time priority
//! (sched(7)), so that other work of the machine is not measured. Loops of the lowest priority keep
//! both cores awake throughout, because waking a sleeping core of a virtual machine takes
//! milliseconds. Needs root and ip(8), and runs in a network namespace of its own.
#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
#![allow(missing_docs)]

mod attempt;
mod audit;
mod daemon;
mod flood;
mod hello;
mod latency;
mod upstream;

use std::io::{self, BufRead, BufReader, Read};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use attempt::Attempt;
use clap::Parser;
use flood::{Crowd, DAEMON, DEVICE, FAR_NETWORK, Flood, Progress};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;

/// Measure the cost of refusing a flood for open tunnels, or with `--audit` the records that remain
/// after `kill -9`
#[derive(Debug, Parser)]
struct Options {
    /// Rounds: each without and with a flood, or each of every attempt
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of each half of a round, or of each flood
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Connections a second of the flood; `limits.accept_rate` lets a few pass
    #[arg(long, default_value_t = 20_500)]
    rate: u64,
    /// Open tunnels
    #[arg(long, default_value_t = 20)]
    tunnels: usize,
    /// Kill the daemon during the flood and compare its audit file with its refusals
    #[arg(long)]
    audit: bool,
    /// With `--audit`: run only this attempt
    #[arg(long, value_enum)]
    attempt: Option<Attempt>,
    /// With `--audit`: client addresses of the flood, in 198.18.0.0/15
    #[arg(long, default_value_t = 1_000)]
    addresses: u32,
    /// With `--audit`: the folder of the audit file; on a disk, its writes and syncs are those of
    /// production
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    directory: PathBuf,
    /// Use another binary than that of this checkout
    #[arg(long)]
    sealway: Option<String>,
    /// Floods this address until standard input ends: the harness's own use.
    #[arg(long, hide = true)]
    flood: Option<SocketAddrV4>,
    /// Keeps both cores awake until standard input ends: the harness's own use.
    #[arg(long, hide = true)]
    spin: bool,
    /// `cargo bench` passes this flag.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn sealway(&self) -> &str {
        let built = env!("CARGO_BIN_EXE_sealway");
        self.sealway.as_deref().unwrap_or(built)
    }
}

fn main() -> ExitCode {
    if std::env::args_os().len() < 2 {
        // `cargo test --all-targets` runs every benchmark without an argument; `cargo bench` always passes one.
        println!("a benchmark, not a test: cargo bench --bench refusals -- --help");
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    let done = match options.flood {
        Some(proxy) => flood(proxy, &options),
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

fn flood(proxy: SocketAddrV4, options: &Options) -> io::Result<()> {
    let crowd = match options.addresses {
        0 => Crowd::NEAR,
        clients => Crowd::far(clients),
    };
    let requests = options.attempt.unwrap_or(Attempt::Rate).requests();
    Flood::new(proxy, crowd, requests).run(options.rate)
}

fn measure(options: &Options) -> io::Result<()> {
    // Threads and processes that are started from here on inherit all three.
    make_network()?;
    pin(1)?;
    run(&format!("chrt --fifo -p 10 {}", std::process::id()))?;
    let _awake = Helper::start(("--idle", "0"), &["--spin"])?;
    if options.audit {
        audit::measure(options)
    } else {
        latency::measure(options)
    }
}

/// This program in another process; dropped, it ends.
struct Helper {
    child: Child,
    /// The output of the process, which never waits for a reader.
    printed: Option<JoinHandle<Vec<Progress>>>,
}

impl Helper {
    fn start(policy: (&str, &str), arguments: &[&str]) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        let mut child = Command::new("chrt")
            .args([policy.0, policy.1])
            .arg(own)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let printed = child.stdout.take().map(|stdout| {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            std::thread::spawn(|| lines.filter_map(|line| Progress::parse(&line)).collect())
        });
        Ok(Self { child, printed })
    }

    /// A flood of `rate` connections a second, from this many addresses of [`FAR_NETWORK`], or from
    /// [`Crowd::NEAR`] for 0.
    fn flood(to: SocketAddr, rate: u64, addresses: u32, attempt: Attempt) -> io::Result<Self> {
        let [to, rate, addresses] = [to.to_string(), rate.to_string(), addresses.to_string()];
        let attempt = format!("{attempt:?}").to_lowercase();
        let arguments = [
            "--flood",
            &to,
            "--rate",
            &rate,
            "--addresses",
            &addresses,
            "--attempt",
            &attempt,
        ];
        Self::start(("--fifo", "5"), &arguments)
    }

    /// Ends the flood after some time; it must still run then.
    fn lives(mut self, time: Duration) -> io::Result<()> {
        std::thread::sleep(time);
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(io::Error::other(format!("the flood has ended: {status}"))),
        }
    }

    /// Ends a flood. Returns its progress from its start to its end.
    fn progress(mut self) -> io::Result<Vec<Progress>> {
        drop(self.child.stdin.take());
        let printed = self.printed.take().and_then(|printed| printed.join().ok());
        printed.ok_or_else(|| io::Error::other("the flood has printed nothing"))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _reaped = self.child.wait();
    }
}

/// A namespace with loopback and the network of the flood. The device stays while no process holds
/// it.
fn make_network() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    run("ip link set lo up")?;
    run(&format!("ip tuntap add dev {DEVICE} mode tun"))?;
    // Long enough for the packets that arrive while the flood waits for its core.
    run(&format!("ip link set {DEVICE} txqueuelen 10000"))?;
    run(&format!("ip address add {DAEMON}/24 dev {DEVICE}"))?;
    run(&format!("ip link set {DEVICE} up"))?;
    run(&format!("ip route add {FAR_NETWORK} dev {DEVICE}"))
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
