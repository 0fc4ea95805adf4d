//! `sealway tunnels`: prints the open tunnels of a running daemon as a table or as JSON. Contacts
//! only the admin listener. Clients choose the names in it, so the table escapes everything except
//! printable ASCII.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::Trouble;
use super::ask::{Door, Question, Visitor, plain};
use crate::admin::operation::{Tunnel, Tunnels};
use crate::config::Overrides;

/// Selects the tunnels to print.
#[derive(Debug, Default)]
pub struct Filter {
    /// Only tunnels of this user.
    pub user: Option<String>,
    /// Only tunnels to this host, or to HOST:PORT as the table shows it.
    pub host: Option<String>,
}

/// Prints the selected tunnels.
///
/// # Errors
/// When the daemon does not answer, or refuses.
pub fn tunnels(
    path: Option<&Path>,
    overrides: &Overrides,
    filter: &Filter,
    is_json: bool,
) -> Result<(), Trouble> {
    let mut list: Tunnels =
        Door::of(path, overrides, Visitor::Operator)?.ask_and_wait(Question {
            path: "/tunnels",
            body: None,
            answer_max: ANSWER_BYTES_MAX,
            patience: PATIENCE,
        })?;
    list.tunnels.retain(|tunnel| filter.has(tunnel));
    let text = if is_json {
        serde_json::to_string(&list).map_err(|error| Trouble::Other(error.to_string()))? + "\n"
    } else {
        table(&list.tunnels)
    };
    match io::stdout().write_all(text.as_bytes()) {
        // The reader, such as head(1), has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Trouble::Other(error.to_string())),
    }
}

impl Filter {
    fn has(&self, tunnel: &Tunnel) -> bool {
        let is_user = |user: &String| tunnel.user.as_ref() == Some(user);
        let is_host = |wanted: &String| {
            let (host, port) = match wanted.rsplit_once(':') {
                Some((host, port)) => (host, port.parse().ok()),
                None => (wanted.as_str(), Some(tunnel.port)),
            };
            port == Some(tunnel.port)
                && tunnel.host.eq_ignore_ascii_case(host.trim_end_matches('.'))
        };
        self.user.as_ref().is_none_or(is_user) && self.host.as_ref().is_none_or(is_host)
    }
}

/// Formats a table; each column is as wide as its longest cell.
fn table(tunnels: &[Tunnel]) -> String {
    let head = [
        "ID", "USER", "CLIENT", "HOST", "EGRESS", "AGE s", "SILENT s", "UP", "DOWN", "PHASE",
    ];
    let rows = tunnels.iter().map(row);
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned))
        .chain(rows)
        .collect();
    let mut widths = [0; 10];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let line = |row: &[String; 10]| {
        let cells = row.iter().zip(widths).zip(RIGHT);
        let cells: Vec<String> = cells
            .map(|((cell, width), right)| match right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            })
            .collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn row(tunnel: &Tunnel) -> [String; 10] {
    let egress = tunnel.egress.map(|egress| egress.ip().to_string());
    [
        plain(&tunnel.id),
        plain(tunnel.user.as_deref().unwrap_or("-")),
        tunnel.client.to_string(),
        format!("{}:{}", plain(&tunnel.host), tunnel.port),
        egress.unwrap_or_else(|| "-".to_owned()),
        format!("{:.0}", tunnel.age_seconds),
        format!("{:.0}", tunnel.silent_seconds),
        tunnel.bytes_up.to_string(),
        tunnel.bytes_down.to_string(),
        plain(&tunnel.phase),
    ]
}

/// The right-aligned columns: numbers.
const RIGHT: [bool; 10] = [
    false, false, false, false, false, true, true, true, true, false,
];
const PATIENCE: Duration = Duration::from_secs(10);
/// Twice the tunnels that a process has descriptors for, with the longest names.
const ANSWER_BYTES_MAX: usize = 64 << 20;
