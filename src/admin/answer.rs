//! Answers requests: `access` admits them, then a page or an act answers. Changes nothing itself.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName,
    HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::time::Instant;

use super::access::{self, Visitor};
use super::acts::Act;
use super::connections::ConnectionPermit;
use super::operator::Ends;
use super::readiness::{READY, Readiness, STANDBY};
use super::render::{Pace, Page};
use super::{Service, page, status, tunnels};
use crate::metrics::Configured;
use crate::shared::Shared;
use crate::sys;

/// The pages that take work to render.
#[derive(Debug)]
pub(super) struct Pages {
    metrics: Page,
    status: Page,
    tunnels: Page,
    /// [`Readiness::lines`].
    readiness: Page,
    /// [`Readiness::standby_lines`].
    standby: Page,
}

/// Builds the response for a visitor from the body of a page.
type Answer = fn(Bytes, Visitor) -> Response<Full<Bytes>>;

/// A connection and the number of its requests.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) permit: ConnectionPermit,
    pub(super) ends: Ends,
    requests: AtomicU32,
    /// After this time an answer closes the connection.
    closes_at: Instant,
}

impl Pages {
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let of = |name, render: fn(&Shared) -> String| {
            let shared = Arc::clone(shared);
            Page::start(name, move || render(&shared).into())
        };
        let listed = Arc::clone(shared);
        let tunnels = Page::start_at(Pace::CLOSE, "page-tunnels", move || {
            json(&tunnels::list(&listed.live)).into()
        })?;
        Ok(Self {
            tunnels,
            metrics: of("page-metrics", scrape)?,
            status: of("page-status", |shared| json(&status::report(shared)))?,
            readiness: of("page-readyz", |shared| Readiness::of(shared).lines())?,
            standby: of("page-standbyz", |shared| {
                Readiness::of(shared).standby_lines()
            })?,
        })
    }
}

impl Asked {
    pub(super) fn new(permit: ConnectionPermit, ends: Ends, closes_at: Instant) -> Self {
        Self {
            permit,
            ends,
            requests: AtomicU32::new(0),
            closes_at,
        }
    }

    /// Counts a request. Returns true if its answer closes the connection.
    fn is_last(&self) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1 >= REQUESTS_MAX
            || Instant::now() >= self.closes_at
    }
}

impl Service {
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        asked: &Asked,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let visitor = {
            let config = &self.shared.snapshot.load().config;
            let token = config.admin_token.as_ref().map(|token| &token.hash);
            let operator = config.operator_token.as_ref().map(|token| &token.hash);
            // A reload may have removed the peer from admin.clients.
            config
                .admin_lets_in(asked.ends.peer.ip())
                .then(|| access::admit(&request, token, operator))
        };
        let mut response = match visitor {
            Some(Ok(visitor)) => self.respond(request, visitor, asked).await,
            Some(Err(stranger)) => access::refusal(stranger),
            None => text(
                StatusCode::FORBIDDEN,
                "admin.clients does not have this address\n".into(),
            ),
        };
        let headers = response.headers_mut();
        for (name, value) in GUARDS {
            headers
                .entry(name)
                .or_insert(HeaderValue::from_static(value));
        }
        if asked.is_last() || visitor.is_none() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        visitor: Visitor,
        asked: &Asked,
    ) -> Response<Full<Bytes>> {
        if visitor == Visitor::Known {
            asked.permit.trust();
        }
        match (Act::of(request.uri().path()), visitor) {
            (Some(act), Visitor::Known) => self.act(act, request, asked).await,
            (None, Visitor::Known) if request.uri().path() == "/tunnels" => {
                match self.operator(&request, asked) {
                    Ok(_) => self.page(&request, visitor, asked).await,
                    Err(reason) => text(StatusCode::FORBIDDEN, reason.into()),
                }
            }
            _ => self.page(&request, visitor, asked).await,
        }
    }

    async fn page(
        &self,
        request: &Request<Incoming>,
        visitor: Visitor,
        asked: &Asked,
    ) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "this page is for reading: GET\n".into(),
            );
            refusal
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        let (page, made): (&Page, Answer) = match request.uri().path() {
            "/" => return page::page(),
            // This waits for nothing, so it shows that the process lives even if other pages are
            // slow.
            "/healthz" => return text(StatusCode::OK, "ok\n".into()),
            "/status" => (&self.pages.status, |body, _| {
                typed("application/json", body)
            }),
            "/tunnels" => (&self.pages.tunnels, |body, _| {
                typed("application/json", body)
            }),
            "/metrics" => (&self.pages.metrics, |body, _| {
                typed("text/plain; version=0.0.4; charset=utf-8", body)
            }),
            "/readyz" => (&self.pages.readiness, readiness),
            "/standbyz" => (&self.pages.standby, readiness),
            _ => {
                return text(
                    StatusCode::NOT_FOUND,
                    "the pages are /, /status, /metrics, /healthz, /readyz and /standbyz; for operators /tunnels, and by POST /tunnels/end, /drain, /undrain and /reload\n".into(),
                );
            }
        };
        asked.permit.answering(true);
        let body = page.get().await;
        asked.permit.answering(false);
        match body {
            Some(body) => made(body, visitor),
            None => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the daemon is too busy to make this page\n".into(),
            ),
        }
    }
}

/// Renders the metrics. First it updates the gauges that no event updates.
fn scrape(shared: &Shared) -> String {
    let snapshot = shared.snapshot.load();
    let configured = Configured::default();
    for source in snapshot.egress.sources() {
        configured.egress_up(source.address(), source.is_up());
        if snapshot.egress.is_floating(source.address()) {
            configured.egress_floating(source.address());
        }
    }
    for source in snapshot
        .egress
        .sources()
        .chain(snapshot.egress.retired_in_use())
    {
        configured.egress_ports(source.address(), source.ports_in_use(), source.busiest());
    }
    shared
        .evidence
        .metrics
        .unreadable(snapshot.config.kept.len());
    if let Some(age) = snapshot.config.ranges_age(SystemTime::now()) {
        configured.ranges_age(age);
    }
    shared
        .evidence
        .metrics
        .clock_synchronised(sys::is_clock_synchronised());
    shared
        .evidence
        .metrics
        .bounds(shared.tunnels_max(), snapshot.egress.ports_max());
    shared
        .evidence
        .metrics
        .drained(shared.lifecycle.drain.load().is_some());
    let readiness = Readiness::of(shared);
    let (is_ready, is_standby) = (readiness.is_ready(), readiness.is_standby());
    let degraded = readiness.degraded.len();
    shared
        .evidence
        .metrics
        .readiness(is_ready, is_standby, degraded);
    shared.evidence.metrics.render(&configured)
}

/// The reasons name addresses, which guests need not know.
fn readiness(lines: Bytes, visitor: Visitor) -> Response<Full<Bytes>> {
    let (status, for_guests) = match lines.split(|byte| *byte == b'\n').next() {
        Some(first) if first == READY.as_bytes() => (StatusCode::OK, "ready\n"),
        Some(first) if first == STANDBY.as_bytes() => (StatusCode::OK, "standby\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    };
    match visitor {
        Visitor::Guest => text(status, for_guests.into()),
        Visitor::Known => text(status, lines),
    }
}

fn json(report: &impl Serialize) -> String {
    // Serialising fails only for maps whose keys are not strings, and no report has a map.
    serde_json::to_string(report).unwrap_or_default() + "\n"
}

pub(super) fn text(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = typed("text/plain; charset=utf-8", body);
    *response.status_mut() = status;
    response
}

pub(super) fn typed(content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The headers of every answer: browsers must not store, frame or sniff it, or let other sites read
/// it.
const GUARDS: [(HeaderName, &str); 5] = [
    (CACHE_CONTROL, "no-store"),
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];
/// Requests on one connection; a bound on pipelined requests.
const REQUESTS_MAX: u32 = 100;
