//! The effect of a flood on open tunnels: their 99th percentile, in turn without and with a flood
//! that `limits.accept_rate` refuses.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::attempt::{Attempt, GOOD_PORT};
use crate::daemon::{Daemon, Setup};
use crate::{Helper, Options, upstream};

/// One half of a round.
struct Half {
    latencies: Vec<Duration>,
    cpu: Duration,
    refused: u64,
    took: Duration,
}

pub(crate) fn measure(options: &Options) -> io::Result<()> {
    upstream::echo(GOOD_PORT)?;
    let setup = Setup {
        scheduling: "--fifo",
        attempt: Attempt::Rate,
        accept_rate: ACCEPT_RATE,
        audit_file: None,
    };
    let daemon = Daemon::start(options.sealway(), &setup)?;
    let tunnels = (0..options.tunnels)
        .map(|_| daemon.open(None))
        .collect::<io::Result<Vec<_>>>()?;
    let flood = || Helper::flood(daemon.proxy, options.rate, 0, Attempt::Rate);
    // A silent client may make a burst; it ends before the first round.
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

/// Runs every tunnel at its pace, for the time of a half.
fn half(daemon: &Daemon, tunnels: &[TcpStream], options: &Options) -> io::Result<Half> {
    // The start and the end are not measured.
    std::thread::sleep(Duration::from_millis(300));
    let (cpu, before, began) = (daemon.cpu()?, refused(daemon)?, Instant::now());
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
    let (cpu, refused) = (daemon.cpu()?.saturating_sub(cpu), refused(daemon)? - before);
    Ok(Half {
        latencies: latencies?.concat(),
        cpu,
        refused,
        took,
    })
}

/// A kilobyte in each direction every 20 ms, the tunnels one after the other.
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

/// Connections refused by their rate so far.
fn refused(daemon: &Daemon) -> io::Result<u64> {
    let counts = daemon.refused()?;
    let value = counts.into_iter().find(|(code, _)| code == "client_limit");
    value
        .map(|(_, count)| count)
        .ok_or_else(|| io::Error::other("no count of refusals"))
}

const PING: Duration = Duration::from_millis(20);
/// Connections a second that each address is allowed.
const ACCEPT_RATE: u32 = 5;
