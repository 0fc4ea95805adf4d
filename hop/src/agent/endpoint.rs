//! The URL of an upstream, `https://NAME:SECRET@HOST:PORT`. A problem never shows the URL, because the secret is in it.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::ServerName;
use zeroize::Zeroizing;

/// An upstream as the operator names it.
#[derive(Clone)]
pub struct Endpoint {
    /// The name for its certificate; None: cleartext.
    pub tls: Option<ServerName<'static>>,
    /// A DNS name or an address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The field `Proxy-Authorization`, CR LF included; empty without credentials.
    pub authorization: Zeroizing<String>,
}

/// What is wrong with a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Another scheme, or none.
    #[error("does not begin with https://")]
    Scheme,
    /// Cleartext to another machine.
    #[error(
        "has the scheme http, so that the secret and the hosts would cross the network in clear: use https, or set SEALWAY_AGENT_ALLOW_CLEARTEXT=true"
    )]
    Cleartext,
    /// Anything after the port.
    #[error("has a path, a query or a fragment: end it after the port")]
    Path,
    /// Not a DNS name or an address.
    #[error("names no valid host")]
    Host,
    /// No port, or not a port.
    #[error("names no port from 1 to 65535: end it with HOST:PORT, such as a.example:9443")]
    Port,
    /// Not `NAME:SECRET`.
    #[error(
        "has credentials that are not NAME:SECRET, both percent-encoded where they are not letters, digits, - . _ or ~"
    )]
    Credentials,
}

impl Endpoint {
    /// Reads one URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str, allows_cleartext: bool) -> Result<Self, EndpointError> {
        let (scheme, rest) = url.split_once("://").ok_or(EndpointError::Scheme)?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(EndpointError::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, at) = match rest.rsplit_once('@') {
            Some((credentials, at)) => (Some(credentials), at),
            None => (None, rest),
        };
        if at.contains(['/', '?', '#']) {
            return Err(EndpointError::Path);
        }
        let (host, port) = at.rsplit_once(':').ok_or(EndpointError::Port)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0);
        let port = port.ok_or(EndpointError::Port)?;
        let host = match host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            Some(host) => {
                let address: std::net::Ipv6Addr = host.parse().map_err(|_| EndpointError::Host)?;
                address.to_string()
            }
            None if host.contains(':') => return Err(EndpointError::Host),
            None => host.to_ascii_lowercase(),
        };
        let name = ServerName::try_from(host.clone()).map_err(|_| EndpointError::Host)?;
        if !is_tls && !allows_cleartext && !is_loopback(&host) {
            return Err(EndpointError::Cleartext);
        }
        Ok(Self {
            tls: is_tls.then_some(name),
            host,
            port,
            authorization: credentials
                .map(authorization)
                .transpose()?
                .unwrap_or_default(),
        })
    }

    /// `HOST:PORT`, which is the name of the upstream in logs, metrics and replies.
    #[must_use]
    pub fn name(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost",
    }
}

/// The field `Proxy-Authorization` (RFC 7617).
fn authorization(credentials: &str) -> Result<Zeroizing<String>, EndpointError> {
    let (name, secret) = credentials
        .split_once(':')
        .ok_or(EndpointError::Credentials)?;
    let (name, secret) = (decoded(name)?, decoded(secret)?);
    // In Basic credentials the first colon ends the name.
    if name.is_empty() || name.contains(':') || secret.is_empty() {
        return Err(EndpointError::Credentials);
    }
    let both = Zeroizing::new(format!("{}:{}", *name, *secret));
    let encoded = Zeroizing::new(STANDARD.encode(both.as_bytes()));
    Ok(Zeroizing::new(format!(
        "Proxy-Authorization: Basic {}\r\n",
        *encoded
    )))
}

/// Text without percent-encoding (RFC 3986, section 2.1).
fn decoded(text: &str) -> Result<Zeroizing<String>, EndpointError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                let (high, low) = (digit(rest.next()), digit(rest.next()));
                let value = high.zip(low).map(|(high, low)| high * 16 + low);
                let value = value.and_then(|value| u8::try_from(value).ok());
                value.ok_or(EndpointError::Credentials)?
            }
            byte => byte,
        });
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) if !text.chars().any(char::is_control) => Ok(Zeroizing::new(text.to_owned())),
        _ => Err(EndpointError::Credentials),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::parse(url, false)
    }

    #[test]
    fn a_url_is_read_with_its_credentials() {
        let endpoint = parse("https://alice:p%40ss%3aword@A.Example:9443/").unwrap();
        assert_eq!(endpoint.name(), "a.example:9443");
        // printf 'alice:p@ss:word' | base64
        assert_eq!(
            endpoint.authorization.as_str(),
            "Proxy-Authorization: Basic YWxpY2U6cEBzczp3b3Jk\r\n"
        );
        assert_eq!(format!("{endpoint:?}"), "a.example:9443");
        let endpoint = parse("https://[2001:DB8::7]:443").unwrap();
        assert_eq!(
            (endpoint.name().as_str(), endpoint.authorization.as_str()),
            ("[2001:db8::7]:443", "")
        );
        assert!(parse("http://127.0.0.9:1").unwrap().tls.is_none());
        assert!(
            Endpoint::parse("http://a.example:1", true)
                .unwrap()
                .tls
                .is_none()
        );
    }

    #[test]
    fn each_fault_is_named_and_no_secret_with_it() {
        use EndpointError as E;
        for (url, wanted) in [
            ("a.example:9443", E::Scheme),
            ("socks5://a.example:9443", E::Scheme),
            ("http://a.example:9293", E::Cleartext),
            ("http://192.0.2.1:9293", E::Cleartext),
            ("https://a.example", E::Port),
            ("https://a.example:0", E::Port),
            ("https://a.example:+1", E::Port),
            ("https://a.example:65536", E::Port),
            ("https://a.example:9443/x", E::Path),
            ("https://:9443", E::Host),
            ("https://a..b:9443", E::Host),
            ("https://2001:db8::7:9443", E::Host),
            ("https://[a.example]:9443", E::Host),
            ("https://alice@a.example:9443", E::Credentials),
            ("https://alice:@a.example:9443", E::Credentials),
            ("https://:hunter2@a.example:9443", E::Credentials),
            ("https://a%3ab:hunter2@a.example:9443", E::Credentials),
            ("https://alice:hunter2%zz@a.example:9443", E::Credentials),
            (
                "https://alice:hunter2%0d%0aX@a.example:9443",
                E::Credentials,
            ),
        ] {
            let error = parse(url).unwrap_err();
            assert_eq!(error, wanted, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{url}");
        }
    }
}
