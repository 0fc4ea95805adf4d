//! Decides who may send requests to the admin listener: a client that shows the token or, if none
//! is set, one that addresses the listener by an IP address or as `localhost`. Other clients learn
//! nothing.
//!
//! Other names are refused because of DNS rebinding: a web page can make its own name resolve to
//! 127.0.0.1 and read the admin pages through its visitor's browser. It cannot make the browser
//! send a Host header other than that name (RFC 9110, section 7.2), and a page served from a bare
//! address can only read that address.

use std::net::IpAddr;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::http::uri::Authority;
use hyper::{Request, Response, StatusCode, Uri};

use crate::auth::SecretHash;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// It has no token, or a wrong one.
    NoToken,
    /// It addresses the listener by a name.
    ByName,
}

/// The sender of an admitted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visitor {
    /// It has shown the token, or no token is set.
    Known,
    /// A token is set and was not shown; the request is for an open page.
    Guest,
}

/// Admits a request. Guests reach only the open pages. The operators' token admits as well as
/// `token` does.
pub(super) fn admit<B>(
    request: &Request<B>,
    token: Option<&SecretHash>,
    operator: Option<&SecretHash>,
) -> Result<Visitor, Stranger> {
    let shown = |token| shows(request.headers(), token);
    match token {
        None if is_called_by_address(request.uri(), request.headers()) => Ok(Visitor::Known),
        None => Err(Stranger::ByName),
        Some(token) if [Some(token), operator].into_iter().flatten().any(shown) => {
            Ok(Visitor::Known)
        }
        Some(_) if OPEN.contains(&request.uri().path()) => Ok(Visitor::Guest),
        Some(_) => Err(Stranger::NoToken),
    }
}

/// Builds the answer to a refused request.
pub(super) fn refusal(stranger: Stranger) -> Response<Full<Bytes>> {
    match stranger {
        Stranger::NoToken => {
            let mut refusal = super::answer::text(StatusCode::UNAUTHORIZED, NO_TOKEN.into());
            refusal.headers_mut().insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"sealway\""),
            );
            refusal
        }
        Stranger::ByName => super::answer::text(StatusCode::MISDIRECTED_REQUEST, BY_NAME.into()),
    }
}

/// Whether the headers contain this token (RFC 6750, section 2.1).
pub(super) fn shows(headers: &HeaderMap, token: &SecretHash) -> bool {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(only), None) = (given.next(), given.next()) else {
        return false;
    };
    let Some((scheme, shown)) = only.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return false;
    };
    scheme.eq_ignore_ascii_case("bearer") && token.is_of(shown.trim_ascii())
}

/// Whether every Host is an address or `localhost`. A client of HTTP/1.0 may omit Host; a browser
/// never does.
fn is_called_by_address(uri: &Uri, headers: &HeaderMap) -> bool {
    let named = headers
        .get_all(HOST)
        .iter()
        .map(|host| host.to_str().ok().and_then(|text| text.parse().ok()));
    let mut named = named.chain(uri.authority().cloned().map(Some));
    named.all(|authority: Option<Authority>| {
        authority.is_some_and(|authority| is_address(authority.host()))
    })
}

fn is_address(host: &str) -> bool {
    let bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    bracketed.unwrap_or(host).parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}

/// Pages that need no token. The status page is empty until its script has the token; probes, which
/// cannot keep a secret, learn whether the process lives and is ready.
const OPEN: [&str; 4] = ["/", "/healthz", "/readyz", "/standbyz"];
const NO_TOKEN: &str =
    "this listener requires the token in admin.token_file: send Authorization: Bearer TOKEN\n";
const BY_NAME: &str =
    "the Host header is a name: use an address or localhost, or set admin.token_file\n";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hyper::http::request::Builder;

    fn asks(
        path: &str,
        headers: &[(&str, &str)],
        token: Option<&str>,
    ) -> Result<Visitor, Stranger> {
        let with = |request: Builder, (name, value): &(&str, &str)| request.header(*name, *value);
        let request = headers
            .iter()
            .fold(Request::get(path), with)
            .body(())
            .unwrap();
        admit(&request, token.map(SecretHash::of).as_ref(), None)
    }

    #[test]
    fn without_a_token_the_host_must_be_an_address_or_localhost() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9294",
            "[::1]:9294",
            "[::1]",
            "localhost",
            "LOCALHOST:1",
            "192.0.2.1:80",
        ] {
            assert_eq!(
                asks("/status", &[("host", host)], None),
                Ok(Visitor::Known),
                "{host}"
            );
        }
        assert_eq!(asks("/status", &[], None), Ok(Visitor::Known), "HTTP/1.0");
        for host in [
            "evil.example",
            "evil.example:9294",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "x",
            "",
            "a b",
        ] {
            for path in ["/status", "/metrics", "/", "/healthz"] {
                assert_eq!(
                    asks(path, &[("host", host)], None),
                    Err(Stranger::ByName),
                    "{host} {path}"
                );
            }
        }
        let both = [("host", "127.0.0.1"), ("host", "evil.example")];
        assert_eq!(asks("/status", &both, None), Err(Stranger::ByName));
        assert_eq!(
            asks("http://evil.example/status", &both[..1], None),
            Err(Stranger::ByName)
        );
    }

    #[test]
    fn a_configured_token_is_required_under_any_host_name() {
        let token = "0123456789abcdef0123456789abcdef";
        let right = format!("Bearer {token}");
        for shown in [right.as_str(), &right.replace("Bearer", "bearer")] {
            assert_eq!(
                asks(
                    "/status",
                    &[("host", "x"), ("authorization", shown)],
                    Some(token)
                ),
                Ok(Visitor::Known)
            );
        }
        let wrong = [
            "",
            "Bearer",
            "Bearer ",
            token,
            &right[..right.len() - 1],
            &right.replace("Bearer", "Basic"),
        ];
        for shown in wrong {
            let asked = asks("/status", &[("authorization", shown)], Some(token));
            assert_eq!(asked, Err(Stranger::NoToken), "{shown}");
        }
        let twice = [
            ("authorization", right.as_str()),
            ("authorization", right.as_str()),
        ];
        assert_eq!(asks("/status", &twice, Some(token)), Err(Stranger::NoToken));
        for (path, open) in [
            ("/", true),
            ("/healthz", true),
            ("/readyz", true),
            ("/standbyz", true),
            ("/metrics", false),
            ("/x", false),
        ] {
            let expected = if open {
                Ok(Visitor::Guest)
            } else {
                Err(Stranger::NoToken)
            };
            assert_eq!(
                asks(path, &[("host", "127.0.0.1")], Some(token)),
                expected,
                "{path}"
            );
            assert_eq!(
                asks(path, &[("authorization", &right)], Some(token)),
                Ok(Visitor::Known),
                "{path}"
            );
        }
    }
}
