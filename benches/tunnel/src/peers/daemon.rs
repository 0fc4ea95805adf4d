//! The daemon of this source tree: has cargo build it in the harness's own profile, and says where it is. Never builds
//! anything else, and never installs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the daemon beside this executable and returns its path.
///
/// Cargo sets `CARGO` for a program that it runs. A harness that is started without cargo takes the daemon that was built
/// before. Nothing is built twice: cargo finds a daemon that is up to date.
pub(crate) fn build() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("this executable: {error}"))?;
    let directory = own.parent().unwrap_or(Path::new("/"));
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut command = Command::new(cargo);
        command.args(["build", "--locked", "--bin", "sealway", "--profile"]);
        command.arg(profile_of(directory)).arg("--target-dir");
        command.arg(directory.parent().unwrap_or(directory));
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let status = command
            .status()
            .map_err(|error| format!("cargo build: {error}"))?;
        if !status.success() {
            return Err(format!("cargo build: {status}"));
        }
    }
    let daemon = directory.join("sealway");
    if daemon.is_file() {
        Ok(daemon)
    } else {
        Err(format!(
            "{} does not exist; start the benchmark with cargo run, or give --sealway PATH",
            daemon.display()
        ))
    }
}

/// The profile whose programs cargo puts into this directory.
fn profile_of(directory: &Path) -> &str {
    match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_has_its_profile() {
        assert_eq!(profile_of(Path::new("/a/target/debug")), "dev");
        assert_eq!(profile_of(Path::new("/a/target/release")), "release");
        assert_eq!(profile_of(Path::new("/a/target/profiling")), "profiling");
    }
}
