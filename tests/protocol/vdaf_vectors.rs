//! Our preparers against the official test vectors of the VDAF drafts, and against other users of `prio`.
//!
//! The vectors are checked from their input shares on, because `prio` does not let callers choose the randomness of
//! sharding.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use dapbox::{
    model::{MaxMeasurement, ReportError, ReportId, Revision, VdafConfig},
    vdaf::{AggregateResult, InputShare, Measurement, OutputShare, Preparer, VerifyParams, preparer},
};
use janus_core::vdaf::new_prio3_sum_vec_field64_multiproof_hmacsha256_aes128;
use prio16::{
    codec::{Decode, Encode, ParameterizedDecode},
    field::Field64,
    flp::{
        Type,
        gadgets::{Mul, ParallelSum},
    },
    topology::ping_pong::{PingPongContinuedValue, PingPongMessage, PingPongState, PingPongTopology},
    vdaf::{Aggregator, Client, prio3::Prio3, xof::Xof},
};
use prio18::{
    codec::Encode as _,
    field::Field128,
    flp::{
        gadgets::{Mul as Mul18, ParallelSum as ParallelSum18},
        types::SumVec,
    },
    vdaf::{Client as _, prio3::Prio3 as Prio3V18, xof::XofTurboShake128},
};
use serde::Deserialize;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

/// The vectors of a VDAF draft.
struct Draft {
    revision: Revision,
    directory: &'static str,
    /// The vectors for two aggregators, as DAP has.
    run: &'static [&'static str],
    /// The vectors whose reports must be rejected.
    refused: &'static [&'static str],
    /// The vectors that cannot run here, with the reason.
    skipped: &'static [(&'static str, &'static str)],
}

const DRAFTS: [Draft; 3] = [VDAF_08, VDAF_20, L1_BOUND_SUM];

const VDAF_08: Draft = Draft {
    revision: Revision::Dap09,
    directory: "vdaf-08",
    run: &["Prio3Count_0", "Prio3Sum_0", "Prio3SumVec_0", "Prio3Histogram_0"],
    refused: &[],
    skipped: &[
        ("Prio3Count_1", "three shares"),
        ("Prio3Sum_1", "three shares"),
        ("Prio3SumVec_1", "three shares"),
        ("Prio3Histogram_1", "three shares"),
        ("Prio3MultiHotHistogram_0", "an algorithm id that `prio` does not use for it, and with it other hashes"),
        ("Prio3MultiHotHistogram_1", "three shares, and the algorithm id"),
        ("Prio3SumVecWithMultiproof_0", "another hash than the multiproof VDAF that is deployed"),
    ],
};

/// DAP-18 uses VDAF-18, whose bytes -20 has not changed.
///
/// Omitted are the vectors with three shares (`Prio3Count_1`, `Prio3Sum_1`, `Prio3SumVec_1`, `Prio3Histogram_1`) or
/// four
/// (`Prio3MultihotCountVec_1`), the VDAFs for tests only (`Prio3HigherDegree`, `Prio3SumVecWithMultiproof`), and
/// Poplar1,
/// which is not supported.
const VDAF_20: Draft = Draft {
    revision: Revision::Dap18,
    directory: "vdaf-20",
    run: &[
        "Prio3Count_0",
        "Prio3Count_2",
        "Prio3Sum_0",
        "Prio3Sum_2",
        "Prio3SumVec_0",
        "Prio3Histogram_0",
        "Prio3Histogram_2",
        "Prio3MultihotCountVec_0",
        "Prio3MultihotCountVec_2",
    ],
    refused: &[
        "Prio3Count_bad_gadget_poly",
        "Prio3Count_bad_helper_seed",
        "Prio3Count_bad_meas_share",
        "Prio3Count_bad_wire_seed",
        "Prio3Histogram_bad_helper_jr_blind",
        "Prio3Histogram_bad_leader_jr_blind",
        "Prio3Histogram_bad_public_share",
        "Prio3Histogram_bad_verifier_message",
    ],
    skipped: &[],
};

/// The VDAF of draft-ietf-ppm-l1-bound-sum-02, which is based on VDAF-18. Its repository has no other vectors.
const L1_BOUND_SUM: Draft = Draft {
    revision: Revision::Dap18,
    directory: "l1-bound-sum",
    run: &["Prio3L1BoundSum_0"],
    refused: &[],
    skipped: &[],
};

/// A test vector, with the field names of VDAF-08.
#[derive(Deserialize)]
struct Vector {
    shares: usize,
    verify_key: Hex,
    #[serde(default)]
    ctx: Hex,
    bits: Option<u32>,
    max_measurement: Option<u64>,
    length: Option<usize>,
    max_weight: Option<usize>,
    max_value: Option<u64>,
    chunk_length: Option<usize>,
    #[serde(alias = "reports")]
    prep: Vec<Preparation>,
    agg_shares: Vec<Hex>,
    agg_result: Option<AggregateResult>,
    /// An operation and whether it must succeed.
    #[serde(default)]
    operations: Vec<Operation>,
}

/// One report of a test vector.
#[derive(Deserialize)]
struct Preparation {
    nonce: Hex,
    public_share: Hex,
    input_shares: Vec<Hex>,
    /// By round and aggregator.
    #[serde(alias = "verifier_shares")]
    prep_shares: Vec<Vec<Hex>>,
    /// By round.
    #[serde(alias = "verifier_messages")]
    prep_messages: Vec<Hex>,
    /// By aggregator.
    out_shares: Vec<Hex>,
}

#[derive(Deserialize)]
struct Operation {
    operation: String,
    success: bool,
}

/// Bytes, as one text or in pieces.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(from = "HexText")]
struct Hex(Vec<u8>);

#[derive(Deserialize)]
#[serde(untagged)]
enum HexText {
    Whole(String),
    Pieces(Vec<String>),
}

impl From<HexText> for Hex {
    fn from(text: HexText) -> Self {
        let text = match text {
            HexText::Whole(text) => text,
            HexText::Pieces(pieces) => pieces.concat(),
        };
        assert_eq!(text.len() % 2, 0);
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        Self((0..text.len()).step_by(2).map(byte).collect())
    }
}

impl Draft {
    fn read(&self, name: &str) -> Vector {
        let path = Path::new(FIXTURES).join(self.directory).join(name).with_extension("json");
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    fn preparer(&self, name: &str, vector: &Vector) -> Arc<dyn Preparer> {
        let max = || vector.bits.map(MaxMeasurement::of_bits).or(vector.max_measurement.map(MaxMeasurement)).unwrap();
        let length = || vector.length.unwrap();
        let chunk_length = || vector.chunk_length.unwrap();
        let config = match name.split('_').next().unwrap() {
            "Prio3Count" => VdafConfig::Prio3Count,
            "Prio3Sum" => VdafConfig::Prio3Sum { max: max() },
            "Prio3SumVec" => VdafConfig::Prio3SumVec { max: max(), length: length(), chunk_length: chunk_length() },
            "Prio3Histogram" => VdafConfig::Prio3Histogram { length: length(), chunk_length: chunk_length() },
            "Prio3MultihotCountVec" => VdafConfig::Prio3MultihotCountVec {
                length: length(),
                max_weight: vector.max_weight.unwrap(),
                chunk_length: chunk_length(),
            },
            "Prio3L1BoundSum" => VdafConfig::Prio3L1BoundSum {
                max_value: vector.max_value.unwrap(),
                length: length(),
                chunk_length: chunk_length(),
            },
            other => panic!("unknown VDAF {other}"),
        };
        preparer(self.revision, &config).unwrap()
    }
}

impl Vector {
    fn verification(&self) -> VerifyParams<'_> {
        VerifyParams { key: &self.verify_key.0, context: &self.ctx.0 }
    }
}

impl Preparation {
    fn id(&self) -> ReportId {
        ReportId::try_from(self.nonce.0.as_slice()).unwrap()
    }

    fn share<'a>(&'a self, report_id: &'a ReportId, aggregator: usize) -> InputShare<'a> {
        let input_share = &self.input_shares[aggregator].0;
        InputShare { report_id, public_share: &self.public_share.0, input_share }
    }
}

/// A message of the ping-pong topology (VDAF-08 section 5.8, VDAF-18 section 5.7.1): its type, the field's length in
/// four bytes, and the field.
fn ping_pong(kind: u8, field: &Hex) -> Vec<u8> {
    let length = u32::try_from(field.0.len()).unwrap();
    [&[kind][..], &length.to_be_bytes(), &field.0].concat()
}

/// An output share is opaque; a sum of one share has the same encoding.
fn encoded(vdaf: &dyn Preparer, share: OutputShare) -> Hex {
    let mut sum = vdaf.zero();
    vdaf.add(&mut sum, share);
    Hex(vdaf.encode(&sum))
}

fn run(draft: &Draft, name: &str) {
    let vector = draft.read(name);
    assert_eq!(vector.shares, 2, "{name}");
    let vdaf = &*draft.preparer(name, &vector);
    let verify = vector.verification();
    let mut sums = [vdaf.zero(), vdaf.zero()];
    for report in &vector.prep {
        let id = report.id();
        let start = || vdaf.leader_start(verify, report.share(&id, 0)).unwrap();
        let (pending, message) = start();
        assert_eq!(message, ping_pong(0, &report.prep_shares[0][0]), "{name}: the leader's message");

        let answer = || vdaf.helper_answer(verify, report.share(&id, 1), &message).unwrap();
        let (helper_share, response) = answer();
        assert_eq!(response, ping_pong(2, &report.prep_messages[0]), "{name}: the helper's message");
        let leader_share = pending.finish(&response).unwrap();

        vdaf.add(&mut sums[0], leader_share);
        vdaf.add(&mut sums[1], helper_share);
        // Sums consume output shares, so another preparation makes them again.
        assert_eq!(encoded(vdaf, start().0.finish(&response).unwrap()), report.out_shares[0]);
        assert_eq!(encoded(vdaf, answer().0), report.out_shares[1]);
    }
    let sums = sums.map(|sum| Hex(vdaf.encode(&sum)));
    assert_eq!(sums[..], vector.agg_shares[..], "{name}: aggregate shares");
    let result = vdaf.unshard(&sums[0].0, &sums[1].0, vector.prep.len() as u64).unwrap();
    assert_eq!(Some(result), vector.agg_result, "{name}: result");
}

#[test]
fn matches_official_vectors() {
    for draft in DRAFTS {
        draft.run.iter().for_each(|name| run(&draft, name));
    }
}

/// Prepares up to the operation that must fail.
fn refuse(draft: &Draft, name: &str) {
    let vector = draft.read(name);
    assert_eq!((vector.shares, &vector.agg_result), (2, &None), "{name}");
    let vdaf = &*draft.preparer(name, &vector);
    let ([report], verify) = (&vector.prep[..], vector.verification()) else { panic!("{name} has one report") };
    let id = report.id();
    let failed = vector.operations.iter().find(|operation| !operation.success).unwrap();
    let (pending, message) = match vdaf.leader_start(verify, report.share(&id, 0)) {
        Ok(started) => started,
        // The leader rejects a wrong joint randomness part of its own immediately, the draft in a later step.
        Err(error) => {
            assert!(["jr_blind", "public_share"].iter().any(|part| name.ends_with(part)), "{name}");
            assert_eq!(error, ReportError::VdafPrepError, "{name}");
            return;
        }
    };
    assert_eq!(message, ping_pong(0, &report.prep_shares[0][0]), "{name}: the leader's message");

    let error = match failed.operation.as_str() {
        "verifier_shares_to_message" => vdaf.helper_answer(verify, report.share(&id, 1), &message).err(),
        "verify_next" => pending.finish(&ping_pong(2, &report.prep_messages[0])).err(),
        other => panic!("{name} fails at {other}"),
    };
    assert_eq!(error, Some(ReportError::VdafPrepError), "{name}");
}

#[test]
fn rejects_official_negative_vectors() {
    for draft in DRAFTS {
        draft.refused.iter().for_each(|name| refuse(&draft, name));
    }
}

#[test]
fn runs_each_vector_or_states_reason() {
    for draft in DRAFTS {
        let present: BTreeSet<String> = fs::read_dir(Path::new(FIXTURES).join(draft.directory))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let used = draft.run.iter().chain(draft.refused);
        let listed = used.chain(draft.skipped.iter().map(|(name, _)| name)).map(|name| (*name).to_owned()).collect();
        assert_eq!(present, listed);
        for (name, why) in draft.skipped {
            assert_eq!(draft.read(name).shares == 3, why.starts_with("three shares"), "{name}");
        }
    }
}

/// A report's public share, leader share and helper share.
type Shares = [Vec<u8>; 3];

/// Shards with each of two implementations, and prepares with one as the leader and the other as the helper.
fn agrees<T, P, const SEED: usize>(
    config: VdafConfig,
    theirs: &Prio3<T, P, SEED>,
    our_measurement: Measurement,
    their_measurement: T::Measurement,
    result: AggregateResult,
) where
    T: Type,
    P: Xof<SEED>,
{
    let ours = &*preparer(Revision::Dap09, &config).unwrap();
    assert_eq!(ours.verify_key_length(), SEED);
    let id = ReportId::random();
    let sharded = ours.shard(&[], &our_measurement, &id).unwrap();
    let our_shares = [sharded.public_share, sharded.leader_share, sharded.helper_share];
    let (public, inputs) = theirs.shard(&their_measurement, id.as_bytes()).unwrap();
    let [leader, helper] = [0, 1].map(|aggregator: usize| inputs[aggregator].get_encoded().unwrap());
    let their_shares = [public.get_encoded().unwrap(), leader, helper];
    for shares in [our_shares, their_shares] {
        assert_eq!(our_leader_their_helper(ours, theirs, &id, &shares), result);
        assert_eq!(their_leader_our_helper(ours, theirs, &id, &shares), result);
    }
}

fn our_leader_their_helper<T, P, const SEED: usize>(
    ours: &dyn Preparer,
    theirs: &Prio3<T, P, SEED>,
    id: &ReportId,
    [public, leader, helper]: &Shares,
) -> AggregateResult
where
    T: Type,
    P: Xof<SEED>,
{
    let key = [42; SEED];
    let share = InputShare { report_id: id, public_share: public, input_share: leader };
    let (pending, message) = ours.leader_start(VerifyParams { key: &key, context: &[] }, share).unwrap();

    let transition = theirs
        .helper_initialized(
            &key,
            &(),
            id.as_bytes(),
            &ParameterizedDecode::get_decoded_with_param(theirs, public).unwrap(),
            &ParameterizedDecode::get_decoded_with_param(&(theirs, 1), helper).unwrap(),
            &PingPongMessage::get_decoded(&message).unwrap(),
        )
        .unwrap();
    let (state, answer) = transition.evaluate(theirs).unwrap();
    let PingPongState::Finished(their_output) = state else { panic!("one round is enough") };
    let our_output = encoded(ours, pending.finish(&answer.get_encoded().unwrap()).unwrap());
    let their_output = theirs.aggregate(&(), [their_output]).unwrap().get_encoded().unwrap();
    ours.unshard(&our_output.0, &their_output, 1).unwrap()
}

fn their_leader_our_helper<T, P, const SEED: usize>(
    ours: &dyn Preparer,
    theirs: &Prio3<T, P, SEED>,
    id: &ReportId,
    [public, leader, helper]: &Shares,
) -> AggregateResult
where
    T: Type,
    P: Xof<SEED>,
{
    let key = [42; SEED];
    let (state, message) = theirs
        .leader_initialized(
            &key,
            &(),
            id.as_bytes(),
            &ParameterizedDecode::get_decoded_with_param(theirs, public).unwrap(),
            &ParameterizedDecode::get_decoded_with_param(&(theirs, 0), leader).unwrap(),
        )
        .unwrap();
    let share = InputShare { report_id: id, public_share: public, input_share: helper };
    let verify = VerifyParams { key: &key, context: &[] };
    let (our_output, answer) = ours.helper_answer(verify, share, &message.get_encoded().unwrap()).unwrap();
    let answer = PingPongMessage::get_decoded(&answer).unwrap();
    let finished = theirs.leader_continued(state, &(), &answer).unwrap();
    let PingPongContinuedValue::FinishedNoMessage { output_share } = finished else { panic!("one round is enough") };
    let their_output = theirs.aggregate(&(), [output_share]).unwrap().get_encoded().unwrap();
    ours.unshard(&their_output, &encoded(ours, our_output).0, 1).unwrap()
}

#[test]
fn multiproof_vdaf_matches_janus() {
    let (bits, length, chunk_length) = (3, 5, 4);
    let numbers = [7, 0, 1, 2, 6];
    for proofs in [2, 3, 5] {
        let config = VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, chunk_length, proofs };
        let theirs = new_prio3_sum_vec_field64_multiproof_hmacsha256_aes128::<ParallelSum<Field64, Mul<Field64>>>(
            proofs,
            bits,
            length,
            chunk_length,
        );
        let wide = numbers.map(u128::from).to_vec();
        let result = AggregateResult::Vector(wide.clone());
        agrees(config, &theirs.unwrap(), Measurement::Vector(wide), numbers.to_vec(), result);
    }
}

#[test]
fn other_vdafs_match_prio() {
    let (number, vector) = (Measurement::Number, |numbers: &[u128]| Measurement::Vector(numbers.to_vec()));
    let (sum, sums) = (AggregateResult::Number, |numbers: &[u128]| AggregateResult::Vector(numbers.to_vec()));

    let theirs = Prio3::new_count(2).unwrap();
    agrees(VdafConfig::Prio3Count, &theirs, Measurement::Flag(true), true, sum(1));

    let theirs = Prio3::new_sum(2, 33).unwrap();
    agrees(VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(33) }, &theirs, number(1 << 32), 1 << 32, sum(1 << 32));

    let theirs = Prio3::new_sum_vec(2, 4, 3, 5).unwrap();
    let config = VdafConfig::Prio3SumVec { max: MaxMeasurement::of_bits(4), length: 3, chunk_length: 5 };
    agrees(config, &theirs, vector(&[15, 0, 9]), vec![15, 0, 9], sums(&[15, 0, 9]));

    let theirs = Prio3::new_histogram(2, 4, 3).unwrap();
    let config = VdafConfig::Prio3Histogram { length: 4, chunk_length: 3 };
    agrees(config, &theirs, number(3), 3, sums(&[0, 0, 0, 1]));

    let theirs = Prio3::new_multihot_count_vec(2, 5, 2, 3).unwrap();
    let config = VdafConfig::Prio3MultihotCountVec { length: 5, max_weight: 2, chunk_length: 3 };
    let flags = vec![true, false, false, false, true];
    agrees(config, &theirs, vector(&[1, 0, 0, 0, 1]), flags, sums(&[1, 0, 0, 0, 1]));
}

/// Shards a vector with any claimed sum, as no honest client does. The encoding of Prio3L1BoundSum is that of a vector
/// of the numbers and the sum, and the proof covers the bits of both alike. Only the verification compares them.
fn shard_with_claim(max_value: u64, numbers: &[u128], claimed: u128, id: &ReportId) -> Shares {
    let elements = [numbers, &[claimed]].concat();
    let typ = SumVec::<Field128, ParallelSum18<_, Mul18>>::new(max_value.into(), elements.len(), 4).unwrap();
    let theirs = Prio3V18::<_, XofTurboShake128, 32>::new(2, 1, 7, typ).unwrap();
    let (public, inputs) = theirs.shard(b"context", &elements, id.as_bytes()).unwrap();
    let [leader, helper] = [0, 1].map(|aggregator: usize| inputs[aggregator].get_encoded().unwrap());
    [public.get_encoded().unwrap(), leader, helper]
}

/// A client that proves the range of each number honestly, but whose numbers add up to more than it claims.
#[test]
fn rejects_vector_whose_sum_is_not_the_claimed_one() {
    for (max_value, numbers, claimed) in [
        (5, [0, 5, 0], 5),
        (5, [0, 0, 0], 0),
        (5, [5, 5, 5], 5),
        (5, [1, 5, 0], 5),
        (5, [1, 2, 0], 2),
        (5, [0, 0, 0], 5),
        // The bits of the sum wrap around.
        (7, [7, 1, 0], 0),
        (u64::MAX, [u64::MAX.into(), 1, 0], 0),
    ] {
        let is_true = numbers.iter().sum::<u128>() == claimed;
        let config = VdafConfig::Prio3L1BoundSum { max_value, length: numbers.len(), chunk_length: 4 };
        let vdaf = preparer(Revision::Dap18, &config).unwrap();
        let (id, verify) = (ReportId::random(), VerifyParams { key: &[42; 32], context: b"context" });
        let [public, leader, helper] = &shard_with_claim(max_value, &numbers, claimed, &id);
        let share = |input_share| InputShare { report_id: &id, public_share: public, input_share };
        let (pending, message) = vdaf.leader_start(verify, share(leader)).unwrap();
        let answer = vdaf.helper_answer(verify, share(helper), &message);
        match answer {
            Ok((helper, answer)) => {
                assert!(is_true, "{numbers:?} {claimed}");
                let sums = [pending.finish(&answer).unwrap(), helper].map(|share| encoded(&*vdaf, share).0);
                let result = vdaf.unshard(&sums[0], &sums[1], 1).unwrap();
                assert_eq!(result, AggregateResult::Vector(numbers.to_vec()));
            }
            Err(error) => assert_eq!((error, is_true), (ReportError::VdafPrepError, false), "{numbers:?} {claimed}"),
        }
    }
}
