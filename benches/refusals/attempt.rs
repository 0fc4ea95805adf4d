//! The attempts of a flood: the bytes that each client sends, and the configuration with which the
//! daemon refuses them.

use clap::ValueEnum;
use support::made_hello::MadeHello;

/// The stage at which an attempt is refused, and its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attempt {
    /// At the accept, by `limits.accept_rate`, before a byte is read.
    Rate,
    /// After the head, by the policy: the longest possible host.
    Policy,
    /// After the head, for wrong credentials of the longest user name.
    Credentials,
    /// After the ClientHello, for its SNI: the longest record, and the upstream is dialled for each.
    Hello,
    /// Nine in ten by the policy, one after its ClientHello.
    Mixed,
}

impl Attempt {
    pub(crate) const ALL: [Self; 5] = [
        Self::Rate,
        Self::Policy,
        Self::Credentials,
        Self::Mixed,
        Self::Hello,
    ];

    /// The attempts that the clients make in turn, each as the bytes that one sends in one segment.
    pub(crate) fn requests(self) -> Vec<Vec<u8>> {
        match self {
            Self::Mixed => (0..10)
                .map(|turn| if turn == 0 { Self::Hello } else { Self::Policy }.request())
                .collect(),
            _ => vec![self.request()],
        }
    }

    fn request(self) -> Vec<u8> {
        match self {
            Self::Rate | Self::Policy | Self::Mixed => {
                connect(&longest_host("refused"), GOOD_PORT, "")
            }
            Self::Credentials => {
                let login = base64(&format!("{}:wrong", "n".repeat(128)));
                connect(
                    &longest_host("refused"),
                    GOOD_PORT,
                    &format!("Proxy-Authorization: Basic {login}\r\n"),
                )
            }
            Self::Hello => {
                let protocol: Vec<u8> = [&[64], [0xff; 64].as_slice()].concat();
                let list = protocol.repeat(8);
                let alpn = [length(&list).as_slice(), &list].concat();
                let hello = MadeHello::naming(&"x".repeat(250)).extension(16, &alpn);
                let head = connect(&longest_host("allowed"), REFUSED_PORT, "");
                [head, hello.bytes()].concat()
            }
        }
    }

    /// The daemon's `limits.accept_rate`.
    pub(crate) fn accept_rate(self) -> u32 {
        match self {
            // From a thousand addresses a tenth of the attempts pass the rate; the policy refuses
            // those.
            Self::Rate => 2,
            _ => 1_000,
        }
    }

    pub(crate) fn asks_for_credentials(self) -> bool {
        self == Self::Credentials
    }
}

/// The head of a request; `fields` end with CRLF each.
pub(crate) fn connect(host: &str, port: u16, fields: &str) -> Vec<u8> {
    format!("CONNECT {host}:{port} HTTP/1.1\r\n{fields}\r\n").into_bytes()
}

/// 253 bytes in labels of 63 at most (RFC 1035, section 2.3.4).
pub(crate) fn longest_host(first: &str) -> String {
    let label = "x".repeat(63);
    let rest = format!("{label}.{label}.{label}.example");
    let filler = "y".repeat(253 - rest.len() - first.len() - 1);
    format!("{first}{filler}.{rest}")
}

pub(crate) fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()
}

/// The port of the upstream that greets and echoes. The network namespace is the benchmark's own,
/// so no port is in use.
pub(crate) const GOOD_PORT: u16 = 8_443;
/// The port of the upstream that is dialled for attempts that are refused after the ClientHello.
pub(crate) const REFUSED_PORT: u16 = 8_444;
/// The authority that the good client requests.
pub(crate) const GOOD_HOST: &str = "generativelanguage.googleapis.com";
