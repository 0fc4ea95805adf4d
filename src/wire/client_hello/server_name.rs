//! `server_name` of a ClientHello (RFC 6066, section 3): exactly one entry, of type host_name. The
//! RFC forbids two names of a type, and defines no other type. Never judges the name; the policy
//! does.

use super::reader::Reader;
use super::{HelloError, NameFault};

pub(super) fn check(mut data: Reader<'_>) -> Result<(), HelloError> {
    let list = data.vector16()?;
    if list.is_empty() {
        return Err(NameFault::NoEntry.into());
    }
    let mut entries = data.within(list)?;
    data.end()?;
    if entries.u8()? != HOST_NAME {
        return Err(NameFault::Kind.into());
    }
    let name = entries.vector16()?;
    if !entries.is_empty() {
        return Err(NameFault::Several.into());
    }
    Ok(host_name(name)?)
}

fn host_name(name: &[u8]) -> Result<(), NameFault> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    match name {
        [] => Err(NameFault::Empty),
        _ if name.len() > NAME_BYTES_MAX => Err(NameFault::TooLong),
        _ if name.contains(&0) => Err(NameFault::Nul),
        _ if !name.iter().all(plain) => Err(NameFault::Character),
        _ => Ok(()),
    }
}

/// RFC 1035, with a trailing dot, and room to distinguish an overlong name from a mismatch.
const NAME_BYTES_MAX: usize = 255;
const HOST_NAME: u8 = 0;
