//! The file system shut for this process (Landlock, landlock(7)): what is not named cannot be opened, made, removed or
//! executed any more, whatever its mode says. Descriptors that are open stay usable. Never undone.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};

/// How much of it the kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// All that was asked for.
    Full,
    /// It knows fewer kinds of access than were asked for (Linux before 6.10), and refuses those it knows.
    Partial,
    /// It has no Landlock, or Landlock is turned off.
    None,
}

/// Lets the calling thread, and those that it starts, read beneath some folders, read and write files beneath others,
/// and nothing else of the file system. A folder that is not there is left out. Call it before there is a second
/// thread.
///
/// # Errors
/// What a kernel that has Landlock said.
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

/// A file's folder; and where the file is a symbolic link, as in a Kubernetes ConfigMap, that of what it leads to.
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

/// The youngest version of which a kind of access is asked for here.
const FULL: ABI = ABI::V5;
