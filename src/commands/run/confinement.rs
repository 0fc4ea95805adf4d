//! What the daemon can still reach of the file system once it runs: its configuration and what that names, the resolver's
//! files, what the kernel tells of itself; the folder of the audit file, and nothing else.

use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::config::Config;
use crate::sys::confine::{Confinement, confine, folders_of};

/// How it went, to be told once there is a log.
pub(super) struct Confined {
    result: io::Result<Confinement>,
    readable: Vec<PathBuf>,
    writable: Vec<PathBuf>,
}

/// Shuts the file system, as far as the kernel can.
pub(super) fn enter(path: Option<&Path>, config: &Config) -> Confined {
    let named = [
        path,
        config.auth.users_file.as_deref(),
        config
            .admin_token
            .as_ref()
            .map(|token| token.file.as_path()),
    ];
    let ranges = config.ranges.iter().map(|source| source.path.as_path());
    let mut readable: Vec<PathBuf> = named
        .into_iter()
        .flatten()
        .chain(ranges)
        .flat_map(folders_of)
        .collect();
    readable.extend(RESOLVER.iter().flat_map(|file| folders_of(Path::new(file))));
    readable.extend(KERNEL.map(PathBuf::from));
    let writable = config
        .audit_file
        .as_deref()
        .map(folders_of)
        .unwrap_or_default();
    let (readable, writable) = (unlike(readable), unlike(writable));
    Confined {
        result: confine(&readable, &writable),
        readable,
        writable,
    }
}

/// Tells the log.
pub(super) fn report(confined: &Confined) {
    let shown = |folders: &[PathBuf]| {
        folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let (readable, writable) = (shown(&confined.readable), shown(&confined.writable));
    match &confined.result {
        Ok(Confinement::Full) => info!(readable, writable, "the file system is shut (Landlock)"),
        Ok(Confinement::Partial) => {
            info!(
                readable,
                writable, "the file system is shut as far as this kernel can (Landlock)"
            )
        }
        Ok(Confinement::None) => {
            info!("this kernel has no Landlock: only permissions and the unit shut the file system")
        }
        Err(error) => {
            warn!(%error, "the file system cannot be shut (Landlock): only permissions and the unit do it")
        }
    }
}

fn unlike(mut folders: Vec<PathBuf>) -> Vec<PathBuf> {
    folders.sort();
    folders.dedup();
    folders
}

/// What the resolver reads at each reload. Their folders, for others may take their place.
const RESOLVER: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// The kernel's word on this process, its cores and its ports.
const KERNEL: [&str; 2] = ["/proc", "/sys/fs/cgroup"];
