//! Formats a report as lines of text. Strangers choose names in it, so every line is printable
//! ASCII without control sequences.

use crate::admin::report::{Report, Users};
use crate::commands::ask::plain;

/// The lines, with at most this many rows in each list.
pub(super) fn lines(report: &Report, rows: usize) -> Vec<String> {
    let state = if report.not_ready.is_empty() {
        "ready"
    } else {
        "NOT READY"
    };
    let mut lines = vec![format!(
        "sealway {}   {state}   up for {}",
        report.version,
        duration(report.uptime_seconds as u64)
    )];
    lines.extend(
        report
            .not_ready
            .iter()
            .take(rows)
            .map(|reason| format!("            {reason}")),
    );
    lines.extend(
        report
            .degraded
            .iter()
            .take(rows)
            .map(|what| format!("            degraded: {what}")),
    );
    lines.extend(figures(report));
    lines.push(String::new());
    lines.extend(denials(report, rows));
    lines.extend(users(report.users.as_ref(), rows));
    lines.extend(refusals(report, rows));
    lines.iter().map(|line| plain(line)).collect()
}

/// The lines, with lists short enough for the 24 lines of the smallest terminal.
pub(super) fn fitting(report: &Report) -> Vec<String> {
    let with = |rows| lines(report, rows);
    (1..=ROWS_MAX)
        .rev()
        .map(with)
        .find(|lines| lines.len() <= LINES_MAX)
        .unwrap_or_else(|| with(1))
}

fn figures(report: &Report) -> Vec<String> {
    let Report {
        tunnels,
        totals,
        throughput,
        ..
    } = report;
    let egress = report.egress.iter().map(|source| {
        let state = if source.up { "" } else { " (NOT ON THIS HOST)" };
        format!("{}{state}", source.address)
    });
    let public = report
        .egress_public
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    let shown = if public.is_empty() {
        String::new()
    } else {
        format!("   for the allowlist {}", public.join("  "))
    };
    let mut lines = vec![
        format!(
            "egress      {}{shown}",
            egress.collect::<Vec<_>>().join("  ")
        ),
        format!(
            "tunnels     {} open of {}   opened {}  closed {}  refused or failed {}",
            tunnels.active, tunnels.max, totals.opened, totals.closed, totals.denied
        ),
        format!(
            "throughput  {}/s up  {}/s down   in all {} up  {} down",
            bytes(throughput.up_bytes_per_second),
            bytes(throughput.down_bytes_per_second),
            bytes(totals.bytes_up as f64),
            bytes(totals.bytes_down as f64)
        ),
        format!("policy      {} {}", report.policy.mode, report.policy.hash),
    ];
    if let Some(reload) = &report.last_reload {
        let error = reload
            .error
            .as_deref()
            .map(|error| format!(": {error}"))
            .unwrap_or_default();
        lines.push(format!(
            "reload      {} {}{error}",
            clock(&reload.ts),
            reload.result
        ));
    }
    lines
}

fn denials(report: &Report, rows: usize) -> Vec<String> {
    let recent: Vec<_> = report
        .denials
        .iter()
        .filter(|denial| denial.recent > 0)
        .collect();
    if recent.is_empty() {
        return vec![format!(
            "refused in the last {} minutes: none",
            report.denials_minutes
        )];
    }
    let mut lines = vec![format!(
        "refused in the last {} minutes, and what to do (the provider's: sealway doctor)",
        report.denials_minutes
    )];
    lines.extend(
        recent
            .iter()
            .take(rows)
            .map(|denial| format!("{:>10}  {:<24} {}", denial.recent, denial.code, denial.cure)),
    );
    lines
}

fn users(users: Option<&Users>, rows: usize) -> Vec<String> {
    let Some(users) = users else {
        return vec!["users: no credentials are required".to_owned()];
    };
    let mut lines = vec![format!(
        "users: {} of {} have a tunnel",
        users.active, users.configured
    )];
    lines.extend(users.busiest.iter().take(rows).map(|user| {
        let max = user
            .tunnels_max
            .map_or("-".to_owned(), |max| max.to_string());
        format!(
            "{:>10}  of {max:<9} {:>11} {}",
            user.tunnels,
            bytes(user.bytes as f64),
            user.name
        )
    }));
    lines
}

fn refusals(report: &Report, rows: usize) -> Vec<String> {
    if report.refusals.is_empty() {
        return vec!["last refusals: none".to_owned()];
    }
    let mut lines = vec!["last refusals".to_owned()];
    lines.extend(report.refusals.iter().take(rows).map(|refusal| {
        let host = refusal.host.as_deref().unwrap_or("-");
        let port = refusal
            .port
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        let details = [
            ("user", &refusal.user),
            ("sni", &refusal.sni),
            ("error", &refusal.error),
        ];
        let details = details
            .iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("  {name} {value}")));
        let times = if refusal.count > 1 {
            format!("  {} times", refusal.count)
        } else {
            String::new()
        };
        let details: String = details.collect();
        format!(
            "{:>10}  {:<24} {host}{port}  from {}{times}{details}",
            clock(&refusal.ts),
            refusal.code,
            refusal.client
        )
    }));
    lines
}

/// The time of day of a timestamp, in UTC.
fn clock(ts: &str) -> &str {
    ts.get(11..19).unwrap_or(ts)
}

fn bytes(number: f64) -> String {
    let mut number = number;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if number < 999.5 {
            let decimals = usize::from(unit != "B" && number < 99.5);
            return format!("{number:.decimals$} {unit}");
        }
        number /= 1_000.0;
    }
    format!("{number:.1} PB")
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

const LINES_MAX: usize = 24;
const ROWS_MAX: usize = 4;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn terminal_control_characters_are_removed() {
        for evil in [
            "\u{1b}[2J",
            "\u{9b}2J",
            "a\rb",
            "a\nb",
            "\u{7}",
            "\u{202e}cod.exe",
            "\u{7f}",
            "ä",
        ] {
            let shown = plain(evil);
            assert!(
                shown
                    .bytes()
                    .all(|byte| byte == b' ' || byte.is_ascii_graphic()),
                "{shown:?}"
            );
        }
        assert_eq!(plain("\u{1b}[31mred"), "\\u{1b}[31mred");
        assert_eq!(
            plain("api.example.com:443 - {\"a\"}"),
            "api.example.com:443 - {\"a\"}"
        );
    }

    #[test]
    fn the_fullest_screen_fits() {
        let ts = "2026-11-22T08:09:35.123456Z";
        let source =
            json!({"address": "192.0.2.1", "up": false, "ports_in_use": 0, "ports_busiest": 0});
        let denial =
            json!({"code": "host_denied", "recent": 1, "total": 1, "cause": "", "cure": ""});
        let user = json!({"name": "alice", "tunnels": 1, "tunnels_max": null, "bytes": 0});
        let refusal = json!({"ts": ts, "id": "1", "outcome": "denied", "code": "host_denied", "client": "192.0.2.9:1"});
        let report = json!({
            "version": "1", "revision": "", "ts": ts, "uptime_seconds": 1.0,
            "not_ready": vec!["egress address missing"; 9],
            "policy": {"hash": "0".repeat(64), "mode": "report"},
            "last_reload": {"ts": ts, "result": "failed", "error": "no"},
            "egress": vec![source; 9], "egress_public": ["192.0.2.9"], "egress_ports_max": 1, "tunnels": {"active": 1, "max": 1},
            "throughput": {"up_bytes_per_second": 0.0, "down_bytes_per_second": 0.0},
            "totals": {"opened": 0, "closed": 0, "denied": 0, "bytes_up": 0, "bytes_down": 0, "bytes_spliced": 0, "bytes_copied": 0},
            "denials_minutes": 15, "denials": vec![denial; 9],
            "users": {"configured": 9, "active": 9, "busiest": vec![user; 9]},
            "refusals": vec![refusal; 9],
        });
        let mut report: Report = serde_json::from_value(report).unwrap();
        let shown = fitting(&report);
        assert!(shown.len() <= 24 && shown.len() > 20, "{shown:#?}");
        assert!(
            shown
                .iter()
                .any(|line| line.starts_with("policy      report ")),
            "within 80 columns: {shown:#?}"
        );
        report.not_ready.clear();
        assert_eq!(fitting(&report).len(), 22, "lists of four");
    }

    #[test]
    fn sizes_and_times_are_short() {
        let sizes = [0.0, 999.0, 999.6, 1_500.0, 99_600.0, 1e6, 2.5e9, 7e15];
        let shown = [
            "0 B", "999 B", "1.0 kB", "1.5 kB", "100 kB", "1.0 MB", "2.5 GB", "7.0 PB",
        ];
        assert_eq!(sizes.map(bytes), shown);
        let times = [0, 59, 61, 3_700, 90_000].map(duration);
        assert_eq!(times, ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!(clock("2026-11-22T08:09:35.123456Z"), "08:09:35");
    }
}
