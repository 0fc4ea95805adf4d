//! The order in which upstreams are tried. Pure.

use super::health::Rank;
use super::settings::Mode;

/// An upstream that may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the settings.
    pub place: usize,
    /// Whether it works.
    pub rank: Rank,
    /// Its open tunnels.
    pub tunnels: usize,
}

/// The places of the candidates in the order to try them.
#[must_use]
pub fn order(mode: Mode, mut candidates: Vec<Candidate>) -> Vec<usize> {
    candidates.sort_by_key(|one| match mode {
        Mode::Standby => (one.rank, 0, one.place),
        Mode::Spread => (one.rank, one.tunnels, one.place),
    });
    candidates.iter().map(|one| one.place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standby_takes_the_first_and_spread_the_emptiest_that_works() {
        let candidates: Vec<_> = [
            (0, Rank::Avoided, 0),
            (1, Rank::Good, 5),
            (2, Rank::Good, 3),
        ]
        .into_iter()
        .map(|(place, rank, tunnels)| Candidate {
            place,
            rank,
            tunnels,
        })
        .collect();
        assert_eq!(order(Mode::Standby, candidates.clone()), [1, 2, 0]);
        assert_eq!(order(Mode::Spread, candidates), [2, 1, 0]);
    }
}
