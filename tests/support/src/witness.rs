//! Parses the passed bytes of a greeting again, record by record, and panics at the first byte that
//! must not pass. It shares no state with the daemon's machine: it counts hellos and retries
//! itself, from the bytes that arrived.

use sealway::greeting::negotiation::Outcome;
use sealway::wire::Parsed;
use sealway::wire::client_hello;

use crate::conversation::{HOST, Rules};

/// The bytes that arrived at either side.
pub struct Witness<'a> {
    rules: &'a Rules,
    /// ClientHellos that have reached the upstream.
    hellos: usize,
    /// Whether the first one announced 0-RTT data.
    early_data: bool,
    /// HelloRetryRequests that have reached the client.
    retries: usize,
    last_word: Option<LastWord>,
}

/// The message that ends the handshake in clear.
#[derive(Debug, PartialEq, Eq)]
enum LastWord {
    Hello,
    UpstreamAlert(u8),
    ClientAlert(u8),
}

impl<'a> Witness<'a> {
    pub fn of(rules: &'a Rules) -> Witness<'a> {
        Witness {
            rules,
            hellos: 0,
            early_data: false,
            retries: 0,
            last_word: None,
        }
    }

    /// Before the server has accepted, the upstream receives whole records that are allowed there,
    /// and requested hellos.
    pub fn sees_upstream(&mut self, mut bytes: &[u8]) {
        while let Some(kind) = bytes.first() {
            assert!(
                self.last_word.is_none(),
                "bytes of the client behind the last word"
            );
            bytes = match kind {
                22 => self.sees_hello(bytes),
                23 => {
                    assert!(
                        self.early_data && self.hellos == 1,
                        "application data that has no place"
                    );
                    Record::first_of(bytes).behind
                }
                _ => {
                    let (content, behind) = control(bytes);
                    self.last_word = final_alert(content).map(LastWord::ClientAlert);
                    behind
                }
            };
        }
    }

    fn sees_hello<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        assert!(
            self.hellos <= self.retries && self.hellos < 2,
            "a hello that was not asked for"
        );
        let (message, behind) = handshake(bytes);
        let len = bytes.len() - behind.len();
        assert!(len <= self.rules.hello_bytes_max, "a hello of {len} bytes");
        let Ok(Parsed::Complete { value, consumed }) =
            client_hello::parse(&bytes[..len], usize::MAX)
        else {
            panic!("what passed is no hello: {message:02x?}")
        };
        assert_eq!(consumed, len);
        assert!(
            value
                .server_name()
                .is_some_and(|name| [HOST.to_owned(), format!("{HOST}.")]
                    .iter()
                    .any(|same| name.eq_ignore_ascii_case(same))),
            "a hello for somebody else"
        );
        assert!(
            message
                .windows(HOST.len())
                .any(|window| window.eq_ignore_ascii_case(HOST.as_bytes()))
        );
        assert!(
            value
                .versions()
                .any(|version| version >= self.rules.min_tls),
            "a hello below the floor"
        );
        assert!(
            self.rules.ech_allowed || value.ech().is_none(),
            "a hello with ECH"
        );
        self.early_data |= self.hellos == 0 && value.has_early_data();
        self.hellos += 1;
        behind
    }

    /// The client receives whole records too: warnings, one retry, and the server's last message.
    /// After a ServerHello everything may pass, after a fatal alert nothing may.
    pub fn sees_client(&mut self, mut bytes: &[u8]) {
        while self.last_word != Some(LastWord::Hello) && !bytes.is_empty() {
            assert!(
                self.last_word.is_none(),
                "bytes of the upstream behind an alert"
            );
            assert!(self.hellos > 0, "an answer to nobody");
            bytes = match bytes[0] {
                22 => self.sees_answer(bytes),
                _ => {
                    let (content, behind) = control(bytes);
                    self.last_word = final_alert(content).map(LastWord::UpstreamAlert);
                    behind
                }
            };
        }
    }

    fn sees_answer<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (message, behind) = handshake(bytes);
        assert_eq!(message[0], 2, "no answer of a server");
        if message.get(6..38) == Some(&RETRY_RANDOM) {
            self.retries += 1;
            assert!(self.retries == 1 && self.hellos == 1, "a retry out of turn");
        } else {
            assert_eq!(
                self.hellos,
                self.retries + 1,
                "an answer to a hello that has not come"
            );
            self.last_word = Some(LastWord::Hello);
        }
        behind
    }

    /// The machine reports how it ended; the bytes must agree.
    pub fn is_told(&self, outcome: Outcome) {
        let wanted = match outcome {
            Outcome::Negotiated(hello) => {
                assert!(
                    hello.version >= self.rules.min_tls,
                    "an answer below the floor"
                );
                LastWord::Hello
            }
            Outcome::UpstreamAlert(description) => LastWord::UpstreamAlert(description),
            Outcome::ClientAlert(description) => LastWord::ClientAlert(description),
        };
        assert_eq!(self.last_word.as_ref(), Some(&wanted));
    }
}

/// One record and the bytes after it; a truncated one must not have passed.
struct Record<'b> {
    kind: u8,
    content: &'b [u8],
    behind: &'b [u8],
}

impl Record<'_> {
    fn first_of(bytes: &[u8]) -> Record<'_> {
        let [kind, 3, _, high, low, rest @ ..] = bytes else {
            panic!("no whole record passed: {bytes:02x?}")
        };
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        assert!(
            len <= rest.len() && len <= 16_640,
            "a cut or oversized record passed"
        );
        let (content, behind) = rest.split_at(len);
        Record {
            kind: *kind,
            content,
            behind,
        }
    }
}

/// The content of an alert or a change_cipher_spec, whose records hold nothing else.
fn control(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Record {
        kind,
        content,
        behind,
    } = Record::first_of(bytes);
    let has_place = matches!((kind, content), (20, [1]) | (21, [1 | 2, _]));
    assert!(
        has_place,
        "a record that has no place: {kind} {content:02x?}"
    );
    (content, behind)
}

/// The description of a fatal alert or of close_notify, which end a side (RFC 8446, section 6).
fn final_alert(content: &[u8]) -> Option<u8> {
    match content {
        [2, description] | [1, description @ 0] => Some(*description),
        _ => None,
    }
}

/// The records of one handshake message joined; after it, up to the end of its last record, a
/// server may have sent more.
fn handshake(bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    let (mut message, mut rest) = (Vec::new(), bytes);
    loop {
        let Record {
            kind,
            content,
            behind,
        } = Record::first_of(rest);
        assert_eq!(kind, 22, "another record within a handshake message");
        message.extend_from_slice(content);
        rest = behind;
        if let [_, high, middle, low, ..] = message[..]
            && message.len()
                >= 4 + (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low))
        {
            return (message, rest);
        }
    }
}

/// The random of a HelloRetryRequest, copied from the RFC (section 4.1.3).
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
