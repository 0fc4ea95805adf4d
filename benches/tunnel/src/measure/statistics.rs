//! Medians and ratios. A ratio is taken within a round and the median over rounds, so that a slow minute of the machine
//! weighs on both sides of it.

/// The middle value, or the mean of the two in the middle; None of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

/// The median of `value / other` over the rounds that have both.
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

/// The least and the greatest.
pub(crate) fn extremes(values: &[f64]) -> Option<(f64, f64)> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    Some((least, values.iter().copied().max_by(f64::total_cmp)?))
}

/// Three significant digits, more only before the point.
pub(crate) fn short(value: f64) -> String {
    let whole_digits = value.abs().max(1e-9).log10().floor() as i32 + 1;
    format!(
        "{value:.*}",
        usize::try_from(3 - whole_digits).unwrap_or(0).min(4)
    )
}
