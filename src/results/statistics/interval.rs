//! Intervals of 95 % confidence.

/// The 97.5 % quantile of the normal distribution.
pub const Z95: f64 = 1.959_963_984_540_054;

/// An estimate with its interval of 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval95 {
    /// The estimate.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval95 {
    /// An estimate with an error that is not exceeded with 95 % confidence.
    pub fn around(value: f64, bound: f64) -> Self {
        Self { value, low: value - bound, high: value + bound }
    }

    /// The estimate and its ends, divided by an exact number.
    pub fn per(self, divisor: f64) -> Self {
        Self { value: self.value / divisor, low: self.low / divisor, high: self.high / divisor }
    }

    /// The difference of two independent estimates: `self - other`. Errors add up as their squares (for shares, Newcombe's
    /// method).
    pub fn minus(self, other: Self) -> Self {
        let value = self.value - other.value;
        Self {
            value,
            low: value - (self.value - self.low).hypot(other.high - other.value),
            high: value + (self.high - self.value).hypot(other.value - other.low),
        }
    }

    /// Whether the interval contains zero.
    pub fn contains_zero(self) -> bool {
        self.low <= 0.0 && 0.0 <= self.high
    }
}

/// Shares of reports.
pub struct Share;

impl Share {
    /// The share of `count` of `reports` reports with Wilson's interval, widened by the bound of the noise of `count`.
    ///
    /// A count beyond 0 and `reports`, which noise causes, is kept as the estimate; Wilson's interval is that of the
    /// nearest possible share. `None` without reports.
    pub fn of(count: f64, reports: u64, noise_bound: f64) -> Option<Interval95> {
        if reports == 0 {
            return None;
        }
        let n = reports as f64;
        let value = count / n;
        let (p, z2) = (value.clamp(0.0, 1.0), Z95 * Z95);
        let center = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = Z95 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        // Rounding may put the share outside of its interval.
        let (below, above) = ((p - (center - half)).max(0.0), (center + half - p).max(0.0));
        let noise = noise_bound / n;
        Some(Interval95 { value, low: value - below.hypot(noise), high: value + above.hypot(noise) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 5e-5, "{found} instead of {expected}");
    }

    #[test]
    fn wilson_interval_matches_published_values() {
        // Newcombe 1998, table I, method 3.
        for (count, reports, low, high) in [
            (81.0, 263, 0.2553, 0.3662),
            (15.0, 148, 0.0624, 0.1605),
            (0.0, 20, 0.0, 0.1611),
            (1.0, 29, 0.0061, 0.1718),
        ] {
            let share = Share::of(count, reports, 0.0).unwrap();
            assert_close(share.low, low);
            assert_close(share.high, high);
            assert_close(share.value, count / reports as f64);
        }
        assert_eq!(Share::of(0.0, 0, 0.0), None);
    }

    #[test]
    fn noise_widens_shares() {
        let (exact, noisy) = (Share::of(50.0, 100, 0.0).unwrap(), Share::of(50.0, 100, 30.0).unwrap());
        assert_close(noisy.value - noisy.low, (exact.value - exact.low).hypot(0.3));
        let negative = Share::of(-7.0, 100, 8.0).unwrap();
        assert_close(negative.value, -0.07);
        assert!(negative.low < -0.07 && negative.high > 0.0);
    }

    #[test]
    fn difference_of_shares_matches_published_value() {
        // Newcombe 1998, second paper, table II: 56/70 - 48/80, method 10.
        let change = Share::of(56.0, 70, 0.0).unwrap().minus(Share::of(48.0, 80, 0.0).unwrap());
        assert_close(change.value, 0.2);
        assert_close(change.low, 0.0524);
        assert_close(change.high, 0.3339);
        assert!(!change.contains_zero());
    }

    #[test]
    fn errors_of_differences_add_up_as_squares() {
        let change = Interval95::around(10.0, 3.0).minus(Interval95::around(4.0, 4.0));
        assert_eq!(change, Interval95::around(6.0, 5.0));
        assert_eq!(change.per(2.0), Interval95::around(3.0, 2.5));
    }
}
