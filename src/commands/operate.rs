//! `sealway end`, `drain`, `undrain` and `reload`: sends an operator's request to the running
//! daemon and prints the result. Contacts only the admin listener.

use std::path::Path;
use std::time::Duration;

use super::Trouble;
use super::ask::{Door, Question, Visitor, plain};
use crate::admin::operation::{
    Drained, EndRequest, Ended, Outcome, OutcomeOf, REASON_CHARS_MAX, Reloaded, Request,
    WrongTarget, is_reason,
};
use crate::config::Overrides;

/// Makes the daemon refuse new tunnels, or accept them again.
///
/// # Errors
/// When the daemon does not answer, or refuses.
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
        println!("not drained: new tunnels are accepted, {tunnels} open");
    }
    Ok(())
}

/// Makes the daemon end tunnels, and prints the outcome of each named one.
///
/// # Errors
/// When a tunnel was not found or has not ended, or the daemon does not answer, or refuses.
pub fn end(
    path: Option<&Path>,
    overrides: &Overrides,
    request: &EndRequest,
) -> Result<(), Trouble> {
    request.target().map_err(wrong_target)?;
    let answer: Ended = posted(path, overrides, "/tunnels/end", &request.reason, request)?;
    for one in &answer.outcomes {
        let outcome = match one.outcome {
            Outcome::Ended => "ended",
            Outcome::Ending => "has not ended yet",
            Outcome::NotFound => "not found: no such tunnel, or it has ended",
        };
        println!("{}  {outcome}", plain(&one.id));
    }
    println!("{} ended", answer.ended);
    if answer.newer > 0 {
        println!(
            "{} opened in the meantime and continue: disable the user or remove the client, reload, and end again",
            answer.newer
        );
    }
    let have_ended = |one: &OutcomeOf| one.outcome == Outcome::Ended;
    match answer.ending {
        0 if answer.outcomes.iter().all(have_ended) => Ok(()),
        0 => Err(Trouble::Refused),
        ending => Err(Trouble::Other(format!(
            "{ending} tunnels have not ended within 5 s: sealway tunnels lists them"
        ))),
    }
}

/// Makes the daemon reload its configuration.
///
/// # Errors
/// Every problem of the configuration, the files that could not be read, or why the daemon did not
/// answer.
pub fn reload(
    path: Option<&Path>,
    overrides: &Overrides,
    reason: Option<String>,
) -> Result<(), Trouble> {
    let Reloaded { problems, kept } = asked(path, overrides, "/reload", reason)?;
    if problems.is_empty() && !kept.is_empty() {
        for file in &kept {
            eprintln!("sealway: {}", plain(file));
        }
        return Err(Trouble::Other(
            "the new configuration is in force, except for files that could not be read".to_owned(),
        ));
    }
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
    let shown = reason.clone();
    let checked = shown.as_deref().unwrap_or("none");
    posted(path, overrides, url, checked, &Request { reason })
}

fn posted<T: serde::de::DeserializeOwned>(
    path: Option<&Path>,
    overrides: &Overrides,
    url: &'static str,
    reason: &str,
    body: &impl serde::Serialize,
) -> Result<T, Trouble> {
    if !is_reason(reason) {
        return Err(wrong_reason(reason));
    }
    let body = serde_json::to_string(body);
    Door::of(path, overrides, Visitor::Operator)?.ask_and_wait(Question {
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

fn wrong_target(wrong: WrongTarget) -> Trouble {
    Trouble::Usage(match wrong {
        WrongTarget::User | WrongTarget::Client => format!("--{wrong}"),
        WrongTarget::NotOne | WrongTarget::TooManyIds => wrong.to_string(),
    })
}

/// A reload of ten thousand users takes seconds on a busy machine; the daemon answers after ten
/// seconds at the latest.
const PATIENCE: Duration = Duration::from_secs(12);
/// Enough for a thousand problems.
const ANSWER_BYTES_MAX: usize = 4 << 20;
