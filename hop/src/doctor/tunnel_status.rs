//! Reads the tunnel's static addresses from `/status` of its admin listener, if the user names that listener. Shows no token.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::http::{self, Stream};

/// The addresses that providers see: `egress.public` if the tunnel has it, otherwise those of its egress.
///
/// # Errors
/// The listener does not answer within the limit, wants another token, or its answer is not that of `/status`; the text
/// begins with a verb.
pub async fn static_addresses(
    listener: (&str, u16),
    token: Option<&Zeroizing<String>>,
    limit: Duration,
) -> Result<Vec<IpAddr>, String> {
    let late = "does not answer in time".to_owned();
    timeout(limit, asked(listener, token))
        .await
        .unwrap_or(Err(late))
}

async fn asked(
    listener: (&str, u16),
    token: Option<&Zeroizing<String>>,
) -> Result<Vec<IpAddr>, String> {
    let resolved = lookup_host(listener).await;
    let resolved: Vec<SocketAddr> = resolved
        .map_err(|error| format!("has no address here: {error}"))?
        .collect();
    let connected = TcpStream::connect(&resolved[..]).await;
    let connected = connected.map_err(|error| format!("cannot be reached: {error}"))?;
    let mut request = Zeroizing::new(Vec::with_capacity(REQUEST_MAX));
    // An address: without a token the listener takes no name (it fears rebinding).
    let host = connected.peer_addr().map_err(|error| error.to_string())?;
    request.extend(format!("GET /status HTTP/1.1\r\nHost: {host}\r\n").as_bytes());
    if let Some(token) = token {
        request.extend(b"Authorization: Bearer ");
        request.extend(token.as_bytes());
        request.extend(b"\r\n");
    }
    request.extend(b"Connection: close\r\n\r\n");
    let mut stream: Stream = Box::new(connected);
    let reply = http::exchange(&mut stream, &request).await;
    let reply = reply.map_err(|error| format!("gives no answer: {error}"))?;
    match reply.status {
        200 => addresses(&reply.body).ok_or_else(|| "is no admin listener of Sealway".to_owned()),
        401 => Err(
            "requires the token in admin.token_file; name that file with --admin-token".to_owned(),
        ),
        status => Err(format!("answers {status}")),
    }
}

/// The addresses in the JSON of `/status`; None if it is something else.
fn addresses(body: &[u8]) -> Option<Vec<IpAddr>> {
    let status: Value = serde_json::from_slice(body).ok()?;
    let parsed = |text: &Value| text.as_str()?.parse::<IpAddr>().ok();
    let public: Option<Vec<_>> = status
        .get("egress_public")?
        .as_array()?
        .iter()
        .map(parsed)
        .collect();
    let egress = status.get("egress")?.as_array()?.iter();
    let egress: Option<Vec<_>> = egress.map(|one| parsed(one.get("address")?)).collect();
    let (public, egress) = (public?, egress?);
    Some(if public.is_empty() { egress } else { public })
}

/// More than head and token need, so that no grown buffer leaves a copy of the token.
const REQUEST_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_count_before_those_of_the_egress() {
        let of = |text: &str| {
            addresses(text.as_bytes()).map(|all| {
                let all: Vec<_> = all.iter().map(ToString::to_string).collect();
                all.join(" ")
            })
        };
        let egress = r#""egress":[{"address":"10.0.0.1","up":true},{"address":"fd00::1"}]"#;
        let with = |public: &str| format!("{{\"egress_public\":[{public}],{egress}}}");
        assert_eq!(of(&with("")).as_deref(), Some("10.0.0.1 fd00::1"));
        assert_eq!(of(&with("\"203.0.113.7\"")).as_deref(), Some("203.0.113.7"));
        for other in ["", "[]", "{}", &with("7"), &with("\"x\"")] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
