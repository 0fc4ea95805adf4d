//! The requests to the provider's API. Each only reads; the key goes into a header, in bytes that are wiped.

use zeroize::Zeroizing;

use super::path::Target;
use super::provider::Provider;
use super::proxy_url::authority;

/// The key of the API.
pub type Key = Zeroizing<String>;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Lists models: proves the key and the source address.
    List,
    /// Counts tokens: what a leaked or restricted key may not do although it lists.
    Count,
    /// Generates some words as a stream.
    Stream,
}

impl Call {
    /// The calls that this provider has, in order. Bedrock and Azure have one that needs no deployment.
    #[must_use]
    pub fn of(provider: Provider) -> &'static [Self] {
        match provider {
            Provider::Gemini | Provider::Anthropic => &[Self::List, Self::Count],
            Provider::Vertex | Provider::OpenAi | Provider::Azure | Provider::OpenRouter => {
                &[Self::List]
            }
            Provider::Bedrock => &[Self::Count],
        }
    }

    /// What it does, for the facts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "list models",
            Self::Count => "count tokens",
            Self::Stream => "stream",
        }
    }

    /// The bytes of the request.
    #[must_use]
    pub fn request(
        self,
        provider: Provider,
        target: &Target,
        model: &str,
        key: &Key,
    ) -> Zeroizing<Vec<u8>> {
        let (line, body) = self.line(provider, model);
        let host = match target.port {
            443 => target.host.clone(),
            port => authority(&target.host, port),
        };
        let mut request = Zeroizing::new(Vec::with_capacity(REQUEST_MAX));
        request.extend(
            format!(
                "{line} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: sealway-doctor\r\nAccept: */*\r\n"
            )
            .as_bytes(),
        );
        let (before, more) = match provider {
            Provider::Gemini => ("x-goog-api-key: ", ""),
            Provider::Anthropic => ("x-api-key: ", "anthropic-version: 2023-06-01\r\n"),
            Provider::Azure => ("api-key: ", ""),
            Provider::Vertex | Provider::OpenAi | Provider::Bedrock | Provider::OpenRouter => {
                ("Authorization: Bearer ", "")
            }
        };
        request.extend(before.as_bytes());
        request.extend(key.as_bytes());
        request.extend(b"\r\n");
        request.extend(more.as_bytes());
        if !body.is_empty() {
            request.extend(
                format!(
                    "Content-Type: application/json\r\nContent-Length: {}\r\n",
                    body.len()
                )
                .as_bytes(),
            );
        }
        request.extend(b"\r\n");
        request.extend(body.as_bytes());
        request
    }

    fn line(self, provider: Provider, model: &str) -> (String, String) {
        let list = |path: &str| (format!("GET {path}"), String::new());
        match (provider, self) {
            (Provider::Gemini, Self::List) => list("/v1beta/models?pageSize=1"),
            (Provider::Gemini, Self::Count) => (
                format!("POST /v1beta/models/{model}:countTokens"),
                GEMINI_X.to_owned(),
            ),
            (Provider::Gemini, Self::Stream) => (
                format!("POST /v1beta/models/{model}:streamGenerateContent?alt=sse"),
                GEMINI_STREAM.to_owned(),
            ),
            (Provider::Vertex, _) => list("/v1beta1/publishers/google/models?pageSize=1"),
            (Provider::OpenAi, _) => list("/v1/models"),
            (Provider::Anthropic, Self::List) => list("/v1/models?limit=1"),
            (Provider::Anthropic, _) => {
                let body = format!(
                    r#"{{"model":"{model}","messages":[{{"role":"user","content":"x"}}]}}"#
                );
                ("POST /v1/messages/count_tokens".to_owned(), body)
            }
            (Provider::Azure, _) => list("/openai/models?api-version=2024-10-21"),
            (Provider::Bedrock, _) => {
                let body = r#"{"input":{"converse":{"messages":[{"role":"user","content":[{"text":"x"}]}]}}}"#;
                (format!("POST /model/{model}/count-tokens"), body.to_owned())
            }
            (Provider::OpenRouter, _) => list("/api/v1/key"),
        }
    }
}

/// Why a key cannot be sent; None if it can.
#[must_use]
pub fn is_malformed(key: &Key) -> bool {
    let printable = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\'';
    key.len() > KEY_MAX || !key.bytes().all(printable)
}

/// OAuth tokens have up to 2 KiB.
const KEY_MAX: usize = 8 << 10;
/// More than head, key and body need, so that no grown buffer leaves a copy of the key.
const REQUEST_MAX: usize = KEY_MAX + (4 << 10);
const GEMINI_X: &str = r#"{"contents":[{"parts":[{"text":"x"}]}]}"#;
const GEMINI_STREAM: &str = r#"{"contents":[{"parts":[{"text":"Count from 1 to 30."}]}],"generationConfig":{"maxOutputTokens":128}}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_the_key_once_in_a_header_and_its_length() {
        let key = Zeroizing::new("CANARY".to_owned());
        let target = Target {
            host: "a.example".to_owned(),
            port: 8443,
        };
        for provider in Provider::ALL {
            for call in Call::of(provider) {
                let request = call.request(provider, &target, "m", &key);
                let text = String::from_utf8_lossy(&request).into_owned();
                let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
                assert_eq!(text.matches("CANARY").count(), 1, "{text}");
                assert!(head.contains("\r\nHost: a.example:8443\r\n"), "{text}");
                assert!(
                    !head.lines().next().unwrap_or_default().contains("CANARY"),
                    "{text}"
                );
                let length = format!("Content-Length: {}", body.len());
                assert_eq!(head.contains(&length), !body.is_empty(), "{text}");
                let valid =
                    body.is_empty() || serde_json::from_str::<serde_json::Value>(body).is_ok();
                assert!(valid && request.capacity() == REQUEST_MAX, "{text}");
            }
        }
    }

    #[test]
    fn a_key_with_what_no_key_has_is_not_sent() {
        for key in [
            "AIza x",
            "AIza\r\nX: y",
            "\"AIza\"",
            "'AIza'",
            "AIzaä",
            "AIza\n",
        ] {
            assert!(is_malformed(&Zeroizing::new(key.to_owned())), "{key}");
        }
        for (length, malformed) in [(KEY_MAX, false), (KEY_MAX + 1, true)] {
            let key = Zeroizing::new("A".repeat(length));
            assert_eq!(is_malformed(&key), malformed, "{length}");
        }
        for key in ["AIzaSyA-_1", "sk-proj-1.2_3", "ya29.a0/b+c=", "AQ.Ab8"] {
            assert!(!is_malformed(&Zeroizing::new(key.to_owned())), "{key}");
        }
    }
}
