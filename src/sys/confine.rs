//! Restricts this process' access to the file system (Landlock, landlock(7)): paths outside the
//! given folders cannot be opened, created, removed or executed, whatever their mode. Open
//! descriptors stay usable. Permanent.

use std::io;
use std::path::{Component, Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};

/// Folders in which services keep the resolv.conf that they generate. A link to it may appear after the start.
pub const RESOLVER_FOLDERS: [&str; 6] = [
    "/run/NetworkManager",
    "/run/connman",
    "/run/netconfig",
    "/run/resolvconf",
    "/run/systemd",
    "/usr/lib/systemd",
];

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

/// The folders in which a file stays readable while others replace it or its folder: the folder of each link on the way, and
/// the folder above that of the file, because a service may create its own folder again. If the file's folder is a link, the
/// folder of its target too. For a missing folder, the nearest existing one above it. Never `/`.
#[must_use]
pub fn lasting_folders_of(file: &Path) -> Vec<PathBuf> {
    let (mut folders, mut path) = (Vec::new(), file.to_owned());
    for _ in 0..LINKS_MAX {
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let Ok(target) = path.read_link() else {
            if folder.is_symlink() {
                let target = folder.canonicalize().ok();
                folders.extend(target.and_then(|target| target.parent().map(Path::to_owned)));
            }
            folders.push(match folder.parent() {
                Some(above) if !is_root(above) => above.to_owned(),
                _ => folder,
            });
            break;
        };
        path = plain(&folder.join(target));
        folders.push(folder);
    }
    let existing = |folder: PathBuf| {
        folder
            .ancestors()
            .find(|folder| folder.is_dir())
            .filter(|folder| !is_root(folder))
            .map(Path::to_owned)
    };
    folders.into_iter().filter_map(existing).collect()
}

/// Whether it is `/`, also as `/srv/..`.
fn is_root(folder: &Path) -> bool {
    let real = folder.canonicalize();
    real.as_deref().unwrap_or(folder).parent().is_none()
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    path.components()
        .fold(PathBuf::new(), |mut plain, component| {
            match component {
                Component::CurDir => {}
                // The parent of / is /.
                Component::ParentDir => {
                    plain.pop();
                }
                component => plain.push(component),
            }
            plain
        })
}

/// As the kernel has it (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// The first version with all requested access rights.
const FULL: ABI = ABI::V5;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_links_are_found_before_they_exist() {
        let machine = tempfile::tempdir().unwrap();
        let at = |path: &str| machine.path().join(path);
        let link = |target: &str, path: &str| std::os::unix::fs::symlink(target, at(path)).unwrap();
        for folder in ["etc/alternatives", "run/systemd"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        std::fs::write(at("etc/plain"), "").unwrap();
        assert_eq!(
            lasting_folders_of(&at("etc/plain")),
            [machine.path().to_owned()]
        );
        link("../run/systemd/resolve/stub", "etc/stub");
        assert_eq!(
            lasting_folders_of(&at("etc/stub")),
            [at("etc"), at("run/systemd")]
        );
        link("alternatives/conf", "etc/chain");
        link("../../run/./new/deep/conf", "etc/alternatives/conf");
        assert_eq!(
            lasting_folders_of(&at("etc/chain")),
            [at("etc"), at("etc/alternatives"), at("run")]
        );
        // A folder that is a link: another version may lie beside its target.
        std::fs::create_dir_all(at("srv/releases/5")).unwrap();
        link("../srv/releases/5", "etc/lists");
        assert_eq!(
            lasting_folders_of(&at("etc/lists/*.txt")),
            [at("srv/releases"), at("etc")]
        );
        link("ring", "etc/ring");
        assert_eq!(lasting_folders_of(&at("etc/ring")).len(), LINKS_MAX);
    }

    #[test]
    fn the_root_is_never_opened() {
        assert_eq!(
            lasting_folders_of(Path::new("/no-such-file")),
            Vec::<PathBuf>::new()
        );
        assert_eq!(
            lasting_folders_of(Path::new("/etc/no-such-file")),
            [Path::new("/etc")]
        );
        assert_eq!(
            lasting_folders_of(Path::new("/no-such-folder/below/conf")),
            Vec::<PathBuf>::new()
        );
        assert_eq!(
            lasting_folders_of(Path::new("/etc/../no-such-folder/conf")),
            Vec::<PathBuf>::new()
        );
    }
}
