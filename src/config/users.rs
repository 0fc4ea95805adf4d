//! The users file: hashes of secrets and what narrows each user. Read whole or not at all.
//!
//! The file is a [secret](Secrecy::Secret): its hashes are of random secrets, but who can write it can let himself in. Never
//! prints a hash.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::fields::{Fields, ip_address, network, shown};
use super::file::{Given, Problem, Reader};
use super::read::{ReadError, Secrecy, read, shown_path};
use crate::auth::{SecretHash, User, Users};
use crate::authority::UserId;
use crate::policy::{NameRules, Rule};

/// Reads the file. Users can be bound to the daemon's `egress` only. Where there is none it is the default route's
/// address, known at the start only, and a user with another one gets `egress_unavailable`.
///
/// # Errors
/// Every problem there is.
pub fn load(path: &Path, egress: &[IpAddr], secrecy: Secrecy) -> Result<Users, Vec<Problem>> {
    let content = read(path, secrecy).map_err(|error| match error {
        ReadError::Missing(_) => {
            vec![Problem::of_file(
                &shown_path(path),
                &"is not there; sealway user add NAME --config FILE makes it",
            )]
        }
        error => vec![Problem::of_file(&shown_path(path), &error)],
    })?;
    parse(path, &content.text, egress)
}

/// Where the users file is that `auth.users_file` names: beside the configuration in `folder`, at an absolute path, or
/// among the service's credentials (systemd.exec(5), `LoadCredential=`).
///
/// # Errors
/// When credentials are named and the service has none.
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

/// The same from text.
///
/// # Errors
/// Every problem there is.
pub fn parse(path: &Path, text: &str, egress: &[IpAddr]) -> Result<Users, Vec<Problem>> {
    let (mut reader, mut root) = Reader::open(path, text);
    let mut table = root.section(&mut reader, "users");
    root.finish(&mut reader);
    let mut users = Vec::new();
    for Given { value: name, line } in table.keys(&reader) {
        match UserId::parse(&name) {
            Some(id) => {
                let section = table.section(&mut reader, &name);
                users.push(user(Fields::new(&mut reader, section), id, egress));
            }
            // The name is not shown: it may be a whole credential.
            None => {
                let problem = format!("{}: {}", shown(&name), UserId::FORM);
                reader.add(Some(line), "users", problem);
            }
        }
    }
    if reader.problems.is_empty() {
        Ok(Users::new(users))
    } else {
        Err(reader.problems)
    }
}

/// No user at all: every credential fails.
#[must_use]
pub fn none() -> Users {
    Users::default()
}

fn user(mut fields: Fields<'_, '_>, id: UserId, egress: &[IpAddr]) -> User {
    let source = |text: &str| match ip_address(text)? {
        address if egress.is_empty() || egress.contains(&address) => Ok(address),
        _ => Err("not one of egress.addresses"),
    };
    let allow = fields.list("allow", Rule::parse).map(|rules| {
        let mut names = NameRules::default();
        rules.into_iter().for_each(|rule| names.add(rule));
        names
    });
    let user = User {
        id,
        secrets: secrets(&mut fields),
        expires: fields
            .parsed("expires", |text| OffsetDateTime::parse(text, &Rfc3339))
            .map(|given| given.value),
        disabled: fields.flag("disabled", false),
        allow,
        sources: fields.list("sources", network).unwrap_or_default(),
        egress: fields.list("egress", source).unwrap_or_default(),
        tunnels: Some(fields.count("tunnels", 0, 1..=60_000)).filter(|count| *count > 0),
        bytes_per_second: Some(fields.count("bytes_per_second", 0, PACE) as u64)
            .filter(|bytes| *bytes > 0),
    };
    fields.finish();
    user
}

/// One or two; the texts are not shown when they are wrong.
fn secrets(fields: &mut Fields<'_, '_>) -> [SecretHash; 2] {
    let mut slots = [SecretHash::default(); 2];
    let Some(given) = fields.texts("secrets") else {
        return slots;
    };
    if !(1..=2).contains(&given.value.len()) {
        fields.complain(
            given.line,
            "secrets",
            "a user has one or two live secrets; make one with sealway user add",
        );
    }
    for (slot, text) in slots.iter_mut().zip(&given.value) {
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

/// From where a record of TLS comes within some seconds to what no machine of today moves.
const PACE: RangeInclusive<usize> = 1_024..=10_000_000_000;
/// How a configuration names the folder of the service's credentials.
pub(super) const CREDENTIALS: [&str; 2] = ["$CREDENTIALS_DIRECTORY/", "${CREDENTIALS_DIRECTORY}/"];
