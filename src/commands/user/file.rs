//! The users file as `sealway user` edits it: locked, replaced whole, created with mode 0600.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table};

use crate::commands::Trouble;
use crate::config;
use crate::config::read::{Secrecy, read};

/// The result of an edit.
pub(super) enum Edit {
    /// The file was replaced.
    Changed,
}

/// The users file that the configuration names; None if it names none. Ignores other problems of
/// the configuration, which its loader reports.
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

/// Creates an empty file with the owner of the configuration beside it, so that a service that can
/// read the one can read the other, and nobody else.
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
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if file.is_symlink() && !file.exists() {
                return Err(at(file, &config::users::DANGLING));
            }
            Ok(())
        }
        Err(error) => Err(at(file, &error)),
    }
}

/// Changes the table `users` of the file under a lock.
pub(super) fn edit(
    file: &Path,
    change: impl FnOnce(&mut Table) -> Result<Edit, Trouble>,
) -> Result<(), Trouble> {
    // A link stays a link: its target is replaced.
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
    // An inline table, users = { … }, becomes [users].
    if users.is_inline_table() {
        let inline = std::mem::take(users);
        *users = inline.into_table().map_or_else(|item| item, Item::Table);
    }
    let users = users.as_table_mut().ok_or_else(|| {
        Trouble::Config(vec![format!("{}: users must be a table", file.display())])
    })?;
    let Edit::Changed = change(users)?;
    replace(file, &document.to_string()).map_err(|error| at(file, &error))
}

/// A second editor waits. The lock is on a separate file, because the rename replaces the users
/// file.
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

/// Readers see the old file or the new one, even after a power cut. Mode and owner stay.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let before = fs::metadata(file)?;
    let new = beside(file, ".new");
    // Removes the rest of an editor that was killed.
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
