//! Anthropic's refusals: `{"type": "error", "error": {"type", "message"}}`.

use super::{Answer, Body, Refusal, address_in, has};
use crate::doctor::verdict::anthropic;

pub(super) fn read(answer: &Answer<'_>, body: &Body<'_>) -> Option<Refusal> {
    let (kind, message) = (body.text("type"), body.message());
    let of_address = ["ip address", "allowed range", "ip allowlist"];
    let verdict = match (answer.status, kind) {
        (..400, _) => return None,
        (_, "permission_error") | (403, _) if has(message, &of_address) => {
            anthropic::IP_NOT_ALLOWED
        }
        (_, "authentication_error") => anthropic::INVALID_KEY,
        (_, "permission_error") => anthropic::PERMISSION,
        (_, "forbidden") => anthropic::FORBIDDEN,
        (_, "billing_error") => anthropic::CREDIT,
        (_, "rate_limit_error") => anthropic::RATE,
        (_, "overloaded_error") => anthropic::OVERLOADED,
        _ if has(message, &["credit balance"]) => anthropic::CREDIT,
        (401, _) if !body.is_page() => anthropic::INVALID_KEY,
        (403, _) if body.is_page() => anthropic::FORBIDDEN,
        (429, _) => anthropic::RATE,
        (529, _) => anthropic::OVERLOADED,
        (400 | 404 | 409 | 413 | 422, _) => return None,
        _ => anthropic::REFUSED,
    };
    let seen = match verdict == anthropic::IP_NOT_ALLOWED {
        true => address_in(message),
        false => None,
    };
    Some(Refusal::new(verdict, answer).seen(seen))
}
