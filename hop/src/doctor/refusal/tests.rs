//! Each fixture has its verdict, whatever its form; no text of a body is kept; no input panics.

mod cases;
mod grpc;
mod signals;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::doctor::verdict::{anthropic, azure, bedrock, google, openai, openrouter};
use cases::CASES;

#[test]
fn each_fixture_has_its_verdict_and_nothing_of_its_body() {
    for case in CASES {
        let refusal = case.read(case.body);
        assert_eq!(refusal.verdict, case.verdict, "{}", case.name);
        let kept = format!("{refusal:?}");
        assert!(!kept.contains("CANARY"), "{}: {kept}", case.name);
        assert_eq!(
            refusal.values.get("status"),
            Some(case.status.to_string().as_str())
        );
    }
}

#[test]
fn the_same_error_in_an_array_without_spaces_or_behind_escapes_has_the_same_verdict() {
    for case in CASES {
        let value: Value = serde_json::from_slice(case.body).unwrap();
        let wanted = case.read(case.body);
        let compact = value.to_string();
        let escaped: String = compact
            .chars()
            .map(|c| match c {
                'a'..='z' => format!("\\u{:04x}", u32::from(c)),
                c => c.to_string(),
            })
            .collect();
        // The literals of JSON have no escapes.
        let escaped = ["null", "true"].iter().fold(escaped, |text, word| {
            let hidden: String = word
                .chars()
                .map(|c| format!("\\u{:04x}", u32::from(c)))
                .collect();
            text.replace(&format!(":{hidden}"), &format!(":{word}"))
        });
        let once = match value {
            Value::Array(_) => compact.clone(),
            _ => format!("[{compact}]"),
        };
        for body in [compact, escaped, once] {
            assert_eq!(case.read(body.as_bytes()), wanted, "{}: {body}", case.name);
        }
    }
}

#[test]
fn the_address_is_the_one_that_the_provider_names() {
    let seen = |name: &str| {
        let case = CASES.iter().find(|case| case.name == name).unwrap();
        case.read(case.body).seen.map(|address| address.to_string())
    };
    for (name, address) in [
        ("google-ip-blocked", Some("203.0.113.7")),
        ("google-ip-blocked-v6", Some("2001:db8::7")),
        ("google-ip-blocked-caller", Some("198.51.100.9")),
        ("google-ip-blocked-legacy", Some("203.0.113.7")),
        ("google-ip-blocked-interactions", Some("203.0.113.7")),
        ("openai-ip", None),
        ("openai-ip-message", Some("203.0.113.9")),
        ("anthropic-ip", None),
        ("bedrock-signature", None),
    ] {
        assert_eq!(seen(name).as_deref(), address, "{name}");
    }
}

#[test]
fn an_address_is_found_in_any_sentence_and_nothing_else_is_one() {
    for (text, wanted) in [
        ("call (203.0.113.7) violates", Some("203.0.113.7")),
        ("from 2001:DB8::A: denied", Some("2001:db8::a")),
        ("from [2001:db8::1]:443.", Some("2001:db8::1")),
        ("address 198.51.100.4.", Some("198.51.100.4")),
        ("address=::ffff:192.0.2.1;", Some("192.0.2.1")),
        ("version 1.2.3 of 10:30", None),
        ("203.0.113.256 and 0.0.0.0 and ::", None),
        ("from 2001:db8::", Some("2001:db8::")),
        ("", None),
    ] {
        assert_eq!(
            address_in(text)
                .map(|address| address.to_string())
                .as_deref(),
            wanted,
            "{text}"
        );
    }
}

#[test]
fn the_service_and_the_project_are_kept_and_a_key_as_consumer_is_not() {
    let of = |name: &str| {
        let case = CASES.iter().find(|case| case.name == name).unwrap();
        case.read(case.body).values
    };
    let values = of("google-service-blocked");
    assert_eq!(
        values.get("service"),
        Some("generativelanguage.googleapis.com")
    );
    assert_eq!(values.get("project"), Some("123"));
    assert_eq!(of("google-consumer-is-a-key").get("project"), None);
}

#[test]
fn the_reasons_of_older_errors_count_without_a_known_message() {
    for (reason, wanted) in [
        ("ipRefererBlocked", google::IP_BLOCKED),
        ("refererBlocked", google::API_KEY_HTTP_REFERRER_BLOCKED),
        ("keyInvalid", google::API_KEY_INVALID),
        ("keyExpired", google::API_KEY_EXPIRED),
        ("accessNotConfigured", google::SERVICE_DISABLED),
        ("dailyLimitExceeded", google::RESOURCE_QUOTA_EXCEEDED),
        ("userRateLimitExceeded", google::RATE_LIMIT_EXCEEDED),
        ("forbidden", google::PERMISSION_DENIED),
    ] {
        let body = serde_json::json!({"error": {"code": 403, "message": "no", "errors": [{"reason": reason}]}}).to_string();
        let answer = Answer {
            status: 403,
            body: body.as_bytes(),
            ..Answer::default()
        };
        assert_eq!(
            read(Provider::Gemini, &answer).unwrap().verdict,
            wanted,
            "{reason}"
        );
    }
}

#[test]
fn each_verdict_of_a_provider_has_a_fixture() {
    let with_one: BTreeSet<_> = CASES.iter().map(|case| case.verdict.code).collect();
    // These two come from the address; the others are what is left when nothing is known.
    let without = [
        "address_not_on_key",
        "address_not_of_tunnel",
        "google_unauthenticated",
        "google_refused",
        "openai_refused",
        "anthropic_refused",
        "azure_refused",
        "bedrock_refused",
        "openrouter_refused",
        "openrouter_rate_limit",
    ];
    let tables = [
        google::ALL,
        openai::ALL,
        anthropic::ALL,
        azure::ALL,
        bedrock::ALL,
        openrouter::ALL,
    ];
    for verdict in tables.into_iter().flatten() {
        let code = verdict.code;
        assert_ne!(with_one.contains(code), without.contains(&code), "{code}");
    }
}

#[test]
fn an_answer_that_nothing_knows_is_judged_by_its_status() {
    let of = |provider, status, body: &[u8]| {
        let answer = Answer {
            status,
            body,
            ..Answer::default()
        };
        read(provider, &answer).map(|refusal| refusal.verdict.code)
    };
    for body in [
        &b""[..],
        b"<html>blocked</html>",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"{\"error\":7}",
        b"[[]]",
    ] {
        for provider in Provider::ALL {
            assert_eq!(of(provider, 200, body), None, "{provider} {body:?}");
            assert_eq!(of(provider, 404, body), None, "{provider} {body:?}");
            assert!(of(provider, 403, body).is_some(), "{provider} {body:?}");
            assert!(of(provider, 418, body).is_some(), "{provider} {body:?}");
        }
        assert_eq!(
            of(Provider::Gemini, 401, body),
            Some("google_unauthenticated")
        );
        assert_eq!(of(Provider::Gemini, 429, body), Some("rate_limit_exceeded"));
        assert_eq!(
            of(Provider::OpenRouter, 429, body),
            Some("openrouter_rate_limit")
        );
    }
    // A verdict that only the doctor may reach is no reason.
    let body = br#"{"error":{"code":"address_not_on_key"}}"#;
    assert_eq!(
        of(Provider::Gemini, 403, body),
        Some("google_permission_denied")
    );
    let page = b"  <!DOCTYPE html><title>Attention Required! | Cloudflare</title>";
    assert_eq!(
        of(Provider::Anthropic, 403, page),
        Some("anthropic_forbidden")
    );
    assert_eq!(of(Provider::OpenAi, 401, page), Some("openai_refused"));
}

proptest! {
    #[test]
    fn no_answer_panics_and_what_is_kept_is_short_and_harmless(
        provider in 0..Provider::ALL.len(),
        status in any::<u16>(),
        body in proptest::collection::vec(any::<u8>(), 0..512),
        header in proptest::option::of(".{0,64}"),
        details in proptest::option::of("[A-Za-z0-9+/=]{0,128}"),
    ) {
        let answer = Answer {
            status,
            body: &body,
            error_type: header.as_deref(),
            grpc_status: header.as_deref(),
            grpc_message: header.as_deref(),
            grpc_details: details.as_deref(),
        };
        if let Some(refusal) = read(Provider::ALL[provider], &answer) {
            prop_assert!(Verdict::all().any(|known| known == refusal.verdict));
            let text = refusal.values.fill(refusal.verdict.cause);
            prop_assert!(text.len() < 2000 && !text.contains(|c: char| c.is_control()), "{text:?}");
        }
    }

    #[test]
    fn a_fixture_with_a_changed_byte_or_cut_anywhere_panics_nowhere(case in 0..CASES.len(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let case = &CASES[case];
        let mut body = case.body.to_vec();
        let place = place.index(body.len());
        let answer = Answer { status: case.status, body: &case.body[..place], error_type: case.error_type, ..Answer::default() };
        let _cut = read(case.provider, &answer);
        body[place] = byte;
        let _changed = read(case.provider, &Answer { body: &body, ..answer });
    }

    #[test]
    fn every_address_that_google_can_name_is_read(address in any::<IpAddr>(), around in "[ g-zG-Z,;()=_-]{0,20}") {
        // One in four thousand million, and no source address.
        prop_assume!(!address.is_unspecified());
        let message = format!("{around} IP address restriction ({address}) {around}");
        let body = serde_json::json!({"error": {"code": 403, "message": message}}).to_string();
        let answer = Answer { status: 403, body: body.as_bytes(), ..Answer::default() };
        prop_assert_eq!(read(Provider::Gemini, &answer).unwrap().seen, Some(address.to_canonical()));
    }
}
