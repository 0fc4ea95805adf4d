//! A balancer or TLS terminator in front of the daemon: connections that begin with a header of the PROXY protocol.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader, Tlv};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::client::{Reply, connect_head, dial, read_reply};
use crate::config::Config;
use crate::soon;

/// A client that a header declares.
pub const CLIENT: &str = "198.51.100.7:51234";

/// A daemon whose listener on loopback takes headers from these networks, and whose clients may come from anywhere.
pub fn config(upstream: SocketAddr, from: &[&str]) -> Config {
    Config::to(upstream)
        .listener(&listener(from, ""))
        .section("[auth]\nclients = [\"0.0.0.0/0\", \"::/0\"]")
}

/// The lines of its listener, with more keys of `proxy_protocol`.
pub fn listener(from: &[&str], keys: &str) -> String {
    format!("address = \"127.0.0.1:0\"\nproxy_protocol = {{ from = {from:?}{keys} }}")
}

/// A header of version 1 for this client.
pub fn v1(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect("an address");
    let (family, proxy) = match client {
        SocketAddr::V4(_) => ("TCP4", "192.0.2.1"),
        SocketAddr::V6(_) => ("TCP6", "2001:db8::1"),
    };
    format!(
        "PROXY {family} {} {proxy} {} 9293\r\n",
        client.ip(),
        client.port()
    )
    .into_bytes()
}

/// A header of version 2 for this client, or with the command LOCAL, and with TLVs.
pub fn v2<'a>(client: Option<&str>, tlvs: impl IntoIterator<Item = Tlv<'a>>) -> Vec<u8> {
    let addresses = client.map(|client| {
        let client: SocketAddr = client.parse().expect("an address");
        let proxy = match client {
            SocketAddr::V4(_) => "192.0.2.1:9293",
            SocketAddr::V6(_) => "[2001:db8::1]:9293",
        };
        ProxiedAddress::stream(client, proxy.parse().expect("an address"))
    });
    let mut bytes = Vec::new();
    let encoded = ProxyHeader::with_tlvs(addresses, tlvs).encode_v2(&mut bytes);
    encoded.expect("a header");
    bytes
}

/// Sends a header and a CONNECT in one segment, and reads the answer.
pub async fn connect_behind(
    proxy: SocketAddr,
    header: &[u8],
    authority: &str,
    headers: &[(&str, &str)],
) -> Reply {
    let mut stream = dial(proxy).await;
    let head = connect_head(authority, headers);
    let bytes = [header, head.as_bytes()].concat();
    stream.write_all(&bytes).await.expect("send");
    read_reply(stream).await
}

/// Connects from this address of the machine.
pub async fn dial_from(source: &str, proxy: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let source: IpAddr = source.parse().expect("an address");
    socket.bind(SocketAddr::new(source, 0)).expect("bind");
    soon("a TCP connection", socket.connect(proxy))
        .await
        .expect("connect")
}
