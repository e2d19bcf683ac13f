//! From text to measurements.

use std::io::Read;

use super::Failure;
use crate::{model::VdafConfig, vdaf::Measurement};

/// Reads one measurement: `true`, `7` or `1,0,1`, whichever the VDAF takes.
pub fn parse(text: &str, vdaf: &VdafConfig) -> Result<Measurement, String> {
    let cells: Vec<&str> = text.trim_matches(['[', ']']).split(',').collect();
    from_cells(&cells, vdaf)
}

/// Reads one measurement from each row of a CSV file with a header. Stops at the first that is none, before anything
/// is done with the others.
pub fn read_csv(
    source: impl Read,
    columns: &[String],
    vdaf: &VdafConfig,
    rows: usize,
) -> Result<Vec<Measurement>, Failure> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(source);
    let headers = reader.headers()?.clone();
    let find = |name: &String| {
        headers.iter().position(|header| header == name).ok_or_else(|| {
            let known = headers.iter().collect::<Vec<_>>().join(", ");
            Failure::usage(format!("there is no column '{name}'; there are {known}"))
        })
    };
    let positions = columns.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    let mut measurements = Vec::new();
    for record in reader.records().take(rows) {
        let record = record?;
        let cells: Vec<_> = positions.iter().map(|position| record.get(*position).unwrap_or_default()).collect();
        let line = record.position().map_or(0, csv::Position::line);
        measurements.push(from_cells(&cells, vdaf).map_err(|e| Failure::new(format!("line {line}: {e}")))?);
    }
    Ok(measurements)
}

fn from_cells(cells: &[&str], vdaf: &VdafConfig) -> Result<Measurement, String> {
    match (vdaf, cells) {
        (VdafConfig::Prio3Count, [cell]) => flag(cell).map(Measurement::Flag),
        (VdafConfig::Prio3Sum { .. } | VdafConfig::Prio3Histogram { .. }, [cell]) => {
            number(cell).map(Measurement::Number)
        }
        (VdafConfig::Prio3Count | VdafConfig::Prio3Sum { .. } | VdafConfig::Prio3Histogram { .. }, cells) => {
            Err(format!("the task takes one value and not {}", cells.len()))
        }
        (VdafConfig::Prio3MultihotCountVec { .. }, cells) => {
            let flags = cells.iter().map(|cell| flag(cell).map(u128::from)).collect::<Result<_, _>>()?;
            Ok(Measurement::Vector(flags))
        }
        (VdafConfig::Prio3SumVec { .. } | VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { .. }, cells) => {
            Ok(Measurement::Vector(cells.iter().map(|cell| number(cell)).collect::<Result<_, _>>()?))
        }
    }
}

fn flag(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(format!("'{text}' is neither true nor false")),
    }
}

fn number(text: &str) -> Result<u128, String> {
    text.trim().parse().map_err(|_| format!("'{text}' is not a whole number from 0 on"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Max;

    const SUMVEC: VdafConfig = VdafConfig::Prio3SumVec { max: Max::of_bits(8), length: 2, chunk_length: 4 };

    #[test]
    fn the_vdaf_decides_what_text_means() {
        assert_eq!(parse("1", &VdafConfig::Prio3Count), Ok(Measurement::Flag(true)));
        assert_eq!(parse("1", &VdafConfig::Prio3Sum { max: Max::of_bits(8) }), Ok(Measurement::Number(1)));
        assert_eq!(parse("[1, 2]", &SUMVEC), Ok(Measurement::Vector(vec![1, 2])));
        for (text, vdaf) in
            [("2", VdafConfig::Prio3Count), ("-1", SUMVEC), ("1,2", VdafConfig::Prio3Sum { max: Max::of_bits(8) })]
        {
            assert!(parse(text, &vdaf).is_err(), "{text}");
        }
    }

    #[test]
    fn columns_are_found_by_name_and_bad_rows_by_line() {
        let columns = ["b".to_owned(), "a".to_owned()];
        let read = |text: &str, rows| read_csv(text.as_bytes(), &columns, &SUMVEC, rows);
        let vectors = read("a,x,b\n1,9,2\n3,9,4\n", 9).unwrap();
        assert_eq!(vectors, [vec![2, 1], vec![4, 3]].map(Measurement::Vector));
        assert_eq!(read("a,b\n1,2\n3,4\n", 1).unwrap().len(), 1);
        assert!(read("a,b\n1,2\n3,x\n", 9).unwrap_err().message.contains("line 3"));
        assert!(read("a,c\n1,2\n", 9).unwrap_err().message.contains("there are a, c"));
    }
}
