//! The difference between two versions of the users: names only, never a hash.

use super::{User, Users};

/// Sorted lists of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Added users.
    pub added: Vec<String>,
    /// Removed users.
    pub removed: Vec<String>,
    /// Users with changed secrets.
    pub rotated: Vec<String>,
    /// Users with the same secrets and any other change.
    pub changed: Vec<String>,
}

impl Changes {
    /// The changes from `before` to `after`; None means no users.
    #[must_use]
    pub fn between(before: Option<&Users>, after: Option<&Users>) -> Self {
        let mut changes = Self::default();
        let named = |users: Option<&Users>, name: &str| {
            users.and_then(|users| users.by_name.get(name).cloned())
        };
        for user in after.into_iter().flat_map(Users::iter) {
            let name = user.id.as_str();
            match named(before, name) {
                None => changes.added.push(name.to_owned()),
                Some(known) if known.secrets != user.secrets => {
                    changes.rotated.push(name.to_owned())
                }
                Some(known) if !is_narrowed_alike(&known, user) => {
                    changes.changed.push(name.to_owned())
                }
                Some(_) => {}
            }
        }
        let gone = before
            .into_iter()
            .flat_map(Users::iter)
            .map(|user| user.id.as_str());
        changes.removed = gone
            .filter(|name| named(after, name).is_none())
            .map(str::to_owned)
            .collect();
        for names in [
            &mut changes.added,
            &mut changes.removed,
            &mut changes.rotated,
            &mut changes.changed,
        ] {
            names.sort_unstable();
        }
        changes
    }

    /// Splits the changes into parts of at most `most` names, none of them empty.
    pub fn in_parts(self, most: usize) -> impl Iterator<Item = Self> {
        let parts = |names: Vec<String>| {
            names
                .chunks(most.max(1))
                .map(<[String]>::to_vec)
                .collect::<Vec<_>>()
        };
        let added = parts(self.added).into_iter().map(|added| Self {
            added,
            ..Self::default()
        });
        let removed = parts(self.removed).into_iter().map(|removed| Self {
            removed,
            ..Self::default()
        });
        let rotated = parts(self.rotated).into_iter().map(|rotated| Self {
            rotated,
            ..Self::default()
        });
        let changed = parts(self.changed).into_iter().map(|changed| Self {
            changed,
            ..Self::default()
        });
        added.chain(removed).chain(rotated).chain(changed)
    }
}

fn is_narrowed_alike(a: &User, b: &User) -> bool {
    let rules = |user: &User| user.allow.as_ref().map(ToString::to_string);
    (a.expires, a.disabled, a.tunnels, a.bytes_per_second)
        == (b.expires, b.disabled, b.tunnels, b.bytes_per_second)
        && (&a.sources, &a.egress, &a.certificates) == (&b.sources, &b.egress, &b.certificates)
        && rules(a) == rules(b)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::auth::SecretHash;
    use crate::authority::UserId;

    fn users(wanted: &[(&str, &str, bool)]) -> Users {
        Users::new(wanted.iter().map(|(name, secret, disabled)| User {
            id: UserId::parse(name).unwrap(),
            secrets: [SecretHash::of(secret), SecretHash::default()],
            certificates: Vec::new(),
            expires: None,
            disabled: *disabled,
            allow: None,
            sources: Vec::new(),
            egress: Vec::new(),
            tunnels: None,
            bytes_per_second: None,
        }))
    }

    #[test]
    fn each_kind_of_change_is_distinguished() {
        let before = users(&[
            ("a", "1", false),
            ("b", "1", false),
            ("c", "1", false),
            ("d", "1", false),
        ]);
        let after = users(&[
            ("a", "1", false),
            ("b", "2", false),
            ("c", "1", true),
            ("e", "1", false),
        ]);
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let changes = Changes::between(Some(&before), Some(&after));
        let wanted = Changes {
            added: names(&["e"]),
            removed: names(&["d"]),
            rotated: names(&["b"]),
            changed: names(&["c"]),
        };
        assert_eq!(changes, wanted);
        assert_eq!(changes.in_parts(1_000).count(), 4);
        assert_eq!(
            Changes::between(None, Some(&before)).added,
            names(&["a", "b", "c", "d"])
        );
        assert_eq!(Changes::between(None, Some(&before)).in_parts(3).count(), 2);
        assert_eq!(
            Changes::between(Some(&after), Some(&after)),
            Changes::default()
        );
    }
}
