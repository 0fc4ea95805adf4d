//! Property: an accepted users file has the users that any parser of TOML finds in it, name by name
//! and hash by hash, and admits nobody who is disabled, has expired or has no secret; the problem
//! of a refused one shows no hash.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sealway::auth::{SecretHash, User, Users};
use sealway::config::users;
use sealway::outcome::DenyReason;
use sealway::wire::connect::Credentials;
use time::OffsetDateTime;
use toml::{Table, Value};

fuzz_target!(|text: &str| {
    // Rules in other files are outside of this text.
    if text.contains("allow_files") {
        return;
    }
    match users::parse(Path::new("users.toml"), text, &[]) {
        Ok(users) => is_what_toml_says(
            &users,
            &text.parse().expect("a file that was taken is TOML"),
        ),
        Err(problems) => {
            assert!(!problems.is_empty());
            let said: String = problems
                .iter()
                .map(|problem| format!("{problem}\n"))
                .collect();
            for hash in text.parse().map(|table| hashes(&table)).unwrap_or_default() {
                // An operator who uses the same text as a name has published it.
                assert!(
                    text.matches(&hash).count() != 1 || !said.contains(&hash),
                    "{said}"
                );
            }
        }
    }
});

fn is_what_toml_says(users: &Users, table: &Table) {
    let given = table.get("users").map_or_else(Table::new, |users| {
        users.as_table().expect("a table").clone()
    });
    assert_eq!(users.count(), given.len(), "a user was lost");
    for user in users.iter() {
        let name = user.id.as_str();
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b':';
        assert!(
            (1..=128).contains(&name.len()) && name.bytes().all(plain),
            "{name:?}"
        );
        let entry = given[name].as_table().expect("a table");
        let mut secrets = texts(entry.get("secrets"));
        assert!(secrets.len() <= 2);
        secrets.resize(2, SecretHash::default().to_string());
        assert_eq!(
            user.secrets.map(|hash| hash.to_string()),
            *secrets
                .iter()
                .map(|text| text.to_ascii_lowercase())
                .collect::<Vec<_>>()
        );
        assert_eq!(
            user.disabled,
            entry
                .get("disabled")
                .is_some_and(|value| value.as_bool() == Some(true))
        );
        assert_eq!(
            user.allow.is_some(),
            entry.contains_key("allow"),
            "no rules and an empty list of rules differ"
        );
        assert_eq!(user.sources.len(), texts(entry.get("sources")).len());
        assert_eq!(user.egress.len(), texts(entry.get("egress")).len());
        let tunnels = entry.get("tunnels").map(|value| {
            value
                .as_integer()
                .and_then(|count| usize::try_from(count).ok())
        });
        assert_eq!(user.tunnels.map(Some), tunnels);
        assert_eq!(user.expires.is_some(), entry.contains_key("expires"));
        opens_to_its_secrets_only(users, user);
    }
}

fn opens_to_its_secrets_only(users: &Users, user: &User) {
    let (client, now) = (IpAddr::V4(Ipv4Addr::LOCALHOST), OffsetDateTime::now_utc());
    assert_eq!(
        users.check(&Credentials::Absent, client, now).err(),
        Some(DenyReason::AuthRequired)
    );
    let is_live = !user.disabled && user.expires.is_none_or(|expires| now < expires);
    for secret in ["", "one", "two"] {
        let credentials = Credentials::Basic {
            name: user.id.as_str().to_owned().into(),
            secret: secret.to_owned().into(),
        };
        let is_known = user.secrets.contains(&SecretHash::of(secret));
        let is_home =
            user.sources.is_empty() || user.sources.iter().any(|network| network.contains(&client));
        let wanted = match (is_live && is_known, is_home) {
            (false, _) => Err(DenyReason::AuthFailed),
            (true, false) => Err(DenyReason::ClientDenied),
            (true, true) => Ok(()),
        };
        assert_eq!(
            users.check(&credentials, client, now).map(drop),
            wanted,
            "{secret:?}"
        );
    }
}

/// Every text in a list of secrets that could be a hash.
fn hashes(table: &Table) -> Vec<String> {
    let users = table
        .get("users")
        .and_then(Value::as_table)
        .into_iter()
        .flat_map(Table::values);
    let secrets = users
        .filter_map(|user| user.as_table()?.get("secrets"))
        .flat_map(|secrets| texts(Some(secrets)));
    secrets.filter(|text| text.len() >= 16).collect()
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let values = value.and_then(Value::as_array).into_iter().flatten();
    values
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}
