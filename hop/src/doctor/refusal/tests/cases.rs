//! Each fixture with its provider, status and verdict.

use super::*;

/// A fixture with its provider, status and verdict.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) body: &'static [u8],
    pub(super) provider: Provider,
    pub(super) status: u16,
    pub(super) error_type: Option<&'static str>,
    pub(super) verdict: &'static Verdict,
}

impl Case {
    pub(super) fn read(&self, body: &[u8]) -> Refusal {
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
            body: include_bytes!(concat!("../../../../tests/fixtures/refusals/", $name, ".json")),
            provider: Provider::$provider,
            status: $status,
            error_type: [$(Some($kind),)? None][0],
            verdict: $verdict,
        },)+]
    };
}

pub(super) const CASES: &[Case] = cases! {
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
