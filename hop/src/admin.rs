//! The admin listener on loopback, of the hop (`/metrics`, `/healthz`) and of the agent. Knows no secret, so it asks for none.

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

/// What a path answers.
#[derive(Debug)]
pub struct Page {
    /// The status.
    pub status: StatusCode,
    /// The text.
    pub body: String,
}

impl Page {
    /// A page that is there.
    #[must_use]
    pub fn of(body: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            body: body.into(),
        }
    }
}

/// The pages of the hop.
#[must_use]
pub fn of_hop(hop: &Hop, path: &str) -> Option<Page> {
    match path {
        "/metrics" => Some(Page::of(hop.metrics.render(&hop.moment()))),
        "/healthz" => Some(Page::of("ok\n")),
        _ => None,
    }
}

/// Serves pages by path until the task is dropped.
pub async fn serve<P>(socket: TcpListener, pages: P)
where
    P: Fn(&str) -> Option<Page> + Clone + Send + Sync + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((client, _)) = socket.accept().await else {
            tokio::time::sleep(BACK_OFF).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let pages = pages.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| {
                let answer = answer(&pages, &request);
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

fn answer(
    pages: &impl Fn(&str) -> Option<Page>,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let refused = |status, body: &str| Page {
        status,
        body: body.to_owned(),
    };
    let path = request.uri().path();
    let page = match *request.method() {
        Method::GET | Method::HEAD => {
            pages(path).unwrap_or_else(|| refused(StatusCode::NOT_FOUND, "not found\n"))
        }
        _ => refused(StatusCode::METHOD_NOT_ALLOWED, "GET only\n"),
    };
    let kind = match path {
        "/metrics" => "text/plain; version=0.0.4",
        _ => "text/plain",
    };
    let mut response = Response::new(Full::from(page.body));
    *response.status_mut() = page.status;
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
