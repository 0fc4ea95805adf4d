//! Reads a provider's refusal: from the answer of its API to a verdict. Pure functions over bytes.
//!
//! Keeps of an answer its status, a reason that is in the table, an address, and names of a service and a project; never
//! the body. An answer that nothing here knows still has a verdict, of which the status is a part. A body counts up to
//! [`BODY_MAX`] bytes. Bodies: google.rpc.Status in JSON and protobuf, the providers' error pages, and captures in
//! public issues (hop/tests/fixtures/refusals).

mod anthropic;
mod azure;
mod bedrock;
mod google;
mod openai;
mod openrouter;
mod protobuf;

use std::net::IpAddr;

use serde_json::Value;

use super::provider::Provider;
use super::verdict::Verdict;
use sealway::commands::findings::values::Values;

/// An answer of an API, as far as a refusal can be read from it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The body, or its beginning.
    pub body: &'a [u8],
    /// The header `x-amzn-errortype` (AWS).
    pub error_type: Option<&'a str>,
    /// The header or trailer `grpc-status`.
    pub grpc_status: Option<&'a str>,
    /// The header or trailer `grpc-message`, percent-encoded.
    pub grpc_message: Option<&'a str>,
    /// The header or trailer `grpc-status-details-bin`, in base64.
    pub grpc_details: Option<&'a str>,
}

/// Why a provider refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The verdict from the answer alone.
    pub verdict: &'static Verdict,
    /// The address that the provider names as the source of the request.
    pub seen: Option<IpAddr>,
    /// `status`, and `seen`, `service` and `project` if the answer has them.
    pub values: Values,
}

/// Reads a refusal; None if the provider let the request in. A request that is wrong in itself (400, 404, 422 without a
/// reason) was let in too.
#[must_use]
pub fn read(provider: Provider, answer: &Answer<'_>) -> Option<Refusal> {
    let whole = Answer {
        body: answer.body.get(..BODY_MAX).unwrap_or(answer.body),
        ..*answer
    };
    let body = Body::of(&whole);
    if let Some(verdict) = openrouter::foreign(&body) {
        return Some(Refusal::new(verdict, &whole));
    }
    match provider {
        Provider::Gemini | Provider::Vertex => google::read(&whole, &body),
        Provider::OpenAi => openai::read(&whole, &body),
        Provider::Anthropic => anthropic::read(&whole, &body),
        Provider::Azure => azure::read(&whole, &body),
        Provider::Bedrock => bedrock::read(&whole, &body),
        Provider::OpenRouter => openrouter::read(&whole, &body),
    }
}

impl Refusal {
    fn new(verdict: &'static Verdict, answer: &Answer<'_>) -> Self {
        Self {
            verdict,
            seen: None,
            values: Values::default().with("status", answer.status.to_string()),
        }
    }

    /// Adds the address that the provider saw.
    fn seen(mut self, address: Option<IpAddr>) -> Self {
        self.seen = address;
        if let Some(address) = address {
            self.values.set("seen", address.to_string());
        }
        self
    }
}

/// The parts that the providers' JSON errors have in common; each is empty if it is missing.
struct Body<'a> {
    error: Value,
    text: &'a [u8],
}

impl<'a> Body<'a> {
    /// The member `error` of an object or of the first element of an array; the object itself if it has none.
    fn of(answer: &Answer<'a>) -> Self {
        let parsed: Value = serde_json::from_slice(answer.body).unwrap_or_default();
        let object = match parsed {
            Value::Array(elements) => elements.into_iter().next().unwrap_or_default(),
            other => other,
        };
        let error = match object {
            Value::Object(mut members) => match members.remove("error") {
                Some(error @ Value::Object(_)) => error,
                // OAuth's answers: {"error": "invalid_grant", "error_description": "…"}.
                Some(Value::String(code)) => {
                    members.insert("code".to_owned(), Value::String(code));
                    if let Some(text) = members.remove("error_description") {
                        members.insert("message".to_owned(), text);
                    }
                    Value::Object(members)
                }
                _ => Value::Object(members),
            },
            _ => Value::Null,
        };
        Self {
            error,
            text: answer.body,
        }
    }

    /// A member that is a string.
    fn text(&self, name: &str) -> &str {
        self.error.get(name).and_then(Value::as_str).unwrap_or("")
    }

    fn message(&self) -> &str {
        match self.text("message") {
            "" => self.text("Message"),
            message => message,
        }
    }

    /// The member `code`, of an integer or a string.
    fn code(&self) -> String {
        match self.error.get("code") {
            Some(Value::String(code)) => code.clone(),
            Some(Value::Number(code)) => code.to_string(),
            _ => String::new(),
        }
    }

    /// Whether this is a page of a content delivery network and not an answer of the API.
    fn is_page(&self) -> bool {
        let start = self.text.trim_ascii_start();
        start.starts_with(b"<") && self.error.is_null()
    }
}

/// Whether the text has one of these phrases, in any case.
fn has(text: &str, phrases: &[&str]) -> bool {
    let text = text.to_ascii_lowercase();
    phrases.iter().any(|phrase| text.contains(phrase))
}

/// The first address in a sentence. A mapped IPv4 address counts as IPv4.
fn address_in(text: &str) -> Option<IpAddr> {
    let part = |c: char| !(c.is_ascii_hexdigit() || c == ':' || c == '.');
    let words = text.split(part).map(|word| word.trim_matches('.'));
    let addresses = words.filter(|word| word.len() <= ADDRESS_MAX);
    addresses
        .filter_map(|word| {
            word.trim_end_matches(':')
                .parse::<IpAddr>()
                .ok()
                .or_else(|| word.parse().ok())
        })
        .find(|address| !address.is_unspecified())
        .map(|address| address.to_canonical())
}

/// More than any error has.
pub const BODY_MAX: usize = 64 << 10;
/// The longest IPv6 address with an IPv4 tail.
const ADDRESS_MAX: usize = 45;

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
mod tests;
