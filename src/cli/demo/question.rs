//! The demo's questions: as a VDAF, and as a plain computation to compare with.

use super::{
    super::style,
    Failure, Kind,
    data::{COLUMNS, Dataset, Row},
};
use crate::{
    model::VdafConfig,
    vdaf::{
        AggregateResult, Measurement,
        table::{self, VdafParameters},
    },
};

/// Minimum number of visits of the last bin of the histogram.
const LAST_BIN: u64 = 12;
/// The columns that are flags.
const FLAGS: std::ops::Range<usize> = 2..6;

/// A question.
pub struct Question {
    kind: Kind,
    /// The question as text.
    pub title: &'static str,
    /// The VDAF that answers it.
    pub vdaf: VdafConfig,
    /// Labels of the numbers of the result.
    pub labels: Vec<String>,
}

impl Question {
    /// Creates a question whose VDAF fits the largest values of the data.
    pub fn new(kind: Kind, data: &Dataset) -> Result<Self, Failure> {
        let bits = |columns| (u64::BITS - data.largest(columns).leading_zeros()).max(1) as usize;
        let none = VdafParameters::default();
        let column_names = |columns: std::ops::Range<usize>| COLUMNS[columns].iter().map(|c| c.replace('_', " "));
        let (title, name, parameters, labels): (_, _, _, Vec<String>) = match kind {
            Kind::Histogram => {
                let parameters = VdafParameters { length: Some(LAST_BIN as usize + 1), ..none };
                let labels = (0..LAST_BIN).map(|n| n.to_string()).chain([format!("{LAST_BIN}+")]);
                ("how often did you see a doctor this year?", "histogram", parameters, labels.collect())
            }
            Kind::Count => ("did you see a doctor this year?", "count", none, vec!["saw a doctor".to_owned()]),
            Kind::Sum => {
                let parameters = VdafParameters { bits: Some(bits(0..1)), ..none };
                ("how often did you see a doctor this year?", "sum", parameters, vec!["visits".to_owned()])
            }
            Kind::Sumvec => {
                let parameters = VdafParameters { bits: Some(bits(0..6)), length: Some(COLUMNS.len()), ..none };
                ("your visits, diseases and health?", "sumvec", parameters, column_names(0..6).collect())
            }
            Kind::Multihot => {
                let set = |row: &Row| row[FLAGS].iter().filter(|flag| **flag > 0).count();
                let max_weight = data.rows.iter().map(set).max().unwrap_or_default().max(1);
                let parameters = VdafParameters { length: Some(FLAGS.len()), max_weight: Some(max_weight), ..none };
                ("how is your health?", "multihot", parameters, column_names(FLAGS).collect())
            }
            Kind::L1BoundSum => {
                let sum = |row: &Row| row.iter().fold(0, |sum: u64, cell| sum.saturating_add(*cell));
                let largest = data.rows.iter().map(sum).max().unwrap_or_default().max(1);
                let parameters = VdafParameters { length: Some(COLUMNS.len()), max_value: Some(largest), ..none };
                ("your visits, diseases and health?", "l1-bound-sum", parameters, column_names(0..6).collect())
            }
        };
        let vdaf = table::configure(name, &parameters).map_err(Failure::new)?;
        Ok(Self { kind, title, vdaf, labels })
    }

    /// The measurement of a row.
    pub fn measurement(&self, row: &Row) -> Measurement {
        match self.kind {
            Kind::Histogram => Measurement::Number(row[0].min(LAST_BIN).into()),
            Kind::Count => Measurement::Flag(row[0] > 0),
            Kind::Sum => Measurement::Number(row[0].into()),
            Kind::Sumvec | Kind::L1BoundSum => Measurement::Vector(row.iter().map(|cell| u128::from(*cell)).collect()),
            Kind::Multihot => Measurement::Vector(row[FLAGS].iter().map(|cell| u128::from(*cell > 0)).collect()),
        }
    }

    /// Computes the answer from the rows, without the protocol.
    pub fn answer(&self, rows: &[Row]) -> AggregateResult {
        let count = |matches: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| matches(row)).count() as u128;
        let sum = |column: usize| rows.iter().map(|row| u128::from(row[column])).sum::<u128>();
        match self.kind {
            Kind::Histogram => {
                let exact = (0..LAST_BIN).map(|visits| count(&|row| row[0] == visits));
                AggregateResult::Vector(exact.chain([count(&|row| row[0] >= LAST_BIN)]).collect())
            }
            Kind::Count => AggregateResult::Number(count(&|row| row[0] != 0)),
            Kind::Sum => AggregateResult::Number(sum(0)),
            Kind::Sumvec | Kind::L1BoundSum => AggregateResult::Vector((0..COLUMNS.len()).map(sum).collect()),
            Kind::Multihot => AggregateResult::Vector(FLAGS.map(|column| count(&|row| row[column] != 0)).collect()),
        }
    }

    /// Describes a row.
    pub fn describe(&self, row: &Row) -> String {
        match self.kind {
            Kind::Histogram | Kind::Sum => style::counted(row[0], "visit"),
            Kind::Count => if row[0] > 0 { "saw a doctor" } else { "saw no doctor" }.to_owned(),
            Kind::Sumvec | Kind::L1BoundSum => row.map(|cell| cell.to_string()).join(", "),
            Kind::Multihot => row[FLAGS].iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MaxMeasurement;

    #[test]
    fn computes_expected_answers() {
        let rows = vec![[0, 1, 0, 0, 0, 0], [11, 2, 1, 1, 0, 0], [12, 3, 0, 0, 1, 0], [77, 4, 1, 0, 0, 1]];
        let data = Dataset { rows };
        let ask = |kind| Question::new(kind, &data).unwrap();
        let mut bins = vec![0; 13];
        (bins[0], bins[11], bins[12]) = (1, 1, 2);
        assert_eq!(ask(Kind::Histogram).answer(&data.rows), AggregateResult::Vector(bins));
        assert_eq!(ask(Kind::Count).answer(&data.rows), AggregateResult::Number(3));
        assert_eq!(ask(Kind::Sum).answer(&data.rows), AggregateResult::Number(100));
        assert_eq!(ask(Kind::Sumvec).answer(&data.rows), AggregateResult::Vector(vec![100, 10, 2, 1, 1, 1]));
        assert_eq!(ask(Kind::L1BoundSum).answer(&data.rows), ask(Kind::Sumvec).answer(&data.rows));
        let VdafConfig::Prio3L1BoundSum { max_value: 83, length: 6, .. } = ask(Kind::L1BoundSum).vdaf else {
            panic!("the bound is the largest sum of a row")
        };
        assert_eq!(ask(Kind::Multihot).answer(&data.rows), AggregateResult::Vector(vec![2, 1, 1, 1]));
        assert_eq!(ask(Kind::Sum).vdaf, VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(7) });
    }

    #[test]
    fn labels_every_number() {
        let data = Dataset::builtin().unwrap();
        for kind in [Kind::Histogram, Kind::Count, Kind::Sum, Kind::Sumvec, Kind::Multihot, Kind::L1BoundSum] {
            let question = Question::new(kind, &data).unwrap();
            let numbers = match question.answer(&data.rows) {
                AggregateResult::Number(_) => 1,
                AggregateResult::Vector(values) => values.len(),
                AggregateResult::Noisy(_) | AggregateResult::NoisyNumber(_) => {
                    unreachable!("it is computed from the data")
                }
            };
            assert_eq!(question.labels.len(), numbers, "{kind:?}");
        }
    }
}
