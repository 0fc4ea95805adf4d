//! The users file: hashes of secrets and the restrictions of each user. Read completely or
//! rejected.
//!
//! The file is a [secret](Secrecy::Secret): its hashes are of random secrets, but a person who can
//! write it can grant himself access. Never prints a hash.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::allow_files::{self, AllowFiles};
use super::contents::{Contents, Files, Narrowing, UsersFile};
use super::fields::{Fields, entries, ip_address, network, shown};
use super::file::{Given, Problem, Reader, Section};
use super::read::{ReadError, Secrecy, read, shown_path};
use crate::auth::{SecretHash, User, Users};
use crate::authority::UserId;
use crate::policy::{NameRules, Rule};
use crate::wire::terminator;

/// Reads the file; takes the users in force if it cannot be read. Users may only have addresses of
/// `egress`. If that is empty, the source is the default route's address, which only the start
/// knows; a user with another address gets `egress_unavailable`.
pub(super) fn load(
    path: &Path,
    egress: &[IpAddr],
    offline: bool,
    former: &Arc<Contents>,
) -> Loaded {
    let mut files = Files::after(former);
    let error = match read(path, Secrecy::unless(offline)) {
        Ok(content) => return of_text(path, &content.text, egress, offline, files),
        Err(error) => error,
    };
    let known = |former: &Contents| former.users.clone().filter(|users| users.path == path);
    match files.keep(path, KEY.to_owned(), error, known) {
        Ok(known) => of_former(&known, files),
        Err(error) => {
            let cause = error.kind();
            let missing =
                "does not exist; sealway user add NAME --config FILE creates it".to_owned();
            let message = match error {
                ReadError::Missing(_) if path.is_symlink() => DANGLING.to_owned(),
                ReadError::Missing(_) => missing,
                error => error.to_string(),
            };
            let problem = Problem {
                cause,
                ..Problem::of_file(&shown_path(path), &message)
            };
            Loaded {
                problems: vec![problem],
                ..Loaded::default()
            }
        }
    }
}

/// The contents of a users file, and its problems.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Empty if there are problems.
    users: Arc<Users>,
    narrowed: HashMap<UserId, Narrowing>,
    pub(super) problems: Vec<Problem>,
    unread: Vec<PathBuf>,
    allow_files: AllowFiles,
    files: Files,
}

impl Loaded {
    /// Passes the findings to the reader of the configuration.
    pub(super) fn into_reader(self, path: &Path, reader: &mut Reader<'_>) -> Arc<Users> {
        reader.problems.extend(self.problems);
        reader.unread.extend(self.unread);
        let AllowFiles {
            patterns,
            warnings,
            rules,
            ..
        } = self.allow_files;
        reader.allow_files.patterns.extend(patterns);
        reader.allow_files.warnings.extend(warnings);
        let files = &mut reader.files;
        self.files
            .kept
            .into_iter()
            .for_each(|kept| files.note(kept));
        files.read.listings.extend(self.files.read.listings);
        files.read.rules.extend(rules);
        files.read.users = Some(UsersFile {
            path: path.to_owned(),
            users: Arc::clone(&self.users),
            narrowed: self.narrowed,
        });
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
    let loaded = of_text(path, text, egress, false, Files::default());
    if loaded.problems.is_empty() {
        Ok(Arc::unwrap_or_clone(loaded.users))
    } else {
        Err(loaded.problems)
    }
}

fn of_text(path: &Path, text: &str, egress: &[IpAddr], offline: bool, files: Files) -> Loaded {
    let (mut reader, mut root) = Reader::open(path, text);
    reader.files = files;
    let mut table = root.section(&mut reader, "users");
    root.finish(&mut reader);
    let (mut users, mut narrowed) = (Vec::new(), HashMap::new());
    for Given { value: name, line } in table.keys(&reader) {
        match UserId::parse(&name) {
            Some(id) => {
                let section = table.section(&mut reader, &name);
                let fields = Fields::without_rows(&mut reader, section);
                let (user, narrowing) = user(fields, id, egress, path, offline);
                narrowed.extend(narrowing.map(|narrowing| (user.id.clone(), narrowing)));
                users.push(Arc::new(user));
            }
            // The name is not shown, because it may be a whole credential.
            None => {
                let problem = format!("{}: {}", shown(&name), UserId::FORM);
                reader.add(Some(line), "users", problem);
            }
        }
    }
    shared_names(&mut reader, &users);
    loaded(reader, users, narrowed)
}

fn loaded(
    reader: Reader<'_>,
    users: Vec<Arc<User>>,
    narrowed: HashMap<UserId, Narrowing>,
) -> Loaded {
    let is_good = reader.problems.is_empty();
    Loaded {
        users: Arc::new(Users::of(if is_good { users } else { Vec::new() })),
        narrowed,
        problems: reader.problems,
        unread: reader.unread,
        allow_files: reader.allow_files,
        files: reader.files,
    }
}

/// Returns the users in force, and reads the rules in their `allow_files` again. A user may have
/// only addresses that are not configured any more; he then gets `egress_unavailable`, and no other
/// change waits for a file that cannot be read.
fn of_former(known: &UsersFile, files: Files) -> Loaded {
    let (mut reader, _) = Reader::open(&known.path, "");
    reader.files = files;
    let mut former: Vec<&Arc<User>> = known.users.arcs().collect();
    former.sort_by(|one, other| one.id.as_str().cmp(other.id.as_str()));
    let mut users = Vec::with_capacity(former.len());
    for user in former {
        let section = Section::named(format!("users.{}", user.id.as_str()));
        let mut fields = Fields::without_rows(&mut reader, section);
        users.push(match known.narrowed.get(&user.id) {
            None => Arc::clone(user),
            Some(narrowing) => Arc::new(User {
                allow: Some(narrowed_again(&mut fields, narrowing)),
                ..User::clone(user)
            }),
        });
    }
    loaded(reader, users, known.narrowed.clone())
}

fn narrowed_again(fields: &mut Fields<'_, '_>, narrowing: &Narrowing) -> NameRules {
    let rules = allow_files::of_patterns(fields, narrowing.line, &narrowing.patterns, false);
    let mut names = NameRules::default();
    let own = narrowing.own.iter().cloned();
    own.chain(rules).for_each(|rule| names.add(rule));
    names
}

/// Whether a user may have this source address.
fn is_source(address: IpAddr, egress: &[IpAddr]) -> bool {
    egress.is_empty() || egress.contains(&address)
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
) -> (User, Option<Narrowing>) {
    let source = |text: &str| match ip_address(text)? {
        address if is_source(address, egress) => Ok(address),
        _ => Err(NO_SOURCE),
    };
    let own = fields.list("allow", Rule::parse);
    let listed = allow_files::read(&mut fields, path, offline);
    // Either key narrows the user, even if it holds no rule.
    let allow = (own.is_some() || listed.is_some()).then(|| {
        let mut names = NameRules::default();
        let files = listed.iter().flat_map(|listed| &listed.rules);
        let rules = own.iter().flatten().chain(files);
        rules.cloned().for_each(|rule| names.add(rule));
        names
    });
    let narrowing = listed.map(|listed| Narrowing {
        own: own.unwrap_or_default(),
        patterns: listed.patterns,
        line: listed.line,
    });
    let user = User {
        id,
        secrets: secrets(&mut fields),
        certificates: certificates(&mut fields),
        expires: fields
            .parsed("expires", |text| OffsetDateTime::parse(text, &Rfc3339))
            .map(|given| given.value),
        disabled: fields.flag_or("disabled", false),
        allow,
        sources: fields.list("sources", network).unwrap_or_default(),
        egress: fields.list("egress", source).unwrap_or_default(),
        tunnels: Some(fields.count_or("tunnels", 0, 1..=1_000_000)).filter(|count| *count > 0),
        bytes_per_second: Some(fields.count_or("bytes_per_second", 0, PACE) as u64)
            .filter(|bytes| *bytes > 0),
    };
    fields.finish();
    (user, narrowing)
}

/// The names of the user's certificates.
fn certificates(fields: &mut Fields<'_, '_>) -> Vec<Box<str>> {
    let parse = |text: &str| terminator::name(text).ok_or(NO_NAME);
    fields.list("certificates", parse).unwrap_or_default()
}

/// Reports a name of a certificate that two users have.
fn shared_names(reader: &mut Reader<'_>, users: &[Arc<User>]) {
    let mut holders = HashMap::new();
    for user in users {
        for name in &user.certificates {
            let first: &Arc<User> = holders.entry(name).or_insert(user);
            if first.id != user.id {
                let key = format!("users.{}.certificates", user.id);
                let first = &first.id;
                reader.add(
                    None,
                    key,
                    format!("{name} belongs to {first} too: a certificate has one user"),
                );
            }
        }
    }
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

const KEY: &str = "auth.users_file";
const NO_SOURCE: &str = "not one of egress.addresses";
const NO_NAME: &str = "not a name of a certificate: spiffe://…, dns:NAME, cn:NAME, or spki:sha256: and 64 hexadecimal digits";
/// From a rate at which one TLS record takes some seconds to one beyond today's machines.
const PACE: RangeInclusive<usize> = 1_024..=10_000_000_000;
/// The problem of a link without a target.
pub const DANGLING: &str =
    "is a link to a file that does not exist: create that file, or remove the link";
/// The prefixes for the folder of the service's credentials.
pub(super) const CREDENTIALS: [&str; 2] = ["$CREDENTIALS_DIRECTORY/", "${CREDENTIALS_DIRECTORY}/"];
