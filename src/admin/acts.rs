//! The acts of operators: end tunnels, drain, undrain, reload. An act takes a POST, is bounded in
//! size and time, and has an audit record with the operator and the reason. If records are required
//! and the record cannot be queued, the act does not happen.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::info;

use super::answer::{Asked, text, typed};
use super::ending::Found;
use super::operation::{self, Drained, EndRequest, is_reason};
use super::operator::{self, Operator};
use super::{ReloadRequest, Service};
use crate::audit::{DaemonRecord, timestamp};
use crate::dial::warm::Closed;
use crate::outcome::CloseReason;
use crate::shared::Drain;

/// An act of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    End,
    Drain,
    Undrain,
    Reload,
}

/// The status and the text of a refusal.
pub(super) type Refusal = (StatusCode, String);

impl Act {
    pub(super) fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/tunnels/end" => Self::End,
            "/drain" => Self::Drain,
            "/undrain" => Self::Undrain,
            "/reload" => Self::Reload,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::Reload => "reload",
        }
    }
}

impl Service {
    /// Performs an act. `access` has admitted the request.
    pub(super) async fn act(
        &self,
        act: Act,
        request: Request<Incoming>,
        asked: &Asked,
    ) -> Response<Full<Bytes>> {
        asked.permit.answering(true);
        let done = self.try_act(act, request, asked).await;
        asked.permit.answering(false);
        done.unwrap_or_else(|(status, sentence)| {
            let mut refusal = text(status, sentence.into());
            if status == StatusCode::METHOD_NOT_ALLOWED {
                let allowed = HeaderValue::from_static("POST");
                refusal.headers_mut().insert(ALLOW, allowed);
            }
            refusal
        })
    }

    async fn try_act(
        &self,
        act: Act,
        request: Request<Incoming>,
        asked: &Asked,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        if request.method() != Method::POST {
            let sentence = "this path changes the daemon: use POST\n".to_owned();
            return Err((StatusCode::METHOD_NOT_ALLOWED, sentence));
        }
        let operator = self
            .operator(&request, asked)
            .map_err(|reason| (StatusCode::FORBIDDEN, reason))?;
        if act == Act::End {
            return self.try_end(operator, body(request).await?, asked).await;
        }
        let operation::Request { reason } = body(request).await?;
        if self.shared.lifecycle.stages.leaving.is_cancelled() {
            return Err((STOPPING.0, STOPPING.1.to_owned()));
        }
        checked(reason.as_deref())?;
        self.record(act, operator, asked, reason.clone(), None)?;
        match act {
            Act::Drain => Ok(self.drain(operator, reason)),
            Act::Undrain => Ok(self.undrain(operator)),
            Act::Reload | Act::End => self.reload().await,
        }
    }

    /// Identifies the operator, or says why the sender may not operate.
    pub(super) fn operator(
        &self,
        request: &Request<Incoming>,
        asked: &Asked,
    ) -> Result<Operator, String> {
        let config = &self.shared.snapshot.load().config;
        let token = config
            .operator_token
            .as_ref()
            .or(config.admin_token.as_ref());
        operator::judge(request, token.map(|token| &token.hash), asked.ends)
    }

    async fn try_end(
        &self,
        operator: Operator,
        request: EndRequest,
        asked: &Asked,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let reason = request.reason.clone();
        checked(Some(&reason))?;
        let target = request
            .target()
            .map_err(|wrong| (StatusCode::BAD_REQUEST, format!("{wrong}\n")))?;
        let found = target.find(&self.shared);
        self.record(
            Act::End,
            operator,
            asked,
            Some(reason.clone()),
            Some(&found),
        )?;
        Ok(json(&self.end(found, operator, reason).await))
    }

    fn drain(&self, operator: Operator, reason: Option<String>) -> Response<Full<Bytes>> {
        info!(by = %operator, reason, "an operator drained the daemon: new tunnels are refused until sealway undrain");
        let (at, by) = (OffsetDateTime::now_utc(), operator.to_string());
        let drain = Drain { at, by, reason };
        self.shared.lifecycle.drain.store(Some(Arc::new(drain)));
        let closed = self.shared.snapshot.load().warm.clear();
        let closed = Closed::all(CloseReason::Drain, closed);
        self.shared.evidence.metrics.warm.closed(closed.each());
        self.drained()
    }

    fn undrain(&self, operator: Operator) -> Response<Full<Bytes>> {
        info!(by = %operator, "an operator ended the drain: new tunnels are accepted");
        self.shared.lifecycle.drain.store(None);
        self.drained()
    }

    fn drained(&self) -> Response<Full<Bytes>> {
        json(&Drained {
            drained: self.shared.lifecycle.drain.load().is_some(),
            tunnels: self.shared.evidence.active.load(Ordering::Relaxed),
        })
    }

    /// Requests a reload and waits for its result.
    async fn reload(&self) -> Result<Response<Full<Bytes>>, Refusal> {
        let refused = |sentence: &str| (StatusCode::SERVICE_UNAVAILABLE, sentence.to_owned());
        let (reply, result) = oneshot::channel();
        self.reloads
            .try_send(ReloadRequest { reply })
            .map_err(|_| refused(RELOADS_WAIT))?;
        let result = timeout(RELOAD_MAX, result).await;
        let result = result.map_err(|_| refused(RELOAD_LASTS))?;
        Ok(json(&result.map_err(|_| refused(STOPPING.1))?))
    }

    /// Queues the audit record of an act before the act.
    #[allow(clippy::too_many_arguments, reason = "the columns of a record")]
    fn record(
        &self,
        act: Act,
        operator: Operator,
        asked: &Asked,
        reason: Option<String>,
        found: Option<&Found>,
    ) -> Result<(), Refusal> {
        let record = DaemonRecord::OperatorAct {
            ts: timestamp(),
            act: act.name(),
            by: operator.to_string(),
            client: asked.ends.peer.ip(),
            target: found.and_then(Found::target),
            ids: found.map_or_else(Vec::new, |found| found.ids()),
            tunnels: found.map(Found::count),
            reason,
        };
        let (audit, metrics) = (&self.shared.evidence.audit, &self.shared.evidence.metrics);
        if !audit.daemon(record) {
            metrics.audit_failures.increment(1);
            if self.shared.snapshot.load().config.audit_required {
                return Err((StatusCode::SERVICE_UNAVAILABLE, NO_RECORD.to_owned()));
            }
        }
        metrics.operated(act.name());
        Ok(())
    }
}

fn checked(reason: Option<&str>) -> Result<(), Refusal> {
    if reason.is_none_or(is_reason) {
        return Ok(());
    }
    Err((StatusCode::BAD_REQUEST, BAD_REASON.to_owned()))
}

/// Parses the body as JSON; an empty body counts as `{}`. A web page on another site cannot send
/// this media type without a CORS preflight, which this listener refuses.
async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let refused = |status, sentence: &str| (status, sentence.to_owned());
    let is_json = |value: &HeaderValue| {
        let media_type = value.to_str().unwrap_or_default().split(';').next();
        media_type.is_some_and(|name| name.trim().eq_ignore_ascii_case(JSON))
    };
    if !request.headers().get(CONTENT_TYPE).is_some_and(is_json) {
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, NO_JSON));
    }
    let whole = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let whole = timeout(BODY_MAX, whole)
        .await
        .map_err(|_| {
            refused(
                StatusCode::REQUEST_TIMEOUT,
                "the body did not arrive in time\n",
            )
        })?
        .map_err(|error| match error.is::<LengthLimitError>() {
            true => refused(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE),
            false => refused(StatusCode::BAD_REQUEST, "the body is truncated\n"),
        })?
        .to_bytes();
    let whole = if whole.is_empty() { b"{}" } else { &whole[..] };
    serde_json::from_slice(whole).map_err(|error| {
        (
            StatusCode::BAD_REQUEST,
            format!("the body is invalid: {error}\n"),
        )
    })
}

fn json(answer: &impl Serialize) -> Response<Full<Bytes>> {
    // Serialising fails only for maps whose keys are not strings, and no answer has a map.
    let text = serde_json::to_string(answer).unwrap_or_default() + "\n";
    typed(JSON, text.into())
}

const JSON: &str = "application/json";
/// Enough for the longest list of identifiers.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// The deadline for the body, from the end of the head.
const BODY_MAX: Duration = Duration::from_secs(2);
/// Longer than a reload of ten thousand users on a busy machine, shorter than the life of a
/// connection.
const RELOAD_MAX: Duration = Duration::from_secs(10);
const STOPPING: (StatusCode, &str) = (StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping\n");
const NO_RECORD: &str = "the audit record cannot be written, and audit.on_failure is \"deny\": nothing was done; \
                         the log names the cause\n";
const RELOADS_WAIT: &str = "other reloads are waiting: try again when they have finished\n";
const RELOAD_LASTS: &str = "the reload takes longer than 10 s: sealway top shows its result\n";
const BAD_REASON: &str =
    "the reason must be 1 to 256 characters without control characters, and not only spaces\n";
const NO_JSON: &str = "the body must be JSON: send Content-Type: application/json\n";
const TOO_LARGE: &str = "the body is larger than 64 KiB\n";
