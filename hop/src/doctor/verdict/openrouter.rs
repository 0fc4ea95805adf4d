//! The refusals of OpenRouter, which calls the providers from accounts and addresses of its own.

use super::verdicts;

verdicts! {
    PROVIDER_BLOCKED D16 "openrouter_provider_blocked"
        "the provider behind OpenRouter blocked OpenRouter's own account or address, not yours",
        "a tunnel does not help: choose another provider or model at OpenRouter, or call the provider with a key of your own";
    INVALID_KEY D16 "openrouter_invalid_key"
        "OpenRouter does not know this key, or it is disabled",
        "compare the variable {key_env} with openrouter.ai/settings/keys";
    CREDIT D16 "openrouter_credit"
        "the account's credit at OpenRouter is used up",
        "add credit at openrouter.ai/settings/credits";
    MODERATED D16 "openrouter_moderated"
        "OpenRouter's moderation flagged the input",
        "change the input, or choose a model without moderation";
    RATE D16 "openrouter_rate_limit"
        "the rate limit at OpenRouter or of its provider is used up",
        "send fewer requests, or choose another provider at OpenRouter";
    REFUSED D16 "openrouter_refused"
        "OpenRouter answered {status} and gave no reason that the doctor knows",
        "make the same call with curl through the tunnel and read its body";
}
