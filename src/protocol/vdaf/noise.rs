//! The distribution of a task's noise, and error bounds of its aggregates.
//!
//! Each aggregator adds a sample of the discrete Laplace distribution to every number of its share: `k` has a
//! probability proportional to `exp(-|k| / scale)`. The scale is the sensitivity of the aggregate divided by the task's
//! epsilon. The sensitivity is the largest change that one report can cause, summed over all numbers. The noise of one
//! aggregator alone thus makes the aggregate differentially private, even if the other adds none.

use super::VdafError;
use crate::model::{Epsilon, VdafConfig};

/// Minimum ratio of the field size to the scale. With this margin, noise wraps around the field with a probability
/// below e^-63 per number.
const FIELD_MARGIN: f64 = 64.0;

/// The noise distribution of a task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    scale: f64,
}

impl Noise {
    /// Creates the distribution for an epsilon. Fails if the noise does not fit in the VDAF's field.
    pub fn new(vdaf: &VdafConfig, epsilon: Epsilon) -> Result<Self, VdafError> {
        let (sensitivity, field_bits) = (sensitivity(vdaf), field_bits(vdaf));
        let scale = sensitivity as f64 / epsilon.as_f64();
        if !scale.is_finite() || scale * FIELD_MARGIN > 2_f64.powi(field_bits - 1) {
            let why = format!("epsilon {epsilon} is too small: the noise would exceed the field of the VDAF");
            return Err(VdafError(why));
        }
        Ok(Self { scale })
    }

    /// The scale of one aggregator's noise.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The standard deviation of each number of an aggregate, with the noise of both aggregators.
    pub fn standard_deviation(&self) -> f64 {
        // One sample has the variance 2q / (1 - q)^2.
        let (q, rest) = self.decay();
        2.0 * q.sqrt() / rest
    }

    /// The error bound of each number of an aggregate with 95 % confidence, with the noise of both aggregators.
    pub fn confidence_bound(&self) -> f64 {
        let mut high = 1.0;
        while self.tail_probability(high) > 0.05 {
            high *= 2.0;
        }
        let mut low: f64 = 0.0;
        if self.tail_probability(low) <= 0.05 {
            return 0.0;
        }
        // Invariant: the tail beyond `low` is too large, the tail beyond `high` is not.
        while high - low > 1.0 {
            let middle = ((low + high) / 2.0).floor();
            if middle <= low || middle >= high {
                break;
            }
            if self.tail_probability(middle) > 0.05 {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }

    /// Probability that the sum of two samples exceeds a whole number in absolute value.
    fn tail_probability(&self, bound: f64) -> f64 {
        // The sum is n with probability ((1-q)/(1+q))^2 q^|n| (|n| + (1+q^2)/(1-q^2)); this adds both tails.
        let (q, rest) = self.decay();
        let first = bound + 1.0;
        let middle = (1.0 + q * q) / (rest * (1.0 + q));
        let tail = (-first / self.scale).exp() * ((first + middle) / rest + q / (rest * rest));
        2.0 * (rest / (1.0 + q)).powi(2) * tail
    }

    /// The ratio q of successive probabilities, and 1 - q.
    fn decay(&self) -> (f64, f64) {
        let rest = -(-1.0 / self.scale).exp_m1();
        ((-1.0 / self.scale).exp(), rest)
    }
}

/// The epsilon with which the noise of a vector of `length` flags, whose sensitivity is `length`, has the scale of a VDAF.
pub(super) fn epsilon_of_flags(vdaf: &VdafConfig, length: usize, epsilon: Epsilon) -> Result<Epsilon, VdafError> {
    let scaled = epsilon.scaled(length as u128, sensitivity(vdaf));
    scaled.ok_or_else(|| VdafError(format!("epsilon {epsilon} has too many digits for the VDAF")))
}

/// The largest change of an aggregate by one added, removed or replaced report, summed over all numbers.
fn sensitivity(vdaf: &VdafConfig) -> u128 {
    // A vector may change from all zeros to all maxima of this many bits, or back. The proof verifies the number of bits.
    let vector = |bits: usize, length: usize| ((1_u128 << bits) - 1).saturating_mul(length as u128);
    match *vdaf {
        VdafConfig::Prio3Count => 1,
        VdafConfig::Prio3Sum { max } => max.0.into(),
        // One bucket may lose a report while another gains one.
        VdafConfig::Prio3Histogram { .. } => 2,
        VdafConfig::Prio3SumVec { max, length, .. } => vector(max.bit_length(), length),
        // A vector may lose its whole sum at some positions while others gain as much. `prio` does not distinguish
        // vectors of a single number.
        VdafConfig::Prio3L1BoundSum { max_value, .. } => 2 * u128::from(max_value),
        VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, .. } => vector(bits, length),
        // All flags of a report may move to other positions, if there are as many.
        VdafConfig::Prio3MultihotCountVec { length, max_weight, .. } => (2 * max_weight as u128).min(length as u128),
    }
}

/// Number of bits of the field of the aggregate, in the draft with the smallest one.
fn field_bits(vdaf: &VdafConfig) -> i32 {
    match vdaf {
        VdafConfig::Prio3Count
        | VdafConfig::Prio3Sum { .. }
        | VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { .. } => 64,
        VdafConfig::Prio3Histogram { .. }
        | VdafConfig::Prio3SumVec { .. }
        | VdafConfig::Prio3L1BoundSum { .. }
        | VdafConfig::Prio3MultihotCountVec { .. } => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MaxMeasurement;

    fn histogram(epsilon: &str) -> Noise {
        let vdaf = VdafConfig::Prio3Histogram { length: 4, chunk_length: 2 };
        Noise::new(&vdaf, epsilon.parse().unwrap()).unwrap()
    }

    /// Probabilities of -n..=n for one sample, and for the sum of two.
    fn by_hand(noise: Noise, n: i32) -> (Vec<f64>, Vec<f64>) {
        let (q, _) = noise.decay();
        let one: Vec<f64> = (-n..=n).map(|k| (1.0 - q) / (1.0 + q) * q.powi(k.abs())).collect();
        let two = (0..2 * one.len() - 1).map(|sum| {
            (0..one.len())
                .filter(|a| (0..one.len()).contains(&sum.wrapping_sub(*a)))
                .map(|a| one[a] * one[sum - a])
                .sum()
        });
        (one.clone(), two.collect())
    }

    #[test]
    fn error_bounds_match_enumeration() {
        for epsilon in ["8", "2", "1", "0.1"] {
            let (noise, n) = (histogram(epsilon), 600);
            let (one, two) = by_hand(noise, n);
            assert!((one.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            let value = |index: usize| index as f64 - 2.0 * f64::from(n);
            let variance: f64 = two.iter().enumerate().map(|(i, p)| p * value(i).powi(2)).sum();
            assert!((variance.sqrt() / noise.standard_deviation() - 1.0).abs() < 1e-6, "{epsilon}");
            let tail_probability = |bound: f64| {
                two.iter().enumerate().filter(|(i, _)| value(*i).abs() > bound).map(|(_, p)| p).sum::<f64>()
            };
            for bound in [0.0, 1.0, 7.0] {
                assert!((tail_probability(bound) - noise.tail_probability(bound)).abs() < 1e-9, "{epsilon} {bound}");
            }
            let bound = noise.confidence_bound();
            assert!(
                tail_probability(bound) <= 0.05 && (bound == 0.0 || tail_probability(bound - 1.0) > 0.05),
                "{epsilon}: {bound}"
            );
        }
        // For a large scale the distribution approaches the sum of two continuous Laplace variables.
        let noise = histogram("0.000000001");
        assert!((noise.standard_deviation() / (2.0 * noise.scale()) - 1.0).abs() < 1e-6);
        let share = noise.confidence_bound() / noise.scale();
        assert!(((1.0 + share / 2.0) * (-share).exp() - 0.05).abs() < 1e-6, "{share}");
    }

    #[test]
    fn sensitivity_bounds_one_report() {
        let one = "1".parse().unwrap();
        let scale = |vdaf| Noise::new(&vdaf, one).map(|noise| noise.scale());
        let vector = |max| VdafConfig::Prio3SumVec { max, length: 3, chunk_length: 2 };
        assert_eq!(scale(vector(MaxMeasurement::of_bits(4))), Ok(45.0));
        // The bound is that of all numbers with as many bits, which is what the proof verifies.
        assert_eq!(scale(vector(MaxMeasurement(9))), Ok(45.0));
        assert_eq!(scale(VdafConfig::Prio3Histogram { length: 100, chunk_length: 2 }), Ok(2.0));
        assert_eq!(scale(VdafConfig::Prio3Count), Ok(1.0));
        // Of numbers, the proof verifies the maximum itself.
        assert_eq!(scale(VdafConfig::Prio3Sum { max: MaxMeasurement(100) }), Ok(100.0));
        let flags = |max_weight| VdafConfig::Prio3MultihotCountVec { length: 5, max_weight, chunk_length: 2 };
        assert_eq!([1, 2, 3, 5].map(|weight| scale(flags(weight)).unwrap()), [2.0, 4.0, 5.0, 5.0]);
        // The bound is that of the sum, not of its bits.
        assert_eq!(scale(VdafConfig::Prio3L1BoundSum { max_value: 9, length: 100, chunk_length: 2 }), Ok(18.0));
    }

    #[test]
    fn rejects_noise_larger_than_the_field() {
        let narrow = VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 {
            bits: 32,
            length: 1000,
            chunk_length: 100,
            proofs: 2,
        };
        assert!(Noise::new(&narrow, "0.001".parse().unwrap()).is_ok());
        assert!(Noise::new(&narrow, "0.00001".parse().unwrap()).unwrap_err().0.contains("too small"));
        let least = Epsilon::new(1, u128::MAX).unwrap();
        assert!(Noise::new(&VdafConfig::Prio3Histogram { length: 4, chunk_length: 2 }, least).is_err());
        // Negligible noise.
        assert_eq!(histogram("1000000").confidence_bound(), 0.0);
    }
}
