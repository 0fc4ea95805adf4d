//! Each fixture has its verdict, whatever its form; no text of a body is kept; no input panics.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::doctor::verdict::{anthropic, azure, bedrock, google, openai, openrouter};

/// A fixture with its provider, status and verdict.
struct Case {
    name: &'static str,
    body: &'static [u8],
    provider: Provider,
    status: u16,
    error_type: Option<&'static str>,
    verdict: &'static Verdict,
}

impl Case {
    fn read(&self, body: &[u8]) -> Refusal {
        let answer = Answer {
            status: self.status,
            body,
            error_type: self.error_type,
            ..Answer::default()
        };
        read(self.provider, &answer).unwrap_or_else(|| panic!("{} is let in", self.name))
    }
}

macro_rules! cases {
    ($($name:literal $provider:ident $status:literal $($kind:literal)? $verdict:path;)+) => {
        &[$(Case {
            name: $name,
            body: include_bytes!(concat!("../../../tests/fixtures/refusals/", $name, ".json")),
            provider: Provider::$provider,
            status: $status,
            error_type: [$(Some($kind),)? None][0],
            verdict: $verdict,
        },)+]
    };
}

const CASES: &[Case] = cases! {
    "google-ip-blocked" Gemini 403 google::IP_BLOCKED;
    "google-ip-blocked-v6" Gemini 403 google::IP_BLOCKED;
    "google-ip-blocked-caller" Gemini 403 google::IP_BLOCKED;
    "google-ip-blocked-legacy" Gemini 403 google::IP_BLOCKED;
    "google-ip-blocked-message" Gemini 403 google::IP_BLOCKED;
    "google-ip-blocked-interactions" Gemini 403 google::IP_BLOCKED;
    "google-consumer-is-a-key" Gemini 403 google::IP_BLOCKED;
    "google-service-blocked" Gemini 403 google::API_KEY_SERVICE_BLOCKED;
    "google-referrer-blocked" Gemini 403 google::API_KEY_HTTP_REFERRER_BLOCKED;
    "google-android-blocked" Gemini 403 google::API_KEY_ANDROID_APP_BLOCKED;
    "google-ios-blocked" Gemini 403 google::API_KEY_IOS_APP_BLOCKED;
    "google-key-invalid" Gemini 400 google::API_KEY_INVALID;
    "google-key-expired" Gemini 400 google::API_KEY_EXPIRED;
    "google-key-leaked" Gemini 403 google::API_KEY_LEAKED;
    "google-token-type" Gemini 401 google::ACCESS_TOKEN_TYPE_UNSUPPORTED;
    "google-credentials-missing" Vertex 401 google::CREDENTIALS_MISSING;
    "google-unregistered" Gemini 403 google::CREDENTIALS_MISSING;
    "google-token-expired" Vertex 401 google::ACCESS_TOKEN_EXPIRED;
    "google-scope" Vertex 403 google::ACCESS_TOKEN_SCOPE_INSUFFICIENT;
    "google-service-disabled" Gemini 403 google::SERVICE_DISABLED;
    "google-billing-disabled" Vertex 403 google::BILLING_DISABLED;
    "google-consumer-invalid" Gemini 403 google::CONSUMER_INVALID;
    "google-consumer-suspended" Gemini 403 google::CONSUMER_SUSPENDED;
    "google-user-project-denied" Vertex 403 google::USER_PROJECT_DENIED;
    "google-security-policy" Vertex 403 google::SECURITY_POLICY_VIOLATED;
    "google-location-policy" Vertex 403 google::LOCATION_POLICY_VIOLATED;
    "google-org-restriction" Vertex 403 google::ORG_RESTRICTION_VIOLATION;
    "google-org-restriction-header" Vertex 403 google::ORG_RESTRICTION_HEADER_INVALID;
    "google-user-blocked" Vertex 403 google::USER_BLOCKED_BY_ADMIN;
    "google-resource-usage" Vertex 403 google::RESOURCE_USAGE_RESTRICTION_VIOLATED;
    "google-location-tax" Vertex 403 google::LOCATION_TAX_POLICY_VIOLATED;
    "google-account-state" Vertex 403 google::ACCOUNT_STATE_INVALID;
    "google-resource-project" Vertex 403 google::RESOURCE_PROJECT_INVALID;
    "google-session-cookie" Vertex 403 google::SESSION_COOKIE_INVALID;
    "google-system-parameter" Vertex 403 google::SYSTEM_PARAMETER_UNSUPPORTED;
    "google-service-not-visible" Vertex 403 google::SERVICE_NOT_VISIBLE;
    "google-gcp-suspended" Vertex 403 google::GCP_SUSPENDED;
    "google-missing-origin" Vertex 403 google::MISSING_ORIGIN;
    "google-overloaded-credentials" Vertex 403 google::OVERLOADED_CREDENTIALS;
    "google-location" Gemini 400 google::USER_LOCATION;
    "google-rate" Gemini 429 google::RATE_LIMIT_EXCEEDED;
    "google-quota" Gemini 429 google::RESOURCE_QUOTA_EXCEEDED;
    "google-quota-bare" Gemini 429 google::RATE_LIMIT_EXCEEDED;
    "google-unavailable" Gemini 503 google::UNAVAILABLE;
    "google-deadline" Gemini 504 google::UNAVAILABLE;
    "google-denied-bare" Vertex 403 google::PERMISSION_DENIED;
    "openai-ip" OpenAi 401 openai::IP_NOT_AUTHORIZED;
    "openai-ip-message" OpenAi 403 openai::IP_NOT_AUTHORIZED;
    "openai-key" OpenAi 401 openai::INVALID_KEY;
    "openai-region" OpenAi 403 openai::REGION;
    "openai-quota" OpenAi 429 openai::QUOTA;
    "openai-rate" OpenAi 429 openai::RATE;
    "openai-member" OpenAi 401 openai::NOT_MEMBER;
    "openai-scopes" OpenAi 403 openai::SCOPES;
    "anthropic-ip" Anthropic 403 anthropic::IP_NOT_ALLOWED;
    "anthropic-key" Anthropic 401 anthropic::INVALID_KEY;
    "anthropic-permission" Anthropic 403 anthropic::PERMISSION;
    "anthropic-forbidden" Anthropic 403 anthropic::FORBIDDEN;
    "anthropic-credit" Anthropic 400 anthropic::CREDIT;
    "anthropic-rate" Anthropic 429 anthropic::RATE;
    "anthropic-overloaded" Anthropic 529 anthropic::OVERLOADED;
    "azure-ip" Azure 403 azure::NETWORK_RULES;
    "azure-private" Azure 403 azure::PUBLIC_ACCESS;
    "azure-endpoint" Azure 403 azure::ENDPOINT;
    "azure-key" Azure 401 azure::INVALID_KEY;
    "azure-keys-disabled" Azure 403 azure::KEYS_DISABLED;
    "azure-role" Azure 401 azure::ROLE;
    "azure-rate" Azure 429 azure::RATE;
    "bedrock-deny" Bedrock 403 "AccessDeniedException" bedrock::EXPLICIT_DENY;
    "bedrock-scp" Bedrock 403 "AccessDeniedException:http://internal.amazon.com/x" bedrock::SERVICE_CONTROL;
    "bedrock-endpoint" Bedrock 403 "AccessDeniedException" bedrock::ENDPOINT_POLICY;
    "bedrock-missing" Bedrock 403 bedrock::NOT_ALLOWED;
    "bedrock-model" Bedrock 403 "AccessDeniedException" bedrock::MODEL;
    "bedrock-token" Bedrock 403 bedrock::INVALID_KEY;
    "bedrock-expired" Bedrock 403 "ExpiredTokenException" bedrock::EXPIRED;
    "bedrock-signature" Bedrock 403 "InvalidSignatureException" bedrock::SIGNATURE;
    "bedrock-rate" Bedrock 429 "ThrottlingException" bedrock::RATE;
    "openrouter-blocked" OpenRouter 403 openrouter::PROVIDER_BLOCKED;
    "openrouter-blocked" Gemini 403 openrouter::PROVIDER_BLOCKED;
    "openrouter-key" OpenRouter 401 openrouter::INVALID_KEY;
    "openrouter-credit" OpenRouter 402 openrouter::CREDIT;
    "openrouter-moderated" OpenRouter 403 openrouter::MODERATED;
};

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

/// A field of a message that has a length.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = value.len();
    while length > 127 {
        bytes.push(u8::try_from(length & 127).unwrap() | 128);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    [bytes, value.to_vec()].concat()
}

fn grpc(
    code: &str,
    message: &str,
    reason: Option<&str>,
    metadata: &[(&str, &str)],
    padded: bool,
) -> Option<Refusal> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    let entries = metadata.iter().map(|(name, value)| {
        field(
            3,
            &[field(1, name.as_bytes()), field(2, value.as_bytes())].concat(),
        )
    });
    let info: Vec<u8> = [
        field(1, reason.unwrap_or("").as_bytes()),
        field(2, b"googleapis.com"),
    ]
    .into_iter()
    .chain(entries)
    .flatten()
    .collect();
    let help = [
        field(1, b"type.googleapis.com/google.rpc.Help"),
        field(2, b"x"),
    ]
    .concat();
    let any = [
        field(1, b"type.googleapis.com/google.rpc.ErrorInfo"),
        field(2, &info),
    ]
    .concat();
    let status = [
        vec![8, 7],
        field(2, b"text"),
        vec![0x2d, 0, 0, 0, 0],
        field(3, &help),
        field(3, &any),
    ]
    .concat();
    let details = if padded {
        STANDARD.encode(&status)
    } else {
        STANDARD_NO_PAD.encode(&status)
    };
    let answer = Answer {
        status: 200,
        grpc_status: Some(code),
        grpc_message: Some(message),
        grpc_details: reason.map(|_| details.as_str()),
        ..Answer::default()
    };
    read(Provider::Gemini, &answer)
}

#[test]
fn grpc_has_the_verdicts_of_rest() {
    let metadata = [
        ("consumer", "projects/9"),
        ("service", "generativelanguage.googleapis.com"),
    ];
    for padded in [true, false] {
        for verdict in google::ALL {
            let reason = verdict.code.to_ascii_uppercase();
            let Some(known) = google_reason(&reason) else {
                continue;
            };
            let refusal = grpc("7", "no", Some(&reason), &metadata, padded).unwrap();
            assert_eq!(refusal.verdict, known);
            assert_eq!(refusal.values.get("project"), Some("9"));
        }
        let text = "The originating IP address of the call %28203.0.113.7%29 violates";
        let refusal = grpc(
            "7",
            text,
            Some("API_KEY_IP_ADDRESS_BLOCKED"),
            &metadata,
            padded,
        )
        .unwrap();
        assert_eq!(refusal.seen, Some("203.0.113.7".parse().unwrap()));
    }
    assert_eq!(grpc("0", "", None, &[], true), None);
    assert_eq!(
        grpc("16", "", None, &[], true).unwrap().verdict,
        google::UNAUTHENTICATED
    );
    assert_eq!(
        grpc("14", "", None, &[], true).unwrap().verdict,
        google::UNAVAILABLE
    );
    let leaked = "Your API key was reported as%20leaked%2";
    assert_eq!(
        grpc("7", leaked, None, &[], true).unwrap().verdict,
        google::API_KEY_LEAKED
    );
}

/// The verdict of a word that is a reason of Google's, and of no other word.
fn google_reason(reason: &str) -> Option<&'static Verdict> {
    let body = format!(r#"{{"error":{{"details":[{{"reason":"{reason}"}}]}}}}"#);
    let answer = Answer {
        status: 418,
        body: body.as_bytes(),
        ..Answer::default()
    };
    read(Provider::Gemini, &answer)
        .map(|refusal| refusal.verdict)
        .filter(|verdict| *verdict != google::REFUSED)
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
    fn every_address_that_google_can_name_is_read(address in any::<IpAddr>(), around in "[ -9;-~]{0,20}") {
        prop_assume!(!address.is_unspecified() && !around.contains(|c: char| c.is_ascii_hexdigit() || c == '.' || c == ':'));
        let message = format!("{around} IP address restriction ({address}) {around}");
        let body = serde_json::json!({"error": {"code": 403, "message": message}}).to_string();
        let answer = Answer { status: 403, body: body.as_bytes(), ..Answer::default() };
        prop_assert_eq!(read(Provider::Gemini, &answer).unwrap().seen, Some(address.to_canonical()));
    }
}
