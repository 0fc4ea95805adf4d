//! Why a running daemon refuses a new configuration. Changes nothing and never logs.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::config::file::Problem;

/// Why the configuration in force stays.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// The new configuration is faulty.
    #[error("{}", Joined(.0))]
    Configuration(Vec<Problem>),
    /// This listener stays open, and the new configuration does not say who may use it.
    #[error(
        "{0} is listening and would be an open relay: keep auth.users_file or auth.clients, or restart"
    )]
    OpenRelay(SocketAddr),
    /// The admin listener stays open, and the new configuration does not say who may use it.
    #[error("{0} is listening and would answer anybody: keep admin.token_file, or restart")]
    OpenAdmin(SocketAddr),
}

impl ReloadError {
    /// One text for each problem, at most [`ANSWERED_MAX`], for an operator.
    pub(super) fn each(&self) -> Vec<String> {
        let Self::Configuration(problems) = self else {
            return vec![self.to_string()];
        };
        let shown = problems.iter().take(ANSWERED_MAX).map(Problem::to_string);
        let hint = is_denied(problems).then(|| OUT_OF_REACH.to_owned());
        shown.chain(hint).collect()
    }
}

/// Problems as one text, of which a record keeps the first part.
struct Joined<'p>(&'p [Problem]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().take(JOINED_MAX).map(Problem::to_string);
        let text = shown.collect::<Vec<_>>().join("; ");
        let end = text.char_indices().nth(CHARS_MAX).map(|(at, _)| at);
        f.write_str(end.and_then(|at| text.get(..at)).unwrap_or(&text))?;
        if let more @ 1.. = self.0.len().saturating_sub(JOINED_MAX) {
            write!(f, "; and {more} more, see sealway check")?;
        }
        if is_denied(self.0) {
            write!(f, "; {OUT_OF_REACH}")?;
        }
        Ok(())
    }
}

/// Whether the kernel denied access to a file: the permissions, or Landlock.
fn is_denied(problems: &[Problem]) -> bool {
    let denied = Some(io::ErrorKind::PermissionDenied);
    problems.iter().any(|problem| problem.cause == denied)
}

/// The most problems or files in the answer to an operator.
pub(super) const ANSWERED_MAX: usize = 1_000;
/// The most problems in one record; a configuration can have thousands.
const JOINED_MAX: usize = 100;
/// A tenth of the longest record, to leave room for escapes.
const CHARS_MAX: usize = 16_384;
const OUT_OF_REACH: &str = "since its start the daemon reads beneath the folders of what was configured then, and no others: for a file elsewhere, restart";

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(message: &str, cause: Option<io::ErrorKind>) -> Problem {
        Problem {
            file: None,
            line: None,
            key: "policy.allow_files".to_owned(),
            message: message.to_owned(),
            cause,
        }
    }

    #[test]
    fn the_kind_of_the_error_decides_the_hint() {
        // A file whose name looks like the system's message.
        let named = problem("a (os error 13): no such preset", None);
        let missing = problem("cannot be read", Some(io::ErrorKind::NotFound));
        let error = ReloadError::Configuration(vec![named, missing]);
        assert!(!error.to_string().contains("restart"), "{error}");
        assert_eq!(error.each().len(), 2);
        let denied = problem("x", Some(io::ErrorKind::PermissionDenied));
        let error = ReloadError::Configuration(vec![denied]);
        assert!(error.to_string().ends_with("restart"), "{error}");
        assert_eq!(error.each().len(), 2);
    }

    #[test]
    fn a_record_has_room_for_the_first_problems() {
        let many = ReloadError::Configuration(vec![problem("é", None); 5_000]);
        assert!(many.to_string().contains("; and 4900 more"));
        assert_eq!(many.each().len(), ANSWERED_MAX);
        let long = problem(&"é".repeat(100_000), Some(io::ErrorKind::PermissionDenied));
        let long = ReloadError::Configuration(vec![long]).to_string();
        assert!(long.chars().count() < CHARS_MAX + OUT_OF_REACH.len() + 3);
        assert!(long.ends_with("restart"), "the cure is not cut off");
    }
}
