//! Medians and ratios of what the rounds measured. A ratio is taken within a round, and its median over the rounds, so that
//! a slow minute of the machine affects both of its sides.

use statrs::statistics::{Data, Max, Median, Min};

/// Returns the median: of an even number of values the mean of the two in the middle. None without values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| Data::new(values.to_vec()).median())
}

/// Returns the median of `value / other` over the rounds that have both.
pub(crate) fn paired_ratio(values: &[(u32, f64)], others: &[(u32, f64)]) -> Option<f64> {
    let other_of = |round: u32| {
        others
            .iter()
            .find(|(of, _)| *of == round)
            .map(|(_, other)| *other)
    };
    let ratios: Vec<f64> = values
        .iter()
        .filter_map(|(round, value)| Some(value / other_of(*round)?))
        .collect();
    median(&ratios)
}

/// Returns the least and the greatest value. None without values.
pub(crate) fn extremes(values: &[f64]) -> Option<(f64, f64)> {
    let data = Data::new(values.to_vec());
    (!values.is_empty()).then(|| (data.min(), data.max()))
}

/// Formats a value with three significant digits, or with all digits before the point if there are more.
pub(crate) fn short(value: f64) -> String {
    let whole_digits = value.abs().max(1e-9).log10().floor() as i32 + 1;
    format!(
        "{value:.*}",
        usize::try_from(3 - whole_digits).unwrap_or(0).min(4)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[9.0, 1.0, 4.0]), Some(4.0));
        assert_eq!(median(&[8.0, 1.0, 9.0, 4.0]), Some(6.0));
        assert_eq!(extremes(&[]), None);
        assert_eq!(extremes(&[9.0, -1.0, 4.0]), Some((-1.0, 9.0)));
    }

    #[test]
    fn a_ratio_is_taken_within_a_round() {
        // Round 2 is slow for both, round 3 has one side only.
        let (ours, theirs) = ([(1, 2.0), (2, 20.0), (3, 7.0)], [(2, 10.0), (1, 1.0)]);
        assert_eq!(paired_ratio(&ours, &theirs), Some(2.0));
        assert_eq!(paired_ratio(&ours, &[(4, 1.0)]), None);
    }

    #[test]
    fn three_digits_count() {
        let texts = [0.0123, 0.98765, 1.0, 27.91, 155.4, 5991.0].map(short);
        assert_eq!(texts, ["0.0123", "0.988", "1.00", "27.9", "155", "5991"]);
    }
}
