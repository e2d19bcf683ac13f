//! Round trips through every VDAF, and messages that no honest peer sends.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::{MaxMeasurement, VdafConfig};

const VERIFY_KEY: [u8; 32] = [7; 32];

/// Application context of VDAF-18; VDAF-08 ignores it.
const CONTEXT: &[u8] = b"some application";

/// A VDAF with valid measurements, their aggregate, and invalid measurements.
struct Case {
    revision: Revision,
    config: VdafConfig,
    measurements: Vec<Measurement>,
    result: AggregateResult,
    refused: Vec<Measurement>,
}

fn number(number: u128) -> Measurement {
    Measurement::Number(number)
}

fn vector(numbers: &[u128]) -> Measurement {
    Measurement::Vector(numbers.to_vec())
}

fn sum_case(revision: Revision, max: MaxMeasurement) -> Case {
    let largest = u128::from(max.0);
    Case {
        revision,
        config: VdafConfig::Prio3Sum { max },
        measurements: vec![number(largest), number(0), number(largest)],
        result: AggregateResult::Number(2 * largest),
        refused: vec![number(largest + 1), number(u128::MAX), Measurement::Flag(true), vector(&[1])],
    }
}

fn sum_vec_case(revision: Revision, config: VdafConfig, max: u128) -> Case {
    Case {
        revision,
        config,
        measurements: vec![vector(&[0, max, 3]), vector(&[1, max, 0]), vector(&[0, 0, 0])],
        result: AggregateResult::Vector(vec![1, 2 * max, 3]),
        refused: vec![vector(&[0, max + 1, 0]), vector(&[1, 1]), vector(&[1; 4]), vector(&[u128::MAX; 3]), number(1)],
    }
}

/// The bound is that of the sum, so a vector is refused whose numbers all fit.
fn l1_case(revision: Revision, max_value: u64) -> Case {
    let max = u128::from(max_value);
    Case {
        revision,
        config: VdafConfig::Prio3L1BoundSum { max_value, length: 3, chunk_length: 5 },
        measurements: vec![vector(&[0, max, 0]), vector(&[2, max - 3, 1]), vector(&[0, 0, 0]), vector(&[1, 1, 0])],
        result: AggregateResult::Vector(vec![3, 2 * max - 2, 1]),
        refused: vec![
            vector(&[1, max, 0]),
            vector(&[max, max, max]),
            vector(&[0, max + 1, 0]),
            vector(&[u128::MAX; 3]),
            vector(&[1, 1]),
            vector(&[1; 4]),
            number(1),
        ],
    }
}

fn cases() -> Vec<Case> {
    Revision::ALL.into_iter().flat_map(cases_of).collect()
}

fn cases_of(revision: Revision) -> Vec<Case> {
    let sum_vec = |max| VdafConfig::Prio3SumVec { max, length: 3, chunk_length: 5 };
    let mut cases = vec![
        Case {
            revision,
            config: VdafConfig::Prio3Count,
            measurements: vec![Measurement::Flag(true), Measurement::Flag(false), number(1), number(0)],
            result: AggregateResult::Number(2),
            refused: vec![number(2), vector(&[1])],
        },
        sum_case(revision, MaxMeasurement::of_bits(8)),
        sum_vec_case(revision, sum_vec(MaxMeasurement::of_bits(4)), 15),
        sum_vec_case(revision, sum_vec(MaxMeasurement::of_bits(64)), u64::MAX.into()),
        Case {
            revision,
            config: VdafConfig::Prio3Histogram { length: 4, chunk_length: 3 },
            measurements: vec![number(0), number(3), number(3)],
            result: AggregateResult::Vector(vec![1, 0, 0, 2]),
            refused: vec![number(4), number(1 << 64), number(u128::MAX), Measurement::Flag(true)],
        },
        Case {
            revision,
            config: VdafConfig::Prio3MultihotCountVec { length: 5, max_weight: 2, chunk_length: 3 },
            measurements: vec![vector(&[1, 1, 0, 0, 0]), vector(&[0, 1, 0, 0, 1]), vector(&[0; 5])],
            result: AggregateResult::Vector(vec![1, 2, 0, 0, 1]),
            refused: vec![vector(&[1, 1, 1, 0, 0]), vector(&[2, 0, 0, 0, 0]), vector(&[1, 0]), number(1)],
        },
    ];
    cases.extend(match revision {
        Revision::Dap09 => {
            vec![sum_case(revision, MaxMeasurement::of_bits(64)), sum_vec_case(revision, MULTIPROOF, 15)]
        }
        Revision::Dap18 | Revision::Dap19 => vec![
            sum_case(revision, MaxMeasurement(1337)),
            sum_vec_case(revision, sum_vec(MaxMeasurement(4)), 4),
            l1_case(revision, 5),
            l1_case(revision, u64::MAX),
        ],
    });
    cases
}

const MULTIPROOF: VdafConfig =
    VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits: 4, length: 3, chunk_length: 5, proofs: 2 };

impl Case {
    fn preparer(&self) -> Arc<dyn Preparer> {
        preparer(self.revision, &self.config).unwrap()
    }

    fn report(&self) -> Report {
        self.report_of(&self.measurements[0])
    }

    fn report_of(&self, measurement: &Measurement) -> Report {
        let (vdaf, id) = (self.preparer(), ReportId::random());
        let sharded = vdaf.shard(CONTEXT, measurement, &id).unwrap();
        Report { vdaf, id, sharded }
    }
}

/// One report with the shares of both aggregators.
struct Report {
    vdaf: Arc<dyn Preparer>,
    id: ReportId,
    sharded: MeasurementShares,
}

impl Report {
    fn verification(&self) -> VerifyParams<'static> {
        VerifyParams { key: &VERIFY_KEY[..self.vdaf.verify_key_length()], context: CONTEXT }
    }

    fn share<'a>(&'a self, public_share: &'a [u8], input_share: &'a [u8]) -> InputShare<'a> {
        InputShare { report_id: &self.id, public_share, input_share }
    }

    fn leader_start(&self) -> (Box<dyn Pending>, Vec<u8>) {
        let share = self.share(&self.sharded.public_share, &self.sharded.leader_share);
        self.vdaf.leader_start(self.verification(), share).unwrap()
    }

    fn helper_answer(&self, message: &[u8]) -> Result<(OutputShare, Vec<u8>), ReportError> {
        let share = self.share(&self.sharded.public_share, &self.sharded.helper_share);
        self.vdaf.helper_answer(self.verification(), share, message)
    }
}

#[test]
fn aggregates_measurements() {
    for case in cases() {
        let vdaf = case.preparer();
        let mut sums = [vdaf.zero(), vdaf.zero()];
        for measurement in &case.measurements {
            let report = case.report_of(measurement);
            let (pending, message) = report.leader_start();
            let (helper, answer) = report.helper_answer(&message).unwrap();
            let leader = pending.finish(&answer).unwrap();
            vdaf.add(&mut sums[0], leader);
            // Merge a separate sum, as buckets are merged.
            let mut one = vdaf.zero();
            vdaf.add(&mut one, helper);
            vdaf.merge(&mut sums[1], &one);
        }
        let [leader, helper] = sums.map(|sum| vdaf.encode(&sum));
        let again = vdaf.decode(&leader).unwrap();
        assert_eq!(vdaf.encode(&again), leader);
        let count = case.measurements.len() as u64;
        assert_eq!(
            vdaf.unshard(&leader, &helper, count).unwrap(),
            case.result,
            "{:?} {:?}",
            case.revision,
            case.config
        );
    }
}

#[test]
fn rejects_measurements_out_of_range() {
    for case in cases() {
        let vdaf = case.preparer();
        for measurement in case.refused {
            let refused = vdaf.shard(CONTEXT, &measurement, &ReportId::random()).is_err();
            assert!(refused, "{:?} took {measurement:?}", case.config);
        }
    }
}

#[test]
fn rejects_parameters_out_of_range() {
    let config = VdafConfig::Prio3Histogram { length: 10, chunk_length: 0 };
    for revision in Revision::ALL {
        assert!(preparer(revision, &config).is_err());
    }
}

#[test]
fn rejects_vdafs_that_a_draft_lacks() {
    let why = |revision, config| preparer(revision, &config).err().map(|error| error.0).unwrap_or_default();
    for max in [MaxMeasurement(1337), MaxMeasurement(1 << 63)] {
        assert!(why(Revision::Dap09, VdafConfig::Prio3Sum { max }).contains("2^bits - 1 in DAP-09"));
        let config = VdafConfig::Prio3SumVec { max, length: 3, chunk_length: 5 };
        assert!(why(Revision::Dap09, config).contains("2^bits - 1 in DAP-09"));
    }
    assert_eq!(why(Revision::Dap18, VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(32) }), "");
    for max in [MaxMeasurement(1 << 32), MaxMeasurement::of_bits(64)] {
        assert!(why(Revision::Dap18, VdafConfig::Prio3Sum { max }).contains("below 2^32 in DAP-18"));
    }
    assert!(why(Revision::Dap18, MULTIPROOF).contains("is available in DAP-09 only"));
    let bounded = VdafConfig::Prio3L1BoundSum { max_value: 5, length: 3, chunk_length: 5 };
    assert!(why(Revision::Dap09, bounded).contains("not available in DAP-09 (hint: use --dap 18"));
}

#[test]
fn leader_start_is_deterministic() {
    for case in cases() {
        let report = case.report();
        assert_eq!(report.leader_start().1, report.leader_start().1);
    }
}

/// Each report uses fresh randomness.
#[test]
fn sharding_is_randomized() {
    for case in cases() {
        let (one, id) = (case.report(), ReportId::new([3; 16]));
        let split = || one.vdaf.shard(CONTEXT, &case.measurements[0], &id).unwrap();
        let (first, second) = (split(), split());
        assert_ne!(first.leader_share, second.leader_share);
        assert_ne!(first.helper_share, second.helper_share);
    }
}

#[test]
fn verifies_largest_allowed_proofs() {
    for (revision, length) in [(Revision::Dap09, table::MAX_GADGET_CALLS), (Revision::Dap18, draft18::MAX_GADGET_CALLS)]
    {
        let largest = Case {
            revision,
            config: VdafConfig::Prio3Histogram { length, chunk_length: 1 },
            measurements: vec![number(length as u128 - 1)],
            result: AggregateResult::Number(1),
            refused: Vec::new(),
        };
        let report = largest.report();
        let (pending, message) = report.leader_start();
        let (_, answer) = report.helper_answer(&message).unwrap();
        pending.finish(&answer).unwrap();
        let config = VdafConfig::Prio3Histogram { length: length + 1, chunk_length: 1 };
        assert!(preparer(revision, &config).is_err());
    }
}

#[test]
fn accepts_longest_vectors_in_both_drafts() {
    let length = table::MAX_ELEMENTS - (1 << 14);
    let config = VdafConfig::Prio3Histogram { length, chunk_length: table::optimal_chunk_length(length) };
    for revision in Revision::ALL {
        assert_eq!(preparer(revision, &config).err(), None);
    }
}

#[test]
fn rejects_invalid_proofs() {
    for case in cases() {
        let report = case.report();
        let (pending, message) = report.leader_start();

        // Changing the lowest byte of the first field element yields another valid element.
        let mut bad_message = message.clone();
        bad_message[5] ^= 1;
        assert_eq!(report.helper_answer(&bad_message).err(), Some(ReportError::VdafPrepError));

        let mut bad_share = report.sharded.leader_share.clone();
        bad_share[0] ^= 1;
        let share = report.share(&report.sharded.public_share, &bad_share);
        match report.vdaf.leader_start(report.verification(), share) {
            Ok((_, from_bad_share)) => {
                assert_eq!(report.helper_answer(&from_bad_share).err(), Some(ReportError::VdafPrepError));
            }
            // The leader detects it by its joint randomness part.
            Err(error) => assert_eq!(error, ReportError::VdafPrepError),
        }

        // Counts have no joint randomness, so the helper's message has nothing to corrupt.
        let (_, mut answer) = report.helper_answer(&message).unwrap();
        if answer.len() > 5 {
            answer[5] ^= 1;
            assert_eq!(pending.finish(&answer).err(), Some(ReportError::VdafPrepError));
        }
    }
}

#[test]
fn rejects_wrong_verify_key_or_report_id() {
    for case in cases() {
        let report = case.report();
        let (_, message) = report.leader_start();
        let key = [8; 32];
        let verification = VerifyParams { key: &key[..report.vdaf.verify_key_length()], context: CONTEXT };
        let share = report.share(&report.sharded.public_share, &report.sharded.helper_share);
        let answer = report.vdaf.helper_answer(verification, share, &message);
        assert_eq!(answer.err(), Some(ReportError::VdafPrepError), "{:?} {:?}", case.revision, case.config);

        let id = ReportId::random();
        let answer = report.vdaf.helper_answer(report.verification(), InputShare { report_id: &id, ..share }, &message);
        assert_eq!(answer.err(), Some(ReportError::VdafPrepError), "{:?} {:?}", case.revision, case.config);

        let short = VerifyParams { key: &key[1..report.vdaf.verify_key_length()], context: CONTEXT };
        let answer = report.vdaf.helper_answer(short, share, &message);
        assert_eq!(answer.err(), Some(ReportError::VdafPrepError));
    }
}

#[test]
fn rejects_wrong_context() {
    for case in cases() {
        let report = case.report();
        let (pending, message) = report.leader_start();
        let other = VerifyParams { context: b"another application", ..report.verification() };
        let share = report.share(&report.sharded.public_share, &report.sharded.helper_share);
        let answer = report.vdaf.helper_answer(other, share, &message);
        match case.revision {
            Revision::Dap09 => drop(pending.finish(&answer.unwrap().1).unwrap()),
            Revision::Dap18 | Revision::Dap19 => {
                assert_eq!(answer.err(), Some(ReportError::VdafPrepError), "{:?}", case.config)
            }
        }
    }
}

/// Variants of `bytes` with a different length.
fn other_lengths(bytes: &[u8]) -> Vec<Vec<u8>> {
    let longer = [bytes, &[0]].concat();
    let shorter = bytes.split_last().map(|(_, rest)| rest.to_vec());
    let empty = (!bytes.is_empty()).then(Vec::new);
    [Some(longer), shorter, empty].into_iter().flatten().collect()
}

#[test]
fn rejects_shares_of_wrong_length() {
    for case in cases() {
        let report = case.report();
        let (vdaf, verification) = (&report.vdaf, report.verification());
        let (_, message) = report.leader_start();
        let MeasurementShares { public_share, leader_share, helper_share } = &report.sharded;
        let leader = |share: InputShare| vdaf.leader_start(verification, share).map(|_| ());
        let helper = |share: InputShare| vdaf.helper_answer(verification, share, &message).map(|_| ());
        for public in other_lengths(public_share) {
            assert_eq!(leader(report.share(&public, leader_share)), Err(ReportError::InvalidMessage));
            assert_eq!(helper(report.share(&public, helper_share)), Err(ReportError::InvalidMessage));
        }
        for input in other_lengths(leader_share) {
            assert_eq!(leader(report.share(public_share, &input)), Err(ReportError::InvalidMessage));
        }
        for input in other_lengths(helper_share) {
            assert_eq!(helper(report.share(public_share, &input)), Err(ReportError::InvalidMessage));
        }
        // Invalid field element: it exceeds the modulus.
        let mut input = leader_share.clone();
        input[..16].fill(0xff);
        assert_eq!(leader(report.share(public_share, &input)), Err(ReportError::InvalidMessage));
    }
}

#[test]
fn rejects_messages_of_another_kind_or_length() {
    for case in cases() {
        let report = case.report();
        let (_, message) = report.leader_start();
        let (_, answer) = report.helper_answer(&message).unwrap();
        let finish = |answer: &[u8]| report.leader_start().0.finish(answer).err();
        for bad in other_lengths(&message).into_iter().chain([answer.clone(), [&[1], &message[1..], &[0; 4]].concat()])
        {
            assert_eq!(report.helper_answer(&bad).err(), Some(ReportError::VdafPrepError));
        }
        for bad in other_lengths(&answer).into_iter().chain([message, [&[1], &answer[1..], &[0; 4]].concat()]) {
            assert_eq!(finish(&bad), Some(ReportError::InvalidMessage));
        }
        // Consistent encodings whose share is too long or too short.
        for bad in [vec![0, 0, 0, 0, 0], vec![0, 0, 0, 0, 1, 9]] {
            assert_eq!(report.helper_answer(&bad).err(), Some(ReportError::VdafPrepError));
        }
        assert_eq!(finish(&[2, 0, 0, 0, 1, 9]), Some(ReportError::InvalidMessage));
    }
}

#[test]
fn rejects_aggregate_shares_of_wrong_length() {
    for case in cases() {
        let vdaf = case.preparer();
        let zero = vdaf.encode(&vdaf.zero());
        for bad in other_lengths(&zero) {
            assert!(vdaf.decode(&bad).is_err());
            assert!(vdaf.unshard(&zero, &bad, 1).is_err());
            assert!(vdaf.unshard(&bad, &zero, 1).is_err());
        }
        assert!(vdaf.decode(&vec![0xff; zero.len()]).is_err());
    }
}

#[test]
fn json_round_trips_measurements_and_results() {
    for case in cases() {
        for measurement in case.measurements {
            let text = serde_json::to_string(&measurement).unwrap();
            assert_eq!(serde_json::from_str::<Measurement>(&text).unwrap(), measurement, "{text}");
        }
        let text = serde_json::to_string(&case.result).unwrap();
        assert_eq!(serde_json::from_str::<AggregateResult>(&text).unwrap(), case.result, "{text}");
    }
    let read = |text| serde_json::from_str::<Measurement>(text).ok();
    assert_eq!(read("[0, \"340282366920938463463374607431768211455\"]"), Some(vector(&[0, u128::MAX])));
    assert_eq!(read("true"), Some(Measurement::Flag(true)));
    for bad in ["-1", "1.5", "\"one\"", "[true]", "[-1]", "null", "{}", "340282366920938463463374607431768211456"] {
        assert_eq!(read(bad), None, "{bad}");
    }
    assert_eq!(serde_json::to_string(&AggregateResult::Number(u64::MAX.into())).unwrap(), u64::MAX.to_string());
}

/// Random bytes, or honest bytes with a few changes.
fn hostile(honest: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    let changed = changes.prop_map(move |changes| {
        let mut bytes = honest.clone();
        for (at, value) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        bytes
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..600), changed]
}

/// No input of a peer may cause a panic. Only honest bytes have a known result.
#[test]
fn hostile_bytes_never_panic() {
    for case in cases() {
        let report = case.report();
        let (vdaf, verification) = (&report.vdaf, report.verification());
        let (_, message) = report.leader_start();
        let (_, answer) = report.helper_answer(&message).unwrap();
        let MeasurementShares { public_share, leader_share, helper_share } = report.sharded.clone();
        let sum = vdaf.encode(&vdaf.zero());
        let any_part = (
            hostile(public_share.clone()),
            hostile(leader_share.clone()),
            hostile(helper_share.clone()),
            hostile(message.clone()),
            hostile(answer),
            hostile(sum),
        );
        proptest!(ProptestConfig::with_cases(64), |((public, leader, helper, first, second, sum) in any_part)| {
            let _ = vdaf.leader_start(verification, report.share(&public, &leader));
            let _ = vdaf.leader_start(verification, report.share(&public_share, &leader));
            let _ = vdaf.leader_start(verification, report.share(&public, &leader_share));
            let _ = vdaf.helper_answer(verification, report.share(&public, &helper), &first);
            let _ = vdaf.helper_answer(verification, report.share(&public_share, &helper), &message);
            // A message that the helper accepts, an honest leader accepts too.
            let shares = [(&public, &leader, &helper), (&public_share, &leader, &helper_share),
                (&public, &leader_share, &helper_share)];
            for (public, leader, helper) in shares {
                let Ok((pending, message)) = vdaf.leader_start(verification, report.share(public, leader)) else {
                    continue;
                };
                if let Ok((_, answer)) = vdaf.helper_answer(verification, report.share(public, helper), &message) {
                    prop_assert!(pending.finish(&answer).is_ok());
                }
            }
            let outcome = report.helper_answer(&first);
            prop_assert_eq!(outcome.is_ok(), first == message);
            let _ = report.leader_start().0.finish(&second);
            if let Ok(share) = vdaf.decode(&sum) {
                prop_assert_eq!(vdaf.encode(&share), sum.clone());
                prop_assert!(vdaf.unshard(&sum, &sum, u64::MAX).is_ok());
            }
        });
    }
}
