//! What operators ask of a running daemon and what it answers: JSON bodies, as docs/reference.md has them. The commands and
//! the admin listener share these types.

use serde::{Deserialize, Serialize};

/// The body of `/drain`, `/undrain` and `/reload`. An empty body is one without a reason.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Why, for the audit record: [`REASON_CHARS_MAX`] characters at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What `/drain` and `/undrain` answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Drained {
    /// Whether new tunnels are refused now.
    pub drained: bool,
    /// Tunnels that are open.
    pub tunnels: usize,
}

/// What `/reload` answers when the daemon has read its configuration.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reloaded {
    /// Why the old configuration stays in force, each problem by itself; empty: the new one is in force.
    pub problems: Vec<String>,
}

/// The longest reason, in characters.
pub const REASON_CHARS_MAX: usize = 256;

/// Whether a text can be a reason: not empty, not too long, and without control characters.
#[must_use]
pub fn is_reason(text: &str) -> bool {
    !text.trim().is_empty()
        && text.chars().count() <= REASON_CHARS_MAX
        && !text.chars().any(char::is_control)
}
