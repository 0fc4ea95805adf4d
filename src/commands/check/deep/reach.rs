//! T02, T05 and T06: routes, connections and large segments from each egress address to each upstream.
//!
//! One connection for each egress address and upstream address, many at once. On the first few of each egress address it
//! sends as many bytes as a post-quantum ClientHello has: the beginning of one, so that the upstream waits for the rest. Resets
//! every connection.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::listed;
use super::names::Target;
use crate::authority::Host;
use crate::commands::check::kinds::{
    self,
    Check::{T02, T05, T06},
    Kind,
};
use crate::commands::check::report::{Finding, Report};
use crate::sys;
use crate::sys::options::{give_up_after, segment_bytes};
use crate::sys::routes::{RouteKind, Routes};

/// A connection to try.
#[derive(Clone, Debug)]
struct Way {
    egress: IpAddr,
    host: Host,
    to: SocketAddr,
    /// Whether to send a large segment.
    is_probed: bool,
}

/// What became of it.
#[derive(Debug)]
enum Outcome {
    Refused,
    NoAnswer,
    Failed(String),
    /// The largest segment, in bytes, and whether it arrives.
    Open {
        mss: u32,
        arrives: bool,
    },
}

pub(super) fn examine(targets: &[Target], egress: &[IpAddr], until: Instant, report: &mut Report) {
    if targets.is_empty() {
        for check in [T02, T05, T06] {
            report.skip(check, "no host of the policy has an address");
        }
        return;
    }
    let ways = routed(ways(targets, egress), report);
    let Ok(runtime) = Builder::new_current_thread().enable_all().build() else {
        return report.skip(T05, "no descriptor is free");
    };
    let count = ways.len();
    let outcomes = runtime.block_on(tried(ways, until));
    if let Some(untried) = count.checked_sub(outcomes.len()).filter(|left| *left > 0) {
        report.found(Finding::new(kinds::TIME_UP).with("count", untried));
    }
    judged(&outcomes, egress, report);
}

/// The first address of each host in each family with an egress address, each connection once.
fn ways(targets: &[Target], egress: &[IpAddr]) -> Vec<Way> {
    let (mut ways, mut seen) = (Vec::new(), BTreeSet::new());
    for source in egress {
        let mut probed = 0;
        for target in targets {
            let of_family = |to: &&SocketAddr| to.is_ipv4() == source.is_ipv4();
            let first = target.addresses.iter().find(of_family);
            if let Some(to) = first.filter(|to| seen.insert((*source, **to))) {
                let (egress, host, to) = (*source, target.host.clone(), *to);
                let is_probed = probed < PROBED_MAX;
                probed += 1;
                ways.push(Way {
                    egress,
                    host,
                    to,
                    is_probed,
                });
            }
        }
    }
    ways.truncate(WAYS_MAX);
    ways
}

/// Those that have a route.
fn routed(ways: Vec<Way>, report: &mut Report) -> Vec<Way> {
    let Ok(mut routes) = Routes::open() else {
        report.skip(T02, "the kernel does not say");
        return ways;
    };
    let (mut open, mut closed, mut devices) = (Vec::new(), Vec::new(), BTreeSet::new());
    for way in ways {
        match routes.ask_device(way.egress, way.to) {
            Ok((RouteKind::None(_) | RouteKind::Other, _)) => closed.push(way),
            Ok((_, device)) => {
                let name = device.and_then(|index| sys::interface_name(index).ok());
                devices.extend(name.map(|name| format!("{} leaves by {name}", way.egress)));
                open.push(way);
            }
            Err(_) => open.push(way),
        }
    }
    devices.into_iter().for_each(|fact| report.fact(T02, fact));
    let sources: BTreeSet<IpAddr> = closed.iter().map(|way| way.egress).collect();
    for source in sources {
        let of_it: Vec<_> = closed.iter().filter(|way| way.egress == source).collect();
        report.found(of_ways(kinds::ROUTE_MISSING, &of_it));
    }
    open
}

/// Connects to all, until there is no time.
async fn tried(ways: Vec<Way>, until: Instant) -> Vec<(Way, Outcome)> {
    let ways = ways.into_iter().map(|way| async {
        let outcome = attempt(&way).await;
        (way, outcome)
    });
    let mut running = futures_util::stream::iter(ways).buffer_unordered(AT_ONCE);
    let mut outcomes = Vec::new();
    while let Ok(Some(done)) = timeout(left(until), running.next()).await {
        outcomes.push(done);
    }
    outcomes.sort_by(|(one, _), (other, _)| {
        (one.egress, one.host.as_str(), one.to).cmp(&(other.egress, other.host.as_str(), other.to))
    });
    outcomes
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

async fn attempt(way: &Way) -> Outcome {
    let stream = match timeout(CONNECT_LIMIT, connected(way)).await {
        Ok(Ok(stream)) => stream,
        Err(_) => return Outcome::NoAnswer,
        Ok(Err(error)) => {
            return match error.kind() {
                io::ErrorKind::ConnectionRefused => Outcome::Refused,
                io::ErrorKind::TimedOut => Outcome::NoAnswer,
                _ => Outcome::Failed(error.to_string()),
            };
        }
    };
    // It fails only for a connection that is reset already.
    let mss = segment_bytes(&stream).unwrap_or(u32::MAX);
    let arrives = !way.is_probed || hello_arrives(stream).await;
    Outcome::Open { mss, arrives }
}

async fn connected(way: &Way) -> io::Result<TcpStream> {
    let socket = sys::upstream_socket(way.egress)?;
    sys::reset_on_close(&socket)?;
    sys::connect(&socket, way.to)?;
    let stream = TcpStream::from_std(socket)?;
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(stream), Err)
}

/// Whether the kernel at the other end acknowledges bytes as many as a post-quantum ClientHello has. An answer of any kind, and
/// silence without an unacknowledged byte, say yes.
async fn hello_arrives(mut stream: TcpStream) -> bool {
    if give_up_after(&stream, LOST_AFTER).is_err() || stream.write_all(&beginning()).await.is_err()
    {
        return true;
    }
    let mut byte = [0];
    match timeout(PROBE_LIMIT, stream.read(&mut byte)).await {
        Ok(Err(error)) => error.kind() != io::ErrorKind::TimedOut,
        Ok(Ok(_)) | Err(_) => true,
    }
}

/// One TLS record that begins a ClientHello of more bytes (RFC 8446, sections 4 and 5.1), so that it has no answer yet.
fn beginning() -> Vec<u8> {
    let mut record = vec![0x16, 3, 1, 0x07, 0x03];
    record.extend([1, 0, 0x0f, 0xff, 3, 3]);
    record.resize(HELLO_BYTES, 0);
    record
}

/// One finding for each egress address and kind.
fn judged(outcomes: &[(Way, Outcome)], egress: &[IpAddr], report: &mut Report) {
    for source in egress {
        let of_source: Vec<_> = outcomes
            .iter()
            .filter(|(way, _)| way.egress == *source)
            .collect();
        let those = |is: &dyn Fn(&Outcome) -> bool| -> Vec<&Way> {
            let matching = of_source.iter().filter(|(_, outcome)| is(outcome));
            matching.map(|(way, _)| way).collect()
        };
        let opened = those(&|outcome| matches!(outcome, Outcome::Open { .. }));
        report.fact(
            T05,
            format!("{source}: {} connections opened", opened.len()),
        );
        let mut add = |kind: &'static Kind, ways: Vec<&Way>, more: (&'static str, String)| {
            if !ways.is_empty() {
                report.found(of_ways(kind, &ways).with(more.0, more.1));
            }
        };
        let limit = || ("limit", format!("{CONNECT_LIMIT:?}"));
        let is_small = |outcome: &Outcome| matches!(outcome, Outcome::Open { mss, .. } if is_small(*mss, *source));
        let is_lost = |outcome: &Outcome| matches!(outcome, Outcome::Open { arrives: false, .. });
        add(
            kinds::TCP_REFUSED,
            those(&|outcome| matches!(outcome, Outcome::Refused)),
            limit(),
        );
        add(
            kinds::TCP_TIMEOUT,
            those(&|outcome| matches!(outcome, Outcome::NoAnswer)),
            limit(),
        );
        let reason = of_source.iter().find_map(|(_, outcome)| match outcome {
            Outcome::Failed(reason) => Some(reason.clone()),
            _ => None,
        });
        let failed = those(&|outcome| matches!(outcome, Outcome::Failed(_)));
        add(
            kinds::TCP_FAILED,
            failed,
            ("reason", reason.unwrap_or_default()),
        );
        let least = of_source.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Open { mss, .. } => Some(*mss),
            _ => None,
        });
        let least = least.min().unwrap_or_default();
        add(
            kinds::MTU_SMALL,
            those(&is_small),
            ("mss", least.to_string()),
        );
        add(kinds::SEGMENTS_LOST, those(&is_lost), limit());
        report.fact(T06, format!("{source}: segments of {least} bytes"));
    }
}

/// A finding about these ways; its command is about the first.
fn of_ways(kind: &'static Kind, ways: &[&Way]) -> Finding {
    let shown = |way: &&Way| format!("{} ({})", way.host, way.to);
    let names: Vec<_> = ways.iter().map(shown).collect();
    let finding = Finding::new(kind).with("upstreams", listed(&names));
    match ways.first() {
        Some(way) => finding
            .with("egress", way.egress)
            .with("address", way.to.ip())
            .with("host", &way.host)
            .with("port", way.to.port()),
        None => finding,
    }
}

/// Whether a segment of this many bytes fills less than a packet of 1,280 bytes, with the headers of IP and TCP and with
/// timestamps.
fn is_small(mss: u32, source: IpAddr) -> bool {
    let headers = if source.is_ipv4() { 20 } else { 40 } + 20 + 12;
    mss.saturating_add(headers) < MTU_MIN
}

/// The least that every IPv6 link carries (RFC 8200, section 5).
const MTU_MIN: u32 = 1_280;
/// A ClientHello with X25519MLKEM768 and the usual extensions.
const HELLO_BYTES: usize = 1_800;
const WAYS_MAX: usize = 512;
/// Few enough for a soft limit of 1,024 descriptors, beside the look-ups.
const AT_ONCE: usize = 128;
/// The way of an egress address is nearly the same to all upstreams.
const PROBED_MAX: usize = 8;
const CONNECT_LIMIT: Duration = Duration::from_millis(2_500);
/// Some retransmissions; the first comes after 200 ms or twice the round trip.
const LOST_AFTER: Duration = Duration::from_millis(1_200);
const PROBE_LIMIT: Duration = Duration::from_millis(1_800);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_small_below_an_mtu_of_1280_of_either_family() {
        let [v4, v6] = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
        assert!(is_small(1_279 - 52, v4) && !is_small(1_280 - 52, v4));
        assert!(is_small(1_279 - 72, v6) && !is_small(1_280 - 72, v6));
    }

    #[test]
    fn the_record_and_the_hello_in_it_are_as_long_as_they_say() {
        let record = beginning();
        let length = u16::from_be_bytes([*record.get(3).unwrap(), *record.get(4).unwrap()]);
        assert_eq!(usize::from(length) + 5, record.len());
        // The hello continues in a record that never comes.
        assert!(record.len() < 0x0fff);
    }

    #[test]
    fn each_connection_is_tried_once_and_only_in_its_family() {
        let target = |host: &str, addresses: &[&str]| Target {
            host: Host::parse(host).unwrap(),
            addresses: addresses.iter().map(|at| at.parse().unwrap()).collect(),
        };
        let targets = [
            target("a.example", &["192.0.2.8:443", "[2001:db8::8]:443"]),
            target("b.example", &["192.0.2.8:443", "192.0.2.9:443"]),
            target("c.example", &["192.0.2.8:8443"]),
        ];
        let egress = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let ways = ways(&targets, &egress);
        let shown: Vec<_> = ways.iter().map(|way| way.to.to_string()).collect();
        assert_eq!(
            shown,
            ["192.0.2.8:443", "192.0.2.8:8443", "[2001:db8::8]:443"]
        );
    }
}
