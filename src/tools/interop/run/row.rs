//! The rows of the matrix: one for each VDAF and each error case.

use clap::ValueEnum;

use super::super::number::Numbers;
use crate::{
    cli::args::QueryKind,
    model::{MaxMeasurement, Revision, VdafConfig},
    vdaf,
};

/// A row of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// Prio3Count gives the correct result.
    Count,
    /// Prio3Sum gives the correct result.
    Sum,
    /// Prio3SumVec gives the correct result.
    Sumvec,
    /// Prio3Histogram gives the correct result.
    Histogram,
    /// Prio3MultihotCountVec gives the correct result; not in the design.
    Multihot,
    /// Prio3L1BoundSum gives the correct result; not in the design.
    L1BoundSum,
    /// Prio3SumVecField64MultiproofHmacSha256Aes128 gives the correct result.
    SumvecHmac,
    /// Reports that need several aggregation jobs are all counted.
    ManyReports,
    /// The client refuses a measurement out of range; other reports are counted.
    OutOfRange,
    /// A report from the far future is refused; other reports are counted.
    TooEarly,
    /// A report of an expired task is refused.
    TaskExpired,
    /// A report of an unknown task is refused.
    UnknownTask,
    /// Both aggregators refuse a task with an invalid VDAF parameter.
    BadParameter,
    /// Fewer reports than the minimum batch size give no result.
    TooFew,
    /// A batch collected twice gives the same result again, or none.
    CollectedTwice,
    /// A batch that overlaps a collected one gives no result.
    Overlap,
    /// A report after its batch was collected does not change the result.
    LateReport,
    /// A collector with a wrong token gets no result.
    CollectorToken,
    /// The helper refuses a leader with a wrong token.
    LeaderToken,
    /// Aggregators with different verification keys reject all reports.
    VerifyKey,
    /// A collector without the private key gets no result.
    CollectorKey,
}

impl Row {
    /// The name on the command line and in the matrix.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether the case applies to this revision and batch mode.
    pub fn applies(self, revision: Revision, mode: QueryKind) -> bool {
        // Leader-selected batches have no time bounds, so they cannot overlap and have no late reports.
        let is_by_time = matches!(self, Self::Overlap | Self::LateReport);
        let has_vdaf = vdaf::preparer(revision, &self.vdaf()).is_ok();
        has_vdaf && (!is_by_time || mode == QueryKind::TimeInterval)
    }

    /// The VDAF of the case.
    pub fn vdaf(self) -> VdafConfig {
        match self {
            Self::Sum | Self::OutOfRange => VdafConfig::Prio3Sum { max: MaxMeasurement(255) },
            Self::Sumvec => VdafConfig::Prio3SumVec { max: MaxMeasurement(15), length: 5, chunk_length: 3 },
            Self::Histogram => VdafConfig::Prio3Histogram { length: 7, chunk_length: 3 },
            Self::Multihot => VdafConfig::Prio3MultihotCountVec { length: 5, max_weight: 2, chunk_length: 2 },
            Self::L1BoundSum => VdafConfig::Prio3L1BoundSum { max_value: 100, length: 5, chunk_length: 6 },
            Self::SumvecHmac => VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 {
                bits: 4,
                length: 5,
                chunk_length: 3,
                proofs: 2,
            },
            _ => VdafConfig::Prio3Count,
        }
    }
}

/// Generates different measurements, including the smallest and the largest.
pub fn measurements(vdaf: &VdafConfig, count: usize) -> Vec<Numbers> {
    (0..count as u128).map(|index| measurement(vdaf, index)).collect()
}

fn measurement(vdaf: &VdafConfig, index: u128) -> Numbers {
    let below = |max: u64, index: u128| match index {
        0 => u128::from(max),
        index => (index - 1) * 37 % (u128::from(max) + 1),
    };
    let vector = |max: u64, length: usize| {
        let of = |position: usize| if index < 2 { below(max, index) } else { below(max, index + position as u128) };
        Numbers::many((0..length).map(of))
    };
    match *vdaf {
        VdafConfig::Prio3Count => Numbers::one(u128::from(index % 3 != 1)),
        VdafConfig::Prio3Sum { max } => Numbers::one(below(max.0, index)),
        VdafConfig::Prio3SumVec { max, length, .. } => vector(max.0, length),
        VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, .. } => {
            vector(MaxMeasurement::of_bits(bits as u32).0, length)
        }
        VdafConfig::Prio3Histogram { length, .. } => Numbers::one((index * index + 6) % length as u128),
        VdafConfig::Prio3MultihotCountVec { length, max_weight, .. } => {
            // From no flag to the maximum weight.
            let weight = index as usize % (max_weight + 1);
            let is_set = |position: usize| (position + index as usize) % length < weight;
            Numbers::many((0..length).map(|position| u128::from(is_set(position))))
        }
        VdafConfig::Prio3L1BoundSum { max_value, length, .. } => {
            // A sum from zero to the maximum, in two parts at changing positions.
            let sum = below(max_value, index);
            let (first, at) = (sum / 3, index as usize % length);
            let part = |position: usize| {
                u128::from(position == at) * first + u128::from(position == (at + 1) % length) * (sum - first)
            };
            Numbers::many((0..length).map(part))
        }
    }
}

/// The sum of the measurements.
pub fn total(vdaf: &VdafConfig, measurements: &[Numbers]) -> Numbers {
    let vectors = measurements.iter().map(|measurement| match (vdaf, measurement) {
        (VdafConfig::Prio3Histogram { length, .. }, Numbers::One(bin)) => {
            (0..*length as u128).map(|position| u128::from(position == bin.0)).collect()
        }
        (_, Numbers::One(number)) => vec![number.0],
        (_, Numbers::Many(numbers)) => numbers.iter().map(|number| number.0).collect(),
    });
    let sum = vectors.fold(Vec::new(), |mut sum: Vec<u128>, vector| {
        sum.resize(vector.len(), 0);
        sum.iter_mut().zip(vector).for_each(|(sum, number)| *sum += number);
        sum
    });
    match vdaf {
        VdafConfig::Prio3Count | VdafConfig::Prio3Sum { .. } => Numbers::one(sum.into_iter().sum()),
        _ => Numbers::many(sum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ReportId;

    /// Every measurement is valid in all revisions, and they are not all the same.
    #[test]
    fn measurements_are_valid_and_differ() {
        for row in Row::value_variants() {
            let (config, found) = (row.vdaf(), measurements(&row.vdaf(), 30));
            assert!(found.iter().any(|measurement| *measurement != found[0]), "{row:?}");
            for revision in Revision::ALL {
                if !row.applies(revision, QueryKind::TimeInterval) {
                    let lacks = [
                        (Row::SumvecHmac, Revision::Dap18),
                        (Row::SumvecHmac, Revision::Dap19),
                        (Row::L1BoundSum, Revision::Dap09),
                    ];
                    assert!(lacks.contains(&(*row, revision)), "{row:?} {revision:?}");
                    continue;
                }
                let preparer = vdaf::preparer(revision, &config).unwrap();
                for measurement in &found {
                    let sharded = preparer.shard(&[], &measurement.clone().into(), &ReportId::random());
                    assert!(sharded.is_ok(), "{row:?} {measurement} {revision:?}: {:?}", sharded.err());
                }
            }
        }
    }

    #[test]
    fn computes_totals() {
        let ones = |numbers: &[u128]| numbers.iter().map(|number| Numbers::one(*number)).collect::<Vec<_>>();
        let sum = VdafConfig::Prio3Sum { max: MaxMeasurement(255) };
        assert_eq!(total(&sum, &ones(&[255, 0, 3])), Numbers::one(258));
        let histogram = VdafConfig::Prio3Histogram { length: 4, chunk_length: 2 };
        assert_eq!(total(&histogram, &ones(&[0, 3, 3])), Numbers::many([1, 0, 0, 2]));
        let vectors = [Numbers::many([1, 2, 3]), Numbers::many([4, 0, 15])];
        let sumvec = VdafConfig::Prio3SumVec { max: MaxMeasurement(15), length: 3, chunk_length: 1 };
        assert_eq!(total(&sumvec, &vectors), Numbers::many([5, 2, 18]));
        assert_eq!(measurements(&sum, 3), ones(&[255, 0, 37]));
    }
}
