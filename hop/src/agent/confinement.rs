//! Restricts the file system for the agent's threads (Landlock): they read certificates, keys and authorities again, and what
//! a look-up of a name needs, and nothing else. It restricts no socket. The command of `exec` inherits the restriction of the
//! thread that starts it, so that thread enters only afterwards.

use std::io;
use std::path::{Path, PathBuf};

use sealway::sys::confine::{
    Confinement, RESOLVER_FOLDERS, confine, folders_of, lasting_folders_of,
};

use super::bundle::system_file;
use super::settings::{Listen, Settings};

/// The folders that stay accessible.
#[derive(Clone, Debug)]
pub struct Folders {
    readable: Vec<PathBuf>,
    writable: Vec<PathBuf>,
}

impl Folders {
    /// Those that an agent with these settings needs. The file with the upstreams is read at the start only.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let mut readable: Vec<_> = LIBRARIES
            .iter()
            .chain(&RESOLVER_FOLDERS)
            .map(PathBuf::from)
            .collect();
        for file in RESOLVER_FILES {
            readable.extend(lasting_folders_of(Path::new(file)));
        }
        let authorities = match settings.options.ca {
            Some(_) => None,
            None => system_file(),
        };
        for file in settings.files().into_iter().chain(authorities) {
            readable.extend(of_file(&file));
        }
        let mut writable = Vec::new();
        if let Listen::Unix(path) = &settings.listen {
            // The socket is removed at the end.
            writable.extend(folders_of(path));
        }
        Self {
            readable: unlike(readable),
            writable: unlike(writable),
        }
    }

    /// Restricts the calling thread, and those that it starts from now on.
    ///
    /// # Errors
    /// The error of a kernel that has Landlock.
    pub fn enter(&self) -> io::Result<Confinement> {
        confine(&self.readable, &self.writable)
    }

    /// The same, and logs the result.
    pub fn enter_and_report(&self) {
        let text = |folders: &[PathBuf]| {
            let shown = folders.iter().map(|folder| folder.display().to_string());
            shown.collect::<Vec<_>>().join(" ")
        };
        let (readable, writable) = (text(&self.readable), text(&self.writable));
        match self.enter() {
            Ok(Confinement::Full | Confinement::Partial) => {
                tracing::info!(readable, writable, "Landlock restricts the file system");
            }
            Ok(Confinement::None) => tracing::info!(
                "this kernel has no Landlock: only permissions restrict the file system"
            ),
            Err(error) => {
                tracing::warn!(%error, "Landlock failed: only permissions restrict the file system");
            }
        }
    }
}

/// The folders for one file. Others may replace its folder, but systemd replaces that of credentials only at a restart.
fn of_file(file: &Path) -> Vec<PathBuf> {
    let mut folders = folders_of(file);
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    if !credentials.is_some_and(|folder| file.starts_with(folder)) {
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        folders.extend(lasting_folders_of(&absolute));
    }
    folders
}

/// Each existing folder once.
fn unlike(mut folders: Vec<PathBuf>) -> Vec<PathBuf> {
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    folders.dedup();
    folders
}

/// Their folder has the other settings of look-ups too.
const RESOLVER_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// Modules of the C library for look-ups (nss(5)).
const LIBRARIES: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];
