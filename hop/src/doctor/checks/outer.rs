//! From here to an open tunnel: D03 to D06. Sends credentials only to a proxy whose certificate is right.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use rustls::AlertDescription;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use super::{BEHIND, Options};
use crate::doctor::codes;
use crate::doctor::finding::{Finding, Report};
use crate::doctor::http::Stream;
use crate::doctor::path::{Connected, Path, dial_each, resolve};
use crate::doctor::tls::TlsFailure;
use crate::doctor::trust::{Facts, Judgement};
use crate::doctor::verdict::Check::{D03, D05, D06};
use crate::doctor::verdict::setup;
use sealway::commands::findings::values::Values;

/// A tunnel to the provider, and the proxy's address that it leads over.
pub(super) async fn open(
    options: &Options,
    path: &Path,
    report: &mut Report,
) -> Option<(SocketAddr, Stream)> {
    let (address, stream) = reach(path, report).await?;
    // The first one shows what the proxy does without credentials.
    let bare = path.proxy.credentials.is_some();
    let stream = greet(options, path, address, stream, report).await?;
    let answer = path.connect(stream, !bare).await;
    if !bare {
        return judge(path, address, answer, report)
            .await
            .map(|stream| (address, stream));
    }
    match answer {
        Connected::Open(_) => report.found(setup::PROXY_OPEN),
        Connected::Refused(reply) => report.fact(
            D06,
            format!(
                "CONNECT without credentials: {} {}",
                reply.status, reply.reason
            ),
        ),
        other => {
            judge(path, address, other, report).await;
            return None;
        }
    }
    let (_, stream) = dial_each(&[address], path.limit).await.pop()?;
    let Ok(stream) = stream else {
        report.found(Finding::new(setup::PROXY_CLOSED, of_address(address)));
        report.skip_all(&BEHIND, "the proxy takes one connection only");
        return None;
    };
    let stream = greet(options, path, address, stream, report).await?;
    let answer = path.connect(stream, true).await;
    judge(path, address, answer, report)
        .await
        .map(|stream| (address, stream))
}

/// TCP to the first address of the proxy that answers.
async fn reach(path: &Path, report: &mut Report) -> Option<(SocketAddr, TcpStream)> {
    let (host, port) = (&path.proxy.host, path.proxy.port);
    let addresses = match resolve(host, port, path.limit).await {
        Ok(addresses) if !addresses.is_empty() => addresses,
        other => {
            let reason = match other {
                Ok(_) => "the answer is empty".to_owned(),
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    "the resolver does not answer".to_owned()
                }
                Err(error) => error.to_string(),
            };
            report.found(Finding::new(
                setup::PROXY_DNS,
                Values::default().with("reason", reason),
            ));
            report.skip_all(&BEHIND, "the proxy's name has no address");
            return None;
        }
    };
    let mut reached = None;
    let mut failed = Vec::new();
    for (address, result) in dial_each(&addresses, path.limit).await {
        match result {
            Ok(stream) => {
                report.fact(D03, format!("{address} answers"));
                reached.get_or_insert((address, stream));
            }
            Err(error) => failed.push((address, error)),
        }
    }
    for (address, error) in failed {
        // Clients pass over an address that fails at once; a silent one delays each connection.
        if reached.is_none() || error.kind() == ErrorKind::TimedOut {
            report.found(not_reached(path, address, &error));
        }
    }
    if reached.is_none() {
        report.skip_all(&BEHIND, "the proxy cannot be reached");
    }
    reached
}

fn not_reached(path: &Path, address: SocketAddr, error: &io::Error) -> Finding {
    let values = of_address(address);
    match error.kind() {
        ErrorKind::ConnectionRefused => Finding::new(setup::PROXY_REFUSED, values),
        ErrorKind::TimedOut => {
            Finding::new(setup::PROXY_TIMEOUT, values.with("limit", seconds(path)))
        }
        _ => Finding::new(
            setup::PROXY_UNREACHABLE,
            values.with("reason", error.to_string()),
        ),
    }
}

/// TLS with the proxy, if its URL says so, with its certificate judged.
async fn greet(
    options: &Options,
    path: &Path,
    address: SocketAddr,
    stream: TcpStream,
    report: &mut Report,
) -> Option<Stream> {
    if !path.proxy.tls {
        return Some(Box::new(stream));
    }
    let handshake = path.secure(stream).await;
    let stream = match handshake.result {
        Ok(stream) => stream,
        Err(failure) => {
            let asked = handshake.asked;
            report.found(of_failure(options, address, asked, &failure));
            report.skip_all(&BEHIND, "TLS with the proxy failed");
            return None;
        }
    };
    let facts = Facts::of(&handshake.chain);
    report.fact(
        D05,
        format!(
            "{}; the certificate is issued by {} and ends at {}",
            handshake.negotiated, facts.issuer, facts.until
        ),
    );
    let name = ServerName::try_from(path.proxy.host.clone()).ok()?;
    let found = match options.proxy_trust.judge(&handshake.chain, &name) {
        Judgement::Public | Judgement::Given | Judgement::SystemOnly => None,
        Judgement::WrongName => Some(setup::PROXY_CERTIFICATE_NAME),
        Judgement::NotNow => Some(setup::PROXY_CERTIFICATE_EXPIRED),
        Judgement::Unknown => Some(setup::PROXY_CERTIFICATE_UNTRUSTED),
    };
    let values = Values::default()
        .with("issuer", facts.issuer)
        .with("names", facts.names)
        .with("until", facts.until);
    match found {
        Some(verdict) => {
            report.found(Finding::new(verdict, values));
            report.skip_all(&BEHIND, "the proxy's certificate is wrong");
            None
        }
        None => {
            if facts.days_left < DAYS_MIN {
                report.found(Finding::new(
                    setup::PROXY_CERTIFICATE_SOON,
                    values.with("days", DAYS_MIN.to_string()),
                ));
            }
            Some(stream)
        }
    }
}

fn of_failure(
    options: &Options,
    address: SocketAddr,
    asked: bool,
    failure: &TlsFailure,
) -> Finding {
    match failure {
        // A Sealway without TLS answers a ClientHello with this alert (tls_on_cleartext); its hop never does so to a client
        // of TLS 1.3.
        TlsFailure::NotTls | TlsFailure::Alert(AlertDescription::ProtocolVersion) => {
            Finding::new(setup::PROXY_SPEAKS_CLEARTEXT, of_address(address))
        }
        TlsFailure::Alert(_) if asked && options.identity.is_none() => {
            setup::PROXY_WANTS_CERTIFICATE.into()
        }
        TlsFailure::Alert(alert) if asked => {
            let values = Values::default().with("alert", format!("{alert:?}"));
            Finding::new(setup::PROXY_REFUSES_CERTIFICATE, values)
        }
        TlsFailure::Closed => Finding::new(setup::PROXY_CLOSED, of_address(address)),
        TlsFailure::Alert(alert) => Finding::new(
            setup::PROXY_TLS,
            Values::default().with("reason", format!("the alert {alert:?}")),
        ),
        TlsFailure::Other(reason) => {
            Finding::new(setup::PROXY_TLS, Values::default().with("reason", reason))
        }
    }
}

/// The tunnel, or a finding.
async fn judge(
    path: &Path,
    address: SocketAddr,
    answer: Connected,
    report: &mut Report,
) -> Option<Stream> {
    let finding = match answer {
        Connected::Open(stream) => return Some(stream),
        Connected::Refused(reply) => codes::refused(&reply),
        Connected::NotHttp(bytes)
            if !path.proxy.tls && (is_tls(&bytes) || speaks_tls(path, address).await) =>
        {
            setup::PROXY_SPEAKS_TLS.into()
        }
        Connected::NotHttp(_) => Finding::new(setup::PROXY_NOT_HTTP, of_address(address)),
        Connected::Closed if !path.proxy.tls && speaks_tls(path, address).await => {
            setup::PROXY_SPEAKS_TLS.into()
        }
        Connected::Closed => Finding::new(setup::PROXY_CLOSED, of_address(address)),
        // In TLS 1.3 a refused certificate shows when the client reads first.
        Connected::Tls(TlsFailure::Alert(alert)) => {
            let values = Values::default().with("alert", format!("{alert:?}"));
            match path.identity {
                Some(_) => Finding::new(setup::PROXY_REFUSES_CERTIFICATE, values),
                None => Finding::new(setup::PROXY_WANTS_CERTIFICATE, values),
            }
        }
        Connected::Tls(_) => Finding::new(
            setup::PROXY_TLS,
            Values::default().with("reason", "the session broke"),
        ),
        Connected::Late => Finding::new(
            setup::CONNECT_TIMEOUT,
            Values::default().with("limit", seconds(path)),
        ),
    };
    report.found(finding);
    report.skip_all(&BEHIND, "the proxy opened no tunnel");
    None
}

/// Whether a listener that gave no HTTP answer answers a ClientHello.
async fn speaks_tls(path: &Path, address: SocketAddr) -> bool {
    let dialled = dial_each(&[address], path.limit).await.pop();
    let Some((_, Ok(stream))) = dialled else {
        return false;
    };
    let handshake = path.secure(stream).await;
    handshake.result.is_ok() || matches!(handshake.result, Err(TlsFailure::Alert(_)))
}

/// The first byte of an alert or handshake record.
fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(21 | 22))
}

fn of_address(address: SocketAddr) -> Values {
    Values::default()
        .with("address", address.to_string())
        .with("ip", address.ip().to_string())
}

fn seconds(path: &Path) -> String {
    format!("{} s", path.limit.as_secs_f32())
}

/// Authorities on the internet renew earlier.
const DAYS_MIN: i64 = 14;
