//! The users file: hashes of secrets and the restrictions of each user. Read completely or
//! rejected.
//!
//! The file is a [secret](Secrecy::Secret): its hashes are of random secrets, but a person who can
//! write it can grant himself access. Never prints a hash.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::allow_files::{self, AllowFiles};
use super::fields::{Fields, entries, ip_address, network, shown};
use super::file::{Given, Problem, Reader};
use super::read::{ReadError, Secrecy, read, shown_path};
use crate::auth::{SecretHash, User, Users};
use crate::authority::UserId;
use crate::policy::{NameRules, Rule};

/// Reads the file. Users may only have addresses of `egress`. If that is empty, the source is the
/// default route's address, which only the start knows; a user with another address gets
/// `egress_unavailable`.
pub(super) fn load(path: &Path, egress: &[IpAddr], offline: bool) -> Loaded {
    match read(path, Secrecy::unless(offline)) {
        Ok(content) => of_text(path, &content.text, egress, offline),
        Err(error) => {
            let missing = "is not there; sealway user add NAME --config FILE makes it".to_owned();
            let message = match error {
                ReadError::Missing(_) if path.is_symlink() => DANGLING.to_owned(),
                ReadError::Missing(_) => missing,
                error => error.to_string(),
            };
            Loaded {
                problems: vec![Problem::of_file(&shown_path(path), &message)],
                ..Loaded::default()
            }
        }
    }
}

/// The contents of a users file, and its problems.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Empty if there are problems.
    users: Users,
    pub(super) problems: Vec<Problem>,
    unread: Vec<PathBuf>,
    allow_files: AllowFiles,
}

impl Loaded {
    /// Passes the findings to the reader of the configuration.
    pub(super) fn into_reader(self, reader: &mut Reader<'_>) -> Users {
        reader.problems.extend(self.problems);
        reader.unread.extend(self.unread);
        let AllowFiles {
            patterns, warnings, ..
        } = self.allow_files;
        reader.allow_files.patterns.extend(patterns);
        reader.allow_files.warnings.extend(warnings);
        self.users
    }
}

/// The path of the users file that `auth.users_file` names: relative to `folder`, absolute, or
/// among the service's credentials (systemd.exec(5), `LoadCredential=`).
///
/// # Errors
/// When the name refers to credentials and the service has none.
pub fn place(name: &str, folder: &Path) -> Result<PathBuf, &'static str> {
    let credential = CREDENTIALS
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix));
    match (credential, std::env::var_os("CREDENTIALS_DIRECTORY")) {
        (None, _) => Ok(folder.join(name)),
        (Some(credential), Some(directory)) => Ok(Path::new(&directory).join(credential)),
        (Some(_), None) => {
            Err("CREDENTIALS_DIRECTORY is not set: systemd sets it for a unit with LoadCredential=")
        }
    }
}

/// Parses the text of a users file.
///
/// # Errors
/// Every problem.
pub fn parse(path: &Path, text: &str, egress: &[IpAddr]) -> Result<Users, Vec<Problem>> {
    let loaded = of_text(path, text, egress, false);
    if loaded.problems.is_empty() {
        Ok(loaded.users)
    } else {
        Err(loaded.problems)
    }
}

fn of_text(path: &Path, text: &str, egress: &[IpAddr], offline: bool) -> Loaded {
    let (mut reader, mut root) = Reader::open(path, text);
    let mut table = root.section(&mut reader, "users");
    root.finish(&mut reader);
    let mut users = Vec::new();
    for Given { value: name, line } in table.keys(&reader) {
        match UserId::parse(&name) {
            Some(id) => {
                let section = table.section(&mut reader, &name);
                let fields = Fields::without_rows(&mut reader, section);
                users.push(user(fields, id, egress, path, offline));
            }
            // The name is not shown, because it may be a whole credential.
            None => {
                let problem = format!("{}: {}", shown(&name), UserId::FORM);
                reader.add(Some(line), "users", problem);
            }
        }
    }
    let is_good = reader.problems.is_empty();
    Loaded {
        users: Users::new(if is_good { users } else { Vec::new() }),
        problems: reader.problems,
        unread: reader.unread,
        allow_files: reader.allow_files,
    }
}

/// No users: every login fails.
#[must_use]
pub fn none() -> Users {
    Users::default()
}

fn user(
    mut fields: Fields<'_, '_>,
    id: UserId,
    egress: &[IpAddr],
    path: &Path,
    offline: bool,
) -> User {
    let source = |text: &str| match ip_address(text)? {
        address if egress.is_empty() || egress.contains(&address) => Ok(address),
        _ => Err("not one of egress.addresses"),
    };
    let allow = [
        fields.list("allow", Rule::parse),
        allow_files::read(&mut fields, path, offline),
    ];
    // Either key narrows the user, even if it holds no rule.
    let allow = allow.iter().any(Option::is_some).then(|| {
        let mut names = NameRules::default();
        let rules = allow.into_iter().flatten().flatten();
        rules.for_each(|rule| names.add(rule));
        names
    });
    let user = User {
        id,
        secrets: secrets(&mut fields),
        expires: fields
            .parsed("expires", |text| OffsetDateTime::parse(text, &Rfc3339))
            .map(|given| given.value),
        disabled: fields.flag_or("disabled", false),
        allow,
        sources: fields.list("sources", network).unwrap_or_default(),
        egress: fields.list("egress", source).unwrap_or_default(),
        tunnels: Some(fields.count_or("tunnels", 0, 1..=60_000)).filter(|count| *count > 0),
        bytes_per_second: Some(fields.count_or("bytes_per_second", 0, PACE) as u64)
            .filter(|bytes| *bytes > 0),
    };
    fields.finish();
    user
}

/// One or two secrets. A wrong text is not shown.
fn secrets(fields: &mut Fields<'_, '_>) -> [SecretHash; 2] {
    let mut slots = [SecretHash::default(); 2];
    let Some(given) = fields.texts("secrets") else {
        return slots;
    };
    let texts: Vec<_> = entries(&given.value).map(|(_, text)| text).collect();
    if !(1..=2).contains(&texts.len()) {
        fields.complain(
            given.line,
            "secrets",
            "a user has one or two live secrets; make one with sealway user add",
        );
    }
    for (slot, text) in slots.iter_mut().zip(texts) {
        match SecretHash::parse(text) {
            Some(hash) => *slot = hash,
            None => fields.complain(
                given.line,
                "secrets",
                "a secret is kept as sha256: and 64 hexadecimal digits",
            ),
        }
    }
    slots
}

/// From a rate at which one TLS record takes some seconds to one beyond today's machines.
const PACE: RangeInclusive<usize> = 1_024..=10_000_000_000;
/// The problem of a link without a target.
pub const DANGLING: &str =
    "is a link to a file that is not there: create that file, or remove the link";
/// The prefixes for the folder of the service's credentials.
pub(super) const CREDENTIALS: [&str; 2] = ["$CREDENTIALS_DIRECTORY/", "${CREDENTIALS_DIRECTORY}/"];
