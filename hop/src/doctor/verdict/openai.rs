//! The refusals of OpenAI (developers.openai.com: error codes, IP allowlist).

use super::verdicts;

verdicts! {
    IP_NOT_AUTHORIZED D16 "openai_ip_not_authorized"
        "the IP allowlist of the OpenAI organisation or project does not have the address that the request came from",
        "add the tunnel's addresses {egress} in platform.openai.com: Settings, Security, IP allowlist; a project's list replaces the organisation's; it acts within 15 minutes";
    INVALID_KEY D16 "openai_invalid_key"
        "OpenAI does not know this key: it is mistyped, revoked or of another organisation",
        "compare the variable {key_env} with platform.openai.com/api-keys, or create a new key there";
    NOT_MEMBER D16 "openai_not_a_member"
        "the key's owner is no longer a member of the organisation or project",
        "ask an owner to invite the user, or use a project's service account key";
    SCOPES D16 "openai_missing_scopes"
        "the key is restricted and lacks the permission for this endpoint",
        "edit the key's permissions in platform.openai.com/api-keys";
    REGION D16 "openai_region_unsupported"
        "OpenAI does not serve the country to which it assigns the tunnel's address",
        "give the tunnel an address of a supported country";
    QUOTA D16 "openai_quota"
        "the organisation's credit is used up; the source address does not matter",
        "add credit in platform.openai.com: Settings, Billing";
    RATE D16 "openai_rate_limit"
        "the rate limit is used up; the source address does not matter",
        "send fewer requests, or raise the limit in platform.openai.com: Settings, Limits";
    REFUSED D16 "openai_refused"
        "OpenAI answered {status} and gave no reason that the doctor knows",
        "make the same call with curl through the tunnel and read its body";
}
