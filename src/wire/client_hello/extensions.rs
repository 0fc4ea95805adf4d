//! The extensions of a ClientHello that policy judges: server_name (RFC 6066), ALPN (RFC 7301), supported_versions
//! (RFC 8446) and encrypted_client_hello (RFC 9849). Every other one is checked for its length and its uniqueness,
//! and skipped.

use super::{ALPN_KEPT_MAX, HelloError, TlsVersion};
use crate::wire::cursor::Cursor;

/// What the extensions said; None where one was absent and that matters.
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) server_name: Option<String>,
    pub(super) versions: Option<Vec<TlsVersion>>,
    pub(super) alpn: Vec<String>,
    pub(super) ech: bool,
    pub(super) early_data: bool,
}

impl Extensions {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, HelloError> {
        let mut found = Self::default();
        let mut seen = Vec::with_capacity(EXTENSIONS_TYPICAL);
        let mut cursor = Cursor::new(bytes);
        while !cursor.is_empty() {
            let kind = cursor.u16().ok_or(HelloError::Syntax)?;
            let data = cursor.vector16().ok_or(HelloError::Syntax)?;
            if seen.contains(&kind) {
                return Err(HelloError::DuplicateExtension);
            }
            if seen.len() == EXTENSIONS_MAX {
                return Err(HelloError::TooManyExtensions);
            }
            seen.push(kind);
            found.read(kind, data)?;
        }
        Ok(found)
    }

    fn read(&mut self, kind: u16, data: &[u8]) -> Result<(), HelloError> {
        match kind {
            SERVER_NAME => self.server_name = Some(server_name(data)?),
            ALPN => self.alpn = alpn(data)?,
            SUPPORTED_VERSIONS => self.versions = Some(supported_versions(data)?),
            ENCRYPTED_CLIENT_HELLO => self.ech = true,
            EARLY_DATA => self.early_data = true,
            _ => {}
        }
        Ok(())
    }
}

/// One entry of type host_name and nothing else: RFC 6066 allows no second name of a type, and no other type exists.
fn server_name(data: &[u8]) -> Result<String, HelloError> {
    let list = only_vector16(data)?;
    let mut cursor = Cursor::new(list);
    if cursor.u8() != Some(HOST_NAME) {
        return Err(HelloError::ServerNameList);
    }
    let name = cursor.vector16().ok_or(HelloError::Syntax)?;
    if !cursor.is_empty() {
        return Err(HelloError::ServerNameList);
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    match std::str::from_utf8(name) {
        Ok(text) if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(plain) => Ok(text.to_owned()),
        _ => Err(HelloError::ServerName),
    }
}

fn alpn(data: &[u8]) -> Result<Vec<String>, HelloError> {
    let mut cursor = Cursor::new(only_vector16(data)?);
    let mut kept = Vec::new();
    if cursor.is_empty() {
        return Err(HelloError::Syntax);
    }
    while !cursor.is_empty() {
        let protocol = cursor.vector8().filter(|p| !p.is_empty()).ok_or(HelloError::Syntax)?;
        if kept.len() < ALPN_KEPT_MAX && protocol.len() <= PROTOCOL_BYTES_MAX && !is_grease_protocol(protocol) {
            kept.push(protocol.escape_ascii().to_string());
        }
    }
    Ok(kept)
}

fn supported_versions(data: &[u8]) -> Result<Vec<TlsVersion>, HelloError> {
    let mut cursor = Cursor::new(data);
    let list = cursor.vector8().ok_or(HelloError::Syntax)?;
    if !cursor.is_empty() || list.is_empty() || list.len() % 2 != 0 {
        return Err(HelloError::Syntax);
    }
    let mut numbers = Cursor::new(list);
    let mut versions = Vec::new();
    while let Some(number) = numbers.u16() {
        // A version that is said twice is still one.
        if let Some(version) = TlsVersion::from_wire(number).filter(|version| !versions.contains(version)) {
            versions.push(version);
        }
    }
    Ok(versions)
}

fn only_vector16(data: &[u8]) -> Result<&[u8], HelloError> {
    let mut cursor = Cursor::new(data);
    let inner = cursor.vector16().ok_or(HelloError::Syntax)?;
    if cursor.is_empty() { Ok(inner) } else { Err(HelloError::Syntax) }
}

/// RFC 8701: two equal bytes ending in `a`.
fn is_grease_protocol(protocol: &[u8]) -> bool {
    matches!(protocol, [a, b] if a == b && a & 0x0f == 0x0a)
}

/// The longest registered protocol has about twenty; a longer one has no place in an audit record.
const PROTOCOL_BYTES_MAX: usize = 64;
/// Clients send at most about twenty.
const EXTENSIONS_MAX: usize = 64;
const EXTENSIONS_TYPICAL: usize = 20;
/// RFC 1035, with a trailing dot and room to tell an overlong name from a mismatch.
const NAME_BYTES_MAX: usize = 255;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
const HOST_NAME: u8 = 0;
