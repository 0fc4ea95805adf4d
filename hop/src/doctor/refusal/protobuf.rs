//! google.rpc.Status in protobuf, as gRPC's trailer `grpc-status-details-bin` has it, and gRPC's percent-encoding.
//!
//! Reads three messages: Status {2: message, 3: details}, Any {1: type, 2: value}, ErrorInfo {1: reason, 3: metadata}.
//! Anything malformed ends the reading; what came before it counts. Sources: google/rpc/status.proto,
//! google/rpc/error_details.proto, the protobuf encoding guide, gRPC over HTTP/2.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// What an ErrorInfo says; each text is empty if it is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Details {
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) service: String,
    /// Without `projects/`.
    pub(super) project: String,
    /// The text that may name the caller's address.
    pub(super) caller: String,
}

/// The names of ErrorInfo's metadata that count.
pub(super) const METADATA: [&str; 6] = [
    "consumer",
    "service",
    "apiName",
    "callerIp",
    "caller_ip",
    "clientIp",
];

impl Details {
    /// Takes one entry of the metadata.
    pub(super) fn add(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        match name {
            "consumer" => {
                let project = value
                    .strip_prefix("projects/")
                    .or_else(|| value.strip_prefix("project_number:"));
                // A consumer may be the key itself, `api_key:…`; that is never kept.
                self.project = project.map(plain).unwrap_or_default();
            }
            "service" => self.service = plain(value),
            "apiName" if self.service.is_empty() => self.service = plain(value),
            "callerIp" | "caller_ip" | "clientIp" => self.caller = value.to_owned(),
            _ => {}
        }
    }
}

/// A name of a host or of a project; empty if it is anything else.
fn plain(name: &str) -> String {
    let known = |c: char| c.is_ascii_alphanumeric() || "-.:_".contains(c);
    match name.len() <= 128 && name.chars().all(known) {
        true => name.to_owned(),
        false => String::new(),
    }
}

/// Reads the trailer; an empty result if it is no base64.
pub(super) fn details(trailer: &str) -> Details {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, config)
        .decode(trailer.trim())
        .unwrap_or_default();
    let mut found = Details::default();
    for (field, value) in fields(&bytes) {
        match field {
            2 => found.message = text(value),
            3 if found.reason.is_empty() => read_any(value, &mut found),
            _ => {}
        }
    }
    found
}

fn read_any(any: &[u8], found: &mut Details) {
    let of = |wanted: u64| {
        fields(any)
            .find(|(field, _)| *field == wanted)
            .map(|(_, value)| value)
    };
    if !of(1).is_some_and(|name| name.ends_with(b"/google.rpc.ErrorInfo")) {
        return;
    }
    for (field, value) in fields(of(2).unwrap_or_default()) {
        match field {
            1 => found.reason = text(value),
            3 => {
                let of = |wanted: u64| fields(value).find(|(field, _)| *field == wanted);
                let entry = |wanted| of(wanted).map(|(_, value)| text(value)).unwrap_or_default();
                found.add(&entry(1), &entry(2));
            }
            _ => {}
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The fields of a message that have a length; fields of other types are skipped.
fn fields(message: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut rest = message;
    std::iter::from_fn(move || {
        loop {
            let key = varint(&mut rest)?;
            let length = match key & 7 {
                0 => {
                    varint(&mut rest)?;
                    continue;
                }
                1 => 8,
                2 => usize::try_from(varint(&mut rest)?).ok()?,
                5 => 4,
                _ => return None,
            };
            let (value, after) = rest.split_at_checked(length)?;
            rest = after;
            if key & 7 == 2 {
                return Some((key >> 3, value));
            }
        }
    })
}

/// At most ten bytes, seven bits each, lowest first.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// gRPC's `grpc-message`: percent-encoded UTF-8. A `%` without two digits stands for itself.
pub(super) fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.filter(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match byte.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if *first == b'%' => {
                decoded.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
