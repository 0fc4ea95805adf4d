//! The forms of rules, and the names that each matches.

use super::*;

fn judge(rules: &[&str], host: &str, port: &str) -> Result<(), DenyReason> {
    let rules = NameRules::parse(rules.iter().copied()).unwrap();
    rules.judge(&Host::parse(host).unwrap(), Port::parse(port).unwrap())
}

#[test]
fn exact_names_match_themselves_only() {
    assert_eq!(judge(&["a.example"], "a.example", "443"), Ok(()));
    for other in ["b.a.example", "example", "xa.example", "a.example.com"] {
        assert_eq!(
            judge(&["a.example"], other, "443"),
            Err(DenyReason::HostDenied),
            "{other}"
        );
    }
}

#[test]
fn a_suffix_covers_names_below_it_and_not_itself() {
    assert_eq!(judge(&["*.a.example"], "b.a.example", "443"), Ok(()));
    assert_eq!(judge(&["*.a.example"], "c.b.a.example", "443"), Ok(()));
    for other in ["a.example", "xa.example", "b.a.example.com"] {
        assert_eq!(
            judge(&["*.a.example"], other, "443"),
            Err(DenyReason::HostDenied),
            "{other}"
        );
    }
}

#[test]
fn a_known_host_on_another_port_has_its_own_cause() {
    assert_eq!(
        judge(&["a.example"], "a.example", "8443"),
        Err(DenyReason::PortDenied)
    );
    assert_eq!(
        judge(&["a.example", "a.example:8443"], "a.example", "8443"),
        Ok(())
    );
    assert_eq!(
        judge(
            &["a.example", "*.example.com", "*.b.example.com:8443"],
            "c.b.example.com",
            "8443"
        ),
        Ok(())
    );
}

#[test]
fn the_rules_that_name_a_host_are_those_that_judge_it() {
    let rules = NameRules::parse([
        "c.b.example:8443",
        "*.b.example",
        "c.b.example",
        "*.example.com",
        "b.example",
    ]);
    let naming = |host: &str| -> Vec<String> {
        rules
            .clone()
            .unwrap()
            .naming(&Host::parse(host).unwrap())
            .iter()
            .map(Rule::to_string)
            .collect()
    };
    assert_eq!(
        naming("c.b.example"),
        ["c.b.example:443", "c.b.example:8443", "*.b.example:443"]
    );
    assert_eq!(naming("d.c.b.example"), ["*.b.example:443"]);
    assert_eq!(naming("b.example"), ["b.example:443"]);
    assert_eq!(naming("example.com"), Vec::<String>::new());
}

#[test]
fn a_pattern_allows_matching_hosts_on_its_port() {
    let rules = [
        "*-aiplatform.googleapis.com",
        "bedrock-runtime.*.amazonaws.com:8443",
        "*.s3.*.amazonaws.com",
    ];
    assert_eq!(
        judge(&rules, "europe-west4-aiplatform.googleapis.com", "443"),
        Ok(())
    );
    assert_eq!(
        judge(&rules, "aiplatform.googleapis.com", "443"),
        Err(DenyReason::HostDenied)
    );
    assert_eq!(
        judge(&rules, "bedrock-runtime.eu-west-1.amazonaws.com", "8443"),
        Ok(())
    );
    assert_eq!(
        judge(&rules, "bedrock-runtime.eu-west-1.amazonaws.com", "443"),
        Err(DenyReason::PortDenied)
    );
    assert_eq!(
        judge(&rules, "a.b.s3.eu-west-1.amazonaws.com", "443"),
        Ok(())
    );
}

#[test]
fn a_pattern_is_named_and_hashed_like_any_rule() {
    let texts = [
        "*-api.example.com",
        "eu-api.example.com",
        "*.example.com",
        "e*.example.com:8443",
    ];
    let rules = NameRules::parse(texts).unwrap();
    let naming: Vec<String> = rules
        .naming(&Host::parse("eu-api.example.com").unwrap())
        .iter()
        .map(Rule::to_string)
        .collect();
    assert_eq!(
        naming,
        [
            "eu-api.example.com:443",
            "*-api.example.com:443",
            "e*.example.com:8443",
            "*.example.com:443"
        ]
    );
    let mut backwards = texts;
    backwards.reverse();
    assert_eq!(
        rules.to_string(),
        NameRules::parse(backwards).unwrap().to_string()
    );
    assert_eq!(rules.to_string().lines().count(), 4);
    for rule in &naming {
        assert_eq!(Rule::parse(rule).unwrap().to_string(), *rule);
    }
}

#[test]
fn spaces_around_a_rule_are_ignored() {
    assert_eq!(
        Rule::parse(" \ta.example:8443\n"),
        Rule::parse("a.example:8443")
    );
}
