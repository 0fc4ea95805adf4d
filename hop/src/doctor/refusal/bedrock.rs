//! Amazon Bedrock's refusals: `{"message"}` or `{"Message"}`, with the error's name in `x-amzn-errortype` or `__type`.

use super::{Answer, Body, Refusal, has};
use crate::doctor::verdict::{Verdict, bedrock};

pub(super) fn read(answer: &Answer<'_>, body: &Body<'_>) -> Option<Refusal> {
    if answer.status < 400 {
        return None;
    }
    // `AccessDeniedException:http://internal.amazon.com/…` in the header, `com.amazon.coral.service#…` in the body.
    let declared = answer.error_type.unwrap_or_else(|| body.text("__type"));
    let name = declared.split(':').next().unwrap_or_default();
    let name = name.rsplit('#').next().unwrap_or_default();
    let verdict = match of_message(body.message()).or_else(|| of_name(name)) {
        Some(verdict) => verdict,
        None if has(body.message(), &["is not authorized to perform"]) => bedrock::NOT_ALLOWED,
        None => match answer.status {
            429 => bedrock::RATE,
            400 | 404 | 409 | 422 | 424 => return None,
            _ => bedrock::REFUSED,
        },
    };
    Some(Refusal::new(verdict, answer))
}

/// More exact than the name, which is `AccessDeniedException` for most.
fn of_message(message: &str) -> Option<&'static Verdict> {
    let known: [(&[&str], &'static Verdict); 8] = [
        (
            &[
                "explicit deny in a service control policy",
                "explicit deny in a resource control policy",
            ],
            bedrock::SERVICE_CONTROL,
        ),
        (&["vpc endpoint policy"], bedrock::ENDPOINT_POLICY),
        (&["explicit deny"], bedrock::EXPLICIT_DENY),
        (
            &[
                "no identity-based policy allows",
                "no resource-based policy allows",
            ],
            bedrock::NOT_ALLOWED,
        ),
        (&["access to the model"], bedrock::MODEL),
        (
            &[
                "signature expired",
                "signature not yet current",
                "signature we calculated",
            ],
            bedrock::SIGNATURE,
        ),
        (
            &[
                "token included in the request is expired",
                "token has expired",
                "key has expired",
            ],
            bedrock::EXPIRED,
        ),
        (
            &[
                "security token included in the request is invalid",
                "authentication failed",
            ],
            bedrock::INVALID_KEY,
        ),
    ];
    let found = known.iter().find(|(phrases, _)| has(message, phrases));
    found.map(|(_, verdict)| *verdict)
}

fn of_name(name: &str) -> Option<&'static Verdict> {
    Some(match name {
        "InvalidSignatureException" => bedrock::SIGNATURE,
        "ExpiredTokenException" | "ExpiredToken" => bedrock::EXPIRED,
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignatureException" => bedrock::INVALID_KEY,
        "ThrottlingException" | "ServiceQuotaExceededException" => bedrock::RATE,
        _ => return None,
    })
}
