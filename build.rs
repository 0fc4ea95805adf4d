//! Puts the git revision into the build. Outside a checkout it is `unknown`; nothing else depends on git.
#![allow(clippy::disallowed_macros, reason = "cargo reads standard output")]

use std::path::Path;
use std::process::Command;

fn main() {
    let asked = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output();
    let revision = asked
        .ok()
        .filter(|answer| answer.status.success())
        .and_then(|answer| String::from_utf8(answer.stdout).ok());
    println!(
        "cargo::rustc-env=SEALWAY_REVISION={}",
        revision.as_deref().map_or("unknown", str::trim)
    );
    for path in [".git/HEAD", ".git/refs/heads/main"] {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}
