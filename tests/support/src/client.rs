//! Clients: a raw CONNECT, a TLS client behind it, and the small part of HTTP that the admin pages
//! need.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{HOST, soon};

/// The proxy's reply to a CONNECT, and the connection after it.
pub struct Reply {
    /// Without its line end.
    pub status_line: String,
    /// Names as they were sent.
    pub headers: Vec<(String, String)>,
    /// Empty after a 200.
    pub body: String,
    pub stream: TcpStream,
}

impl Reply {
    /// The status code.
    pub fn status(&self) -> u16 {
        status_of(&self.status_line)
    }

    /// A header's value, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The connection after a 200; any other reply fails the test.
    pub fn established(self) -> TcpStream {
        assert_eq!(
            self.status_line, "HTTP/1.1 200 Connection established",
            "{}",
            self.body
        );
        assert_eq!(self.headers, []);
        self.stream
    }
}

/// Connects to the proxy and requests `authority`.
pub async fn connect(proxy: SocketAddr, authority: &str, headers: &[(&str, &str)]) -> Reply {
    let mut stream = dial(proxy).await;
    let head = connect_head(authority, headers);
    stream
        .write_all(head.as_bytes())
        .await
        .expect("send the CONNECT head");
    read_reply(stream).await
}

/// A connection without Nagle's delay, so that the test decides what a segment is.
pub async fn dial(address: SocketAddr) -> TcpStream {
    let stream = soon("a TCP connection", TcpStream::connect(address))
        .await
        .expect("connect");
    stream.set_nodelay(true).expect("nodelay");
    stream
}

/// The head of a CONNECT in the form of most clients.
pub fn connect_head(authority: &str, headers: &[(&str, &str)]) -> String {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{headers}\r\n")
}

/// Reads the proxy's reply and no byte after it.
pub async fn read_reply(mut stream: TcpStream) -> Reply {
    let head = soon("the proxy's answer", read_head(&mut stream)).await;
    let mut lines = head.trim_end().split("\r\n");
    let status_line = lines.next().unwrap_or_default().to_string();
    let split = |line: &str| {
        line.split_once(": ")
            .map(|(name, value)| (name.to_string(), value.to_string()))
    };
    let headers = lines
        .map(|line| split(line).unwrap_or_else(|| panic!("no header: {line:?}")))
        .collect();
    let mut reply = Reply {
        status_line,
        headers,
        body: String::new(),
        stream,
    };
    let length = reply
        .header("content-length")
        .map_or(0, |value| value.parse().expect("a length"));
    let mut body = vec![0; length];
    soon("the whole body", reply.stream.read_exact(&mut body))
        .await
        .expect("read the body");
    reply.body = String::from_utf8(body).expect("a body in UTF-8");
    reply
}

/// Requests `authority` from the proxy and does a TLS handshake for [`HOST`] through it.
pub async fn tls_connect(
    proxy: SocketAddr,
    authority: &str,
    tls: Arc<ClientConfig>,
) -> TlsStream<TcpStream> {
    let stream = connect(proxy, authority, &[]).await.established();
    let name = ServerName::try_from(HOST).expect("a name");
    soon(
        "the TLS handshake",
        TlsConnector::from(tls).connect(name, stream),
    )
    .await
    .expect("TLS handshake")
}

/// The status and the body of a page.
pub async fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    try_http_get(address, path).await.expect("a page")
}

/// The same for a daemon that may end the connection early.
pub async fn try_http_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok((status_of(head), body.to_string()))
}

/// Up to the empty line, inclusive, byte by byte: the bytes after it belong to another reader.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await;
        head.push(
            byte.unwrap_or_else(|error| {
                panic!("{error} after {:?}", String::from_utf8_lossy(&head))
            }),
        );
    }
    String::from_utf8(head).expect("a head in UTF-8")
}

fn status_of(line: &str) -> u16 {
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no status line: {line:?}"))
}
