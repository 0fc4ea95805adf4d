//! Google's refusals: google.rpc.Status as JSON (object or array of one), its legacy `errors`, and gRPC's status.
//!
//! The reason of ErrorInfo decides; without one the legacy reason, then the message, then the status.

use std::net::IpAddr;

use serde_json::Value;

use super::protobuf::{self, Details};
use super::{Answer, Body, Refusal, address_in, has};
use crate::doctor::verdict::{Verdict, google};

pub(super) fn read(answer: &Answer<'_>, body: &Body<'_>) -> Option<Refusal> {
    let facts = Facts::of(answer, body);
    let verdict = facts.verdict()?;
    let mut refusal = Refusal::new(verdict, answer);
    if verdict == google::IP_BLOCKED {
        refusal = refusal.seen(facts.seen());
    }
    refusal.values.set("status", facts.http.to_string());
    refusal.values.set("service", &facts.details.service);
    refusal.values.set("project", &facts.details.project);
    Some(refusal)
}

/// What the two forms have in common.
struct Facts {
    /// The HTTP status; of gRPC's status, the one that Google maps it to.
    http: u16,
    /// `PERMISSION_DENIED`, …
    status: String,
    message: String,
    /// The reason of `errors`, or a `code` that is a word.
    legacy: String,
    details: Details,
}

impl Facts {
    fn of(answer: &Answer<'_>, body: &Body<'_>) -> Self {
        match answer
            .grpc_status
            .and_then(|status| status.trim().parse().ok())
        {
            // In a 200 too: trailers follow it.
            Some(code) => Self::of_grpc(answer, code),
            None => Self::of_json(answer, body),
        }
    }

    fn of_json(answer: &Answer<'_>, body: &Body<'_>) -> Self {
        let error = &body.error;
        let legacy = error.pointer("/errors/0/reason").and_then(Value::as_str);
        Self {
            http: answer.status,
            status: body.text("status").to_owned(),
            message: body.message().to_owned(),
            legacy: legacy.map_or_else(|| body.code(), str::to_owned),
            details: details_of(error),
        }
    }

    fn of_grpc(answer: &Answer<'_>, code: u8) -> Self {
        let (http, status) = of_grpc_code(code);
        let details = answer
            .grpc_details
            .map(protobuf::details)
            .unwrap_or_default();
        let message = match answer.grpc_message {
            Some(text) => protobuf::percent_decoded(text),
            None => details.message.clone(),
        };
        Self {
            http,
            status: status.to_owned(),
            message,
            legacy: String::new(),
            details,
        }
    }

    fn verdict(&self) -> Option<&'static Verdict> {
        if self.http < 400 {
            return None;
        }
        let by_message = of_message(&self.message);
        // More exact than the reason that they come with.
        if let Some(exact) = by_message
            && [
                google::API_KEY_LEAKED,
                google::API_KEY_EXPIRED,
                google::USER_LOCATION,
            ]
            .contains(&exact)
        {
            return Some(exact);
        }
        of_reason(&self.details.reason)
            .or_else(|| of_reason(&self.legacy))
            .or_else(|| of_legacy(&self.legacy))
            .or(by_message)
            .or_else(|| self.of_status())
    }

    fn of_status(&self) -> Option<&'static Verdict> {
        match (self.http, self.status.as_str()) {
            (_, "UNAUTHENTICATED") | (401, _) => Some(google::UNAUTHENTICATED),
            (_, "PERMISSION_DENIED") | (403, _) => Some(google::PERMISSION_DENIED),
            (_, "RESOURCE_EXHAUSTED") | (429, _) => Some(google::RATE_LIMIT_EXCEEDED),
            (499 | 500 | 502..=504, _) => Some(google::UNAVAILABLE),
            // The request itself is wrong: it was let in.
            (400 | 404 | 409 | 422, _) => None,
            _ => Some(google::REFUSED),
        }
    }

    fn seen(&self) -> Option<IpAddr> {
        let declared = address_in(&self.details.caller);
        declared.or_else(|| address_in(&self.message))
    }
}

/// ErrorInfo among the details; of several, the first with a reason.
fn details_of(error: &Value) -> Details {
    let details = error.get("details").and_then(Value::as_array);
    let info = details.into_iter().flatten().find(|detail| {
        detail
            .get("reason")
            .and_then(Value::as_str)
            .is_some_and(|reason| !reason.is_empty())
    });
    let metadata = |name: &str| {
        let value = info.and_then(|info| info.pointer(&format!("/metadata/{name}")));
        value.and_then(Value::as_str).unwrap_or("").to_owned()
    };
    let reason = info
        .and_then(|info| info.get("reason"))
        .and_then(Value::as_str);
    let mut found = Details {
        reason: reason.unwrap_or("").to_owned(),
        ..Details::default()
    };
    for name in protobuf::METADATA {
        found.add(name, &metadata(name));
    }
    found
}

/// The verdict whose code is this reason.
fn of_reason(reason: &str) -> Option<&'static Verdict> {
    let is = |verdict: &&&'static Verdict| verdict.code.eq_ignore_ascii_case(reason);
    // A code of ours that is no reason of Google's must not be chosen by a peer.
    let ours = ["address_not_on_key", "address_not_of_tunnel"];
    google::ALL
        .iter()
        .find(is)
        .copied()
        .filter(|verdict| !ours.contains(&verdict.code))
}

/// The reasons of Google's older errors.
fn of_legacy(reason: &str) -> Option<&'static Verdict> {
    Some(match reason {
        "ipRefererBlocked" => google::IP_BLOCKED,
        "refererBlocked" => google::API_KEY_HTTP_REFERRER_BLOCKED,
        "keyInvalid" => google::API_KEY_INVALID,
        "keyExpired" => google::API_KEY_EXPIRED,
        "accessNotConfigured" | "serviceDisabled" => google::SERVICE_DISABLED,
        "rateLimitExceeded" | "userRateLimitExceeded" => google::RATE_LIMIT_EXCEEDED,
        "quotaExceeded" | "dailyLimitExceeded" => google::RESOURCE_QUOTA_EXCEEDED,
        "accountDisabled" | "accountDeleted" => google::ACCOUNT_STATE_INVALID,
        "required" => google::CREDENTIALS_MISSING,
        "invalid_grant" => google::ACCESS_TOKEN_EXPIRED,
        _ => return None,
    })
}

fn of_message(message: &str) -> Option<&'static Verdict> {
    let known: [(&[&str], &'static Verdict); 14] = [
        (&["reported as leaked"], google::API_KEY_LEAKED),
        (
            &["api key expired", "key has expired"],
            google::API_KEY_EXPIRED,
        ),
        (&["location is not supported"], google::USER_LOCATION),
        (&["ip address restriction"], google::IP_BLOCKED),
        (
            &[
                "requests from referer",
                "referer restriction",
                "referrer restriction",
            ],
            google::API_KEY_HTTP_REFERRER_BLOCKED,
        ),
        (
            &["android client application"],
            google::API_KEY_ANDROID_APP_BLOCKED,
        ),
        (&["ios client application"], google::API_KEY_IOS_APP_BLOCKED),
        (
            &["api key not valid", "api key is invalid"],
            google::API_KEY_INVALID,
        ),
        (&["unregistered callers"], google::CREDENTIALS_MISSING),
        (&["has not been used in project"], google::SERVICE_DISABLED),
        (
            &["requires billing", "billing to be enabled"],
            google::BILLING_DISABLED,
        ),
        (
            &["has been suspended", "is suspended"],
            google::CONSUMER_SUSPENDED,
        ),
        (
            &[
                "vpc service controls",
                "prohibited by organization's policy",
            ],
            google::SECURITY_POLICY_VIOLATED,
        ),
        (
            &["authentication scopes"],
            google::ACCESS_TOKEN_SCOPE_INSUFFICIENT,
        ),
    ];
    let found = known.iter().find(|(phrases, _)| has(message, phrases));
    found.map(|(_, verdict)| *verdict)
}

/// google.rpc.Code: the HTTP status and the name.
fn of_grpc_code(code: u8) -> (u16, &'static str) {
    match code {
        0 => (200, "OK"),
        1 => (499, "CANCELLED"),
        3 => (400, "INVALID_ARGUMENT"),
        4 => (504, "DEADLINE_EXCEEDED"),
        5 => (404, "NOT_FOUND"),
        6 => (409, "ALREADY_EXISTS"),
        7 => (403, "PERMISSION_DENIED"),
        8 => (429, "RESOURCE_EXHAUSTED"),
        9 => (400, "FAILED_PRECONDITION"),
        10 => (409, "ABORTED"),
        11 => (400, "OUT_OF_RANGE"),
        12 => (501, "UNIMPLEMENTED"),
        14 => (503, "UNAVAILABLE"),
        16 => (401, "UNAUTHENTICATED"),
        _ => (500, "INTERNAL"),
    }
}
