//! Both entry points agree on every rule, independently of the other rules. Covers only what needs
//! no socket.

use std::path::Path;

use super::*;
use crate::auth::{SecretHash, Users};
use crate::config::Overrides;
use crate::policy::guard::{AddressGuard, OwnAddresses};
use crate::policy::ranges::Ranges;
use crate::policy::{Enforcement, NameRules, Policy};
use crate::wire::client_hello::{self, TlsVersion};
use crate::wire::{Parsed, server_hello::ServerHello};

#[test]
fn both_doors_agree_on_every_combination_of_rules() {
    let mut seen = std::collections::BTreeMap::new();
    for (auth, users, allow, guard) in combinations() {
        let told = format!("{auth} {users:?} {allow} {guard}");
        let config = config(auth, users, allow, guard);
        let egress = egress(&["192.0.2.1"]);
        let admission = Admission::by(&config, &egress);
        let front = at_the_front(admission);
        let review = admission
            .review(&facts(), &OwnAddresses::new(vec![ip(OWN)]), now())
            .map_err(End::from);
        // Only a new connection presents a secret, so an unknown user and a wrong secret give the
        // same code there.
        assert_eq!(
            front.map_err(End::code),
            review.map_err(End::code),
            "{told}"
        );
        *seen
            .entry(review.map_err(End::code).err().unwrap_or("allowed"))
            .or_insert(0) += 1;
    }
    let codes: Vec<_> = seen.keys().copied().collect();
    assert_eq!(
        codes,
        [
            "allowed",
            "auth_failed",
            "client_denied",
            "destination_denied",
            "host_denied",
            "port_denied"
        ]
    );
}

#[test]
fn the_guard_judges_the_address_that_was_dialled() {
    let (egress, upstream) = (egress(&["192.0.2.1"]), ip("142.250.1.95"));
    let review = |guard: AddressGuard, own: &[IpAddr]| {
        let mut config = config("", None, HOST, "");
        config.policy = policy(&[HOST], guard);
        Admission::by(&config, &egress).review(
            &Facts {
                upstream,
                ..facts()
            },
            &OwnAddresses::new(own.to_vec()),
            now(),
        )
    };
    let plain = || AddressGuard::new(Vec::new());
    let within = |net: &str| plain().within(Ranges::of(&[net.parse().unwrap()]));
    assert_eq!(review(plain(), &[]), Ok(()));
    assert_eq!(review(within("142.250.0.0/15"), &[]), Ok(()));
    let classes = [
        (review(plain(), &[upstream]), "an address of this host"),
        (
            review(within("142.252.0.0/15"), &[]),
            "outside of policy.destination_ranges",
        ),
    ];
    for (reviewed, class) in classes {
        assert_eq!(
            reviewed,
            Err(Refusal::Address(Forbidden {
                address: upstream,
                holds: None,
                class
            }))
        );
    }
}

#[test]
fn a_user_expires_at_the_very_moment_and_is_back_when_the_clock_is() {
    let (expires, egress) = (now(), egress(&["192.0.2.1"]));
    let second = time::Duration::seconds(1);
    let config = config(
        "",
        Some(vec![User {
            expires: Some(expires),
            ..user()
        }]),
        HOST,
        "",
    );
    let at = |now| Admission::by(&config, &egress).review(&facts(), &OwnAddresses::default(), now);
    assert_eq!(at(expires - second), Ok(()));
    assert_eq!(at(expires), Err(Refusal::User(Unfit::Expired)));
    assert_eq!(at(expires + second), Err(Refusal::User(Unfit::Expired)));
    let users = config.auth.users.as_ref().unwrap();
    assert_eq!(
        [expires - second, expires, expires + second].map(|now| users.expired(now)),
        [0, 1, 1]
    );
}

#[test]
fn a_tunnel_without_credentials_is_refused_once_they_are_required() {
    let egress = egress(&["192.0.2.1"]);
    let config = config("", Some(vec![user()]), HOST, "");
    let review = Admission::by(&config, &egress).review(
        &Facts {
            user: None,
            ..facts()
        },
        &OwnAddresses::default(),
        now(),
    );
    assert_eq!(review, Err(Refusal::Credentials(DenyReason::AuthRequired)));
}

#[test]
fn a_source_must_be_configured_and_allowed_for_the_user() {
    let review = |addresses: &[&str], own: &[&str]| {
        let own = User {
            egress: own.iter().map(|address| ip(address)).collect(),
            ..user()
        };
        let (config, egress) = (config("", Some(vec![own]), HOST, ""), egress(addresses));
        Admission::by(&config, &egress).review(&facts(), &OwnAddresses::default(), now())
    };
    let (one, two) = ("192.0.2.1", "192.0.2.2");
    let gone = Err(Refusal::Egress(ip(one)));
    assert_eq!(
        [
            review(&[one], &[]),
            review(&[two, one], &[]),
            review(&[one, two], &[one])
        ],
        [Ok(()); 3]
    );
    assert_eq!(
        [
            review(&[two], &[]),
            review(&[one, two], &[two]),
            review(&[two], &[one])
        ],
        [gone; 3]
    );
}

/// A tunnel that was only reported is judged again by the current rules: it stays if they name its
/// host now.
#[test]
fn enforce_ends_reported_tunnels_that_are_still_not_allowed() {
    let egress = egress(&["192.0.2.1"]);
    let review = |allow: &[&str], mode, facts: &Facts<'_>| {
        let mut config = config("", None, HOST, "");
        config.policy = policy(
            allow,
            AddressGuard::new(vec!["203.0.113.0/24".parse().unwrap()]),
        )
        .with_enforcement(mode);
        Admission::by(&config, &egress).review(facts, &OwnAddresses::default(), now())
    };
    let other = Authority::parse("other.example:443").unwrap();
    let hello = HelloFacts::of(
        &crate::authority::Host::parse("other.example").unwrap(),
        &hello(),
    );
    let (unnamed, misnamed) = (
        Facts {
            authority: &other,
            ..facts()
        },
        Facts { hello, ..facts() },
    );
    for facts in [unnamed, misnamed] {
        assert_eq!(review(&[HOST], Enforcement::Report, &facts), Ok(()));
    }
    assert_eq!(
        review(&[HOST], Enforcement::Enforce, &unnamed),
        Err(Refusal::Policy(DenyReason::HostDenied))
    );
    assert_eq!(
        review(&[HOST, "other.example"], Enforcement::Enforce, &unnamed),
        Ok(())
    );
    assert_eq!(
        review(&[HOST], Enforcement::Enforce, &misnamed),
        Err(Refusal::Policy(DenyReason::SniMismatch))
    );
}

#[test]
fn the_version_that_was_chosen_is_judged_as_well_as_those_offered() {
    let (egress, mut config) = (egress(&["192.0.2.1"]), config("", None, HOST, ""));
    let guard = AddressGuard::new(vec!["203.0.113.0/24".parse().unwrap()]);
    config.policy = Policy::new(
        NameRules::parse([HOST]).unwrap(),
        guard,
        TlsVersion::Tls13,
        true,
    );
    let chose = |version| {
        let answer = ServerHello {
            version,
            cipher: 0x1301,
            group: None,
        };
        Admission::by(&config, &egress).review(
            &Facts {
                answer: Some(&answer),
                ..facts()
            },
            &OwnAddresses::default(),
            now(),
        )
    };
    assert_eq!(chose(TlsVersion::Tls13), Ok(()));
    assert_eq!(
        chose(TlsVersion::Tls12),
        Err(Refusal::Policy(DenyReason::ServerTlsVersionDenied))
    );
}

/// A peer that a reload takes from `from`, or a listener that a reload gives or takes `proxy_protocol`.
#[test]
fn a_peer_and_its_header_are_judged_at_both_doors() {
    let balancer = "192.0.2.10";
    let egress = egress(&["192.0.2.1"]);
    for (from, via, wanted) in [
        (None, None, Ok(())),
        (None, Some(balancer), Err(Refusal::Declaration)),
        (Some(balancer), Some(balancer), Ok(())),
        (Some("192.0.2.0/24"), Some(balancer), Ok(())),
        (Some("192.0.2.0/24"), Some("::ffff:192.0.2.10"), Ok(())),
        (Some("192.0.2.11"), Some(balancer), Err(Refusal::Peer)),
        (Some("2001:db8::/32"), Some(balancer), Err(Refusal::Peer)),
        (Some(balancer), None, Err(Refusal::Peer)),
        (Some(CLIENT), None, Err(Refusal::Declaration)),
    ] {
        let mut config = config("", None, HOST, "203.0.113.0/24");
        config.listeners[0].proxy_protocol = from.map(|from| {
            let from = vec![from.parse().unwrap_or_else(|_| ip(from).into())];
            std::sync::Arc::new(ProxyProtocol {
                from,
                identity: false,
                token: None,
                former: Vec::new(),
            })
        });
        let admission = Admission::by(&config, &egress);
        let via = via.map(ip);
        let review = admission.review(&Facts { via, ..facts() }, &OwnAddresses::default(), now());
        assert_eq!(review, wanted, "{from:?} {via:?}");
        if wanted != Err(Refusal::Declaration) {
            let front = admission.peer(0, via.unwrap_or(ip(CLIENT))).map(drop);
            assert_eq!(front, wanted, "{from:?} {via:?}");
        }
        // The others keep what they have.
        assert_eq!(admission.peer(1, ip(balancer)), Ok(None));
    }
}

/// By certificate, by secret and by both, at both doors, with the users of the file afterwards.
#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
fn a_certificate_is_one_users_at_both_doors() {
    let users = |alice: &[&str], bob: &[&str]| {
        let with = |name: &str, names: &[&str]| User {
            id: UserId::parse(name).unwrap(),
            certificates: names.iter().map(|name| (*name).into()).collect(),
            ..user()
        };
        Some(vec![with("alice", alice), with("bob", bob)])
    };
    let egress = egress(&["192.0.2.1"]);
    let (basic, certificate, both) = (AuthMethod::Basic, AuthMethod::Certificate, AuthMethod::Both);
    let failed = Err("auth_failed");
    for (names, alice, bob, has_secret, wanted) in [
        (
            Some(&["dns:a"][..]),
            &["dns:a"][..],
            &[][..],
            false,
            Ok(certificate),
        ),
        (Some(&["cn:x", "dns:a"]), &["dns:a"], &[], true, Ok(both)),
        (Some(&["dns:b"]), &["dns:a"], &["dns:b"], true, failed),
        (
            Some(&["dns:a", "dns:b"]),
            &["dns:a"],
            &["dns:b"],
            false,
            failed,
        ),
        (
            Some(&["dns:a", "dns:b"]),
            &["dns:a"],
            &["dns:b"],
            true,
            failed,
        ),
        (Some(&["dns:z"]), &["dns:a"], &[], true, failed),
        (Some(&["dns:z"]), &[], &["dns:b"], true, Ok(basic)),
        (Some(&["dns:z"]), &["dns:a"], &[], false, failed),
        (Some(&[]), &["dns:a"], &[], false, failed),
        (None, &["dns:a"], &[], true, Ok(basic)),
        (None, &["dns:a"], &[], false, Err("auth_required")),
    ] {
        let mut config = config("", users(alice, bob), HOST, "203.0.113.0/24");
        config.listeners[0].proxy_protocol = Some(std::sync::Arc::new(ProxyProtocol {
            from: vec![ip("192.0.2.10").into()],
            identity: true,
            token: None,
            former: Vec::new(),
        }));
        let admission = Admission::by(&config, &egress);
        let [name, secret] = ["alice", "one"].map(|text| text.to_owned().into());
        let presented = match has_secret {
            true => Credentials::Basic { name, secret },
            false => Credentials::Absent,
        };
        let owned: Option<Vec<Box<str>>> =
            names.map(|names| names.iter().map(|name| (*name).into()).collect());
        let told = format!("{names:?} {alice:?} {bob:?} {has_secret}");
        let front = admission
            .user(
                Identity::Presented(&presented),
                owned.as_deref(),
                ip(CLIENT),
                now(),
            )
            .map(|user| user.unwrap())
            .map_err(|refusal| End::from(refusal).code());
        assert_eq!(
            front.as_ref().map(|(_, auth)| *auth).map_err(|code| *code),
            wanted,
            "{told}"
        );
        // A tunnel that stood before, under users who allowed it.
        let review = |is_by_secret: bool| {
            admission.review(
                &Facts {
                    via: Some(ip("192.0.2.10")),
                    auth: if is_by_secret { basic } else { certificate },
                    certificate: owned.as_deref(),
                    ..facts()
                },
                &OwnAddresses::default(),
                now(),
            )
        };
        if names.is_some() {
            assert_eq!(review(has_secret).is_ok(), wanted.is_ok(), "{told}");
        }
    }
}

/// The steps of a new connection before its ClientHello is read.
fn at_the_front(admission: Admission<'_>) -> Result<(), End> {
    let [name, secret] = ["alice", "one"].map(|text| text.to_owned().into());
    let (client, presented) = (ip(CLIENT), Credentials::Basic { name, secret });
    admission.client(client)?;
    let user = admission
        .user(Identity::Presented(&presented), None, client, now())?
        .map(|(user, _)| user);
    admission.destination(
        Authority::parse(&format!("{HOST}:443")).unwrap(),
        user.as_deref(),
    )?;
    admission.addresses(&[ip(UPSTREAM)], &OwnAddresses::new(vec![ip(OWN)]))?;
    Ok(())
}

type Rules = (&'static str, Option<Vec<User>>, &'static str, &'static str);

fn combinations() -> Vec<Rules> {
    let users = || {
        let rules = |rule: &str| NameRules::parse([rule]).ok();
        [
            None,
            Some(vec![]),
            Some(vec![user()]),
            Some(vec![User {
                disabled: true,
                ..user()
            }]),
            Some(vec![User {
                expires: Some(now()),
                ..user()
            }]),
            Some(vec![User {
                sources: vec!["192.0.2.0/24".parse().unwrap()],
                ..user()
            }]),
            Some(vec![User {
                sources: vec!["198.51.100.0/24".parse().unwrap()],
                ..user()
            }]),
            Some(vec![User {
                allow: rules(HOST),
                ..user()
            }]),
            Some(vec![User {
                allow: rules("other.example"),
                ..user()
            }]),
            Some(vec![User {
                allow: rules(&format!("{HOST}:8443")),
                ..user()
            }]),
        ]
    };
    let mut all = Vec::new();
    for auth in ["", "198.51.100.0/24", "192.0.2.0/24"] {
        for allow in [
            HOST,
            "other.example",
            "generativelanguage.googleapis.com:8443",
        ] {
            for guard in ["203.0.113.0/24", "192.0.2.0/24"] {
                all.extend(users().into_iter().map(|users| (auth, users, allow, guard)));
            }
        }
    }
    all
}

fn config(clients: &str, users: Option<Vec<User>>, allow: &str, exempt: &str) -> Config {
    let mut config = Config::parse(Path::new(""), "", &Overrides::default()).unwrap();
    config.auth.clients = clients.parse().into_iter().collect();
    config.auth.users = users.map(|users| std::sync::Arc::new(Users::new(users)));
    config.policy = policy(
        &[allow],
        AddressGuard::new(exempt.parse().into_iter().collect()),
    );
    if exempt.is_empty() {
        config.policy = policy(
            &[allow],
            AddressGuard::new(vec!["203.0.113.0/24".parse().unwrap()]),
        );
    }
    config
}

fn policy(allow: &[&str], guard: AddressGuard) -> Policy {
    Policy::new(
        NameRules::parse(allow.iter().copied()).unwrap(),
        guard,
        TlsVersion::Tls12,
        true,
    )
}

fn user() -> User {
    User {
        id: UserId::parse("alice").unwrap(),
        secrets: [SecretHash::of("one"), SecretHash::default()],
        certificates: Vec::new(),
        expires: None,
        disabled: false,
        allow: None,
        sources: Vec::new(),
        egress: Vec::new(),
        tunnels: None,
        bytes_per_second: None,
    }
}

fn facts() -> Facts<'static> {
    let (authority, user) = (
        Authority::parse(&format!("{HOST}:443")).unwrap(),
        UserId::parse("alice").unwrap(),
    );
    let hello = HelloFacts::of(&crate::authority::Host::parse(HOST).unwrap(), &hello());
    let (client, upstream, egress) = (ip(CLIENT), ip(UPSTREAM), ip("192.0.2.1"));
    let (user, authority) = (
        Some(&*Box::leak(Box::new(user))),
        &*Box::leak(Box::new(authority)),
    );
    Facts {
        listener: 0,
        via: None,
        client,
        auth: AuthMethod::Basic,
        certificate: None,
        user,
        authority,
        upstream,
        egress,
        hello,
        answer: None,
    }
}

fn hello() -> client_hello::ClientHello {
    let bytes = include_bytes!("../../tests/fixtures/clienthello/curl-openssl.bin");
    match client_hello::parse(bytes, bytes.len()) {
        Ok(Parsed::Complete { value, .. }) => value,
        other => panic!("{other:?}"),
    }
}

fn egress(addresses: &[&str]) -> Egress {
    Egress::new(
        &addresses
            .iter()
            .map(|address| ip(address))
            .collect::<Vec<_>>(),
        None,
        28_000,
    )
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}

const HOST: &str = "generativelanguage.googleapis.com";
const CLIENT: &str = "198.51.100.7";
const UPSTREAM: &str = "203.0.113.80";
const OWN: &str = "192.0.2.1";
