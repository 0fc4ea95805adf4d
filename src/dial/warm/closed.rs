//! How many warm sockets were closed, and why. Pure.

use crate::outcome::CloseReason;

/// How many sockets were closed, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed([usize; CloseReason::LABELS.len()]);

impl Closed {
    /// So many, all for one reason.
    #[must_use]
    pub fn all(reason: CloseReason, sockets: usize) -> Self {
        let mut closed = Self::default();
        closed.add(reason, sockets);
        closed
    }

    pub(super) fn add(&mut self, reason: CloseReason, sockets: usize) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count += sockets;
        }
    }

    /// The number for each reason, in the order of [`CloseReason::LABELS`].
    pub fn each(&self) -> impl Iterator<Item = usize> {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_the_place_of_its_label() {
        for (reason, place) in [
            (CloseReason::Expired, 0),
            (CloseReason::Upstream, 1),
            (CloseReason::HandOver, CloseReason::LABELS.len() - 1),
        ] {
            let closed = Closed::all(reason, 7);
            assert_eq!(closed.each().position(|count| count == 7), Some(place));
            assert_eq!(closed.each().sum::<usize>(), 7);
        }
    }
}
