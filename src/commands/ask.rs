//! One question to the admin listener of a running daemon (RFC 9110), on a connection of its own, bounded in time and size.
//! Never reads more of the configuration than where the daemon is watched, and never prints.

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

/// Whom to ask.
pub(super) struct Door {
    address: SocketAddr,
    token: Option<Zeroizing<String>>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visitor {
    /// Somebody who watches.
    Watcher,
    /// Somebody who looks at single tunnels or changes what the daemon does.
    Operator,
}

/// What to ask.
pub(super) struct Question {
    pub(super) path: &'static str,
    /// The JSON to POST; None: GET.
    pub(super) body: Option<String>,
    /// Bytes that the answer may have.
    pub(super) answer_max: usize,
    /// How long the whole exchange may take.
    pub(super) patience: Duration,
}

impl Door {
    /// Where the daemon of this configuration is watched. Who may ask need not be able to read its users, and who only
    /// watches not the operators' token.
    ///
    /// # Errors
    /// When the configuration does not say where.
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
            is_needed && (problem.key.contains("admin") || is_of_file(problem))
        });
        if !problems.is_empty() {
            return Err(Trouble::of(&problems));
        }
        let wrong = |message: &str| Trouble::Config(vec![format!("admin.address: {message}")]);
        let mut address = config
            .admin
            .ok_or_else(|| wrong("it is \"\": there is nobody to ask"))?;
        if address.port() == 0 {
            return Err(wrong(
                "port 0 is chosen anew at each start: name the one of the start record with --admin",
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

    /// Asks, and gives the answer's JSON; or why there is none, in a sentence that a terminal may see.
    pub(super) async fn ask<T: DeserializeOwned>(&self, question: Question) -> Result<T, String> {
        let address = self.address;
        match timeout(question.patience, self.exchange(question)).await {
            // What is no daemon may have said anything.
            Ok(answer) => answer.map_err(|reason| plain(&reason)),
            Err(_) => Err(format!(
                "{address} does not answer: what listens there is stuck, or is no sealway"
            )),
        }
    }

    /// The same, and waits for it.
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
                "no daemon at {address}: {error}; is sealway run up? --config FILE or --admin ADDR says where it is watched"
            )
        };
        let broken = |error: &dyn Display| format!("{address} gave no answer: {error}");
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| nobody(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        // It ends with the sender, and what went wrong on it the sender is told.
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
                format!("{address} is no sealway, or of another version: {error}")
            }),
            StatusCode::UNAUTHORIZED => Err(format!(
                "{address} asks for its token: use a --config FILE that has it as admin.token_file"
            )),
            // What the daemon says to whoever may not, or asked for what cannot be.
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::SERVICE_UNAVAILABLE => {
                let sentence = body.get(..body.len().min(SENTENCE_BYTES_MAX));
                let sentence = String::from_utf8_lossy(sentence.unwrap_or_default());
                Err(format!("{address}: {}", sentence.trim()))
            }
            status => Err(format!(
                "{address} answered {status}: it is no sealway, or an older one"
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

/// What a command needs to ask.
///
/// # Errors
/// When the machine refuses it.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Trouble> {
    let refused = |error: io::Error| {
        Trouble::Other(format!(
            "the machine refuses what this command needs: {error}"
        ))
    };
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(refused)
}

/// Printable ASCII stays; anything else is written as Rust would.
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

/// The longest refusal that is shown.
const SENTENCE_BYTES_MAX: usize = 1_024;
