//! VDAFs as the interop test API writes them (draft-dcook-ppm-dap-interop-test-design-07 section 4.1.1).

use serde::{Deserialize, Serialize};

use super::number::{DecimalText, Numbers};
use crate::{
    model::{MaxMeasurement, VdafConfig},
    vdaf::{AggregateResult, Measurement, table},
};

/// Another name of the VDAF with several proofs; it implies two of them.
const DRAFT09_NAME: &str = "Prio3Draft09SumVecField64MultiproofHmacSha256Aes128";
const NAME: &str = "Prio3SumVecField64MultiproofHmacSha256Aes128";

/// A VDAF with its parameters as decimal text. The type decides which parameters apply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VdafObject {
    /// The name.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bits of each number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<DecimalText>,
    /// Largest number, which newer implementations use instead of the bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_measurement: Option<DecimalText>,
    /// Length of each vector, or number of bins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<DecimalText>,
    /// Chunk length of the proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk_length: Option<DecimalText>,
    /// Maximum number of set flags. The design lacks this VDAF; the name is that of DAP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_weight: Option<DecimalText>,
    /// Largest sum of the numbers of a vector. The design lacks this VDAF; the name is that of its draft.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_value: Option<DecimalText>,
    /// Number of proofs.
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "num_proofs")]
    pub proofs: Option<DecimalText>,
}

impl VdafObject {
    /// Whether the VDAF is known under any name.
    pub fn is_known(&self) -> bool {
        self.kind == DRAFT09_NAME || table::VDAFS.iter().any(|row| row.name == self.kind)
    }

    /// Converts to a VDAF, if it is known and its parameters are valid.
    pub fn configure(&self) -> Result<VdafConfig, String> {
        let (name, default_proofs) = match self.kind.as_str() {
            DRAFT09_NAME => (NAME, Some(2)),
            kind => (kind, None),
        };
        if !self.is_known() {
            return Err(format!("unknown VDAF {:?}", self.kind));
        }
        let number = |number: Option<DecimalText>, name: &str| number.map(|number| number.fits(name)).transpose();
        let max = self.max_measurement.map(|max| max.fits("max_measurement").map(MaxMeasurement)).transpose()?;
        let bits: Option<usize> = number(self.bits, "bits")?;
        // If both are given, they agree; some VDAFs have bits only.
        let max = max.filter(|max| name == "Prio3Sum" || name == "Prio3SumVec" || max.bits().is_none());
        let of_max = self.max_measurement.and_then(|max| MaxMeasurement(u64::try_from(max.0).ok()?).bits());
        let given = table::VdafParameters {
            bits: if max.is_some() { None } else { bits.or(of_max) },
            max_measurement: max.map(|max| max.0),
            length: number(self.length, "length")?,
            max_weight: number(self.max_weight, "max_weight")?,
            max_value: self.max_value.map(|max| max.fits("max_value")).transpose()?,
            chunk_length: number(self.chunk_length, "chunk_length")?,
            proofs: self.proofs.map(|proofs| proofs.fits("proofs")).transpose()?.or(default_proofs),
        };
        table::configure(name, &given).map_err(|error| error.0)
    }
}

impl From<&VdafConfig> for VdafObject {
    fn from(vdaf: &VdafConfig) -> Self {
        let of = |kind: &str| Self { kind: kind.to_owned(), ..Self::default() };
        let max_of = |of: Self, max: MaxMeasurement| Self {
            bits: max.bits().map(DecimalText::from),
            max_measurement: Some(DecimalText(max.0.into())),
            ..of
        };
        let sized = |of: Self, length: usize, chunk_length: usize| Self {
            length: Some(length.into()),
            chunk_length: Some(chunk_length.into()),
            ..of
        };
        match *vdaf {
            VdafConfig::Prio3Count => of("Prio3Count"),
            VdafConfig::Prio3Sum { max } => max_of(of("Prio3Sum"), max),
            VdafConfig::Prio3SumVec { max, length, chunk_length } => {
                sized(max_of(of("Prio3SumVec"), max), length, chunk_length)
            }
            VdafConfig::Prio3Histogram { length, chunk_length } => sized(of("Prio3Histogram"), length, chunk_length),
            VdafConfig::Prio3MultihotCountVec { length, max_weight, chunk_length } => {
                Self { max_weight: Some(max_weight.into()), ..sized(of("Prio3MultihotCountVec"), length, chunk_length) }
            }
            VdafConfig::Prio3L1BoundSum { max_value, length, chunk_length } => Self {
                max_value: Some(DecimalText(max_value.into())),
                ..sized(of("Prio3L1BoundSum"), length, chunk_length)
            },
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, chunk_length, proofs } => Self {
                proofs: Some(usize::from(proofs).into()),
                ..sized(max_of(of(NAME), MaxMeasurement::of_bits(bits as u32)), length, chunk_length)
            },
        }
    }
}

impl From<Numbers> for Measurement {
    fn from(numbers: Numbers) -> Self {
        match numbers {
            Numbers::One(number) => Self::Number(number.0),
            Numbers::Many(numbers) => Self::Vector(numbers.into_iter().map(|number| number.0).collect()),
        }
    }
}

/// Converts a result to numbers. Tasks of this API have no noise, which could make a result negative.
pub fn to_numbers(result: AggregateResult) -> Option<Numbers> {
    match result {
        AggregateResult::Number(number) => Some(Numbers::one(number)),
        AggregateResult::Vector(numbers) => Some(Numbers::many(numbers)),
        AggregateResult::Noisy(_) | AggregateResult::NoisyNumber(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<VdafConfig, String> {
        serde_json::from_value::<VdafObject>(value).map_err(|error| error.to_string())?.configure()
    }

    #[test]
    fn vdaf_object_round_trips() {
        for vdaf in [
            VdafConfig::Prio3Count,
            VdafConfig::Prio3Sum { max: MaxMeasurement(255) },
            VdafConfig::Prio3Sum { max: MaxMeasurement(100) },
            VdafConfig::Prio3SumVec { max: MaxMeasurement(1), length: 10, chunk_length: 3 },
            VdafConfig::Prio3Histogram { length: 4, chunk_length: 2 },
            VdafConfig::Prio3MultihotCountVec { length: 4, max_weight: 2, chunk_length: 2 },
            VdafConfig::Prio3L1BoundSum { max_value: u64::MAX, length: 4, chunk_length: 2 },
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits: 4, length: 5, chunk_length: 4, proofs: 2 },
        ] {
            let value = serde_json::to_value(VdafObject::from(&vdaf)).unwrap();
            assert_eq!(read(value.clone()), Ok(vdaf), "{value}");
        }
    }

    #[test]
    fn reads_parameter_names_of_all_peers() {
        let sum = Ok(VdafConfig::Prio3Sum { max: MaxMeasurement(255) });
        assert_eq!(read(json!({"type": "Prio3Sum", "bits": "8"})), sum);
        assert_eq!(read(json!({"type": "Prio3Sum", "bits": 8, "future": null})), sum);
        assert_eq!(read(json!({"type": "Prio3Sum", "max_measurement": "255"})), sum);
        let several = |proofs| {
            Ok(VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits: 8, length: 3, chunk_length: 5, proofs })
        };
        let of = |kind: &str, name: &str, value: &str| json!({"type": kind, name: value, "length": "3", "chunk_length": "5"});
        assert_eq!(read(of(NAME, "bits", "8")), several(table::DEFAULT_PROOFS_FIELD64));
        assert_eq!(read(of(NAME, "max_measurement", "255")), several(table::DEFAULT_PROOFS_FIELD64));
        assert_eq!(read(of(DRAFT09_NAME, "bits", "8")), several(2));
        let mut counted = of(NAME, "bits", "8");
        counted["num_proofs"] = json!("4");
        assert_eq!(read(counted), several(4));
    }

    #[test]
    fn rejects_unknown_vdafs_and_bad_parameters() {
        for (value, why) in [
            (json!({"type": "Poplar1", "bits": "8"}), "unknown VDAF"),
            (json!({"type": "count"}), "unknown VDAF"),
            (json!({"type": "Prio3Histogram", "length": "4", "chunk_length": "0"}), "chunk_length"),
            (json!({"type": "Prio3Sum"}), "Prio3Sum requires"),
            (json!({"type": "Prio3Sum", "bits": "99999999999999999999999"}), "too large"),
            (json!({"type": "Prio3Sum", "bits": "many"}), "decimal text"),
        ] {
            let found = read(value).unwrap_err();
            assert!(found.contains(why), "{found}");
        }
    }
}
