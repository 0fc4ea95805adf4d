//! T07 to T10: the limit on open files, local ports, the clock and Landlock.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

use crate::commands::check::kinds::{
    self,
    Check::{T07, T08, T09, T10},
};
use crate::commands::check::report::{Finding, Report};
use crate::config::Config;
use crate::limits::budget::Budget;
use crate::sys;
use crate::sys::confine::{Confinement, confine};
use crate::sys::ports::{self, Reuse};

pub(super) fn examine(config: &Config, egress: &[IpAddr], report: &mut Report) {
    descriptors(config, report);
    local_ports(config, egress, report);
    clock(report);
    landlock(report);
}

fn descriptors(config: &Config, report: &mut Report) {
    let Ok(limit) = sys::descriptor_limit() else {
        return report.skip(T07, "the kernel does not say");
    };
    let (tunnels, wanted) = (Budget::of(limit).tunnels, config.limits.tunnels);
    report.fact(
        T07,
        format!("{limit} open files are allowed, enough for {tunnels} tunnels"),
    );
    if tunnels < wanted {
        let finding = Finding::new(kinds::FILES_FEW).with("limit", limit);
        report.found(finding.with("tunnels", tunnels).with("wanted", wanted));
    }
}

/// Each family for itself: a host may have addresses of one family only.
fn local_ports(config: &Config, egress: &[IpAddr], report: &mut Report) {
    let (ports, wanted) = (ports::ephemeral(), config.limits.tunnels);
    report.fact(
        T08,
        format!("{ports} local ports for each egress address and upstream address"),
    );
    for (family, is_of) in [("IPv4", true), ("IPv6", false)] {
        let of_family = egress.iter().filter(|address| address.is_ipv4() == is_of);
        let count = of_family.filter(|address| !address.is_loopback()).count();
        let most = ports.saturating_mul(count);
        if count > 0 && most < wanted {
            let finding = Finding::new(kinds::PORTS_FEW)
                .with("count", count)
                .with("family", family);
            let finding = finding.with("ports", ports).with("most", most);
            report.found(finding.with("wanted", wanted));
        }
    }
    let leaves_this_host = egress.iter().any(|address| !address.is_loopback());
    if leaves_this_host && ports::reuse() != Reuse::Everywhere {
        report.found(Finding::new(kinds::PORTS_NOT_REUSED));
    }
}

fn clock(report: &mut Report) {
    let now = OffsetDateTime::from(SystemTime::now());
    report.fact(T09, format!("the clock says {}", now.date()));
    if is_wrong(now.year()) {
        report.found(Finding::new(kinds::CLOCK_WRONG).with("year", now.year()));
    }
    match sys::is_clock_synchronised() {
        Some(true) => report.fact(T09, "the clock is synchronised"),
        Some(false) => report.found(Finding::new(kinds::CLOCK_FREE)),
        None => report.skip(T09, "a filter forbids adjtimex"),
    }
}

fn is_wrong(year: i32) -> bool {
    !YEARS.contains(&year)
}

/// Landlock restricts a thread, so one that ends at once learns what the kernel has.
fn landlock(report: &mut Report) {
    let (sender, answer) = std::sync::mpsc::channel();
    let probe = move || {
        let root = [PathBuf::from("/")];
        // The receiver gives up only after its deadline.
        let _late = sender.send(confine(&root, &[]));
    };
    if std::thread::Builder::new().spawn(probe).is_err() {
        return report.skip(T10, "no thread could be started");
    }
    match answer.recv_timeout(LANDLOCK_LIMIT) {
        Ok(restriction) => note_restriction(&restriction, report),
        Err(_) => report.skip(T10, "no answer in time"),
    }
}

fn note_restriction(restriction: &io::Result<Confinement>, report: &mut Report) {
    match restriction {
        Ok(Confinement::Full) => report.fact(T10, "the kernel enforces the whole restriction"),
        Ok(Confinement::Partial) => {
            report.fact(T10, "the kernel enforces a part of the restriction");
        }
        Ok(Confinement::None) | Err(_) => report.found(Finding::new(kinds::LANDLOCK_NONE)),
    }
}

/// From the year of this release on; a certificate rarely lasts beyond.
const YEARS: std::ops::Range<i32> = 2026..2060;
const LANDLOCK_LIMIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::io;

    use super::{is_wrong, note_restriction};
    use crate::commands::check::report::Report;
    use crate::sys::confine::Confinement;

    #[test]
    fn only_a_kernel_without_landlock_is_a_finding() {
        let is_well = |restriction: io::Result<Confinement>| {
            let mut report = Report::default();
            note_restriction(&restriction, &mut report);
            report.is_well()
        };
        assert!(is_well(Ok(Confinement::Full)));
        assert!(is_well(Ok(Confinement::Partial)));
        assert!(!is_well(Ok(Confinement::None)));
        assert!(!is_well(Err(io::ErrorKind::PermissionDenied.into())));
    }

    #[test]
    fn a_year_before_this_release_or_far_after_it_is_wrong() {
        let wrong = [1970, 2025, 2026, 2059, 2060, 9999].map(is_wrong);
        assert_eq!(wrong, [true, true, false, false, true, true]);
    }
}
