//! The users file as `sealway user` edits it: locked, replaced whole, mode 0600 when it is made.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table};

use crate::commands::Trouble;
use crate::config;
use crate::config::read::{Secrecy, read};

/// What an edit did.
pub(super) enum Edit {
    /// The file is written anew.
    Changed,
}

/// The users file that the configuration names; None when it names none. What else is wrong with the configuration is
/// told by whoever loads it.
pub(super) fn configured(config: &Path) -> Result<Option<PathBuf>, Trouble> {
    let text = config::file::text(config).map_err(|problems| Trouble::of(&problems))?;
    let document: Option<DocumentMut> = text.parse().ok();
    let name = document
        .as_ref()
        .and_then(|d| d.get("auth")?.get("users_file")?.as_str())
        .filter(|name| !name.is_empty());
    let folder = config.parent().unwrap_or(Path::new(""));
    Ok(name.and_then(|name| config::users::place(name, folder).ok()))
}

/// Makes an empty file. It belongs to whom the configuration beside it belongs to, so that a service which can read
/// the one can read the other; nobody else can.
pub(super) fn create_if_missing(file: &Path, config: &Path) -> Result<(), Trouble> {
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
    {
        Ok(made) => {
            let (like, own) = (
                fs::metadata(config).map_err(|error| at(config, &error))?,
                made.metadata().map_err(|error| at(file, &error))?,
            );
            if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
                fchown(&made, Some(like.uid()), Some(like.gid()))
                    .map_err(|error| at(file, &error))?;
                made.set_permissions(Permissions::from_mode(0o640))
                    .map_err(|error| at(file, &error))?;
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(at(file, &error)),
    }
}

/// Changes the table `users` of the file under a lock.
pub(super) fn edit(
    file: &Path,
    change: impl FnOnce(&mut Table) -> Result<Edit, Trouble>,
) -> Result<(), Trouble> {
    // A link stays a link: what it leads to is replaced.
    let file = &fs::canonicalize(file).map_err(|error| at(file, &error))?;
    let _lock = lock(file).map_err(|error| at(file, &error))?;
    let text = read(file, Secrecy::Public)
        .map_err(|error| at(file, &error))?
        .text;
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error| Trouble::Config(vec![format!("{}: {error}", file.display())]))?;
    let users = document.entry("users").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let users = users.as_table_mut().ok_or_else(|| {
        Trouble::Config(vec![format!("{}: users must be a table", file.display())])
    })?;
    let Edit::Changed = change(users)?;
    replace(file, &document.to_string()).map_err(|error| at(file, &error))
}

/// A second editor waits. The lock is on a file of its own, for the rename replaces the other.
fn lock(file: &Path) -> io::Result<File> {
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(beside(file, ".lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// A reader sees the old file or the new one, after a power cut too. Mode and owner stay.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let before = fs::metadata(file)?;
    let new = beside(file, ".new");
    // What an editor that was killed has left.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut writer = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    writer.write_all(text.as_bytes())?;
    writer.set_permissions(Permissions::from_mode(before.mode() & 0o777))?;
    let owner = writer.metadata()?;
    if (owner.uid(), owner.gid()) != (before.uid(), before.gid()) {
        fchown(&writer, Some(before.uid()), Some(before.gid()))?;
    }
    writer.sync_all()?;
    fs::rename(&new, file)?;
    File::open(
        file.parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new(".")),
    )?
    .sync_all()
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn at(file: &Path, error: &impl Display) -> Trouble {
    Trouble::Other(format!("{}: {error}", file.display()))
}
