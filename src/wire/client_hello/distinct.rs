//! Numbers that may occur once each: types of extensions, groups. Bounded, so that a long list costs no more per entry
//! than a short one. Never allocates.

use super::Fault;

/// The numbers so far.
pub(super) struct Distinct {
    seen: [u16; NUMBERS_MAX],
    count: usize,
}

impl Distinct {
    pub(super) fn new() -> Self {
        Self { seen: [0; NUMBERS_MAX], count: 0 }
    }

    pub(super) fn add(&mut self, number: u16) -> Result<(), Fault> {
        let (before, free) = self.seen.split_at_mut_checked(self.count).ok_or(Fault::TooMany)?;
        if before.contains(&number) {
            return Err(Fault::Duplicate);
        }
        *free.first_mut().ok_or(Fault::TooMany)? = number;
        self.count += 1;
        Ok(())
    }
}

/// Clients send about twenty extensions and at most about thirty groups.
const NUMBERS_MAX: usize = 64;
