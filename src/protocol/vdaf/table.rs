//! Supported VDAFs: their names, and the limits of their parameters and measurements.
//!
//! The limits here apply to all VDAF drafts; limits of one draft are in its module. They are checked before `prio` sees
//! a value, because `prio` trusts its callers: it panics, for example, on a histogram index past the end.

use super::{Measurement, VdafError};
use crate::model::{MaxMeasurement, VdafConfig};

/// Maximum number of field elements in a report's measurement and proofs. At 16 bytes each, that is a leader share of
/// 64 MiB.
pub const MAX_ELEMENTS: usize = 1 << 22;

/// Maximum number of gadget calls of a proof. The proof's polynomials have up to four times as many coefficients, and
/// `prio` supports transforms of up to 2^20.
pub const MAX_GADGET_CALLS: usize = (1 << 19) - 1;

/// Maximum number of bits of a summand in the 128-bit field: half of the field, so that a sum of 2^63 reports does not
/// wrap around.
pub const MAX_BITS: usize = 64;

/// Maximum number of bits of a summand in the 64-bit field: half of the field, so that a sum of 2^31 reports does not
/// wrap around.
pub const MAX_BITS_FIELD64: usize = 32;

/// Minimum number of proofs for sufficient soundness over the 64-bit field.
pub const MIN_PROOFS_FIELD64: u8 = 2;

/// Default number of proofs, as in the test vectors of VDAF-08.
pub const DEFAULT_PROOFS_FIELD64: u8 = 3;

/// Parameters of a VDAF as entered by a user. Parameters that the VDAF does not have must be absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VdafParameters {
    /// Bits of each number; the largest number has all of them set.
    pub bits: Option<usize>,
    /// The largest number, an alternative to `bits`.
    pub max_measurement: Option<u64>,
    /// Length of each vector, or number of histogram buckets.
    pub length: Option<usize>,
    /// Maximum number of set flags.
    pub max_weight: Option<usize>,
    /// The largest sum of the numbers of a vector.
    pub max_value: Option<u64>,
    /// Chunk length of the proof's gadget; the optimal one if absent.
    pub chunk_length: Option<usize>,
    /// Number of proofs; [`DEFAULT_PROOFS_FIELD64`] if absent.
    pub proofs: Option<u8>,
}

impl VdafParameters {
    /// Names of the parameters that are present.
    fn present(&self) -> Vec<&'static str> {
        let all = [
            ("bits", self.bits.is_some()),
            ("max_measurement", self.max_measurement.is_some()),
            ("length", self.length.is_some()),
            ("max_weight", self.max_weight.is_some()),
            ("max_value", self.max_value.is_some()),
            ("chunk_length", self.chunk_length.is_some()),
            ("proofs", self.proofs.is_some()),
        ];
        all.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect()
    }
}

/// A VDAF with its parameter names.
pub struct VdafSpec {
    /// Name in the protocol and in task files.
    pub name: &'static str,
    /// Short name for the command line.
    pub short: &'static str,
    /// Required parameters: exactly one of each group.
    pub required: &'static [&'static [&'static str]],
    /// Optional parameters.
    pub optional: &'static [&'static str],
    /// Creates a configuration. Required parameters are present, unknown parameters are absent.
    make: fn(&VdafParameters) -> VdafConfig,
}

/// The largest number has two alternative parameters.
const MAX: &[&str] = &["bits", "max_measurement"];
const BITS: &[&str] = &["bits"];
const LENGTH: &[&str] = &["length"];
const MAX_WEIGHT: &[&str] = &["max_weight"];
const MAX_VALUE: &[&str] = &["max_value"];

/// All supported VDAFs.
pub static VDAFS: &[VdafSpec] = &[
    VdafSpec { name: "Prio3Count", short: "count", required: &[], optional: &[], make: |_| VdafConfig::Prio3Count },
    VdafSpec {
        name: "Prio3Sum",
        short: "sum",
        required: &[MAX],
        optional: &[],
        make: |p| VdafConfig::Prio3Sum { max: max(p) },
    },
    VdafSpec {
        name: "Prio3SumVec",
        short: "sumvec",
        required: &[MAX, LENGTH],
        optional: &["chunk_length"],
        make: |p| {
            let (max, length) = (max(p), required(p.length));
            let elements = max.bit_length().saturating_mul(length);
            VdafConfig::Prio3SumVec { max, length, chunk_length: chunk_length(p, elements) }
        },
    },
    VdafSpec {
        name: "Prio3Histogram",
        short: "histogram",
        required: &[LENGTH],
        optional: &["chunk_length"],
        make: |p| {
            let length = required(p.length);
            VdafConfig::Prio3Histogram { length, chunk_length: chunk_length(p, length) }
        },
    },
    VdafSpec {
        name: "Prio3MultihotCountVec",
        short: "multihot",
        required: &[LENGTH, MAX_WEIGHT],
        optional: &["chunk_length"],
        make: |p| {
            let (length, max_weight) = (required(p.length), required(p.max_weight));
            let chunk_length = chunk_length(p, length.saturating_add(bits_of(max_weight)));
            VdafConfig::Prio3MultihotCountVec { length, max_weight, chunk_length }
        },
    },
    VdafSpec {
        name: "Prio3L1BoundSum",
        short: "l1-bound-sum",
        required: &[MAX_VALUE, LENGTH],
        optional: &["chunk_length"],
        make: |p| {
            let (max_value, length) = (p.max_value.unwrap_or_default(), required(p.length));
            let elements = l1_elements(max_value, length);
            VdafConfig::Prio3L1BoundSum { max_value, length, chunk_length: chunk_length(p, elements) }
        },
    },
    VdafSpec {
        name: "Prio3SumVecField64MultiproofHmacSha256Aes128",
        short: "sumvec-hmac",
        required: &[BITS, LENGTH],
        optional: &["chunk_length", "proofs"],
        make: |p| {
            let (bits, length) = (required(p.bits), required(p.length));
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 {
                bits,
                length,
                chunk_length: chunk_length(p, bits.saturating_mul(length)),
                proofs: p.proofs.unwrap_or(DEFAULT_PROOFS_FIELD64),
            }
        },
    },
];

/// Creates a VDAF configuration from a name and parameters. The name is long or short, in any case.
///
/// An absent chunk length becomes [`optimal_chunk_length`]. Errors name the parameter that is unknown, missing,
/// unexpected or out of range.
pub fn configure(name: &str, parameters: &VdafParameters) -> Result<VdafConfig, VdafError> {
    let row = VDAFS
        .iter()
        .find(|row| row.name.eq_ignore_ascii_case(name) || row.short.eq_ignore_ascii_case(name))
        .ok_or_else(|| {
            let known: Vec<_> = VDAFS.iter().map(|row| row.short).collect();
            VdafError(format!("unknown VDAF {name:?} (known: {})", known.join(", ")))
        })?;
    let given = parameters.present();
    for group in row.required {
        let named = group.iter().map(|parameter| format!("`{parameter}`")).collect::<Vec<_>>().join(" or ");
        match group.iter().filter(|parameter| given.contains(parameter)).count() {
            0 => return Err(VdafError(format!("{} requires {named}", row.name))),
            1 => {}
            _ => return Err(VdafError(format!("{} requires {named}, not both", row.name))),
        }
    }
    let known = |parameter| row.optional.contains(parameter) || row.required.iter().any(|g| g.contains(parameter));
    if let Some(parameter) = given.iter().find(|parameter| !known(parameter)) {
        return Err(VdafError(format!("{} has no parameter `{parameter}`", row.name)));
    }
    let config = (row.make)(parameters);
    check(&config)?;
    Ok(config)
}

/// Validates the parameters of a configuration. [`preparer`](super::preparer) accepts every valid configuration.
pub fn check(config: &VdafConfig) -> Result<(), VdafError> {
    match *config {
        VdafConfig::Prio3Count => Ok(()),
        VdafConfig::Prio3Sum { max } => check_max(max).map(drop),
        VdafConfig::Prio3SumVec { max, length, chunk_length } => {
            let bits = check_max(max)?;
            in_range("length", length, 1, MAX_ELEMENTS)?;
            check_proof(bits * length, chunk_length, 1)
        }
        VdafConfig::Prio3Histogram { length, chunk_length } => {
            in_range("length", length, 1, MAX_ELEMENTS)?;
            check_proof(length, chunk_length, 1)
        }
        VdafConfig::Prio3MultihotCountVec { length, max_weight, chunk_length } => {
            in_range("length", length, 1, MAX_ELEMENTS)?;
            in_range("max_weight", max_weight, 1, length)?;
            check_proof(length + bits_of(max_weight), chunk_length, 1)
        }
        VdafConfig::Prio3L1BoundSum { max_value, length, chunk_length } => {
            check_max_value(max_value)?;
            in_range("length", length, 1, MAX_ELEMENTS)?;
            check_proof(l1_elements(max_value, length), chunk_length, 1)
        }
        VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, chunk_length, proofs } => {
            in_range("bits", bits, 1, MAX_BITS_FIELD64)?;
            in_range("length", length, 1, MAX_ELEMENTS)?;
            in_range("proofs", proofs.into(), MIN_PROOFS_FIELD64.into(), u8::MAX.into())?;
            check_proof(bits * length, chunk_length, proofs.into())
        }
    }
}

/// The chunk length that minimizes proofs over `elements` field elements; about the square root of `elements`.
///
/// `elements` is `bits * length` for vectors of numbers, `bits * (length + 1)` for those with a bound on their sum, the
/// number of buckets for histograms, and the number of flags plus the bits of the maximum weight for flags. The number
/// of proofs and the field do not affect the choice.
pub fn optimal_chunk_length(elements: usize) -> usize {
    prio16::vdaf::prio3::optimal_chunk_length(elements.min(MAX_ELEMENTS))
}

/// Number of bits of the largest number. Rejects zero, which also represents an invalid number of bits.
fn check_max(max: MaxMeasurement) -> Result<usize, VdafError> {
    match max.bit_length() {
        bits @ 1..=MAX_BITS => Ok(bits),
        _ => Err(VdafError(format!("the largest number must be between 1 and 2^{MAX_BITS} - 1"))),
    }
}

/// Checks the largest sum of a vector. Zero would allow only vectors of zeros.
fn check_max_value(max_value: u64) -> Result<(), VdafError> {
    if max_value > 0 { Ok(()) } else { Err(VdafError("max_value must be at least 1".into())) }
}

/// Number of field elements of a vector with a bound on its sum: the bits of each number, and those of the sum.
fn l1_elements(max_value: u64, length: usize) -> usize {
    MaxMeasurement(max_value).bit_length().saturating_mul(length.saturating_add(1))
}

/// Checks the size of proofs over a measurement of `elements` field elements, at least one.
fn check_proof(elements: usize, chunk_length: usize, proofs: usize) -> Result<(), VdafError> {
    in_range("the number of field elements of a measurement", elements, 1, MAX_ELEMENTS)?;
    in_range("chunk_length", chunk_length, 1, elements)?;
    let calls = elements.div_ceil(chunk_length);
    if calls > MAX_GADGET_CALLS {
        return Err(VdafError(format!("chunk_length {chunk_length} is too small for {elements} field elements")));
    }
    // Two wire seeds for each element of a chunk, and a polynomial of degree two over the gadget calls.
    let proof = 2 * chunk_length + 2 * (calls + 1).next_power_of_two();
    in_range("the number of field elements of a report", elements + proofs * proof, 1, MAX_ELEMENTS)
}

fn in_range(what: &str, value: usize, min: usize, max: usize) -> Result<(), VdafError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(VdafError(format!("{what} must be between {min} and {max}, not {value}")))
    }
}

/// A required parameter. [`configure`] has checked that it is present.
fn required(parameter: Option<usize>) -> usize {
    parameter.unwrap_or_default()
}

/// The largest number, from either parameter.
fn max(parameters: &VdafParameters) -> MaxMeasurement {
    let of_bits = || MaxMeasurement::of_bits(required(parameters.bits).try_into().unwrap_or(0));
    parameters.max_measurement.map_or_else(of_bits, MaxMeasurement)
}

fn chunk_length(parameters: &VdafParameters, elements: usize) -> usize {
    parameters.chunk_length.unwrap_or_else(|| optimal_chunk_length(elements))
}

/// Number of bits that `number` needs.
fn bits_of(number: usize) -> usize {
    (usize::BITS - number.leading_zeros()) as usize
}

/// Validates a measurement without sharding it.
pub fn check_measurement(config: &VdafConfig, measurement: &Measurement) -> Result<(), VdafError> {
    match *config {
        VdafConfig::Prio3Count => flag(measurement).map(drop),
        VdafConfig::Prio3Sum { max } => number(measurement, max.0.into()).map(drop),
        VdafConfig::Prio3SumVec { max, length, .. } => numbers(measurement, length, max.0.into()).map(drop),
        VdafConfig::Prio3Histogram { length, .. } => number(measurement, (length as u128).saturating_sub(1)).map(drop),
        VdafConfig::Prio3MultihotCountVec { length, max_weight, .. } => {
            flags(measurement, length, max_weight).map(drop)
        }
        VdafConfig::Prio3L1BoundSum { max_value, length, .. } => {
            bounded(measurement, length, max_value.into()).map(drop)
        }
        VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, .. } => {
            let max = u32::try_from(bits).map_or(MaxMeasurement(0), MaxMeasurement::of_bits);
            numbers(measurement, length, max.0.into()).map(drop)
        }
    }
}

/// The measurement as a flag. Accepts 0 and 1 as well.
pub(super) fn flag(measurement: &Measurement) -> Result<bool, VdafError> {
    match measurement {
        Measurement::Flag(flag) => Ok(*flag),
        Measurement::Number(number @ 0..=1) => Ok(*number == 1),
        _ => Err(VdafError("the measurement must be true or false".into())),
    }
}

/// The measurement as a number of at most `max`.
pub(super) fn number(measurement: &Measurement, max: u128) -> Result<u128, VdafError> {
    match measurement {
        Measurement::Number(number) if *number <= max => Ok(*number),
        Measurement::Number(number) => Err(VdafError(format!("the measurement {number} exceeds the maximum {max}"))),
        _ => Err(VdafError("the measurement must be a number".into())),
    }
}

/// The measurement as a vector of `length` numbers of at most `max`.
pub(super) fn numbers(measurement: &Measurement, length: usize, max: u128) -> Result<&[u128], VdafError> {
    let Measurement::Vector(numbers) = measurement else {
        return Err(VdafError("the measurement must be a vector".into()));
    };
    if numbers.len() != length {
        return Err(VdafError(format!("the measurement must have {length} elements, not {}", numbers.len())));
    }
    match numbers.iter().position(|number| *number > max) {
        Some(at) => {
            Err(VdafError(format!("element {at} of the measurement is {}, more than the maximum {max}", numbers[at])))
        }
        None => Ok(numbers),
    }
}

/// The measurement as a vector of `length` numbers whose sum is at most `max`.
pub(super) fn bounded(measurement: &Measurement, length: usize, max: u128) -> Result<&[u128], VdafError> {
    let numbers = numbers(measurement, length, max)?;
    // Each number is at most 2^64 - 1, so the sum does not overflow.
    let sum: u128 = numbers.iter().sum();
    if sum > max {
        return Err(VdafError(format!("the elements of the measurement add up to {sum}, more than the maximum {max}")));
    }
    Ok(numbers)
}

/// The measurement as a vector of `length` flags of which at most `max_weight` are set.
pub(super) fn flags(measurement: &Measurement, length: usize, max_weight: usize) -> Result<Vec<bool>, VdafError> {
    let flags: Vec<bool> = numbers(measurement, length, 1)?.iter().map(|flag| *flag == 1).collect();
    let weight = flags.iter().filter(|flag| **flag).count();
    if weight > max_weight {
        return Err(VdafError(format!(
            "{weight} flags of the measurement are set, more than the maximum {max_weight}"
        )));
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(name: &str, parameters: VdafParameters) -> Result<VdafConfig, String> {
        configure(name, &parameters).map_err(|error| error.0)
    }

    #[test]
    fn configures_every_vdaf_by_either_name() {
        for row in VDAFS {
            // The first parameter of each group, then the last.
            let first = |group: &[&'static str]| group[0];
            let last = |group: &[&'static str]| group[group.len() - 1];
            for pick in [first, last] {
                let has = |parameter| row.required.iter().any(|group| pick(group) == parameter);
                let parameters = VdafParameters {
                    bits: has("bits").then_some(8),
                    max_measurement: has("max_measurement").then_some(255),
                    length: has("length").then_some(8),
                    max_weight: has("max_weight").then_some(8),
                    max_value: has("max_value").then_some(8),
                    ..VdafParameters::default()
                };
                let config = configure(row.short, &parameters).unwrap();
                assert_eq!(configure(row.name, &parameters).unwrap(), config);
                assert_eq!(serde_json::to_value(&config).unwrap()["type"], row.name);
            }
        }
    }

    #[test]
    fn names_missing_and_unexpected_parameters() {
        let bits = VdafParameters { bits: Some(8), ..VdafParameters::default() };
        assert_eq!(configured("count", bits), Err("Prio3Count has no parameter `bits`".into()));
        assert_eq!(configured("SumVec", bits), Err("Prio3SumVec requires `length`".into()));
        let none = VdafParameters::default();
        assert_eq!(configured("sum", none), Err("Prio3Sum requires `bits` or `max_measurement`".into()));
        assert!(configured("median", bits).unwrap_err().starts_with("unknown VDAF \"median\" (known: count, sum"));
    }

    #[test]
    fn accepts_bits_or_max_measurement() {
        let max = VdafParameters { max_measurement: Some(100), ..VdafParameters::default() };
        assert_eq!(configured("sum", max), Ok(VdafConfig::Prio3Sum { max: MaxMeasurement(100) }));
        let vector = configured("sumvec", VdafParameters { length: Some(3), ..max });
        assert_eq!(
            vector,
            Ok(VdafConfig::Prio3SumVec { max: MaxMeasurement(100), length: 3, chunk_length: optimal_chunk_length(21) })
        );
        let both = VdafParameters { bits: Some(8), ..max };
        assert_eq!(configured("sum", both), Err("Prio3Sum requires `bits` or `max_measurement`, not both".into()));
        let hmac = configured("sumvec-hmac", VdafParameters { length: Some(3), ..max });
        assert!(hmac.unwrap_err().ends_with(" requires `bits`"));
        for none in [
            VdafParameters { max_measurement: Some(0), ..VdafParameters::default() },
            VdafParameters { bits: Some(65), ..VdafParameters::default() },
        ] {
            let why = "the largest number must be between 1 and 2^64 - 1";
            assert_eq!(configured("sum", none), Err(why.into()));
        }
    }

    #[test]
    fn picks_optimal_chunk_length() {
        let p = VdafParameters { bits: Some(4), length: Some(2500), ..VdafParameters::default() };
        assert_eq!(
            configured("sumvec", p),
            Ok(VdafConfig::Prio3SumVec {
                max: MaxMeasurement::of_bits(4),
                length: 2500,
                chunk_length: optimal_chunk_length(10_000)
            })
        );
        let given = VdafParameters { chunk_length: Some(7), ..p };
        assert_eq!(
            configured("sumvec", given),
            Ok(VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(4), length: 2500, chunk_length: 7 })
        );
        let near_root = optimal_chunk_length(10_000);
        assert!((50..=200).contains(&near_root), "{near_root}");
    }

    #[test]
    fn requires_bound_of_sum() {
        let length = VdafParameters { length: Some(10), ..VdafParameters::default() };
        let bounded = |max_value| VdafParameters { max_value: Some(max_value), ..length };
        // The proof covers eight bits of each number and of the sum.
        assert_eq!(
            configured("l1-bound-sum", bounded(240)),
            Ok(VdafConfig::Prio3L1BoundSum { max_value: 240, length: 10, chunk_length: optimal_chunk_length(88) })
        );
        assert_eq!(configured("l1-bound-sum", length), Err("Prio3L1BoundSum requires `max_value`".into()));
        assert_eq!(configured("l1-bound-sum", bounded(0)), Err("max_value must be at least 1".into()));
        assert_eq!(configured("histogram", bounded(1)), Err("Prio3Histogram has no parameter `max_value`".into()));
        let bits = VdafParameters { bits: Some(8), ..bounded(240) };
        assert_eq!(configured("l1-bound-sum", bits), Err("Prio3L1BoundSum has no parameter `bits`".into()));
    }

    #[test]
    fn rejects_overflowing_sizes() {
        for bits in [1, 8, 64, usize::MAX] {
            for length in [1 << 21, 1 << 40, usize::MAX] {
                for chunk_length in [None, Some(0), Some(1), Some(usize::MAX)] {
                    let p = VdafParameters {
                        bits: Some(bits),
                        length: Some(length),
                        chunk_length,
                        ..VdafParameters::default()
                    };
                    let fine = bits == 1 && length == 1 << 21 && chunk_length.is_none();
                    assert_eq!(configured("sumvec", p).is_ok(), fine, "{p:?}");
                    assert_eq!(configured("sumvec-hmac", p).is_ok(), fine, "{p:?}");
                    let max_value = Some(u64::MAX >> (64 - bits.min(64)));
                    let p = VdafParameters { bits: None, max_value, ..p };
                    assert_eq!(configured("l1-bound-sum", p).is_ok(), fine, "{p:?}");
                }
            }
        }
        let all = Some(usize::MAX);
        let p = VdafParameters { length: all, max_weight: all, ..VdafParameters::default() };
        assert!(configured("multihot", p).is_err());
    }

    #[test]
    fn rejects_parameters_out_of_range() {
        let bad = [
            VdafConfig::Prio3Sum { max: MaxMeasurement(0) },
            VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(1), length: 0, chunk_length: 1 },
            VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(2), length: 3, chunk_length: 7 },
            VdafConfig::Prio3Histogram { length: 10, chunk_length: 0 },
            VdafConfig::Prio3Histogram { length: 10, chunk_length: 11 },
            VdafConfig::Prio3Histogram { length: 1 << 19, chunk_length: 1 },
            VdafConfig::Prio3MultihotCountVec { length: 10, max_weight: 0, chunk_length: 3 },
            VdafConfig::Prio3MultihotCountVec { length: 10, max_weight: 11, chunk_length: 3 },
            VdafConfig::Prio3L1BoundSum { max_value: 0, length: 10, chunk_length: 3 },
            VdafConfig::Prio3L1BoundSum { max_value: 1, length: 0, chunk_length: 1 },
            VdafConfig::Prio3L1BoundSum { max_value: 3, length: 3, chunk_length: 9 },
            VdafConfig::Prio3L1BoundSum { max_value: u64::MAX, length: usize::MAX, chunk_length: 1 },
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 {
                bits: 1,
                length: 10,
                chunk_length: 3,
                proofs: 1,
            },
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 {
                bits: 33,
                length: 10,
                chunk_length: 3,
                proofs: 2,
            },
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 {
                bits: 1,
                length: 100_000,
                chunk_length: 100_000,
                proofs: 255,
            },
        ];
        for config in bad {
            assert!(check(&config).is_err(), "{config:?}");
        }
    }
}
