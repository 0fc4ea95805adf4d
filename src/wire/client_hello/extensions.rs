//! The extensions of a ClientHello. Checks the length and uniqueness of each, and every byte of
//! those that are read. Skips the others. Never copies.
//!
//! RFC 6066 (server_name), RFC 7301 (ALPN), RFC 8446 section 4.2 (versions, groups, shares, algorithms, early data,
//! pre-shared keys), RFC 9849 (encrypted_client_hello).

use super::reader::Reader;
use super::{Fault, HelloError, Part, pre_shared_key, server_name};
use crate::wire::distinct::Distinct;

/// Checks the content of the extensions' vector.
pub(super) fn check(list: &[u8]) -> Result<(), HelloError> {
    let mut kinds = Distinct::new();
    let mut extensions = Reader::new(Part::Extensions, list);
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        if !kinds.add(kind) {
            return Err(extensions.fault(Fault::Duplicate));
        }
        content(kind, data)?;
        // The binders cover everything before them (RFC 8446, section 4.2.11).
        if kind == PRE_SHARED_KEY && !extensions.is_empty() {
            return Err(HelloError::PreSharedKeyNotLast);
        }
    }
    Ok(())
}

fn content(kind: u16, data: &[u8]) -> Result<(), HelloError> {
    let of = |part| Reader::new(part, data);
    match kind {
        SERVER_NAME => server_name::check(of(Part::ServerName)),
        // A group may appear twice: no RFC forbids it, and a JDK sends the list in
        // jdk.tls.namedGroups as it is.
        SUPPORTED_GROUPS => of(Part::SupportedGroups)
            .only_vector16()?
            .numbers()
            .map(drop),
        SIGNATURE_ALGORITHMS => of(Part::SignatureAlgorithms)
            .only_vector16()?
            .numbers()
            .map(drop),
        ALPN => alpn(of(Part::Alpn)),
        PRE_SHARED_KEY => pre_shared_key::check(of(Part::PreSharedKey)),
        EARLY_DATA => of(Part::EarlyData).end(),
        SUPPORTED_VERSIONS => supported_versions(of(Part::SupportedVersions)),
        KEY_SHARE => key_share(of(Part::KeyShare)),
        ENCRYPTED_CLIENT_HELLO => encrypted_client_hello(of(Part::EncryptedClientHello)),
        _ => Ok(()),
    }
}

fn alpn(data: Reader<'_>) -> Result<(), HelloError> {
    let mut protocols = data.only_vector16()?;
    while !protocols.is_empty() {
        if protocols.vector8()?.is_empty() {
            return Err(protocols.fault(Fault::Empty));
        }
    }
    Ok(())
}

fn supported_versions(mut data: Reader<'_>) -> Result<(), HelloError> {
    let list = data.vector8()?;
    let list = data.within(list)?;
    data.end()?;
    list.numbers().map(drop)
}

/// The list may be empty: the client then waits for the server to choose a group. The same group
/// twice is forbidden (RFC 8446, section 4.2.8).
fn key_share(mut data: Reader<'_>) -> Result<(), HelloError> {
    let list = data.vector16()?;
    data.end()?;
    let mut shares = Reader::new(Part::KeyShare, list);
    let mut groups = Distinct::new();
    while !shares.is_empty() {
        let group = shares.u16()?;
        if shares.vector16()?.is_empty() {
            return Err(shares.fault(Fault::Empty));
        }
        if !groups.add(group) {
            return Err(shares.fault(Fault::Duplicate));
        }
    }
    Ok(())
}

/// RFC 9849, section 5.
fn encrypted_client_hello(mut data: Reader<'_>) -> Result<(), HelloError> {
    match data.u8()? {
        ECH_OUTER => {
            data.take(CIPHER_SUITE_AND_CONFIG_BYTES)?;
            data.vector16()?;
            if data.vector16()?.is_empty() {
                return Err(data.fault(Fault::Empty));
            }
        }
        ECH_INNER => {}
        _ => return Err(data.fault(Fault::Value)),
    }
    data.end()
}

/// KDF, AEAD and config_id.
const CIPHER_SUITE_AND_CONFIG_BYTES: usize = 5;
pub(super) const ECH_OUTER: u8 = 0;
pub(super) const ECH_INNER: u8 = 1;

pub(super) const SERVER_NAME: u16 = 0;
pub(super) const SUPPORTED_GROUPS: u16 = 10;
pub(super) const SIGNATURE_ALGORITHMS: u16 = 13;
pub(super) const ALPN: u16 = 16;
pub(super) const SESSION_TICKET: u16 = 35;
pub(super) const PRE_SHARED_KEY: u16 = 41;
pub(super) const EARLY_DATA: u16 = 42;
pub(super) const SUPPORTED_VERSIONS: u16 = 43;
pub(super) const KEY_SHARE: u16 = 51;
pub(super) const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
