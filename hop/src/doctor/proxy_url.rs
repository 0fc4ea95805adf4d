//! The proxy URL, as clients read it from HTTPS_PROXY (RFC 3986), and what they get wrong in it. Pure.
//!
//! Never shows the secret: the name is all that its texts may hold of the credentials.

use zeroize::Zeroizing;

use super::finding::Finding;
use super::verdict::setup;
use sealway::commands::findings::values::Values;

/// A proxy.
#[derive(Clone)]
pub struct ProxyUrl {
    /// Whether the listener speaks TLS (`https://`).
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Name and secret, percent-decoded.
    pub credentials: Option<Credentials>,
}

/// A user's name and secret.
#[derive(Clone)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The secret.
    pub secret: Zeroizing<String>,
}

impl ProxyUrl {
    /// Reads a URL. The findings do not prevent a run, unless there is no URL.
    #[must_use]
    pub fn parse(text: &str) -> (Option<Self>, Vec<Finding>) {
        let mut findings = Vec::new();
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None => {
                findings.push(setup::URL_NO_SCHEME.into());
                ("http".to_owned(), text)
            }
        };
        let invalid = |mut findings: Vec<Finding>, reason: &str| {
            let values = Values::default().with("reason", reason);
            findings.push(Finding::new(setup::URL_INVALID, values));
            (None, findings)
        };
        let tls = match scheme.as_str() {
            "http" => false,
            "https" => true,
            other => {
                let values = Values::default().with("scheme", other);
                findings.push(Finding::new(setup::URL_SCHEME, values));
                return (None, findings);
            }
        };
        // The last @: a secret with an unencoded one is still found.
        let (userinfo, behind) = match rest.rsplit_once('@') {
            Some((userinfo, behind)) => (Some(userinfo), behind),
            None => (None, rest),
        };
        if userinfo.is_some_and(must_be_encoded) {
            findings.push(setup::URL_ENCODING.into());
        }
        let authority = behind.split(['/', '?', '#']).next().unwrap_or_default();
        let Some((host, port)) = host_and_port(authority) else {
            return invalid(
                findings,
                "no host, or a port that is no number from 1 to 65535",
            );
        };
        let port = port.unwrap_or_else(|| {
            findings.push(setup::URL_NO_PORT.into());
            if tls { 443 } else { 80 }
        });
        let credentials = userinfo.map(credentials);
        (
            Some(Self {
                tls,
                host,
                port,
                credentials,
            }),
            findings,
        )
    }

    /// The URL without credentials.
    #[must_use]
    pub fn shown(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", authority(&self.host, self.port))
    }

    /// What the texts of findings say of it.
    #[must_use]
    pub fn values(&self) -> Values {
        let userinfo = if self.credentials.is_some() {
            "NAME:SECRET@"
        } else {
            ""
        };
        let bracketed = authority(&self.host, self.port);
        let host = bracketed.rsplit_once(':').map_or("", |(host, _)| host);
        // Alone, it may be a secret that was misplaced.
        let known = self
            .credentials
            .as_ref()
            .filter(|known| !known.secret.is_empty());
        let user = known.map_or("", |known| known.user.as_str());
        let mut values = Values::default()
            .with("proxy", self.shown())
            .with("proxy_host", host)
            .with("proxy_port", self.port.to_string())
            .with("user", user);
        values.set_exactly("userinfo", userinfo);
        values
    }

    /// Whether both lead to the same listener.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.tls, self.port) == (other.tls, other.port)
            && self.host.eq_ignore_ascii_case(&other.host)
    }
}

/// `HOST:PORT`, with brackets around an IPv6 address.
#[must_use]
pub fn authority(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Reads `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`.
#[must_use]
pub fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            match after {
                "" => (host, None),
                _ => (host, Some(after.strip_prefix(':')?)),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let known = |c: char| c.is_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || host.len() > 253 || !host.chars().all(known) {
        return None;
    }
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    Some((host.to_owned(), port))
}

/// Whether clients read other credentials than were meant.
fn must_be_encoded(userinfo: &str) -> bool {
    let bytes = userinfo.as_bytes();
    let broken = |(place, byte): (usize, &u8)| match byte {
        b'%' => {
            let digits = bytes.get(place + 1..place + 3);
            !digits.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
        }
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => false,
        byte => !b"-._~!$&'()*+,;=:".contains(byte),
    };
    bytes.iter().enumerate().any(broken) || bytes.iter().filter(|byte| **byte == b':').count() > 1
}

fn credentials(userinfo: &str) -> Credentials {
    let (user, secret) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    Credentials {
        user: decoded(user).to_string(),
        secret: decoded(secret),
    }
}

/// Percent-decoded; a `%` without two digits stands for itself.
fn decoded(text: &str) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let two = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let two =
            two.filter(|two| *first == b'%' && two.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match two.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<&'static str> {
        let (_, findings) = ProxyUrl::parse(text);
        findings
            .iter()
            .map(|finding| finding.verdict.code)
            .collect()
    }

    #[test]
    fn a_good_url_has_no_finding_and_its_parts() {
        for (text, shown, user, secret) in [
            ("http://127.0.0.1:9293", "http://127.0.0.1:9293", "", ""),
            (
                "https://alice:s3cr%40t@tunnel.example:443/",
                "https://tunnel.example:443",
                "alice",
                "s3cr@t",
            ),
            (
                "HTTP://a:b@[2001:db8::1]:9293",
                "http://[2001:db8::1]:9293",
                "a",
                "b",
            ),
            (
                " http://a:%F0%9F%98%80@h:1 ",
                "http://h:1",
                "a",
                "\u{1f600}",
            ),
        ] {
            let (url, findings) = ProxyUrl::parse(text);
            let url = url.unwrap();
            assert!(findings.is_empty(), "{text}");
            assert_eq!(url.shown(), shown);
            let found = url
                .credentials
                .map(|found| (found.user, found.secret.to_string()));
            let wanted = (!user.is_empty()).then(|| (user.to_owned(), secret.to_owned()));
            assert_eq!(found, wanted, "{text}");
        }
    }

    #[test]
    fn each_mistake_is_named() {
        for (text, wanted) in [
            ("socks5://h:1080", &["proxy_url_scheme"][..]),
            ("h:9293", &["proxy_url_no_scheme"]),
            ("http://h", &["proxy_url_no_port"]),
            ("http://h:0", &["proxy_url_invalid"]),
            ("http://:9293", &["proxy_url_invalid"]),
            ("http://h:99999", &["proxy_url_invalid"]),
            ("http://[2001:db8::1:9293", &["proxy_url_invalid"]),
            ("http://a:b@c@h:9293", &["proxy_url_encoding"]),
            ("http://a:b/c@h:9293", &["proxy_url_encoding"]),
            ("http://a:b#c@h:9293", &["proxy_url_encoding"]),
            ("http://a:b:c@h:9293", &["proxy_url_encoding"]),
            ("http://a:100%@h:9293", &["proxy_url_encoding"]),
            ("http://a:pä@h:9293", &["proxy_url_encoding"]),
            ("", &["proxy_url_no_scheme", "proxy_url_invalid"]),
        ] {
            assert_eq!(codes(text), wanted, "{text}");
        }
    }

    #[test]
    fn no_text_shows_the_secret() {
        for text in [
            "http://a:CANARY@h:9293",
            "http://a:CAN@ARY@h:9293",
            "x://a:CANARY@h",
            "http://a:CANARY@",
            "CANARY@h",
        ] {
            let (url, findings) = ProxyUrl::parse(text);
            let shown = url.map(|url| format!("{:?} {}", url.values(), url.shown()));
            let texts = format!("{findings:?} {shown:?}");
            assert!(
                !texts.contains("CANARY") && !texts.contains("ARY"),
                "{texts}"
            );
        }
    }
}
