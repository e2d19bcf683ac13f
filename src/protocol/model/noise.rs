//! Parameters of differential privacy.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The epsilon of pure differential privacy: a positive fraction in lowest terms. A smaller epsilon means more noise.
///
/// As text, an epsilon is a decimal if that is exact, and a fraction otherwise: `0.5`, `1`, `2/3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Epsilon {
    numerator: u128,
    denominator: u128,
}

/// The text is not an [`Epsilon`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("epsilon must be a positive number such as 0.5, 3 or 2/3")]
pub struct InvalidEpsilon;

impl Epsilon {
    /// Creates an epsilon; `None` if the fraction is zero or infinite.
    pub fn new(numerator: u128, denominator: u128) -> Option<Self> {
        if numerator == 0 || denominator == 0 {
            return None;
        }
        let divisor = gcd(numerator, denominator);
        Some(Self { numerator: numerator / divisor, denominator: denominator / divisor })
    }

    /// The numerator, in lowest terms.
    pub fn numerator(&self) -> u128 {
        self.numerator
    }

    /// The denominator, in lowest terms.
    pub fn denominator(&self) -> u128 {
        self.denominator
    }

    /// Multiplies it by a positive fraction. `None` if the fraction is zero or infinite, or if the product exceeds 128 bits.
    pub fn scaled(&self, numerator: u128, denominator: u128) -> Option<Self> {
        let (factor, over) = (gcd(self.numerator, denominator), gcd(numerator, self.denominator));
        let above = self.numerator.checked_div(factor)?.checked_mul(numerator.checked_div(over)?)?;
        Self::new(above, (self.denominator / over).checked_mul(denominator / factor)?)
    }

    /// The sum of this many; `None` of none.
    pub fn times(&self, count: u64) -> Option<Self> {
        Self::new(self.numerator.saturating_mul(count.into()), self.denominator)
    }

    /// How often `part` fits into it. `None` if the fractions have too many digits to tell.
    pub fn quotient(&self, part: &Self) -> Option<u64> {
        let ratio = self.scaled(part.denominator, part.numerator)?;
        Some(u64::try_from(ratio.numerator / ratio.denominator).unwrap_or(u64::MAX))
    }

    /// The approximate value.
    pub fn as_f64(&self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    /// Number of decimal places, if the value is a decimal with at most 18.
    fn decimals(&self) -> Option<usize> {
        (0..=18).find(|digits| 10_u128.pow(*digits as u32).is_multiple_of(self.denominator))
    }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl fmt::Display for Epsilon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = self.numerator % self.denominator;
        let whole = self.numerator / self.denominator;
        match self.decimals() {
            Some(0) => write!(f, "{whole}"),
            Some(digits) => {
                let digit = fraction * (10_u128.pow(digits as u32) / self.denominator);
                write!(f, "{whole}.{digit:0digits$}")
            }
            None => write!(f, "{}/{}", self.numerator, self.denominator),
        }
    }
}

impl FromStr for Epsilon {
    type Err = InvalidEpsilon;

    fn from_str(text: &str) -> Result<Self, InvalidEpsilon> {
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u128>().map_err(|_| InvalidEpsilon),
            false => Err(InvalidEpsilon),
        };
        let (numerator, denominator) = if let Some((above, below)) = text.split_once('/') {
            (number(above)?, number(below)?)
        } else if let Some((whole, digits)) = text.split_once('.') {
            let scale = 10_u128.checked_pow(digits.len() as u32).ok_or(InvalidEpsilon)?;
            let shifted = number(whole)?.checked_mul(scale).ok_or(InvalidEpsilon)?;
            (shifted.checked_add(number(digits)?).ok_or(InvalidEpsilon)?, scale)
        } else {
            (number(text)?, 1)
        };
        Self::new(numerator, denominator).ok_or(InvalidEpsilon)
    }
}

impl TryFrom<String> for Epsilon {
    type Error = InvalidEpsilon;

    fn try_from(text: String) -> Result<Self, InvalidEpsilon> {
        text.parse()
    }
}

impl From<Epsilon> for String {
    fn from(epsilon: Epsilon) -> Self {
        epsilon.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn formats_and_parses_decimals_and_fractions() {
        for (given, shown) in [
            ("1", "1"),
            ("0.5", "0.5"),
            ("0.50", "0.5"),
            ("1/2", "0.5"),
            ("2/3", "2/3"),
            ("4/6", "2/3"),
            ("10.05", "10.05"),
            ("0.000000000000000001", "0.000000000000000001"),
        ] {
            assert_eq!(given.parse::<Epsilon>().map(|epsilon| epsilon.to_string()), Ok(shown.to_owned()), "{given}");
        }
        for wrong in ["", "0", "0.0", "0/1", "1/0", "-1", "+1", "1e3", ".5", "5.", "1/", "/1", "1.2/3", "1 ", "NaN"] {
            assert_eq!(wrong.parse::<Epsilon>(), Err(InvalidEpsilon), "{wrong}");
        }
        assert_eq!("9".repeat(40).parse::<Epsilon>(), Err(InvalidEpsilon));
        assert_eq!(format!("1.{}", "0".repeat(60)).parse::<Epsilon>(), Err(InvalidEpsilon));
    }

    #[test]
    fn counts_parts_of_a_budget() {
        let epsilon = |text: &str| text.parse::<Epsilon>().unwrap();
        for (budget, part, count) in [("1", "0.1", 10), ("1", "0.3", 3), ("0.05", "0.1", 0), ("2/3", "1/3", 2)] {
            assert_eq!(epsilon(budget).quotient(&epsilon(part)), Some(count), "{budget} of {part}");
        }
        assert_eq!(epsilon("0.1").times(3), Some(epsilon("0.3")));
        assert_eq!(epsilon("0.1").times(0), None);
    }

    #[test]
    fn scales_by_fractions() {
        let scaled = |by, over| Epsilon::new(2, 3).unwrap().scaled(by, over).map(|epsilon| epsilon.to_string());
        for (by, over, product) in [(1, 1, "2/3"), (3, 2, "1"), (6, 1, "4"), (1, 255, "2/765"), (9, 2, "3")] {
            assert_eq!(scaled(by, over).as_deref(), Some(product), "{by}/{over}");
        }
        assert_eq!((scaled(0, 1), scaled(1, 0), scaled(1, u128::MAX - 1)), (None, None, None));
    }

    proptest! {
        #[test]
        fn fraction_text_round_trips(numerator in 1_u128.., denominator in 1_u128..) {
            let epsilon = Epsilon::new(numerator, denominator).unwrap();
            prop_assert_eq!(epsilon.to_string().parse(), Ok(epsilon));
        }

        #[test]
        fn decimal_text_round_trips(numerator in 1_u128..1 << 100, digits in 0_u32..20) {
            let epsilon = Epsilon::new(numerator, 10_u128.pow(digits)).unwrap();
            prop_assert_eq!(epsilon.to_string().parse(), Ok(epsilon));
        }
    }
}
