//! Restricts this process' access to the file system (Landlock, landlock(7)): paths outside the
//! given folders cannot be opened, created, removed or executed, whatever their mode. Open
//! descriptors stay usable. Permanent.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};

/// How much of the restriction the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// All of it.
    Full,
    /// A part: the kernel knows fewer access rights than requested (Linux before 6.10), and
    /// restricts those it knows.
    Partial,
    /// Nothing: the kernel lacks Landlock, or it is disabled.
    None,
}

/// Lets the calling thread and its children read beneath some folders, and read and write files
/// beneath others; denies the rest of the file system. Skips folders that do not exist. Call it
/// before a second thread starts.
///
/// # Errors
/// The error of a kernel that has Landlock.
pub fn confine(readable: &[PathBuf], writable: &[PathBuf]) -> io::Result<Confinement> {
    let all = AccessFs::from_all(FULL);
    let beneath = |folders: &[PathBuf], access: BitFlags<AccessFs>| {
        let opened = folders.iter().filter_map(|folder| PathFd::new(folder).ok());
        opened
            .map(move |folder| Ok::<_, landlock::RulesetError>(PathBeneath::new(folder, access)))
            .collect::<Vec<_>>()
    };
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write =
        read | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate;
    let confined = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rules(beneath(readable, read)))
        .and_then(|ruleset| ruleset.add_rules(beneath(writable, write)))
        .and_then(landlock::RulesetCreated::restrict_self);
    match confined.map_err(io::Error::other)?.ruleset {
        RulesetStatus::FullyEnforced => Ok(Confinement::Full),
        RulesetStatus::PartiallyEnforced => Ok(Confinement::Partial),
        RulesetStatus::NotEnforced => Ok(Confinement::None),
    }
}

/// The folder of a file, and for a symbolic link, as in a Kubernetes ConfigMap, also the folder of
/// its target.
#[must_use]
pub fn folders_of(file: &Path) -> Vec<PathBuf> {
    let named = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let leads_to = file
        .canonicalize()
        .ok()
        .and_then(|real| real.parent().map(Path::to_owned));
    [Some(named), leads_to].into_iter().flatten().collect()
}

/// The first version with all requested access rights.
const FULL: ABI = ABI::V5;
