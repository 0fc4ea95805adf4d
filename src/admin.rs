//! The admin listener: a page for people, `/status`, `/metrics`, `/healthz`, `/readyz`. Reads only; nothing can be
//! changed through it, and nothing secret is on it.
//!
//! HTTP is hyper's work; this file bounds connections and time, and leads each request past the door to its page.

mod door;
mod page;
pub mod readiness;
pub mod report;
mod status;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::metrics::Configured;
use crate::shared::Shared;
use crate::sys;
use report::Report;

/// Serves until its runtime ends.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Never closed, so a permit always comes.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A scraper that breaks off has had what it wanted.
                    let _broken_off = timeout(CONNECTION_MAX, converse(socket, shared)).await;
                    drop(permit);
                });
            }
            Err(_) => {
                shared.metrics.accept_errors.increment(1);
                sleep(BACK_OFF).await;
            }
        }
    }
}

async fn converse(socket: TcpStream, shared: Arc<Shared>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &shared);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    server.serve_connection(TokioIo::new(socket), service).await
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let snapshot = shared.snapshot.load();
    let token = snapshot.config.admin_token.as_ref().map(|token| &token.hash);
    let mut response = match door::admit(request, token) {
        Ok(()) => page(request, shared, door::is_guest(request, token)),
        Err(stranger) => door::refusal(stranger),
    };
    for (name, value) in GUARDS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn page(request: &Request<Incoming>, shared: &Shared, is_guest: bool) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "this listener is for reading: GET\n".into());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match request.uri().path() {
        "/" => page::page(),
        "/status" => json(&status::report(shared)),
        "/metrics" => typed("text/plain; version=0.0.4; charset=utf-8", scrape(shared)),
        "/healthz" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => readiness(shared, is_guest),
        _ => text(StatusCode::NOT_FOUND, "there are /, /status, /metrics, /healthz and /readyz\n".into()),
    }
}

/// The metrics, those among them brought up to date that nobody counts as they happen.
fn scrape(shared: &Shared) -> String {
    let snapshot = shared.snapshot.load();
    let configured = Configured::default();
    for source in snapshot.egress.sources() {
        configured.egress_up(source.address(), source.is_up());
    }
    for source in snapshot.egress.sources().chain(snapshot.egress.retired_in_use()) {
        configured.egress_ports(source.address(), source.ports_in_use(), source.busiest());
    }
    if let Some(age) = snapshot.config.ranges_age(SystemTime::now()) {
        configured.ranges_age(age);
    }
    shared.metrics.clock_synchronised(sys::is_clock_synchronised());
    shared.metrics.bounds(shared.tunnels_max(), snapshot.egress.ports_max());
    shared.metrics.render(&configured)
}

/// The reasons name addresses, which guests need not know.
fn readiness(shared: &Shared, is_guest: bool) -> Response<Full<Bytes>> {
    let reasons = readiness::why_not_ready(shared);
    if reasons.is_empty() {
        return text(StatusCode::OK, "ready\n".into());
    }
    if is_guest {
        return text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n".into());
    }
    text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
}

fn json(report: &Report) -> Response<Full<Bytes>> {
    // Fails only for maps with keys that are no strings, and a report has no map.
    let body = serde_json::to_string(report).unwrap_or_default();
    typed("application/json", body + "\n")
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = typed("text/plain; charset=utf-8", body);
    *response.status_mut() = status;
    response
}

fn typed(content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// On every answer: nothing here is to be kept, framed, guessed at, or read by another site's page.
const GUARDS: [(HeaderName, &str); 5] = [
    (CACHE_CONTROL, "no-store"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];
/// Prometheus keeps one; people and probes a few.
const CONNECTIONS_MAX: usize = 64;
/// For one request head.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// For one connection, so that a few that say or read nothing cannot blind whoever watches; a scraper connects again.
const CONNECTION_MAX: Duration = Duration::from_secs(15);
const BACK_OFF: Duration = Duration::from_millis(100);
