//! `sealway drain`, `undrain` and `reload`: an operator asks the running daemon, and the command prints what it answers. Asks the
//! admin listener and nobody else.

use std::path::Path;
use std::time::Duration;

use super::Trouble;
use super::ask::{Door, Question, plain};
use crate::admin::operation::{Drained, REASON_CHARS_MAX, Reloaded, Request, is_reason};
use crate::config::Overrides;

/// Has the daemon refuse new tunnels, or take them again.
///
/// # Errors
/// When nobody answers, or the daemon refuses.
pub fn drain(
    path: Option<&Path>,
    overrides: &Overrides,
    is_wanted: bool,
    reason: Option<String>,
) -> Result<(), Trouble> {
    let url = if is_wanted { "/drain" } else { "/undrain" };
    let Drained { drained, tunnels } = asked(path, overrides, url, reason)?;
    if drained {
        println!("drained: new tunnels are refused, {tunnels} open; sealway undrain ends it");
    } else {
        println!("not drained: new tunnels are taken, {tunnels} open");
    }
    Ok(())
}

/// Has the daemon read its configuration again.
///
/// # Errors
/// Every problem of the configuration, or why the daemon cannot be asked.
pub fn reload(
    path: Option<&Path>,
    overrides: &Overrides,
    reason: Option<String>,
) -> Result<(), Trouble> {
    let Reloaded { problems } = asked(path, overrides, "/reload", reason)?;
    if problems.is_empty() {
        println!("reloaded: the new configuration is in force");
        return Ok(());
    }
    let mut problems: Vec<String> = problems.iter().map(|problem| plain(problem)).collect();
    problems.push("the new configuration is refused; the old one stays in force".to_owned());
    Err(Trouble::Config(problems))
}

fn asked<T: serde::de::DeserializeOwned>(
    path: Option<&Path>,
    overrides: &Overrides,
    url: &'static str,
    reason: Option<String>,
) -> Result<T, Trouble> {
    if let Some(wrong) = reason.as_deref().filter(|reason| !is_reason(reason)) {
        return Err(wrong_reason(wrong));
    }
    let body = serde_json::to_string(&Request { reason });
    Door::of(path, overrides)?.ask_and_wait(Question {
        path: url,
        body: Some(body.map_err(|error| Trouble::Other(error.to_string()))?),
        answer_max: ANSWER_BYTES_MAX,
        patience: PATIENCE,
    })
}

fn wrong_reason(reason: &str) -> Trouble {
    Trouble::Usage(format!(
        "--reason: 1 to {REASON_CHARS_MAX} characters without control characters, not {}",
        plain(reason)
            .chars()
            .take(REASON_CHARS_MAX)
            .collect::<String>()
    ))
}

/// A reload of ten thousand users takes seconds on a busy machine; the daemon answers after ten whatever it does.
const PATIENCE: Duration = Duration::from_secs(12);
/// A thousand problems.
const ANSWER_BYTES_MAX: usize = 4 << 20;
