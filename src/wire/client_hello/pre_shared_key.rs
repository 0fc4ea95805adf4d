//! `pre_shared_key` of a ClientHello (RFC 8446, section 4.2.11): session identities, and a binder
//! for each. Never reads their content.

use super::reader::Reader;
use super::{Fault, HelloError};

pub(super) fn check(mut data: Reader<'_>) -> Result<(), HelloError> {
    let list = data.vector16()?;
    let mut identities = data.within(list)?;
    let list = data.vector16()?;
    let mut binders = data.within(list)?;
    data.end()?;
    let mut unbound = 0_usize;
    while !identities.is_empty() {
        if identities.vector16()?.is_empty() {
            return Err(identities.fault(Fault::Empty));
        }
        identities.take(TICKET_AGE_BYTES)?;
        unbound += 1;
    }
    while !binders.is_empty() {
        if binders.vector8()?.len() < BINDER_BYTES_MIN {
            return Err(HelloError::PreSharedKeyBinderLength);
        }
        unbound = unbound
            .checked_sub(1)
            .ok_or(HelloError::PreSharedKeyBinders)?;
    }
    if unbound == 0 {
        Ok(())
    } else {
        Err(HelloError::PreSharedKeyBinders)
    }
}

/// obfuscated_ticket_age.
const TICKET_AGE_BYTES: usize = 4;
/// The shortest hash of TLS 1.3.
const BINDER_BYTES_MIN: usize = 32;
