//! The dataset of the demo.

use super::Failure;

/// The columns, in the order of a [`Row`].
pub const COLUMNS: [&str; 6] =
    ["visits", "chronic_diseases", "physical_limitation", "health_good", "health_fair", "health_poor"];

/// The RAND Health Insurance Experiment, built in so that the demo needs no file.
const BUILTIN: &str = include_str!("../../../fixtures/rand-health-insurance.csv");

/// One person in one year, by [`COLUMNS`].
pub type Row = [u64; COLUMNS.len()];

/// The dataset.
pub struct Dataset {
    /// The rows, in the order of the file.
    pub rows: Vec<Row>,
}

impl Dataset {
    /// Loads the built-in data.
    pub fn builtin() -> Result<Self, Failure> {
        Self::parse(BUILTIN)
    }

    /// Parses CSV with a header that contains all of [`COLUMNS`].
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let headers = reader.headers()?.clone();
        let mut positions = [0; COLUMNS.len()];
        for (position, column) in positions.iter_mut().zip(COLUMNS) {
            let found = headers.iter().position(|header| header.trim() == column);
            *position = found.ok_or_else(|| Failure::new(format!("missing column '{column}'")))?;
        }
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record?;
            let mut row = Row::default();
            for ((cell, position), column) in row.iter_mut().zip(positions).zip(COLUMNS) {
                let text = record.get(position).unwrap_or_default().trim();
                *cell = text.parse().map_err(|_| {
                    let line = record.position().map_or(0, csv::Position::line);
                    Failure::new(format!("line {line}: invalid {column} '{text}' (expected a non-negative integer)"))
                })?;
            }
            rows.push(row);
        }
        Ok(Self { rows })
    }

    /// The largest value of the given columns.
    pub fn largest(&self, columns: std::ops::Range<usize>) -> u64 {
        self.rows.iter().flat_map(|row| &row[columns.clone()]).copied().max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_builtin_data() {
        let data = Dataset::builtin().unwrap();
        assert_eq!(data.rows.len(), 20_190);
        assert_eq!(data.rows[0], [0, 14, 0, 1, 0, 0]);
        assert_eq!(data.largest(0..1), 77);
        assert_eq!(data.largest(2..6), 1);
    }

    #[test]
    fn finds_columns_and_names_invalid_line() {
        let text = "health_poor,health_fair,health_good,physical_limitation,chronic_diseases,visits,x\n6,5,4,3,2,1,0\n";
        assert_eq!(Dataset::parse(text).unwrap().rows, [[1, 2, 3, 4, 5, 6]]);
        assert!(Dataset::parse(&text.replace("visits", "v")).is_err_and(|e| e.message().contains("'visits'")));
        assert!(Dataset::parse(&text.replace('6', "x")).is_err_and(|e| e.message().contains("line 2")));
    }
}
