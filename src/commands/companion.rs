//! Runs a companion program in place of this process: `sealway doctor` is `sealway-doctor`, `sealway agent` is
//! `sealway-agent`.
//!
//! A companion has TLS, so it is a program of its own. It lies in the folder of sealway's own file; PATH is never
//! searched, so no other folder can supply it. Its arguments, environment and exit status pass unchanged. Never returns
//! on success (execve(2)).

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Trouble;

/// A program that `sealway NAME` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Companion {
    /// `sealway-doctor`, which says why a request through the tunnel fails.
    Doctor,
    /// `sealway-agent`, which stands beside an application and speaks TLS to the proxy.
    Agent,
}

impl Companion {
    /// The name of its file.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Doctor => "sealway-doctor",
            Self::Agent => "sealway-agent",
        }
    }
}

/// Replaces this process by the companion, with these arguments.
///
/// # Errors
/// Only if the companion does not start: it is not installed beside sealway, or is not an executable file.
pub fn run(companion: Companion, arguments: &[OsString]) -> Result<(), Trouble> {
    let own = env::current_exe().map_err(|error| {
        Trouble::Usage(format!(
            "cannot read /proc/self/exe, and {} is found beside that file: {error}",
            companion.program()
        ))
    })?;
    let path = beside(&own, companion);
    let error = Command::new(&path).args(arguments).exec();
    Err(Trouble::Usage(not_started(&path, companion, &error)))
}

/// The companion's path, for sealway's own file. The kernel appends ` (deleted)` to the name of a replaced file; its
/// folder stays the same.
fn beside(own: &Path, companion: Companion) -> PathBuf {
    own.with_file_name(companion.program())
}

fn not_started(path: &Path, companion: Companion, error: &io::Error) -> String {
    let (program, path) = (companion.program(), path.display());
    match error.kind() {
        ErrorKind::NotFound => format!(
            "{program} is not installed: there is no {path}; it is part of the package and of the tarball: install the package again, or copy {program} from the tarball of this version to {path}"
        ),
        ErrorKind::PermissionDenied => format!(
            "{path} cannot be executed: {error}; make it executable with chmod 755 {path}, unless its file system is mounted noexec"
        ),
        _ => format!(
            "{path} cannot be executed: {error}; install it again, of this machine's architecture"
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_companion_lies_in_the_folder_of_the_file_also_if_that_was_replaced() {
        for (own, wanted) in [
            ("/usr/bin/sealway", "/usr/bin/sealway-doctor"),
            ("/usr/bin/sealway (deleted)", "/usr/bin/sealway-doctor"),
            ("/opt/a b/sealway-0.1", "/opt/a b/sealway-doctor"),
        ] {
            assert_eq!(beside(Path::new(own), Companion::Doctor), Path::new(wanted));
        }
    }

    #[test]
    fn each_error_names_the_file_and_a_cure() {
        for (kind, cure) in [
            (ErrorKind::NotFound, "is not installed"),
            (ErrorKind::PermissionDenied, "chmod 755 /opt/sealway-agent"),
            (ErrorKind::InvalidInput, "install it again"),
        ] {
            let path = Path::new("/opt/sealway-agent");
            let text = not_started(path, Companion::Agent, &kind.into());
            assert!(
                text.contains("/opt/sealway-agent") && text.contains(cure),
                "{text}"
            );
        }
    }
}
