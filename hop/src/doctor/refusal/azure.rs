//! Azure's refusals: `{"error": {"code": "403", "message"}}`, or the same without `error`.

use super::{Answer, Body, Refusal, address_in, has};
use crate::doctor::verdict::azure;

pub(super) fn read(answer: &Answer<'_>, body: &Body<'_>) -> Option<Refusal> {
    let (code, message) = (body.code(), body.message());
    let verdict = match (answer.status, code.as_str()) {
        (..400, _) => return None,
        _ if has(message, &["virtual network/firewall rules"]) => azure::NETWORK_RULES,
        _ if has(
            message,
            &[
                "public access is disabled",
                "public network access is disabled",
            ],
        ) =>
        {
            azure::PUBLIC_ACCESS
        }
        _ if has(message, &["a virtual network is configured"]) => azure::ENDPOINT,
        (_, "AuthenticationTypeDisabled") => azure::KEYS_DISABLED,
        _ if has(message, &["key based authentication is disabled"]) => azure::KEYS_DISABLED,
        (_, "PermissionDenied") => azure::ROLE,
        _ if has(
            message,
            &[
                "does not have access to api",
                "lacks the required data action",
            ],
        ) =>
        {
            azure::ROLE
        }
        (_, "401" | "Unauthorized" | "InvalidAuthenticationToken") => azure::INVALID_KEY,
        (429, _) => azure::RATE,
        (401, _) if !body.is_page() => azure::INVALID_KEY,
        (400 | 404 | 409 | 422, _) => return None,
        _ => azure::REFUSED,
    };
    let seen = match verdict == azure::NETWORK_RULES {
        true => address_in(message),
        false => None,
    };
    Some(Refusal::new(verdict, answer).seen(seen))
}
