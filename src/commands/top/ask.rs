//! One question to the admin listener: GET /status (RFC 9110), on a connection of its own, bounded in time and size.

use std::fmt::Display;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Door;
use super::view::plain;
use crate::admin::report::Report;

/// What the daemon says of itself, or why it says nothing, in a sentence that a terminal may see.
pub(super) async fn ask(door: &Door) -> Result<Report, String> {
    let address = door.address;
    match timeout(PATIENCE, exchange(door)).await {
        // What is no daemon may have said anything.
        Ok(answer) => answer.map_err(|reason| plain(&reason)),
        Err(_) => Err(format!(
            "{address} does not answer: what listens there is stuck, or is no sealway"
        )),
    }
}

async fn exchange(door: &Door) -> Result<Report, String> {
    let address = door.address;
    let nobody = |error: &dyn Display| {
        format!(
            "no daemon at {address}: {error}; is sealway run up? --config FILE or --admin ADDR says where it is watched"
        )
    };
    let broken = |error: &dyn Display| format!("{address} gave no status: {error}");
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| nobody(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    // It ends with the sender, and what went wrong on it the sender is told.
    tokio::spawn(connection);
    let mut request = Request::get("/status").header(HOST, address.to_string());
    if let Some(token) = &door.token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.as_str()));
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(&error))?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| broken(&error))?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => {
            return Err(format!(
                "{address} asks for its token: use a --config FILE that has it as admin.token_file"
            ));
        }
        status => {
            return Err(format!(
                "{address} answered {status}: it is no sealway, or an older one"
            ));
        }
    }
    let body = Limited::new(answer.into_body(), BODY_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| broken(&error))?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|error| format!("{address} is no sealway, or of another version: {error}"))
}

const PATIENCE: Duration = Duration::from_secs(5);
/// A hundred refusals and a hundred users are some 50 KiB.
const BODY_BYTES_MAX: usize = 4 << 20;
