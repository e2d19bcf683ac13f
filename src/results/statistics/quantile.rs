//! Quantiles of histograms of ordered quantities.

/// A quantile of the measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantile {
    /// The value, by linear interpolation in its bin.
    At(f64),
    /// The quantile lies in the first bin, which has no lower edge.
    Below(f64),
    /// The quantile lies in the last bin, which has no upper edge.
    Above(f64),
}

/// The `p`-quantile of a histogram; `None` if it has no measurements, or if `edges` are not one more than the bins.
///
/// The measurements of a bin are taken as evenly spread between its edges. Counts below zero, which noise causes, count as
/// zero.
pub fn quantile(counts: &[f64], edges: &[f64], p: f64) -> Option<Quantile> {
    if edges.len() != counts.len() + 1 {
        return None;
    }
    let total: f64 = counts.iter().map(|count| count.max(0.0)).sum();
    if total <= 0.0 {
        return None;
    }
    let target = p.clamp(0.0, 1.0) * total;
    let mut before = 0.0;
    let last = counts.iter().rposition(|count| *count > 0.0)?;
    for (bin, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0.0) {
        // Rounding may leave the target above the last sum.
        if before + count >= target || bin == last {
            let (low, high) = (edges[bin], edges[bin + 1]);
            return Some(match (low.is_finite(), high.is_finite()) {
                (true, true) => Quantile::At(low + (high - low) * ((target - before) / count).clamp(0.0, 1.0)),
                (_, true) => Quantile::Below(high),
                (true, _) => Quantile::Above(low),
                _ => return None,
            });
        }
        before += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f64 = f64::INFINITY;

    #[test]
    fn interpolates_in_the_bin() {
        let (counts, edges) = ([10.0, 20.0, 10.0], [0.0, 10.0, 20.0, 40.0]);
        let at = |p| quantile(&counts, &edges, p);
        assert_eq!(at(0.0), Some(Quantile::At(0.0)));
        assert_eq!(at(0.25), Some(Quantile::At(10.0)));
        assert_eq!(at(0.5), Some(Quantile::At(15.0)));
        assert_eq!(at(0.875), Some(Quantile::At(30.0)));
        assert_eq!(at(1.0), Some(Quantile::At(40.0)));
    }

    #[test]
    fn open_bins_give_bounds() {
        let edges = [-INF, 0.0, 5.0, INF];
        assert_eq!(quantile(&[6.0, 2.0, 2.0], &edges, 0.5), Some(Quantile::Below(0.0)));
        assert_eq!(quantile(&[2.0, 2.0, 6.0], &edges, 0.5), Some(Quantile::Above(5.0)));
        assert_eq!(quantile(&[2.0, 6.0, 2.0], &edges, 0.5), Some(Quantile::At(2.5)));
    }

    #[test]
    fn negative_counts_are_empty() {
        assert_eq!(quantile(&[-5.0, 4.0, -1.0], &[0.0, 1.0, 2.0, 3.0], 0.5), Some(Quantile::At(1.5)));
        assert_eq!(quantile(&[-5.0, 0.0], &[0.0, 1.0, 2.0], 0.5), None);
        assert_eq!(quantile(&[1.0], &[0.0], 0.5), None);
    }
}
