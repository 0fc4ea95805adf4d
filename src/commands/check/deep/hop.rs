//! T13: the TLS listeners' files, by `sealway-hop --check`, as `run` does it: the hop has the TLS library that reads
//! certificates and revocation lists.
//!
//! Says nothing about files that this user may not read, and leaves no process behind.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::commands::check::kinds::{self, Check::T13};
use crate::commands::check::report::{Finding, Report};
use crate::config::Config;
use crate::config::tls::TlsListener;
use crate::supervisor::{self, ProgramError};

pub(super) fn examine(config: &Config, path: Option<&Path>, report: &mut Report) {
    let Some(path) = path.filter(|_| !config.tls.listeners.is_empty()) else {
        return report.skip(T13, "no listener has tls");
    };
    if config.tls.listeners.iter().any(has_forbidden) {
        return report.skip(T13, "this user may not read the listeners' files; root may");
    }
    let checked = supervisor::program(config.tls.program.as_deref())
        .and_then(|program| supervisor::check_within(&program, path, LIMIT));
    match checked {
        Ok(()) => report.fact(T13, "sealway-hop --check finds nothing"),
        Err(ProgramError::Start(program, error))
            if error.kind() == ErrorKind::PermissionDenied && is_executable(&program) =>
        {
            report.skip(T13, "this process may not start sealway-hop");
        }
        Err(error) => {
            report.found(Finding::new(kinds::HOP_REFUSES).with("reason", error));
        }
    }
}

/// Whether this user may not read a file of the listener. A file that is missing is for the hop to name.
fn has_forbidden(listener: &TlsListener) -> bool {
    let files = [&listener.certificate, &listener.key, &listener.token_file];
    let files = files.into_iter().chain(&listener.client_ca);
    let mut opened = files.chain(&listener.crl).map(File::open);
    opened.any(|opened| opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied))
}

/// Whether its permissions let somebody execute it, so that only a filter or a mount forbids it here.
fn is_executable(program: &Path) -> bool {
    program
        .metadata()
        .is_ok_and(|found| found.mode() & EXECUTE != 0)
}

const LIMIT: Duration = Duration::from_secs(3);
const EXECUTE: u32 = 0o111;
