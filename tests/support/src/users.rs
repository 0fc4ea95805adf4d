//! Users files, and the credentials of the users in them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::config::Config;
use crate::daemon::Daemon;

/// Starts a daemon with these users, and with more settings of the section `[auth]`.
pub async fn start_with_users(config: Config, users: &str, auth: &str) -> Daemon {
    let directory = tempdir();
    write(&directory.path().join("users.toml"), users);
    Daemon::start_in(directory, &with_users(config, auth)).await
}

/// A configuration that names the users file `users.toml` beside it.
pub fn with_users(config: Config, auth: &str) -> Config {
    config.section(&format!("[auth]\nusers_file = \"users.toml\"\n{auth}"))
}

/// Writes a valid users file.
pub fn write(file: &Path, toml: &str) {
    std::fs::write(file, toml).expect("write the users file");
    std::fs::set_permissions(file, Permissions::from_mode(0o600)).expect("chmod");
}

/// A user with this secret and more keys.
pub fn user(name: &str, secret: &str, keys: &str) -> String {
    format!(
        "[users.{name}]\nsecrets = [\"{}\"]\n{keys}\n",
        stored(secret)
    )
}

/// A secret in the form of the users file.
pub fn stored(secret: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(secret)))
}

/// The value of `Proxy-Authorization`.
pub fn basic(name: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{secret}")))
}

pub fn tempdir() -> TempDir {
    tempfile::tempdir().expect("tempdir")
}
