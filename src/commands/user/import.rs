//! `sealway user import FILE`: makes a user of each name in an htpasswd file. Its hashes cannot be
//! kept, because they are slow hashes of passwords that people chose; each name gets a new secret.
//!
//! Imports all names or none: a wrong line changes nothing. Leaves existing users as they are.
//! Prints the secrets once, as CSV (RFC 4180), and never stores them. Never prints the text after a
//! name in the file.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use super::file::{Edit, edit};
use super::{insert, new_secret, proxy_url, user_id};
use crate::authority::UserId;
use crate::commands::Trouble;
use crate::config::read::{Secrecy, read};

/// Adds a user for each name in `htpasswd` and prints name, secret and proxy URL of each.
///
/// # Errors
/// A file that is not an htpasswd file; otherwise as [`super::add`].
pub fn import(htpasswd: &Path, config: Option<&Path>) -> Result<(), Trouble> {
    let content = read(htpasswd, Secrecy::Public)
        .map_err(|error| Trouble::Other(format!("{}: {error}", htpasswd.display())))?;
    let names = names(&content.text).map_err(|(line, wrong)| {
        Trouble::Other(format!("{}:{line}: {wrong}", htpasswd.display()))
    })?;
    let (config, file) = super::target(config)?;
    let mut made = Vec::new();
    let mut known = Vec::new();
    edit(&file, |users| {
        for user in names {
            if users.contains_key(user.as_str()) {
                known.push(user);
                continue;
            }
            let secret = new_secret()?;
            insert(users, &user, &secret);
            made.push((user, secret));
        }
        Ok(Edit::Changed)
    })?;
    for user in &known {
        eprintln!(
            "{user} exists already and is not changed; sealway user rotate makes a new secret"
        );
    }
    let rows = made.iter().map(|(user, secret)| {
        [
            user.as_str().to_owned(),
            secret.clone(),
            proxy_url(&config, user, secret),
        ]
    });
    print(rows).map_err(|error| {
        Trouble::Other(format!(
            "the secrets could not be printed ({error}) and are lost; sealway user rotate NAME makes another"
        ))
    })?;
    eprintln!(
        "{} users created. Their secrets are shown once. Reload the daemon (SIGHUP) to put them in force.",
        made.len()
    );
    Ok(())
}

fn print(rows: impl Iterator<Item = [String; 3]>) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["user", "secret", "proxy"])?;
    for row in rows {
        writer.write_record(row)?;
    }
    let bytes = writer
        .into_inner()
        .map_err(csv::IntoInnerError::into_error)?;
    let mut stdout = io::stdout();
    stdout.write_all(&bytes).and_then(|()| stdout.flush())
}

/// The names in the order of the file. Errors carry the line number, from 1.
fn names(text: &str) -> Result<Vec<UserId>, (usize, String)> {
    let mut names = Vec::new();
    let mut lines = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, _hash) = line
            .split_once(':')
            .ok_or((at + 1, "not NAME:HASH as htpasswd(1) writes it".to_owned()))?;
        let user = user_id(name).map_err(|wrong| (at + 1, wrong))?;
        if let Some(first) = lines.insert(user.as_str().to_owned(), at + 1) {
            return Err((
                at + 1,
                format!("{user} occurs twice: line {first} has it too"),
            ));
        }
        names.push(user);
    }
    if names.is_empty() {
        Err((1, "no name in the file".to_owned()))
    } else {
        Ok(names)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, (usize, String)> {
        names(text).map(|names| names.iter().map(UserId::to_string).collect())
    }

    #[test]
    fn an_htpasswd_file_gives_its_names() {
        let text = "# team\n\nalice:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\r\n\
                    svc-llm@corp.example:$6$salt$hash:with:colons\nbob:\n";
        assert_eq!(
            read(text).unwrap(),
            ["alice", "svc-llm@corp.example", "bob"]
        );
    }

    #[test]
    fn an_error_names_the_line_and_shows_no_hash() {
        for (text, line, wanted) in [
            ("", 1, "no name"),
            ("# nothing\n", 1, "no name"),
            ("alice:x\nbob\n", 2, "NAME:HASH"),
            ("alice:x\n\nalice:y\n", 3, "line 1 has it too"),
            (":topsecret\n", 1, "1 to 128"),
            ("al ice:topsecret\n", 1, "1 to 128"),
            ("älice:topsecret\n", 1, "1 to 128"),
        ] {
            let (at, wrong) = read(text).unwrap_err();
            assert!(
                at == line && wrong.contains(wanted) && !wrong.contains("topsecret"),
                "{text:?}: {at} {wrong}"
            );
        }
    }
}
