//! The hop's admin listener on loopback: `/metrics` and `/healthz`. Knows no secret, so it asks for none.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::shared::Hop;

/// Serves until the task is dropped.
pub async fn serve(hop: Arc<Hop>, socket: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((client, _)) = socket.accept().await else {
            tokio::time::sleep(BACK_OFF).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let hop = Arc::clone(&hop);
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| {
                let answer = answer(&hop, &request);
                async { Ok::<_, Infallible>(answer) }
            });
            let mut server = http1::Builder::new();
            server
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_MAX)
                .max_buf_size(HEAD_BYTES_MAX);
            let connection = server.serve_connection(TokioIo::new(client), service);
            // A scraper that breaks off needs no report.
            let _broken_off = timeout(CONNECTION_MAX, connection).await;
        });
    }
}

fn answer(hop: &Hop, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (
            StatusCode::OK,
            "text/plain; version=0.0.4",
            hop.metrics.render(&hop.moment()),
        ),
        (&Method::GET | &Method::HEAD, "/healthz") => {
            (StatusCode::OK, "text/plain", "ok\n".to_owned())
        }
        (&Method::GET | &Method::HEAD, _) => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "not found\n".to_owned(),
        ),
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "GET only\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

const CONNECTIONS_MAX: usize = 32;
const HEAD_MAX: Duration = Duration::from_secs(2);
const CONNECTION_MAX: Duration = Duration::from_secs(15);
/// The least that hyper accepts.
const HEAD_BYTES_MAX: usize = 8 * 1024;
const BACK_OFF: Duration = Duration::from_millis(100);
