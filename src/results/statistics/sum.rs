//! Exact sums of results.

use std::fmt;

use dapbox_protocol::vdaf::AggregateResult;

/// Why results cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SumError {
    /// One is a number, the other a vector.
    #[error("a number and a vector cannot be added")]
    Kind,
    /// The vectors differ in length.
    #[error("vectors of {0} and {1} numbers cannot be added")]
    Length(usize, usize),
    /// The sum exceeds 128 bits.
    #[error("the sum exceeds 128 bits")]
    Overflow,
}

/// Adds a result to a sum.
///
/// A noisy result without a negative number is stored as a plain one, so noisy and plain results can be added.
pub fn add(sum: &mut AggregateResult, other: &AggregateResult) -> Result<(), SumError> {
    use AggregateResult::{Noisy, NoisyNumber, Number, Vector};
    let signed = |a: i128, b: Option<i128>| b.and_then(|b| b.checked_add(a)).ok_or(SumError::Overflow);
    *sum = match (&*sum, other) {
        (Number(a), Number(b)) => Number(a.checked_add(*b).ok_or(SumError::Overflow)?),
        (NoisyNumber(a), NoisyNumber(b)) => NoisyNumber(signed(*a, Some(*b))?),
        (NoisyNumber(a), Number(b)) | (Number(b), NoisyNumber(a)) => NoisyNumber(signed(*a, i128::try_from(*b).ok())?),
        (Vector(a), Vector(b)) => Vector(each(a, b, |a, b| a.checked_add(*b))?),
        (Noisy(a), Noisy(b)) => Noisy(each(a, b, |a, b| a.checked_add(*b))?),
        (Noisy(a), Vector(b)) | (Vector(b), Noisy(a)) => {
            Noisy(each(a, b, |a, b| i128::try_from(*b).ok()?.checked_add(*a))?)
        }
        (Number(_) | NoisyNumber(_), Vector(_) | Noisy(_)) | (Vector(_) | Noisy(_), Number(_) | NoisyNumber(_)) => {
            return Err(SumError::Kind);
        }
    };
    Ok(())
}

fn each<A, B, C>(a: &[A], b: &[B], add: impl Fn(&A, &B) -> Option<C>) -> Result<Vec<C>, SumError> {
    if a.len() != b.len() {
        return Err(SumError::Length(a.len(), b.len()));
    }
    a.iter().zip(b).map(|(a, b)| add(a, b)).collect::<Option<_>>().ok_or(SumError::Overflow)
}

/// The sum of all results; `None` if there are none.
pub fn total<'a>(results: impl IntoIterator<Item = &'a AggregateResult>) -> Result<Option<AggregateResult>, SumError> {
    let mut sum: Option<AggregateResult> = None;
    for result in results {
        match &mut sum {
            Some(sum) => add(sum, result)?,
            None => sum = Some(result.clone()),
        }
    }
    Ok(sum)
}

/// An exact whole number of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exact {
    /// Whether the number is below zero.
    pub is_negative: bool,
    /// The number without its sign.
    pub magnitude: u128,
}

impl Exact {
    /// The nearest floating-point number.
    pub fn as_f64(self) -> f64 {
        if self.is_negative { -(self.magnitude as f64) } else { self.magnitude as f64 }
    }
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.is_negative { "-" } else { "" };
        write!(f, "{sign}{}", self.magnitude)
    }
}

impl From<u128> for Exact {
    fn from(magnitude: u128) -> Self {
        Self { is_negative: false, magnitude }
    }
}

impl From<i128> for Exact {
    fn from(number: i128) -> Self {
        Self { is_negative: number < 0, magnitude: number.unsigned_abs() }
    }
}

/// The numbers of a result.
pub fn values(result: &AggregateResult) -> Vec<Exact> {
    match result {
        AggregateResult::Number(number) => vec![Exact::from(*number)],
        AggregateResult::NoisyNumber(number) => vec![Exact::from(*number)],
        AggregateResult::Vector(numbers) => numbers.iter().map(|number| Exact::from(*number)).collect(),
        AggregateResult::Noisy(numbers) => numbers.iter().map(|number| Exact::from(*number)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AggregateResult::{Noisy, Number, Vector};

    #[test]
    fn adds_equal_kinds() {
        assert_eq!(total(&[Number(3), Number(4)]), Ok(Some(Number(7))));
        assert_eq!(total(&[Vector(vec![1, 2]), Vector(vec![10, 20])]), Ok(Some(Vector(vec![11, 22]))));
        assert_eq!(total(&[Noisy(vec![-1, 2]), Noisy(vec![-10, 20])]), Ok(Some(Noisy(vec![-11, 22]))));
        assert_eq!(total([]), Ok(None));
    }

    #[test]
    fn adds_noisy_results_that_are_stored_as_vectors() {
        let expected = Ok(Some(Noisy(vec![-4, 7])));
        assert_eq!(total(&[Vector(vec![1, 2]), Noisy(vec![-5, 5])]), expected);
        assert_eq!(total(&[Noisy(vec![-5, 5]), Vector(vec![1, 2])]), expected);
    }

    #[test]
    fn rejects_what_does_not_add_up() {
        assert_eq!(total(&[Number(1), Vector(vec![1])]), Err(SumError::Kind));
        assert_eq!(total(&[Vector(vec![1]), Vector(vec![1, 2])]), Err(SumError::Length(1, 2)));
        assert_eq!(total(&[Number(u128::MAX), Number(1)]), Err(SumError::Overflow));
        assert_eq!(total(&[Noisy(vec![0]), Vector(vec![u128::MAX])]), Err(SumError::Overflow));
        assert_eq!(total(&[Noisy(vec![i128::MIN]), Noisy(vec![-1])]), Err(SumError::Overflow));
    }

    #[test]
    fn numbers_are_exact() {
        let shown = |result| values(&result).iter().map(Exact::to_string).collect::<Vec<_>>();
        assert_eq!(shown(Number(u128::MAX)), ["340282366920938463463374607431768211455"]);
        assert_eq!(shown(Noisy(vec![i128::MIN, -1, 0])), ["-170141183460469231731687303715884105728", "-1", "0"]);
        assert_eq!(Exact::from(-3_i128).as_f64(), -3.0);
    }
}
