//! Verdicts on names and ClientHellos under each enforcement, and the hash of a policy.

use super::*;
use crate::wire::{Parsed, client_hello};

fn policy(allow: &[&str], min_tls: TlsVersion, ech: bool) -> Policy {
    Policy::new(
        NameRules::parse(allow.iter().copied()).unwrap(),
        AddressGuard::new(Vec::new()),
        min_tls,
        ech,
    )
}

fn verdict(
    policy: &Policy,
    target: &str,
    narrowed: Option<&NameRules>,
) -> Result<Authorised, DenyReason> {
    match policy.judge(Authority::parse(target).unwrap(), narrowed) {
        Verdict::Allow(authorised) => Ok(authorised),
        Verdict::Deny(reason) => Err(reason),
    }
}

/// A parsed ClientHello with these facts and no others.
fn hello(name: Option<&str>, versions: &[TlsVersion], ech: bool) -> ClientHello {
    let vector = |content: &[u8]| [&(content.len() as u16).to_be_bytes(), content].concat();
    let extension =
        |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &vector(content)].concat();
    let numbers: Vec<u8> = versions
        .iter()
        .flat_map(|version| [3, *version as u8])
        .collect();
    let mut extensions = extension(43, &[&[numbers.len() as u8][..], &numbers].concat());
    if let Some(name) = name {
        extensions.extend(extension(
            0,
            &vector(&[&[0][..], &vector(name.as_bytes())].concat()),
        ));
    }
    if ech {
        extensions.extend(extension(0xfe0d, &[1]));
    }
    let fields = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 0x01, 1, 0]].concat();
    let message = vector(&[fields, vector(&extensions)].concat());
    let record = [&[22, 3, 1][..], &vector(&[&[1, 0][..], &message].concat())].concat();
    match client_hello::parse(&record, record.len()) {
        Ok(Parsed::Complete { value, .. }) => value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_allowed_by_default() {
    let policy = policy(&[], TlsVersion::Tls12, true);
    assert_eq!(
        verdict(&policy, "a.example:443", None),
        Err(DenyReason::HostDenied)
    );
    assert_eq!(
        verdict(&policy, "203.0.113.9:443", None),
        Err(DenyReason::IpLiteralDenied)
    );
}

#[test]
fn a_users_rules_narrow_and_never_widen() {
    let policy = policy(&["a.example", "b.example"], TlsVersion::Tls12, true);
    let own = NameRules::parse(["b.example", "c.example"]).unwrap();
    assert!(verdict(&policy, "b.example:443", Some(&own)).is_ok());
    assert_eq!(
        verdict(&policy, "a.example:443", Some(&own)),
        Err(DenyReason::HostDenied)
    );
    assert_eq!(
        verdict(&policy, "c.example:443", Some(&own)),
        Err(DenyReason::HostDenied)
    );
}

#[test]
fn a_hello_must_name_the_host_and_keep_to_the_floor() {
    use TlsVersion::{Tls11, Tls12, Tls13};
    let strict = policy(&["a.example"], Tls13, false);
    let authorised = verdict(&strict, "A.Example.:443", None).unwrap();
    let judge = |hello| strict.judge_hello(&authorised, hello).map(drop);
    assert_eq!(
        judge(hello(Some("A.EXAMPLE"), &[Tls13, Tls12], false)),
        Ok(())
    );
    assert_eq!(
        judge(hello(Some("a.example."), &[Tls13], false)),
        Ok(()),
        "as httpx, undici and Bun send it"
    );
    assert_eq!(
        judge(hello(None, &[Tls13], false)),
        Err(DenyReason::SniMissing)
    );
    for other in [
        "b.example",
        "a.example..",
        "sub.a.example",
        "a.exampl",
        "203.0.113.9",
    ] {
        assert_eq!(
            judge(hello(Some(other), &[Tls13], false)),
            Err(DenyReason::SniMismatch),
            "{other}"
        );
    }
    assert_eq!(
        judge(hello(Some("a.example"), &[Tls12, Tls11], false)),
        Err(DenyReason::TlsVersionDenied)
    );
    assert_eq!(
        judge(hello(Some("a.example"), &[Tls13], true)),
        Err(DenyReason::EchDenied)
    );
}

#[test]
fn report_mode_passes_names_and_records_the_cause() {
    let policy = policy(&["a.example", "b.example:8443"], TlsVersion::Tls12, true);
    let policy = policy.with_enforcement(Enforcement::Report);
    let own = NameRules::parse(["a.example", "c.example:8443", "d.example"]).unwrap();
    let judge = |target, narrowed| {
        verdict(&policy, target, narrowed).map(|authorised| authorised.would_deny())
    };
    let (host, port) = (
        Ok(Some(DenyReason::HostDenied)),
        Err(DenyReason::PortDenied),
    );
    assert_eq!(judge("a.example:443", None), Ok(None));
    assert_eq!(judge("evil.example:443", None), host);
    assert_eq!(
        judge("evil.example:8443", None),
        port,
        "a host without a rule has the port of HTTPS only"
    );
    assert_eq!(judge("a.example:8443", None), port);
    assert_eq!(
        judge("203.0.113.9:443", None),
        Err(DenyReason::IpLiteralDenied)
    );
    assert_eq!(judge("a.example:443", Some(&own)), Ok(None));
    assert_eq!(
        judge("b.example:8443", Some(&own)),
        host,
        "the policy's port, and no rule of the user's"
    );
    assert_eq!(judge("b.example:443", Some(&own)), port);
    assert_eq!(
        judge("c.example:8443", Some(&own)),
        port,
        "a user's rule opens no port"
    );
    assert_eq!(
        judge("c.example:443", Some(&own)),
        port,
        "and its own are enforced"
    );
    assert_eq!(judge("d.example:443", Some(&own)), host);
}

#[test]
fn report_mode_still_judges_the_rest_of_a_hello() {
    use TlsVersion::{Tls11, Tls12, Tls13};
    let reporting = policy(&["a.example"], Tls12, false).with_enforcement(Enforcement::Report);
    let authorised = verdict(&reporting, "a.example:443", None).unwrap();
    let judge = |hello| {
        reporting
            .judge_hello(&authorised, hello)
            .map(|judged| judged.would_deny)
    };
    assert_eq!(judge(hello(Some("a.example"), &[Tls13], false)), Ok(None));
    assert_eq!(
        judge(hello(Some("b.example"), &[Tls13], false)),
        Ok(Some(DenyReason::SniMismatch))
    );
    assert_eq!(
        judge(hello(None, &[Tls13], false)),
        Ok(Some(DenyReason::SniMissing))
    );
    assert_eq!(
        judge(hello(None, &[Tls11], false)),
        Err(DenyReason::TlsVersionDenied)
    );
    assert_eq!(
        judge(hello(Some("b.example"), &[Tls13], true)),
        Err(DenyReason::EchDenied)
    );
}

/// For every pair of hellos with different facts, under every policy: their combined facts are
/// refused exactly if one of them is.
#[test]
fn the_facts_of_two_hellos_are_refused_if_one_of_them_is() {
    use TlsVersion::{Tls10, Tls12, Tls13};
    let names = [Some("a.example"), Some("b.example"), None];
    let versions = [Some(Tls10), Some(Tls12), Some(Tls13), None];
    let facts = names
        .iter()
        .flat_map(|name| versions.iter().map(move |newest| (*name, *newest)));
    let host = Host::parse("a.example").unwrap();
    let facts: Vec<HelloFacts> = facts
        .flat_map(|(name, newest)| [false, true].map(|has_ech| (name, newest, has_ech)))
        .map(|(name, newest, has_ech)| HelloFacts {
            name: judge_name_of(&host, name).err(),
            newest,
            has_ech,
        })
        .collect();
    for (min_tls, ech, mode) in [Tls10, Tls12, Tls13]
        .into_iter()
        .flat_map(|min_tls| [(min_tls, true), (min_tls, false)])
        .flat_map(|(min_tls, ech)| {
            [Enforcement::Enforce, Enforcement::Report].map(|mode| (min_tls, ech, mode))
        })
    {
        let policy = policy(&["a.example"], min_tls, ech).with_enforcement(mode);
        let passes = |facts: HelloFacts| policy.judge_hello_facts(facts).is_ok();
        for (first, second) in facts
            .iter()
            .flat_map(|first| facts.iter().map(move |second| (*first, *second)))
        {
            assert_eq!(
                passes(first.and(second)),
                passes(first) && passes(second),
                "{first:?} {second:?}"
            );
        }
    }
}

#[test]
fn equal_policies_have_equal_hashes() {
    let hash = |allow: &[&str]| policy(allow, TlsVersion::Tls12, true).hash().to_owned();
    assert_eq!(
        hash(&["a.example", "b.example:443"]),
        hash(&["b.example", "A.example"])
    );
    assert_ne!(hash(&["a.example"]), hash(&["b.example"]));
    assert_eq!(hash(&[]).len(), 64);
    let reporting = policy(&[], TlsVersion::Tls12, true).with_enforcement(Enforcement::Report);
    assert_ne!(hash(&[]), *reporting.hash());
    assert_eq!(
        hash(&[]),
        *reporting.with_enforcement(Enforcement::Enforce).hash()
    );
}
