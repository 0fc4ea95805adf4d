//! OpenRouter's refusals: `{"error": {"message", "code", "metadata"}}`.
//!
//! `Blocked by Google AI Studio` is recognised from any provider's answer: an application may use OpenRouter where its
//! operator thinks of Google.

use super::{Answer, Body, Refusal, has};
use crate::doctor::verdict::{Verdict, openrouter};

pub(super) fn read(answer: &Answer<'_>, body: &Body<'_>) -> Option<Refusal> {
    let verdict = match answer.status {
        ..400 => return None,
        401 => openrouter::INVALID_KEY,
        402 => openrouter::CREDIT,
        403 if body.error.pointer("/metadata/reasons").is_some() => openrouter::MODERATED,
        403 if body.error.pointer("/metadata/provider_name").is_some() => {
            openrouter::PROVIDER_BLOCKED
        }
        429 => openrouter::RATE,
        400 | 404 | 422 => return None,
        _ => openrouter::REFUSED,
    };
    Some(Refusal::new(verdict, answer))
}

/// The verdict if the answer is OpenRouter's about a provider that blocked it.
pub(super) fn foreign(body: &Body<'_>) -> Option<&'static Verdict> {
    let blocked = has(body.message(), &["blocked by google"]);
    let is = blocked && body.error.pointer("/metadata").is_some();
    is.then_some(openrouter::PROVIDER_BLOCKED)
}
