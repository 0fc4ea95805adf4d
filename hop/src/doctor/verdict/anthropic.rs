//! The refusals of Anthropic (platform.claude.com: errors, IP allowlist).

use super::verdicts;

verdicts! {
    IP_NOT_ALLOWED D16 "anthropic_ip_not_allowed"
        "the IP allowlist of the Anthropic organisation does not have the address that the request came from",
        "add the tunnel's addresses {egress} in the Claude Console: organisation settings, IP allowlist";
    INVALID_KEY D16 "anthropic_invalid_key"
        "Anthropic does not know this key: it is mistyped, disabled or deleted",
        "compare the variable {key_env} with the Claude Console: Settings, API keys, or create a new key there";
    PERMISSION D16 "anthropic_permission"
        "the key's workspace may not use this resource",
        "grant it in the Claude Console: Settings, Workspaces";
    FORBIDDEN D16 "anthropic_forbidden"
        "Anthropic's edge forbids the request before it looks at the key, mostly because it does not serve the country of the tunnel's address",
        "give the tunnel an address of a supported country";
    CREDIT D16 "anthropic_credit"
        "the organisation's credit is used up; the source address does not matter",
        "add credit in the Claude Console: Settings, Billing";
    RATE D16 "anthropic_rate_limit"
        "the rate limit is used up; the source address does not matter",
        "send fewer requests, or raise the limit in the Claude Console: Settings, Limits";
    OVERLOADED D16 "anthropic_overloaded"
        "Anthropic's API is overloaded; the source address does not matter",
        "try again later";
    REFUSED D16 "anthropic_refused"
        "Anthropic answered {status} and gave no reason that the doctor knows",
        "make the same call with curl through the tunnel and read its body";
}
