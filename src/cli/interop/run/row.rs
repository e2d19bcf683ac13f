//! What is tried: a row of the matrix for each VDAF and for each case.

use clap::ValueEnum;

use super::super::{super::args::QueryKind, number::Numbers};
use crate::{
    model::{MaxMeasurement, Revision, VdafConfig},
    vdaf,
};

/// A row of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// Prio3Count gives the right result.
    Count,
    /// Prio3Sum does.
    Sum,
    /// Prio3SumVec does.
    Sumvec,
    /// Prio3Histogram does.
    Histogram,
    /// Prio3MultihotCountVec does; the design does not know it.
    Multihot,
    /// Prio3SumVecField64MultiproofHmacSha256Aes128 does.
    SumvecHmac,
    /// So many reports that they need several aggregation jobs.
    ManyReports,
    /// A measurement out of range is refused by the client, and others are counted.
    OutOfRange,
    /// A report from the far future is refused, and others are counted.
    TooEarly,
    /// A report of a task that is over is refused.
    TaskExpired,
    /// A report of a task that nobody has is refused.
    UnknownTask,
    /// A task with a wrong VDAF parameter is refused by both aggregators.
    BadParameter,
    /// Fewer reports than the minimum give no result.
    TooFew,
    /// A batch that is collected twice has the same result, or none the second time.
    CollectedTwice,
    /// A batch that overlaps a collected one gives no result.
    Overlap,
    /// A report that comes after its batch was collected does not change the result.
    LateReport,
    /// A collector with another token gets no result.
    CollectorToken,
    /// A leader with another token gets nothing from the helper.
    LeaderToken,
    /// Aggregators with different verification keys take no report for valid.
    VerifyKey,
    /// A collector without the key of the aggregate shares gets no result.
    CollectorKey,
}

impl Row {
    /// Its name on the command line and in the matrix.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it means something in this revision and where batches are made in this way.
    pub fn applies(self, revision: Revision, mode: QueryKind) -> bool {
        // Batches of the leader have no bounds in time that could overlap or be late for.
        let is_by_time = matches!(self, Self::Overlap | Self::LateReport);
        let has_vdaf = vdaf::preparer(revision, &self.vdaf()).is_ok();
        has_vdaf && (!is_by_time || mode == QueryKind::TimeInterval)
    }

    /// The VDAF that it is tried with.
    pub fn vdaf(self) -> VdafConfig {
        match self {
            Self::Sum | Self::OutOfRange => VdafConfig::Prio3Sum { max: MaxMeasurement(255) },
            Self::Sumvec => VdafConfig::Prio3SumVec { max: MaxMeasurement(15), length: 5, chunk_length: 3 },
            Self::Histogram => VdafConfig::Prio3Histogram { length: 7, chunk_length: 3 },
            Self::Multihot => VdafConfig::Prio3MultihotCountVec { length: 5, max_weight: 2, chunk_length: 2 },
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

/// Measurements that differ, with the smallest and the largest among them.
pub fn measurements(vdaf: &VdafConfig, count: usize) -> Vec<Numbers> {
    (0..count as u128).map(|index| measurement(vdaf, index)).collect()
}

fn measurement(vdaf: &VdafConfig, index: u128) -> Numbers {
    let below = |max: u64, index: u128| match index {
        0 => u128::from(max),
        index => (index - 1) * 37 % (u128::from(max) + 1),
    };
    let vector = |max: u64, length: usize| {
        let of = |place: usize| if index < 2 { below(max, index) } else { below(max, index + place as u128) };
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
            // No flag at all, one, ... as many as there may be.
            let weight = index as usize % (max_weight + 1);
            let is_set = |place: usize| (place + index as usize) % length < weight;
            Numbers::many((0..length).map(|place| u128::from(is_set(place))))
        }
    }
}

/// What the measurements add up to.
pub fn total(vdaf: &VdafConfig, measurements: &[Numbers]) -> Numbers {
    let vectors = measurements.iter().map(|measurement| match (vdaf, measurement) {
        (VdafConfig::Prio3Histogram { length, .. }, Numbers::One(bin)) => {
            (0..*length as u128).map(|place| u128::from(place == bin.0)).collect()
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

    /// Each measurement is one that the VDAF takes in both revisions, and they are not all the same.
    #[test]
    fn measurements_are_valid_and_differ() {
        for row in Row::value_variants() {
            let (config, found) = (row.vdaf(), measurements(&row.vdaf(), 30));
            assert!(found.iter().any(|measurement| *measurement != found[0]), "{row:?}");
            for revision in [Revision::Dap09, Revision::Dap18] {
                if !row.applies(revision, QueryKind::TimeInterval) {
                    assert_eq!((*row, revision), (Row::SumvecHmac, Revision::Dap18));
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
