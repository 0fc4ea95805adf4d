//! Each signal of a refusal decides alone: a code, a type, a phrase of the message, a header, a status. The fixtures have
//! several of them at once, so that one that is not read any more would not show there.

use super::*;

/// `STATUS SIGNAL -> VERDICT`; `let in` is no refusal. 418 and 403 without another signal are the provider's `…_refused`.
const OPENAI: &str = "
403 code ip_not_authorized -> openai_ip_not_authorized
403 code unsupported_country_region_territory -> openai_region_unsupported
403 code invalid_api_key -> openai_invalid_key
403 code account_deactivated -> openai_invalid_key
403 code insufficient_quota -> openai_quota
403 code billing_hard_limit_reached -> openai_quota
403 code credit_balance_exhausted -> openai_quota
403 code mismatched_organization -> openai_not_a_member
403 code mismatched_project -> openai_not_a_member
403 code invalid_organization -> openai_not_a_member
403 message IP not authorized -> openai_ip_not_authorized
403 message your IP allowlist -> openai_ip_not_authorized
403 message This IP address is not allowed -> openai_ip_not_authorized
403 message Country, region, or territory -> openai_region_unsupported
403 message must be a member of an organization -> openai_not_a_member
403 message Missing scopes: x -> openai_missing_scopes
403 message insufficient permissions -> openai_missing_scopes
403 message Incorrect API key -> openai_invalid_key
403 message no API key provided -> openai_invalid_key
403 message x -> openai_refused
401 message x -> openai_invalid_key
401 page -> openai_refused
429 message x -> openai_rate_limit
418 message x -> openai_refused
400 message x -> let in
404 message x -> let in
409 message x -> let in
422 message x -> let in
200 code ip_not_authorized -> let in
";
const ANTHROPIC: &str = "
418 type authentication_error -> anthropic_invalid_key
418 type permission_error -> anthropic_permission
418 type forbidden -> anthropic_forbidden
418 type billing_error -> anthropic_credit
418 type rate_limit_error -> anthropic_rate_limit
418 type overloaded_error -> anthropic_overloaded
403 message Your IP address -> anthropic_ip_not_allowed
403 message not in the allowed range -> anthropic_ip_not_allowed
403 message an IP allowlist -> anthropic_ip_not_allowed
418 json {\"error\":{\"type\":\"permission_error\",\"message\":\"IP address\"}} -> anthropic_ip_not_allowed
400 message credit balance is too low -> anthropic_credit
401 message x -> anthropic_invalid_key
401 page -> anthropic_refused
403 page -> anthropic_forbidden
403 message x -> anthropic_refused
418 message IP address -> anthropic_refused
429 message x -> anthropic_rate_limit
529 message x -> anthropic_overloaded
400 message x -> let in
404 message x -> let in
409 message x -> let in
413 message x -> let in
422 message x -> let in
200 type permission_error -> let in
";
const AZURE: &str = "
403 message Virtual Network/Firewall rules -> azure_network_rules
403 message Public access is disabled -> azure_public_access_disabled
403 message public network access is disabled -> azure_public_access_disabled
403 message A virtual network is configured -> azure_wrong_endpoint
403 message Key based authentication is disabled -> azure_keys_disabled
403 message does not have access to API -> azure_role_missing
403 message lacks the required data action -> azure_role_missing
418 code AuthenticationTypeDisabled -> azure_keys_disabled
418 code PermissionDenied -> azure_role_missing
418 code 401 -> azure_invalid_key
418 json {\"error\":{\"code\":401}} -> azure_invalid_key
418 code Unauthorized -> azure_invalid_key
418 code InvalidAuthenticationToken -> azure_invalid_key
401 message x -> azure_invalid_key
401 page -> azure_refused
429 message x -> azure_rate_limit
403 message x -> azure_refused
400 message x -> let in
404 message x -> let in
409 message x -> let in
422 message x -> let in
200 message Virtual Network/Firewall rules -> let in
";
const BEDROCK: &str = "
403 message explicit deny in a service control policy -> bedrock_service_control_policy
403 message explicit deny in a resource control policy -> bedrock_service_control_policy
403 message VPC endpoint policy -> bedrock_endpoint_policy
403 message with an explicit deny -> bedrock_explicit_deny
403 message no identity-based policy allows -> bedrock_not_allowed
403 message no resource-based policy allows -> bedrock_not_allowed
403 message is not authorized to perform -> bedrock_not_allowed
403 message access to the model -> bedrock_model_access
403 message Signature expired -> bedrock_signature
403 message Signature not yet current -> bedrock_signature
403 message The request signature we calculated -> bedrock_signature
403 message token included in the request is expired -> bedrock_expired
403 message Bearer Token has expired -> bedrock_expired
403 message API key has expired -> bedrock_expired
403 message security token included in the request is invalid -> bedrock_invalid_key
403 message Authentication failed -> bedrock_invalid_key
403 header InvalidSignatureException -> bedrock_signature
403 header ExpiredTokenException:http://internal.example/ -> bedrock_expired
403 header ExpiredToken -> bedrock_expired
403 header UnrecognizedClientException -> bedrock_invalid_key
403 header InvalidClientTokenId -> bedrock_invalid_key
403 header MissingAuthenticationTokenException -> bedrock_invalid_key
403 header IncompleteSignatureException -> bedrock_invalid_key
403 header ThrottlingException -> bedrock_rate_limit
403 header ServiceQuotaExceededException -> bedrock_rate_limit
403 header AccessDeniedException -> bedrock_refused
403 json {\"__type\":\"com.amazon.coral.service#ExpiredTokenException\"} -> bedrock_expired
403 json {\"Message\":\"with an explicit deny\"} -> bedrock_explicit_deny
429 message x -> bedrock_rate_limit
400 message x -> let in
404 message x -> let in
409 message x -> let in
422 message x -> let in
424 message x -> let in
200 header ExpiredTokenException -> let in
";
const OPENROUTER: &str = "
401 message x -> openrouter_invalid_key
402 message x -> openrouter_credit
403 json {\"error\":{\"metadata\":{\"reasons\":[]}}} -> openrouter_moderated
403 json {\"error\":{\"metadata\":{\"provider_name\":\"x\"}}} -> openrouter_provider_blocked
418 json {\"error\":{\"message\":\"Blocked by Google\",\"metadata\":{}}} -> openrouter_provider_blocked
418 message Blocked by Google -> openrouter_refused
403 message x -> openrouter_refused
429 message x -> openrouter_rate_limit
400 message x -> let in
404 message x -> let in
422 message x -> let in
200 json {\"error\":{\"metadata\":{\"reasons\":[]}}} -> let in
";
const GOOGLE: &str = "
418 message reported as leaked -> api_key_leaked
418 message API key expired -> api_key_expired
418 message the key has expired -> api_key_expired
418 message User location is not supported -> user_location_unsupported
418 message an IP address restriction -> api_key_ip_address_blocked
418 message Requests from referer x -> api_key_http_referrer_blocked
418 message a referer restriction -> api_key_http_referrer_blocked
418 message a referrer restriction -> api_key_http_referrer_blocked
418 message Android client application -> api_key_android_app_blocked
418 message iOS client application -> api_key_ios_app_blocked
418 message API key not valid -> api_key_invalid
418 message API key is invalid -> api_key_invalid
418 message unregistered callers -> credentials_missing
418 message has not been used in project 1 -> service_disabled
418 message This API requires billing -> billing_disabled
418 message billing to be enabled -> billing_disabled
418 message Consumer has been suspended -> consumer_suspended
418 message project is suspended -> consumer_suspended
418 message VPC Service Controls -> security_policy_violated
418 message prohibited by organization's policy -> security_policy_violated
418 message authentication scopes -> access_token_scope_insufficient
418 code quotaExceeded -> resource_quota_exceeded
418 code rateLimitExceeded -> rate_limit_exceeded
418 code serviceDisabled -> service_disabled
418 code accountDisabled -> account_state_invalid
418 code accountDeleted -> account_state_invalid
418 code required -> credentials_missing
418 code API_KEY_INVALID -> api_key_invalid
418 json {\"error\":\"invalid_grant\"} -> access_token_expired
418 json {\"error\":\"x\",\"error_description\":\"API key not valid\"} -> api_key_invalid
418 status UNAUTHENTICATED -> google_unauthenticated
418 status PERMISSION_DENIED -> google_permission_denied
418 status RESOURCE_EXHAUSTED -> rate_limit_exceeded
401 message x -> google_unauthenticated
403 message x -> google_permission_denied
429 message x -> rate_limit_exceeded
499 message x -> google_unavailable
500 message x -> google_unavailable
502 message x -> google_unavailable
503 message x -> google_unavailable
504 message x -> google_unavailable
418 message x -> google_refused
400 message x -> let in
404 message x -> let in
409 message x -> let in
422 message x -> let in
200 message an IP address restriction -> let in
";

#[test]
fn each_signal_decides_alone() {
    for (provider, table) in [
        (Provider::OpenAi, OPENAI),
        (Provider::Anthropic, ANTHROPIC),
        (Provider::Azure, AZURE),
        (Provider::Bedrock, BEDROCK),
        (Provider::OpenRouter, OPENROUTER),
        (Provider::Gemini, GOOGLE),
        (Provider::Vertex, GOOGLE),
    ] {
        for line in table.trim().lines() {
            let (signal, wanted) = line.rsplit_once(" -> ").unwrap();
            assert_eq!(verdict_of(provider, signal), wanted, "{provider}: {line}");
        }
    }
}

fn verdict_of(provider: Provider, signal: &str) -> &'static str {
    let mut words = signal.splitn(3, ' ');
    let status = words.next().unwrap().parse().unwrap();
    let (kind, value) = (words.next().unwrap(), words.next().unwrap_or_default());
    let body = match kind {
        "json" => value.to_owned(),
        "page" => "<!DOCTYPE html><title>Error</title>".to_owned(),
        "header" => String::new(),
        member => serde_json::json!({"error": {member: value}}).to_string(),
    };
    let answer = Answer {
        status,
        body: body.as_bytes(),
        error_type: (kind == "header").then_some(value),
        ..Answer::default()
    };
    read(provider, &answer).map_or("let in", |refusal| refusal.verdict.code)
}

#[test]
fn each_reason_of_google_decides_alone_unless_it_is_the_doctors_own() {
    for verdict in google::ALL {
        let reason = verdict.code.to_ascii_uppercase();
        let error = serde_json::json!({"details": [{"x": 1}, {"reason": ""}, {"reason": reason}]});
        let body = serde_json::json!({"error": error}).to_string();
        let own = verdict.code.starts_with("address_");
        let wanted = if own { "google_refused" } else { verdict.code };
        let signal = format!("418 json {body}");
        assert_eq!(verdict_of(Provider::Gemini, &signal), wanted);
    }
}

/// Only a refusal of an address names one, whatever the message of another has in it.
#[test]
fn the_address_is_kept_only_where_the_address_is_refused() {
    let seen = |provider, message: &str| {
        let body = serde_json::json!({"error": {"type": "permission_error", "message": message}});
        let body = body.to_string();
        let answer = Answer {
            status: 403,
            body: body.as_bytes(),
            ..Answer::default()
        };
        let refusal = read(provider, &answer).unwrap();
        let value = refusal.values.get("seen").map(str::to_owned);
        assert_eq!(value, refusal.seen.map(|address| address.to_string()));
        value
    };
    for (provider, refused, other) in [
        (Provider::OpenAi, "IP not authorized", "missing scopes"),
        (Provider::Anthropic, "Your IP address", "not allowed"),
        (Provider::Azure, "Firewall rules", "lacks a role"),
        (Provider::Gemini, "IP address restriction", "billing"),
    ] {
        let refused = refused.replace("Firewall", "Virtual Network/Firewall");
        let address = Some("203.0.113.4".to_owned());
        assert_eq!(seen(provider, &format!("{refused}: 203.0.113.4")), address);
        assert_eq!(seen(provider, &format!("{other}: 203.0.113.4")), None);
    }
}

/// A body counts up to its limit.
#[test]
fn a_body_beyond_the_limit_is_cut() {
    let error = serde_json::json!({"error": {"message": "reported as leaked"}}).to_string();
    let of = |length: usize| {
        let body = format!("{error}{}", " ".repeat(length - error.len()));
        let cut = format!("{}{error}", " ".repeat(length - error.len()));
        [body, cut].map(|body| verdict_of(Provider::Gemini, &format!("403 json {body}")))
    };
    assert_eq!(of(BODY_MAX), ["api_key_leaked", "api_key_leaked"]);
    let beyond = ["api_key_leaked", "google_permission_denied"];
    assert_eq!(of(BODY_MAX + 1), beyond);
}
