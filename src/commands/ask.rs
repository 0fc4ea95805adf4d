//! Sends one request to the admin listener of a running daemon (RFC 9110), on a new connection,
//! bounded in time and size. Reads only the admin settings of the configuration, and never prints.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Trouble;
use crate::config::{Config, Overrides, admin, file};

/// The admin listener, and the token to send.
pub(super) struct Door {
    address: SocketAddr,
    token: Option<Zeroizing<String>>,
}

/// The role of the person who runs the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visitor {
    /// Monitors the daemon.
    Watcher,
    /// Inspects single tunnels, or controls the daemon.
    Operator,
}

/// A request.
pub(super) struct Question {
    pub(super) path: &'static str,
    /// The JSON body of a POST; None: a GET.
    pub(super) body: Option<String>,
    /// The longest answer, in bytes.
    pub(super) answer_max: usize,
    /// The limit for the whole exchange.
    pub(super) patience: Duration,
}

impl Door {
    /// Finds the admin listener of this configuration. The caller may lack access to the users
    /// file, and a watcher to the operators' token; their problems are ignored.
    ///
    /// # Errors
    /// When the configuration does not name an address to connect to.
    pub(super) fn of(
        path: Option<&Path>,
        overrides: &Overrides,
        visitor: Visitor,
    ) -> Result<Self, Trouble> {
        let text = path
            .map_or_else(|| Ok(Zeroizing::default()), file::text)
            .map_err(|problems| Trouble::of(&problems))?;
        let (config, mut problems) = Config::read(path.unwrap_or(Path::new("")), &text, overrides);
        let is_of_file =
            |problem: &file::Problem| problem.key.is_empty() && problem.file.as_deref() == path;
        let is_of_operators = |problem: &file::Problem| problem.key.contains("operator_token");
        problems.retain(|problem| {
            let is_needed = visitor == Visitor::Operator || !is_of_operators(problem);
            let is_of_admin = problem.key.contains("admin") || problem.key == overrides.named.admin;
            is_needed && (is_of_admin || is_of_file(problem))
        });
        if !problems.is_empty() {
            return Err(Trouble::of(&problems));
        }
        let wrong = |message: &str| Trouble::Config(vec![format!("admin.address: {message}")]);
        let mut address = config.admin.ok_or_else(|| {
            wrong("it is \"\", which turns the admin listener off: set its address")
        })?;
        if address.port() == 0 {
            return Err(wrong(
                "port 0 means another port at each start: pass the address of the start record with --admin",
            ));
        }
        match address.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let read = |token: &admin::Token| admin::text(&token.file).map_err(Trouble::Other);
        let operator = config.operator_token.as_ref();
        let operator = operator.filter(|_| visitor == Visitor::Operator);
        let token = operator.or(config.admin_token.as_ref());
        Ok(Self {
            address,
            token: token.map(read).transpose()?,
        })
    }

    /// Sends the request and returns the JSON of the answer, or a printable sentence that says why
    /// there is none.
    pub(super) async fn ask<T: DeserializeOwned>(&self, question: Question) -> Result<T, String> {
        let address = self.address;
        match timeout(question.patience, self.exchange(question)).await {
            // The sentence may quote a peer that is not sealway; escape it.
            Ok(answer) => answer.map_err(|reason| plain(&reason)),
            Err(_) => Err(format!(
                "{address} does not answer: the process there is stuck, or is not sealway"
            )),
        }
    }

    /// Like [`Self::ask`], but blocks until the answer arrives.
    ///
    /// # Errors
    /// When there is no answer, or the daemon refuses.
    pub(super) fn ask_and_wait<T: DeserializeOwned>(
        &self,
        question: Question,
    ) -> Result<T, Trouble> {
        runtime()?
            .block_on(self.ask(question))
            .map_err(Trouble::Other)
    }

    async fn exchange<T: DeserializeOwned>(&self, question: Question) -> Result<T, String> {
        let address = self.address;
        let nobody = |error: &dyn Display| {
            format!(
                "no daemon at {address}: {error}; start it, or name its admin listener with --config FILE or --admin ADDR"
            )
        };
        let broken = |error: &dyn Display| format!("{address} did not answer: {error}");
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| nobody(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        // The task ends when the sender is dropped; the sender reports its errors.
        tokio::spawn(connection);
        let answer_max = question.answer_max;
        let request = self.request(question).map_err(|error| broken(&error))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| broken(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), answer_max)
            .collect()
            .await
            .map_err(|error| broken(&error))?
            .to_bytes();
        match status {
            StatusCode::OK => serde_json::from_slice(&body).map_err(|error| {
                format!("{address} is not sealway, or runs another version: {error}")
            }),
            StatusCode::UNAUTHORIZED => Err(format!(
                "{address} requires a token: use a --config FILE that names it in admin.token_file"
            )),
            // With these statuses the daemon explains why it refuses.
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::SERVICE_UNAVAILABLE => {
                let sentence = body.get(..body.len().min(SENTENCE_BYTES_MAX));
                let sentence = String::from_utf8_lossy(sentence.unwrap_or_default());
                Err(format!("{address}: {}", sentence.trim()))
            }
            status => Err(format!(
                "{address} answered {status}: it is not sealway, or an older version"
            )),
        }
    }

    fn request(&self, question: Question) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut request = Request::builder()
            .uri(question.path)
            .header(HOST, self.address.to_string());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.as_str()));
        }
        if question.body.is_some() {
            request = request
                .method(Method::POST)
                .header(CONTENT_TYPE, "application/json");
        }
        request.body(question.body.unwrap_or_default().into())
    }
}

/// Creates the runtime of a command.
///
/// # Errors
/// When the system refuses its resources.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Trouble> {
    let refused = |error: io::Error| {
        Trouble::Other(format!(
            "the system refuses resources that this command needs: {error}"
        ))
    };
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(refused)
}

/// Escapes everything except printable ASCII.
pub(super) fn plain(text: &str) -> String {
    let shown = |c: char| {
        if c == ' ' || c.is_ascii_graphic() {
            c.to_string()
        } else {
            c.escape_default().to_string()
        }
    };
    text.chars().map(shown).collect()
}

/// The most bytes of a refusal that are shown.
const SENTENCE_BYTES_MAX: usize = 1_024;
