//! The header of the PROXY protocol, versions 1 and 2 (proxy-protocol.txt of HAProxy): the address of
//! the client that a balancer or TLS terminator declares before the client's first byte.
//!
//! Incremental and strict. The crate proxy-header reads addresses and TLVs; this file bounds the
//! header, rejects the forms that the crate lets through, and checks the CRC32c. Never decides who
//! may send a header, and never looks at the bytes after it.

use std::net::{IpAddr, SocketAddr};

use crc::{CRC_32_ISCSI, Crc};
use memchr::memchr;
use proxy_header::{ParseConfig, Protocol, ProxyHeader, Tlvs};

use crate::wire::Parsed;

/// A whole header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Who connects.
    pub source: Source,
    header: ProxyHeader<'a>,
}

/// Who connects, by a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The sender of the header itself, mostly to check health: `LOCAL`, `UNKNOWN`, or `PROXY` with
    /// an unspecified family.
    Sender,
    /// A client at this address. An IPv4-mapped address is an IPv4 address; the port may be 0.
    Client(SocketAddr),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first bytes begin neither version.
    #[error("the first bytes are not a PROXY protocol header")]
    Absent,
    /// A line of version 1 without an end within [`V1_BYTES_MAX`], or a longer header of version 2
    /// than [`V2_BYTES_MAX`].
    #[error(
        "the PROXY protocol header is longer than {V1_BYTES_MAX} bytes (version 1) or {V2_BYTES_MAX} (version 2)"
    )]
    TooLong,
    /// A form that neither version has.
    #[error("the PROXY protocol header is malformed")]
    Malformed,
    /// UDP, or a socket without an IP address.
    #[error("the PROXY protocol header declares a client without TCP")]
    Family,
    /// No single client has this address: unspecified, multicast or broadcast.
    #[error("the PROXY protocol header declares {0}, which is no address of a client")]
    Address(IpAddr),
    /// The checksum is there and differs.
    #[error("the CRC32c of the PROXY protocol header is wrong")]
    Checksum,
}

/// Parses the header at the start of `bytes`.
///
/// # Errors
/// One [`HeaderError`] for each fault, as soon as the bytes show it.
pub fn parse(bytes: &[u8]) -> Result<Parsed<Header<'_>>, HeaderError> {
    match bytes.first() {
        None => Ok(Parsed::Incomplete),
        Some(b'P') => line(bytes),
        Some(b'\r') => binary(bytes),
        Some(_) => Err(HeaderError::Absent),
    }
}

impl<'a> Header<'a> {
    /// The TLVs of version 2 in order; version 1 has none.
    pub fn tlvs(&self) -> Tlvs<'_> {
        self.header.tlvs()
    }

    fn of(header: ProxyHeader<'a>) -> Result<Self, HeaderError> {
        let source = match header.proxied_address() {
            None => Source::Sender,
            Some(declared) if declared.protocol != Protocol::Stream => {
                return Err(HeaderError::Family);
            }
            Some(declared) => Source::Client(client(declared.source)?),
        };
        Ok(Self { source, header })
    }
}

/// Version 1: one line.
fn line(bytes: &[u8]) -> Result<Parsed<Header<'_>>, HeaderError> {
    if !begins_alike(bytes, V1_START) {
        return Err(HeaderError::Absent);
    }
    let within = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = memchr(b'\n', within) else {
        return match bytes.len() {
            V1_BYTES_MAX.. => Err(HeaderError::TooLong),
            _ => Ok(Parsed::Incomplete),
        };
    };
    let line = within.get(..=end).ok_or(HeaderError::Malformed)?;
    if !is_strict(line) {
        return Err(HeaderError::Malformed);
    }
    let (header, consumed) =
        ProxyHeader::parse(line, ParseConfig::default()).map_err(|_| HeaderError::Malformed)?;
    let value = Header::of(header)?;
    Ok(Parsed::Complete { value, consumed })
}

/// Whether a line has one space between its words, ports without sign and leading zero, and
/// `\r\n` at its end and nowhere else.
fn is_strict(line: &[u8]) -> bool {
    let text = line
        .strip_suffix(b"\r\n")
        .filter(|text| !text.contains(&b'\r'));
    let Some(text) = text else {
        return false;
    };
    let words: Vec<_> = text.split(|byte| *byte == b' ').collect();
    let is_port = |word: &[u8]| {
        word.iter().all(u8::is_ascii_digit) && (word == b"0" || !word.starts_with(b"0"))
    };
    match words.as_slice() {
        [_, b"UNKNOWN", ..] => true,
        [_, b"TCP4" | b"TCP6", _, _, from, to] => is_port(from) && is_port(to),
        _ => false,
    }
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Parsed<Header<'_>>, HeaderError> {
    if !begins_alike(bytes, V2_START) {
        return Err(HeaderError::Absent);
    }
    let command = bytes.get(V2_START.len());
    if command.is_some_and(|byte| ![LOCAL, PROXY].contains(byte)) {
        return Err(HeaderError::Malformed);
    }
    let Some([family, high, low]) = bytes.get(V2_START.len() + 1..V2_FIXED_BYTES) else {
        return Ok(Parsed::Incomplete);
    };
    let consumed = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
    if consumed > V2_BYTES_MAX {
        return Err(HeaderError::TooLong);
    }
    let Some(whole) = bytes.get(..consumed) else {
        return Ok(Parsed::Incomplete);
    };
    if command == Some(&PROXY) && UNIX.contains(family) {
        return Err(HeaderError::Family);
    }
    let header = match ProxyHeader::parse(whole, ParseConfig::default()) {
        Ok((header, _)) => header,
        // The addresses and the family of LOCAL do not count.
        Err(_) if command == Some(&LOCAL) => ProxyHeader::with_local(),
        Err(_) => return Err(HeaderError::Malformed),
    };
    check_tlvs(&header, whole)?;
    let value = Header::of(header)?;
    Ok(Parsed::Complete { value, consumed })
}

/// Checks that each TLV is well-formed, and the checksum if there is one.
fn check_tlvs(header: &ProxyHeader<'_>, whole: &[u8]) -> Result<(), HeaderError> {
    let mut checksum = None;
    for (place, tlv) in header.tlvs().enumerate() {
        let tlv = tlv.map_err(|_| HeaderError::Malformed)?;
        if let proxy_header::Tlv::Crc32c(sent) = tlv {
            if checksum.is_some() {
                return Err(HeaderError::Malformed);
            }
            checksum = Some((sent, place));
        }
    }
    match checksum {
        Some((sent, place)) if crc32c(whole, place) != Some(sent) => Err(HeaderError::Checksum),
        _ => Ok(()),
    }
}

/// The CRC32c of a header whose TLV number `place`, from 0, is the checksum: its four bytes count as
/// zeros.
fn crc32c(whole: &[u8], place: usize) -> Option<u32> {
    let family = whole.get(V2_START.len() + 1)?;
    let mut at = V2_FIXED_BYTES + address_bytes(*family);
    for _ in 0..place {
        let [high, low] = whole.get(at + 1..at + 3)? else {
            return None;
        };
        at += 3 + usize::from(u16::from_be_bytes([*high, *low]));
    }
    let mut digest = CRC32C.digest();
    digest.update(whole.get(..at + 3)?);
    digest.update(&[0; 4]);
    digest.update(whole.get(at + 7..)?);
    Some(digest.finalize())
}

/// The length of the address block of a family that the crate reads.
fn address_bytes(family: u8) -> usize {
    match family >> 4 {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    }
}

/// The address of a client.
fn client(declared: SocketAddr) -> Result<SocketAddr, HeaderError> {
    let ip = declared.ip().to_canonical();
    let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || is_broadcast {
        return Err(HeaderError::Address(ip));
    }
    Ok(SocketAddr::new(ip, declared.port()))
}

/// Whether the shorter of both begins the longer one.
fn begins_alike(bytes: &[u8], start: &[u8]) -> bool {
    bytes.starts_with(start) || start.starts_with(bytes)
}

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command LOCAL.
const LOCAL: u8 = 0x20;
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
/// Families of UNIX sockets.
const UNIX: [u8; 2] = [0x31, 0x32];
/// The part of a header of version 2 before its addresses.
const V2_FIXED_BYTES: usize = 16;
/// The longest line of version 1, its end included (proxy-protocol.txt, section 2.1).
pub const V1_BYTES_MAX: usize = 107;
/// The longest header of version 2: a client's certificate fits.
pub const V2_BYTES_MAX: usize = 8_192;
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
