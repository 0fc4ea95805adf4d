//! What the provider answers: D11 and D16, the address that it saw (D12, D13), a stream and an idle session (D14).

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::{Options, Way, wrong};
use crate::doctor::api::{Call, Key};
use crate::doctor::finding::{Finding, Report};
use crate::doctor::http::{self, HttpError, Reply, Stream};
use crate::doctor::provider::Provider;
use crate::doctor::refusal::{self, Answer, Refusal};
use crate::doctor::tls::TlsFailure;
use crate::doctor::verdict::Check::{self, D11, D14, D16};
use crate::doctor::verdict::{Verdict, google, path as verdict};
use sealway::commands::findings::values::Values;

/// Makes the provider's calls until one is refused.
pub(super) async fn calls(way: &Way<'_>, session: &mut Stream, key: &Key, report: &mut Report) {
    let Way { options, path, .. } = way;
    let provider = options.provider;
    let check = if is_googles(provider) { D11 } else { D16 };
    let streams = provider == Provider::Gemini && !options.quick;
    let stream = streams.then_some(Call::Stream);
    for call in Call::of(provider).iter().copied().chain(stream) {
        let request = call.request(provider, &path.target, &options.model, key);
        let limit = if call == Call::Stream {
            STREAM_MAX
        } else {
            path.limit
        };
        let reply = timeout(limit, http::exchange(session, &request)).await;
        let reply = match reply {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => return report.found(no_answer(&error)),
            Err(_) => {
                return report.found(Finding::new(
                    verdict::NO_ANSWER,
                    Values::default().with("reason", "no answer in time"),
                ));
            }
        };
        report.fact(check, format!("{}: {}", call.name(), reply.status));
        if !judge(options, call, &reply, report) {
            return report.skip(D14, "the API refused a call before");
        }
        if !reply.reusable {
            match again(way).await {
                Some(another) => *session = another,
                None => return report.skip(check, "no further session for the next call"),
            }
        }
    }
}

/// Whether the provider let the call in, and the answer is whole.
fn judge(options: &Options, call: Call, reply: &Reply, report: &mut Report) -> bool {
    let answer = Answer {
        status: reply.status,
        body: &reply.body,
        error_type: reply.header("x-amzn-errortype"),
        grpc_status: reply.header("grpc-status"),
        grpc_message: reply.header("grpc-message"),
        grpc_details: reply.header("grpc-status-details-bin"),
    };
    if let Some(refusal) = refusal::read(options.provider, &answer) {
        report.found(of_refusal(&options.egress, refusal));
        return false;
    }
    let status = Values::default().with("status", reply.status.to_string());
    match (call, reply.status) {
        (Call::List, 404 | 300..=399) => report.found(Finding::new(verdict::NOT_FOUND, status)),
        (Call::Stream, 200) if !reply.whole => {
            let reason = "the connection ended";
            report.found(Finding::new(
                verdict::STREAM_CUT,
                status.with("reason", reason),
            ));
        }
        (Call::Stream, 200) if reply.longest_gap > options.gap => {
            let values = status
                .with("gap", shown(reply.longest_gap))
                .with("limit", shown(options.gap));
            report.found(Finding::new(verdict::STREAM_GAP, values));
        }
        (Call::Stream, _) => {
            report.fact(
                D14,
                format!("stream: longest silence {}", shown(reply.longest_gap)),
            );
            return true;
        }
        _ if !reply.whole => {
            let values = status.with("reason", "the body is cut");
            report.found(Finding::new(verdict::NO_ANSWER, values));
        }
        _ => return true,
    }
    false
}

/// The verdict of the answer, made more exact by the tunnel's addresses.
fn of_refusal(egress: &[IpAddr], refusal: Refusal) -> Finding {
    let only_v4 = !egress.is_empty() && egress.iter().all(IpAddr::is_ipv4);
    let exact: &'static Verdict = match refusal.seen {
        Some(seen) if seen.is_ipv6() && only_v4 => verdict::IPV6_SEEN,
        Some(seen) if refusal.verdict == google::IP_BLOCKED && egress.contains(&seen) => {
            google::IP_NOT_LISTED
        }
        Some(_) if refusal.verdict == google::IP_BLOCKED && !egress.is_empty() => google::IP_BYPASS,
        _ => refusal.verdict,
    };
    Finding::new(exact, refusal.values)
}

/// Whether a session that was idle still lives.
pub(super) async fn idle(way: &Way<'_>, report: &mut Report) {
    let Way { options, path, .. } = way;
    let Some(mut session) = again(way).await else {
        return report.skip(Check::D14, "no further tunnel");
    };
    sleep(options.idle).await;
    // Any answer will do; it needs no key.
    let host = &path.target.host;
    let request = Zeroizing::new(
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").into_bytes(),
    );
    let idle = shown(options.idle);
    match timeout(path.limit, http::exchange(&mut session, &request)).await {
        Ok(Ok(_)) => report.fact(D14, format!("a session that was idle for {idle} lives")),
        Ok(Err(HttpError::Closed)) => report.fact(
            D14,
            format!("the provider closed a session that was idle for {idle}, in order"),
        ),
        Ok(Err(HttpError::Io(error))) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            report.fact(D14, "the provider closed an idle session")
        }
        _ => report.found(Finding::new(
            verdict::IDLE_CUT,
            Values::default().with("idle", idle),
        )),
    }
}

/// A new session with the provider, its certificate judged as that of the first; None if there is none.
async fn again(way: &Way<'_>) -> Option<Stream> {
    let stream = way.path.tunnel(way.address).await?;
    let handshake = way.path.inner(stream, way.hello).await;
    let session = handshake.result.ok()?;
    wrong(way.options, &handshake.chain)
        .is_none()
        .then_some(session)
}

fn no_answer(error: &HttpError) -> Finding {
    let reason = match error {
        HttpError::Io(error) => match TlsFailure::of(error) {
            TlsFailure::Alert(alert) => format!("the alert {alert:?}"),
            _ => format!("the connection failed ({})", error.kind()),
        },
        other => other.to_string(),
    };
    Finding::new(verdict::NO_ANSWER, Values::default().with("reason", reason))
}

fn is_googles(provider: Provider) -> bool {
    matches!(provider, Provider::Gemini | Provider::Vertex)
}

fn shown(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f32())
}

const STREAM_MAX: Duration = Duration::from_secs(60);
