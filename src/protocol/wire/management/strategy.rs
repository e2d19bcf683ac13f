//! Differential privacy strategies in JSON of the management API and in YAML task lists.

use serde::{Deserialize, Serialize};

use crate::model::Epsilon;

/// The strategy of a VDAF.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Strategy {
    dp_strategy: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    budget: Option<Budget>,
}

/// The name of a strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Kind {
    #[default]
    NoDifferentialPrivacy,
    PureDpDiscreteLaplace,
}

/// The privacy budget of a strategy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Budget {
    /// Numerator and denominator, each as 32-bit digits, the least significant first.
    epsilon: [Vec<u32>; 2],
}

impl Strategy {
    pub(super) fn of(noise: Option<Epsilon>) -> Self {
        let Some(epsilon) = noise else { return Self::default() };
        let epsilon = [epsilon.numerator(), epsilon.denominator()].map(digits);
        Self { dp_strategy: Kind::PureDpDiscreteLaplace, budget: Some(Budget { epsilon }) }
    }

    pub(super) fn noise(&self) -> Result<Option<Epsilon>, String> {
        let budget = match (self.dp_strategy, &self.budget) {
            (Kind::NoDifferentialPrivacy, None) => return Ok(None),
            (Kind::NoDifferentialPrivacy, Some(_)) => {
                return Err("vdaf: NoDifferentialPrivacy has no budget (hint: omit it or set dp_strategy)".to_owned());
            }
            (Kind::PureDpDiscreteLaplace, None) => return Err("vdaf: the budget of dp_strategy is missing".to_owned()),
            (Kind::PureDpDiscreteLaplace, Some(budget)) => budget,
        };
        let [above, below] = budget.epsilon.each_ref().map(|digits| number(digits));
        let epsilon = above.zip(below).and_then(|(above, below)| Epsilon::new(above, below));
        let why = "vdaf: the epsilon of dp_strategy must be a positive fraction of numbers below 2^128";
        epsilon.map(Some).ok_or_else(|| why.to_owned())
    }
}

fn digits(mut number: u128) -> Vec<u32> {
    let mut digits = Vec::new();
    while number > 0 {
        digits.push(number as u32);
        number >>= 32;
    }
    digits
}

fn number(digits: &[u32]) -> Option<u128> {
    digits.iter().rev().try_fold(0_u128, |number, digit| Some(number.checked_mul(1 << 32)? | u128::from(*digit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Epsilon>, String> {
        serde_json::from_str::<Strategy>(text).map_err(|error| error.to_string())?.noise()
    }

    fn epsilon(digits: &str) -> Result<Option<Epsilon>, String> {
        read(&format!(r#"{{"dp_strategy":"PureDpDiscreteLaplace","budget":{{"epsilon":{digits}}}}}"#))
    }

    #[test]
    fn round_trips_epsilon_in_lowest_terms() {
        for (given, text, back) in [
            ("[[1],[1]]", "1", "[[1],[1]]"),
            ("[[2],[4]]", "0.5", "[[1],[2]]"),
            ("[[3,0],[7]]", "3/7", "[[3],[7]]"),
            ("[[0,1],[1]]", "4294967296", "[[0,1],[1]]"),
            (
                "[[4294967295,4294967295,4294967295,4294967295,0,0],[2]]",
                "170141183460469231731687303715884105727.5",
                "[[4294967295,4294967295,4294967295,4294967295],[2]]",
            ),
        ] {
            let read = epsilon(given).unwrap();
            assert_eq!(read.unwrap().to_string(), text);
            let told = serde_json::to_string(&Strategy::of(read)).unwrap();
            assert_eq!(told, format!(r#"{{"dp_strategy":"PureDpDiscreteLaplace","budget":{{"epsilon":{back}}}}}"#));
        }
        assert_eq!(read(r#"{"dp_strategy":"NoDifferentialPrivacy"}"#), Ok(None));
    }

    #[test]
    fn rejects_invalid_epsilon() {
        for wrong in ["[[0],[1]]", "[[],[1]]", "[[1],[0]]", "[[1],[]]", "[[0,0,0,0,1],[1]]", "[[1],[0,0,0,0,1]]"] {
            assert!(epsilon(wrong).unwrap_err().contains("positive fraction"), "{wrong}");
        }
        for wrong in ["[[1]]", "[[1],[1],[1]]", "[[-1],[1]]", "[[4294967296],[1]]", "1", "null", "[1,1]"] {
            assert!(epsilon(wrong).is_err(), "{wrong}");
        }
        assert!(read(r#"{"dp_strategy":"PureDpDiscreteLaplace"}"#).is_err());
        assert!(read(r#"{"dp_strategy":"NoDifferentialPrivacy","budget":{"epsilon":[[1],[1]]}}"#).is_err());
        assert!(read(r#"{"dp_strategy":"ZCdpDiscreteGaussian","budget":{"epsilon":[[1],[1]]}}"#).is_err());
    }
}
