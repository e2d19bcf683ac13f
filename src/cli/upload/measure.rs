//! Parses measurements.

use crate::{
    model::VdafConfig,
    vdaf::{Measurement, table},
};

/// Parses a measurement: `true`, `7` or `1,0,1`, depending on the VDAF.
pub fn parse(text: &str, vdaf: &VdafConfig) -> Result<Measurement, String> {
    let cells: Vec<&str> = text.trim_matches(['[', ']']).split(',').collect();
    of_row(&cells, vdaf)
}

/// Parses a measurement from the cells of a row. Fails if it is outside the VDAF's range.
pub fn of_row(cells: &[&str], vdaf: &VdafConfig) -> Result<Measurement, String> {
    let measurement = from_cells(cells, vdaf)?;
    table::check_measurement(vdaf, &measurement).map_err(|error| error.to_string())?;
    Ok(measurement)
}

fn from_cells(cells: &[&str], vdaf: &VdafConfig) -> Result<Measurement, String> {
    match (vdaf, cells) {
        (VdafConfig::Prio3Count, [cell]) => flag(cell).map(Measurement::Flag),
        (VdafConfig::Prio3Sum { .. } | VdafConfig::Prio3Histogram { .. }, [cell]) => {
            number(cell).map(Measurement::Number)
        }
        (VdafConfig::Prio3Count | VdafConfig::Prio3Sum { .. } | VdafConfig::Prio3Histogram { .. }, cells) => {
            Err(format!("expected 1 value, got {}", cells.len()))
        }
        (VdafConfig::Prio3MultihotCountVec { .. }, cells) => {
            let flags = cells.iter().map(|cell| flag(cell).map(u128::from)).collect::<Result<_, _>>()?;
            Ok(Measurement::Vector(flags))
        }
        (
            VdafConfig::Prio3SumVec { .. }
            | VdafConfig::Prio3L1BoundSum { .. }
            | VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { .. },
            cells,
        ) => Ok(Measurement::Vector(cells.iter().map(|cell| number(cell)).collect::<Result<_, _>>()?)),
    }
}

fn flag(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(format!("invalid flag '{text}' (expected true or false)")),
    }
}

fn number(text: &str) -> Result<u128, String> {
    text.trim().parse().map_err(|_| format!("invalid number '{text}' (expected a non-negative integer)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MaxMeasurement;

    const SUMVEC: VdafConfig = VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(8), length: 2, chunk_length: 4 };

    #[test]
    fn parses_text_by_vdaf() {
        assert_eq!(parse("1", &VdafConfig::Prio3Count), Ok(Measurement::Flag(true)));
        assert_eq!(parse("1", &VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) }), Ok(Measurement::Number(1)));
        assert_eq!(parse("[1, 2]", &SUMVEC), Ok(Measurement::Vector(vec![1, 2])));
        for (text, vdaf) in [
            ("2", VdafConfig::Prio3Count),
            ("-1", SUMVEC),
            ("1,2", VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) }),
        ] {
            assert!(parse(text, &vdaf).is_err(), "{text}");
        }
    }

    #[test]
    fn rejects_out_of_range_measurements() {
        let multihot = VdafConfig::Prio3MultihotCountVec { length: 3, max_weight: 1, chunk_length: 1 };
        let histogram = VdafConfig::Prio3Histogram { length: 4, chunk_length: 1 };
        let bounded = VdafConfig::Prio3L1BoundSum { max_value: 5, length: 3, chunk_length: 1 };
        for (cells, vdaf, says) in [
            (&["4"][..], &histogram, "maximum 3"),
            (&["256", "1"], &SUMVEC, "maximum 255"),
            (&["1"], &SUMVEC, "2 elements"),
            (&["1", "1", "0"], &multihot, "maximum 1"),
            (&["2", "0", "4"], &bounded, "add up to 6, more than the maximum 5"),
            (&["0", "6", "0"], &bounded, "element 1 of the measurement is 6, more than the maximum 5"),
            (&["1", "-1", "0"], &bounded, "non-negative integer"),
        ] {
            assert!(of_row(cells, vdaf).unwrap_err().contains(says), "{cells:?}");
        }
        assert_eq!(of_row(&["3"], &histogram), Ok(Measurement::Number(3)));
        assert_eq!(of_row(&["2", "0", "3"], &bounded), Ok(Measurement::Vector(vec![2, 0, 3])));
    }
}
