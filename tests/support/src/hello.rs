//! The greetings of raw tunnels: ClientHellos recorded from real clients, and a ServerHello for
//! each.

use std::path::PathBuf;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A ClientHello as a real client sent it, and the properties of its handshake.
pub struct Recorded {
    pub name: String,
    pub bytes: Vec<u8>,
    pub sni: Option<String>,
    pub alpn: Vec<String>,
    pub records: usize,
    offers_tls13: bool,
}

impl Recorded {
    /// One recording by its name in the manifest.
    pub fn named(name: &str) -> Recorded {
        Recorded::from_manifest(name, &manifest()[name])
    }

    /// Every recording.
    pub fn all() -> Vec<Recorded> {
        let manifest = manifest();
        let entries = manifest.as_object().expect("client_hellos");
        entries
            .iter()
            .map(|(name, entry)| Recorded::from_manifest(name, entry))
            .collect()
    }

    /// Sends the hello and reads the answer to it, which must arrive unchanged.
    pub async fn greet(&self, client: &mut TcpStream) {
        let mut answer = self.server_hello();
        client.write_all(&self.bytes).await.expect("send the hello");
        client
            .read_exact(&mut answer)
            .await
            .expect("read the answer");
        assert!(answer == self.server_hello(), "the answer arrived changed");
    }

    fn from_manifest(name: &str, entry: &Value) -> Recorded {
        let file = entry["file"]
            .as_str()
            .unwrap_or_else(|| panic!("no recording is named {name}"));
        let texts = |key: &str| -> Vec<String> {
            let values = entry[key].as_array().expect("an array");
            values
                .iter()
                .map(|value| value.as_str().expect("a text").to_string())
                .collect()
        };
        Recorded {
            name: name.to_string(),
            bytes: std::fs::read(fixtures().join(file)).expect("a recording"),
            sni: entry["sni"].as_str().map(str::to_string),
            alpn: texts("alpn"),
            records: entry["record_lens"].as_array().expect("an array").len(),
            offers_tls13: texts("versions").iter().any(|version| version == "1.3"),
        }
    }

    /// The record with which an upstream accepts this hello: TLS 1.3 with X25519 if the client
    /// offers it, otherwise TLS 1.2.
    pub fn server_hello(&self) -> Vec<u8> {
        let cipher: [u8; 2] = if self.offers_tls13 {
            [0x13, 0x01]
        } else {
            [0xc0, 0x2f]
        };
        let mut body = vec![3, 3];
        body.extend([0x5a; 32]); // random
        body.extend(self.session_id());
        body.extend(cipher);
        body.push(0); // no compression
        if self.offers_tls13 {
            let mut extensions = vec![0, 43, 0, 2, 3, 4]; // supported_versions: 1.3
            extensions.extend([0, 51, 0, 36, 0, 29, 0, 32]); // key_share: x25519
            extensions.extend([0x09; 32]);
            body.extend(length(&extensions));
            body.extend(extensions);
        }
        let [high, low] = length(&body);
        let handshake = [vec![2, 0, high, low], body].concat();
        record(&handshake)
    }

    /// The same handshake cut into records of these sizes, followed by one with the rest.
    pub fn in_records(&self, sizes: &[usize]) -> Vec<u8> {
        let handshake = self.handshake();
        let (mut rest, mut records) = (handshake.as_slice(), Vec::new());
        for size in sizes {
            let (fragment, next) = rest.split_at(*size);
            records.extend(record(fragment));
            rest = next;
        }
        records.extend(record(rest));
        records
    }

    /// The handshake message without its record headers.
    pub fn handshake(&self) -> Vec<u8> {
        let (mut rest, mut handshake) = (self.bytes.as_slice(), Vec::new());
        while let [_, _, _, high, low, tail @ ..] = rest {
            let (fragment, next) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            handshake.extend_from_slice(fragment);
            rest = next;
        }
        handshake
    }

    /// The client's session id with its length: a ServerHello of TLS 1.3 repeats it.
    fn session_id(&self) -> Vec<u8> {
        let handshake = self.handshake();
        let at = 4 + 2 + 32;
        handshake[at..=at + usize::from(handshake[at])].to_vec()
    }
}

/// One handshake record.
fn record(fragment: &[u8]) -> Vec<u8> {
    [&[22, 3, 3], length(fragment).as_slice(), fragment].concat()
}

fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len())
        .expect("a short message")
        .to_be_bytes()
}

fn manifest() -> Value {
    let text = std::fs::read_to_string(fixtures().join("manifest.json")).expect("the manifest");
    let manifest: Value = serde_json::from_str(&text).expect("JSON");
    manifest["client_hellos"].clone()
}

fn fixtures() -> PathBuf {
    crate::root().join("tests/fixtures")
}
