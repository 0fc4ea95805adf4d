//! T02, T05 and T06: routes, connections and large segments from each egress address to each upstream.
//!
//! One connection for each egress address and upstream address, many at once; on the first few of each egress address it
//! sends a large segment ([`attempt`]).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use futures_util::StreamExt;
use tokio::runtime::Builder;
use tokio::time::{Instant, timeout_at};

use super::attempt::{CONNECT_LIMIT, Facts, Hello, Outcome, attempt};
use super::names::Target;
use super::{at_once, listed};
use crate::authority::Host;
use crate::commands::check::kinds::{
    self,
    Check::{T02, T05, T06},
    Kind,
};
use crate::commands::check::report::{Finding, Report};
use crate::sys;
use crate::sys::ports::starts_with_small_segments;
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

impl Way {
    fn is_same(&self, other: &Self) -> bool {
        (self.egress, self.to) == (other.egress, other.to)
    }
}

pub(super) fn examine(
    targets: &[Target],
    egress: &[IpAddr],
    until: std::time::Instant,
    report: &mut Report,
) {
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
    let mut unfinished = ways.clone();
    let outcomes = runtime.block_on(tried(ways, until.into()));
    unfinished.retain(|way| !outcomes.iter().any(|(done, _)| done.is_same(way)));
    if let Some(first) = unfinished.first() {
        let finding = Finding::new(kinds::TIME_UP).with("count", unfinished.len());
        report.found(finding.with("host", &first.host));
    }
    if outcomes
        .iter()
        .any(|(_, outcome)| *outcome == Outcome::NotTried)
    {
        report.skip(T05, "this process may open no more files");
    }
    for source in egress {
        judged(&outcomes, *source, report);
    }
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
    let ways = ways.into_iter().map(|way| async move {
        let outcome = attempt(way.egress, way.to, way.is_probed, until).await;
        (way, outcome)
    });
    let mut running = futures_util::stream::iter(ways).buffer_unordered(at_once(AT_ONCE, 1));
    let mut outcomes = Vec::new();
    while let Ok(Some(done)) = timeout_at(until, running.next()).await {
        outcomes.push(done);
    }
    outcomes.sort_by(|(one, _), (other, _)| {
        (one.egress, one.host.as_str(), one.to).cmp(&(other.egress, other.host.as_str(), other.to))
    });
    outcomes
}

/// One finding for each kind.
fn judged(outcomes: &[(Way, Outcome)], source: IpAddr, report: &mut Report) {
    let of_source: Vec<_> = outcomes
        .iter()
        .filter(|(way, _)| way.egress == source)
        .collect();
    let open = || of_source.iter().filter_map(|(_, one)| facts(one));
    report.fact(
        T05,
        format!("{source}: {} connections opened", open().count()),
    );
    let limit = format!("{CONNECT_LIMIT:?}");
    let reason = of_source.iter().find_map(|(_, outcome)| match outcome {
        Outcome::Failed(reason) => Some(reason.clone()),
        _ => None,
    });
    let mut add = |kind: &'static Kind, is: &dyn Fn(&Outcome) -> bool| {
        let matching = of_source.iter().filter(|(_, outcome)| is(outcome));
        let (ways, outcomes): (Vec<&Way>, Vec<&Outcome>) =
            matching.map(|(way, outcome)| (way, outcome)).unzip();
        if !ways.is_empty() {
            let (segment, packet) = smallest(outcomes.into_iter().filter_map(facts));
            let finding = of_ways(kind, &ways).with("limit", &limit);
            let finding = finding.with("mss", segment).with("mtu", packet);
            report.found(finding.with("reason", reason.as_deref().unwrap_or_default()));
        }
    };
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_));
    let size = |wanted: Size| {
        move |outcome: &Outcome| facts(outcome).map(|facts| Size::of(facts, source)) == Some(wanted)
    };
    let lost = |outcome: &Outcome| facts(outcome).is_some_and(|one| one.hello == Hello::Lost);
    add(kinds::TCP_REFUSED, &|one| *one == Outcome::Refused);
    add(kinds::TCP_TIMEOUT, &|one| *one == Outcome::NoAnswer);
    add(kinds::TCP_FAILED, &failed);
    add(kinds::MTU_SMALL, &size(Size::SmallPath));
    // Otherwise the kernel itself makes the first segments small.
    if !starts_with_small_segments() {
        add(kinds::MSS_SMALL, &size(Size::SmallPeer));
    }
    add(kinds::SEGMENTS_LOST, &lost);
    if open().next().is_some() {
        let (segment, packet) = smallest(open());
        let text = format!("{source}: segments of {segment} bytes in packets of {packet} bytes");
        report.fact(T06, text);
    }
}

/// The smallest segment and the smallest packet, in bytes; 0 of none.
fn smallest<'f>(open: impl Iterator<Item = &'f Facts> + Clone) -> (u32, u32) {
    let segment = open.clone().map(|one| one.segment).min();
    let packet = open.map(|one| one.packet).min();
    (segment.unwrap_or_default(), packet.unwrap_or_default())
}

fn facts(outcome: &Outcome) -> Option<&Facts> {
    match outcome {
        Outcome::Open(facts) => Some(facts),
        _ => None,
    }
}

/// Who makes the segments small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Usual,
    /// A packet to the upstream is below 1,280 bytes.
    SmallPath,
    /// Only the upstream's announcement is, or what a router made of it.
    SmallPeer,
}

impl Size {
    /// A segment fills a packet with the headers of IP and TCP and with timestamps.
    fn of(facts: &Facts, source: IpAddr) -> Self {
        let headers = if source.is_ipv4() { 20 } else { 40 } + 20 + 12;
        match facts.segment.saturating_add(headers) < MTU_MIN {
            true if facts.packet < MTU_MIN => Self::SmallPath,
            true => Self::SmallPeer,
            false => Self::Usual,
        }
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

/// The least that every IPv6 link carries (RFC 8200, section 5).
const MTU_MIN: u32 = 1_280;
const WAYS_MAX: usize = 512;
/// Few enough for a soft limit of 1,024 descriptors, beside the look-ups.
const AT_ONCE: usize = 128;
/// The way of an egress address is nearly the same to all upstreams.
const PROBED_MAX: usize = 8;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_small_below_an_mtu_of_1280_of_either_family_and_the_path_or_the_peer_is_named()
    {
        let [v4, v6] = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
        let of = |segment, packet, source| {
            let hello = Hello::Unknown;
            let facts = Facts {
                segment,
                packet,
                hello,
            };
            Size::of(&facts, source)
        };
        for (source, headers) in [(v4, 52), (v6, 72)] {
            assert_eq!(of(1_279 - headers, 1_279, source), Size::SmallPath);
            assert_eq!(of(1_279 - headers, 1_280, source), Size::SmallPeer);
            assert_eq!(of(1_280 - headers, 1_280, source), Size::Usual);
        }
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
