//! OpenAI's refusals: `{"error": {"message", "type", "param", "code"}}`.

use super::{Answer, Body, Refusal, address_in, has};
use crate::doctor::verdict::openai;

pub(super) fn read(answer: &Answer<'_>, body: &Body<'_>) -> Option<Refusal> {
    let (code, message) = (body.code(), body.message());
    let verdict = match (answer.status, code.as_str()) {
        (..400, _) => return None,
        (_, "ip_not_authorized") => openai::IP_NOT_AUTHORIZED,
        (_, "unsupported_country_region_territory") => openai::REGION,
        (_, "invalid_api_key" | "account_deactivated") => openai::INVALID_KEY,
        (_, "insufficient_quota" | "billing_hard_limit_reached" | "credit_balance_exhausted") => {
            openai::QUOTA
        }
        (_, "mismatched_organization" | "mismatched_project" | "invalid_organization") => {
            openai::NOT_MEMBER
        }
        _ if has(
            message,
            &[
                "ip not authorized",
                "ip allowlist",
                "ip address is not allowed",
            ],
        ) =>
        {
            openai::IP_NOT_AUTHORIZED
        }
        _ if has(message, &["country, region, or territory"]) => openai::REGION,
        _ if has(message, &["member of an organization"]) => openai::NOT_MEMBER,
        _ if has(message, &["missing scopes", "insufficient permissions"]) => openai::SCOPES,
        _ if has(message, &["incorrect api key", "api key provided"]) => openai::INVALID_KEY,
        (429, _) => openai::RATE,
        (401, _) if !body.is_page() => openai::INVALID_KEY,
        (400 | 404 | 409 | 422, _) => return None,
        _ => openai::REFUSED,
    };
    let seen = match verdict == openai::IP_NOT_AUTHORIZED {
        true => address_in(message),
        false => None,
    };
    Some(Refusal::new(verdict, answer).seen(seen))
}
