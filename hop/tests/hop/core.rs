//! A daemon's listener as the hop sees it: takes connections, parses their PROXY headers, and hands them out.

use std::net::SocketAddr;

use crate::program::BEGINNING;
use proxy_header::{ParseConfig, ProxyHeader, SslInfo, Tlv};
use serde_json::Value;
use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub(crate) struct Core {
    pub(crate) address: SocketAddr,
    clients: Mutex<UnboundedReceiver<Declared>>,
    events: Mutex<UnboundedReceiver<Value>>,
}

/// A client that the hop has declared.
pub(crate) struct Declared {
    pub(crate) header: ProxyHeader<'static>,
    pub(crate) stream: TcpStream,
}

impl Core {
    pub(crate) async fn start() -> Core {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, clients) = unbounded_channel();
        let (event, events) = unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (client, event) = (client.clone(), event.clone());
                tokio::spawn(async move {
                    let Some(header) = read(&mut stream).await else {
                        return;
                    };
                    let mut declared = Declared { header, stream };
                    assert_eq!(declared.custom(0xe1).unwrap(), TOKEN.as_bytes());
                    if declared.header.proxied_address().is_some() {
                        let _test_over = client.send(declared);
                    } else if let Some(json) = declared.custom(0xe3) {
                        let _test_over = event.send(serde_json::from_slice(&json).unwrap());
                        // The daemon's confirmation. The hop may be killed by now.
                        let _gone = declared.stream.write_all(&[0x06]).await;
                    }
                });
            }
        });
        Core {
            address,
            clients: Mutex::new(clients),
            events: Mutex::new(events),
        }
    }

    /// The next client.
    pub(crate) async fn client(&self) -> Declared {
        let mut clients = self.clients.lock().await;
        soon("a client at the daemon", clients.recv())
            .await
            .unwrap()
    }

    /// The next event of this kind; others are dropped.
    pub(crate) async fn event(&self, kind: &str) -> Value {
        let mut events = self.events.lock().await;
        let found = async {
            loop {
                let event = events.recv().await.unwrap();
                if event["kind"] == kind {
                    return event;
                }
            }
        };
        soon(&format!("the event {kind}"), found).await
    }

    /// Whether no client has come so far.
    pub(crate) async fn is_idle(&self) -> bool {
        self.clients.lock().await.try_recv().is_err()
    }
}

impl Declared {
    pub(crate) fn custom(&self, kind: u8) -> Option<Vec<u8>> {
        self.header.tlvs().find_map(|tlv| match tlv.unwrap() {
            Tlv::Custom(found, bytes) if found == kind => Some(bytes.into_owned()),
            _ => None,
        })
    }

    pub(crate) fn tls(&self) -> SslInfo<'_> {
        self.header.ssl().expect("facts of TLS")
    }

    pub(crate) fn group(&self) -> String {
        let group = self.tls().tlvs().find_map(|tlv| match tlv.unwrap() {
            Tlv::Custom(0x26, bytes) => Some(String::from_utf8(bytes.into_owned()).unwrap()),
            _ => None,
        });
        group.expect("a group")
    }

    /// The names of the certificate; empty without one.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.custom(0xe2).unwrap_or_default();
        String::from_utf8(names)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

async fn read(stream: &mut TcpStream) -> Option<ProxyHeader<'static>> {
    let mut bytes = vec![0; 16];
    stream.read_exact(&mut bytes).await.ok()?;
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await.ok()?;
    bytes.extend(rest);
    let (header, _) = ProxyHeader::parse(&bytes, ParseConfig::default()).unwrap();
    if header.proxied_address().is_some() {
        let mut first = [0; 1];
        if stream.peek(&mut first).await.ok()? == 1 && first == [BEGINNING] {
            stream.read_exact(&mut first).await.ok()?;
        }
    }
    Some(header.into_owned())
}

/// The token of the hop.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
