//! VDAF-18 (draft-irtf-cfrg-vdaf-18), implemented with `prio` 0.18 and used by DAP-18. VDAF-19 and VDAF-20 changed no
//! bytes.
//!
//! Every VDAF here is a Prio3, so two aggregators need one round of the ping-pong topology (section 5.7.1). VDAF-08
//! calls verification "preparation"; the trait for both drafts keeps that term.

use std::sync::Arc;

use prio18::{
    codec::{CodecError, Decode, Encode, ParameterizedDecode},
    dp::{DifferentialPrivacyStrategy, PureDpBudget, Rational, distributions::PureDpDiscreteLaplace},
    field::{Field64, Field128, FieldElement, FieldElementWithInteger, NttFriendlyFieldElement},
    flp::{
        FlpError, Type, TypeWithNoise,
        gadgets::{Mul, ParallelSum},
        types::{Count, Histogram, L1BoundSum, MultihotCountVec, Sum, SumVec},
    },
    topology::ping_pong::{Continued, PingPongError, PingPongMessage, PingPongState, PingPongTopology},
    vdaf::{
        self, Aggregatable, Aggregator, Client, Collector, Vdaf, VerifyTransition, prio3::Prio3, xof::XofTurboShake128,
    },
};

use super::{
    AggregateResult, AggregateShare, InputShare, Measurement, MeasurementShares, OutputShare, Pending, Preparer,
    VdafError, VerifyParams,
    common::{
        AGGREGATORS, ENCODES, HELPER, LEADER, NoiseFn, ONE_ROUND, SAME_PREPARER, check_joint_rand_part, elements,
        noisy_number_result, noisy_result, number_result, opaque_share, vdaf_error, vector_result, verify_key,
    },
    noise, table,
};
use crate::model::{Epsilon, MaxMeasurement, ReportError, ReportId, VdafConfig};

/// Length of a seed and of a verification key in bytes (section 6.2.1).
const SEED: usize = 32;

/// Maximum number of gadget calls of a proof, which is the number of chunks of a measurement. The verification time of
/// `prio` 0.18 grows with its square; this many calls take most of a second. An optimal chunk length needs far fewer.
pub(super) const MAX_GADGET_CALLS: usize = (1 << 12) - 1;

/// Algorithm identifiers (section 10, and draft-ietf-ppm-l1-bound-sum-02 section 6).
mod algorithm {
    pub const COUNT: u32 = 1;
    pub const SUM: u32 = 2;
    pub const SUM_VEC: u32 = 3;
    pub const HISTOGRAM: u32 = 4;
    pub const MULTIHOT_COUNT_VEC: u32 = 5;
    pub const L1_BOUND_SUM: u32 = 7;
}

/// Prio3 with the XOF of this draft.
type Vdaf18<T> = Prio3<T, XofTurboShake128, SEED>;

/// The gadget of all vector VDAFs: chunks of multiplications over a field.
type Chunks = ParallelSum<Field128, Mul>;

/// Creates the preparer of a VDAF. Fails if the parameters are invalid.
pub(super) fn preparer(config: &VdafConfig, noise: Option<Epsilon>) -> Result<Arc<dyn Preparer>, VdafError> {
    table::check(config)?;
    match *config {
        VdafConfig::Prio3Count => {
            build_number(algorithm::COUNT, Ok(Count::new()), table::flag, scaled_noise(config, 1, noise)?)
        }
        VdafConfig::Prio3Sum { max } => {
            let max = max_in_field64(max)?;
            // The number fits: it is at most `max`.
            let input = move |m: &Measurement| Ok(table::number(m, max.into())? as u64);
            build_number(algorithm::SUM, Sum::new(max), input, scaled_noise(config, 1, noise)?)
        }
        VdafConfig::Prio3SumVec { max: MaxMeasurement(max), length, chunk_length } => {
            let input = move |m: &Measurement| Ok(table::numbers(m, length, max.into())?.to_vec());
            let typ = SumVec::<Field128, Chunks>::new(max.into(), length, chunk_length);
            build_vector(algorithm::SUM_VEC, typ, input, noise)
        }
        VdafConfig::Prio3Histogram { length, chunk_length } => {
            // The index fits: it is less than `length`.
            let input = move |m: &Measurement| Ok(table::number(m, length as u128 - 1)? as usize);
            let typ = Histogram::<Field128, Chunks>::new(length, chunk_length);
            build_vector(algorithm::HISTOGRAM, typ, input, noise)
        }
        VdafConfig::Prio3MultihotCountVec { length, max_weight, chunk_length } => {
            let input = move |m: &Measurement| table::flags(m, length, max_weight);
            let typ = MultihotCountVec::<Field128, Chunks>::new(length, max_weight, chunk_length);
            match scaled_noise(config, length, noise)? {
                None => build(algorithm::MULTIHOT_COUNT_VEC, typ, input, vector_result, None),
                noise_fn => build(algorithm::MULTIHOT_COUNT_VEC, typ, input, noisy_vector_result, noise_fn),
            }
        }
        VdafConfig::Prio3L1BoundSum { max_value, length, chunk_length } => {
            let input = move |m: &Measurement| Ok(table::bounded(m, length, max_value.into())?.to_vec());
            let typ = L1BoundSum::<Field128, Chunks>::new(max_value.into(), length, chunk_length);
            build_vector(algorithm::L1_BOUND_SUM, typ, input, noise)
        }
        VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { .. } => {
            let why =
                "Prio3SumVecField64MultiproofHmacSha256Aes128 is available in DAP-09 only (hint: use Prio3SumVec)";
            Err(VdafError(why.to_owned()))
        }
    }
}

/// Checks that a sum of many measurements fits in the 64-bit field, which this draft uses (section 7.4.2).
fn max_in_field64(max: MaxMeasurement) -> Result<u64, VdafError> {
    if max.bit_length() <= table::MAX_BITS_FIELD64 {
        return Ok(max.0);
    }
    let bits = table::MAX_BITS_FIELD64;
    let why = format!(
        "the largest number of Prio3Sum must be below 2^{bits} in DAP-18 (hint: use Prio3SumVec with length 1)"
    );
    Err(VdafError(why))
}

/// Builds a Prio3 over numbers, with optional noise.
fn build_number<T>(
    id: u32,
    typ: Result<T, FlpError>,
    input: impl Fn(&Measurement) -> Result<T::Measurement, VdafError> + Send + Sync + 'static,
    noise: Option<NoiseFn<Field64>>,
) -> Result<Arc<dyn Preparer>, VdafError>
where
    T: Type<Field = Field64, AggregateResult = u64> + Send + Sync + 'static,
{
    match noise {
        None => build(id, typ, input, number_result, None),
        Some(_) => build(id, typ, input, |sum| noisy_number_result(Field64::modulus().into(), sum), noise),
    }
}

/// Builds a Prio3 over vectors, with optional noise.
fn build_vector<T>(
    id: u32,
    typ: Result<T, FlpError>,
    input: impl Fn(&Measurement) -> Result<T::Measurement, VdafError> + Send + Sync + 'static,
    noise: Option<Epsilon>,
) -> Result<Arc<dyn Preparer>, VdafError>
where
    T: TypeWithNoise<PureDpDiscreteLaplace>
        + Type<Field = Field128, AggregateResult = Vec<u128>>
        + Send
        + Sync
        + 'static,
{
    let Some(epsilon) = noise else { return build(id, typ, input, vector_result, None) };
    let typ = typ.map_err(vdaf_error)?;
    let noise_fn = laplace_noise(typ.clone(), epsilon)?;
    build(id, Ok(typ), input, noisy_vector_result, Some(noise_fn))
}

fn noisy_vector_result(sums: Vec<u128>) -> AggregateResult {
    noisy_result(Field128::modulus(), sums)
}

/// Noise for `length` numbers of a VDAF for which `prio` has none.
///
/// The noise of a vector of flags has the scale `length / epsilon`, so an epsilon multiplied by `length / sensitivity` yields
/// noise of the scale `sensitivity / epsilon`.
fn scaled_noise<F>(
    config: &VdafConfig,
    length: usize,
    epsilon: Option<Epsilon>,
) -> Result<Option<NoiseFn<F>>, VdafError>
where
    F: NttFriendlyFieldElement<Integer: From<u8>>,
    SumVec<F, ParallelSum<F, Mul>>: TypeWithNoise<PureDpDiscreteLaplace> + Type<Field = F> + Send + Sync + 'static,
{
    let Some(epsilon) = epsilon else { return Ok(None) };
    let flags = SumVec::<F, ParallelSum<F, Mul>>::new(1_u8.into(), length, 1).map_err(vdaf_error)?;
    laplace_noise(flags, noise::epsilon_of_flags(config, length, epsilon)?).map(Some)
}

/// Discrete Laplace noise for each element, scaled for pure differential privacy with this epsilon. Scale, sampler and
/// randomness come from `prio`.
fn laplace_noise<T>(typ: T, epsilon: Epsilon) -> Result<NoiseFn<T::Field>, VdafError>
where
    T: TypeWithNoise<PureDpDiscreteLaplace> + Send + Sync + 'static,
{
    let epsilon = Rational::from_unsigned(epsilon.numerator(), epsilon.denominator()).map_err(vdaf_error)?;
    let strategy = PureDpDiscreteLaplace::from_budget(PureDpBudget::new(epsilon).map_err(vdaf_error)?);
    // The noise does not depend on the number of measurements.
    Ok(Box::new(move |share| typ.add_noise_to_agg_share(&strategy, share, 0).map_err(vdaf_error)))
}

fn build<T>(
    id: u32,
    typ: Result<T, FlpError>,
    input: impl Fn(&Measurement) -> Result<T::Measurement, VdafError> + Send + Sync + 'static,
    output: fn(T::AggregateResult) -> AggregateResult,
    noise_fn: Option<NoiseFn<T::Field>>,
) -> Result<Arc<dyn Preparer>, VdafError>
where
    T: Type<Field: Send + Sync> + Send + Sync + 'static,
{
    let typ = typ.map_err(vdaf_error)?;
    // Vectors have one element of joint randomness per gadget call; numbers have none.
    if typ.joint_rand_len() > MAX_GADGET_CALLS {
        let (calls, max) = (typ.joint_rand_len(), MAX_GADGET_CALLS);
        return Err(VdafError(format!("chunk_length yields {calls} chunks, more than the {max} that DAP-18 supports")));
    }
    let seed = if typ.joint_rand_len() > 0 { SEED } else { 0 };
    let bytes = |elements: usize| elements * T::Field::ENCODED_SIZE + seed;
    Ok(Arc::new(Prio3Preparer::<T> {
        leader_share_length: bytes(typ.input_len() + typ.proof_len()),
        verifier_share_length: bytes(typ.verifier_len()),
        joint_rand_part_length: seed,
        vdaf: Prio3::new(AGGREGATORS, 1, id, typ).map_err(vdaf_error)?,
        input: Box::new(input),
        output,
        noise_fn,
    }))
}

/// Validates a measurement and converts it for `prio`.
type Input<T> = Box<dyn Fn(&Measurement) -> Result<<T as Type>::Measurement, VdafError> + Send + Sync>;

/// A Prio3 for two aggregators.
struct Prio3Preparer<T: Type> {
    vdaf: Vdaf18<T>,
    /// Length of the leader's input share in bytes. Checked before decoding, so that `prio` does not allocate memory
    /// for a share that is too short.
    leader_share_length: usize,
    /// Length of a verifier share in bytes. Checked before any computation.
    verifier_share_length: usize,
    /// Length of a joint randomness part in bytes; zero if the VDAF has none.
    joint_rand_part_length: usize,
    input: Input<T>,
    output: fn(T::AggregateResult) -> AggregateResult,
    /// Adds noise; `None` for a task without noise.
    noise_fn: Option<NoiseFn<T::Field>>,
}

impl<T> Prio3Preparer<T>
where
    T: Type<Field: Send + Sync> + Send + Sync + 'static,
{
    fn decode_shares(&self, aggregator: usize, share: &InputShare) -> Result<Shares<T>, ReportError> {
        if aggregator == LEADER && share.input_share.len() != self.leader_share_length {
            return Err(ReportError::InvalidMessage);
        }
        let public = ParameterizedDecode::get_decoded_with_param(&self.vdaf, share.public_share);
        let input = ParameterizedDecode::get_decoded_with_param(&(&self.vdaf, aggregator), share.input_share);
        match (public, input) {
            (Ok(public), Ok(input)) => Ok(Shares { public, input }),
            _ => Err(ReportError::InvalidMessage),
        }
    }

    fn sum_of<'a>(&self, share: &'a AggregateShare) -> &'a vdaf::AggregateShare<T::Field> {
        share.0.downcast_ref().expect(SAME_PREPARER)
    }

    fn sum_of_mut<'a>(&self, share: &'a mut AggregateShare) -> &'a mut vdaf::AggregateShare<T::Field> {
        share.0.downcast_mut().expect(SAME_PREPARER)
    }

    fn decode_sum(&self, bytes: &[u8]) -> Result<vdaf::AggregateShare<T::Field>, VdafError> {
        let elements = elements(bytes, self.vdaf.output_len(), T::Field::ENCODED_SIZE)?;
        let elements: Result<Vec<_>, _> = elements.map(T::Field::get_decoded).collect();
        Ok(elements.map_err(vdaf_error)?.into())
    }
}

/// Decoded shares of one aggregator.
struct Shares<T: Type> {
    public: <Vdaf18<T> as Vdaf>::PublicShare,
    input: <Vdaf18<T> as Vdaf>::InputShare,
}

impl<T> Preparer for Prio3Preparer<T>
where
    T: Type<Field: Send + Sync> + Send + Sync + 'static,
{
    fn verify_key_length(&self) -> usize {
        SEED
    }

    fn leader_state_bytes(&self) -> usize {
        // The message exists twice for a moment: among the parts of the request and in the encoded request.
        self.leader_share_length + 2 * self.verifier_share_length
    }

    fn shard(
        &self,
        context: &[u8],
        measurement: &Measurement,
        report_id: &ReportId,
    ) -> Result<MeasurementShares, VdafError> {
        let measurement = (self.input)(measurement)?;
        let (public, inputs) = self.vdaf.shard(context, &measurement, report_id.as_bytes()).map_err(vdaf_error)?;
        Ok(MeasurementShares {
            public_share: public.get_encoded().map_err(vdaf_error)?,
            leader_share: inputs[LEADER].get_encoded().map_err(vdaf_error)?,
            helper_share: inputs[HELPER].get_encoded().map_err(vdaf_error)?,
        })
    }

    fn leader_start(
        &self,
        verify: VerifyParams,
        share: InputShare,
    ) -> Result<(Box<dyn Pending>, Vec<u8>), ReportError> {
        let key = verify_key(&verify)?;
        let Shares { public, input } = self.decode_shares(LEADER, &share)?;
        let Continued { verifier_state: state, message } = self
            .vdaf
            .leader_initialized(key, verify.context, &(), share.report_id.as_bytes(), &public, &input)
            .map_err(reject)?;
        let message = message.get_encoded().expect(ENCODES);
        check_joint_rand_part(LEADER, share.public_share, &message, self.joint_rand_part_length)?;
        let pending = Prio3Pending { vdaf: self.vdaf.clone(), context: verify.context.to_vec(), state };
        Ok((Box::new(pending), message))
    }

    fn helper_answer(
        &self,
        verify: VerifyParams,
        share: InputShare,
        message: &[u8],
    ) -> Result<(OutputShare, Vec<u8>), ReportError> {
        let key = verify_key(&verify)?;
        let Shares { public, input } = self.decode_shares(HELPER, &share)?;
        let leaders = match PingPongMessage::get_decoded(message) {
            // Check the length before the computation, which precedes decoding in the ping-pong topology.
            Ok(PingPongMessage::Initialize { verifier_share })
                if verifier_share.len() == self.verifier_share_length =>
            {
                verifier_share
            }
            // A message that does not decode is a failed verification (VDAF-18 section 5.7.1).
            _ => return Err(ReportError::VdafPrepError),
        };
        let (state, own) = self
            .vdaf
            .verify_init(key, verify.context, HELPER, &(), share.report_id.as_bytes(), &public, &input)
            .map_err(|_| ReportError::VdafPrepError)?;
        let encoded = own.get_encoded().expect(ENCODES);
        check_joint_rand_part(HELPER, share.public_share, &encoded, self.joint_rand_part_length)?;
        let leaders = ParameterizedDecode::get_decoded_with_param(&state, &leaders)
            .map_err(|_: CodecError| ReportError::VdafPrepError)?;
        let message = self
            .vdaf
            .verifier_shares_to_message(verify.context, &(), [leaders, own])
            .map_err(|_| ReportError::VdafPrepError)?;
        let answer = PingPongMessage::Finish { verifier_message: message.get_encoded().expect(ENCODES) };
        match self.vdaf.verify_next(verify.context, state, message).map_err(|_| ReportError::VdafPrepError)? {
            VerifyTransition::Finish(output) => Ok((opaque_share(output), answer.get_encoded().expect(ENCODES))),
            VerifyTransition::Continue(..) => unreachable!("{ONE_ROUND}"),
        }
    }

    fn aggregate_share_bytes(&self) -> usize {
        self.vdaf.output_len() * T::Field::ENCODED_SIZE
    }

    fn zero(&self) -> AggregateShare {
        AggregateShare(Box::new(self.vdaf.aggregate_init(&())))
    }

    fn has_noise(&self) -> bool {
        self.noise_fn.is_some()
    }

    fn sample_noise(&self) -> Result<AggregateShare, VdafError> {
        let mut elements = vec![T::Field::zero(); self.vdaf.output_len()];
        if let Some(noise_fn) = &self.noise_fn {
            noise_fn(&mut elements)?;
        }
        Ok(AggregateShare(Box::new(vdaf::AggregateShare::from(elements))))
    }

    fn add(&self, sum: &mut AggregateShare, share: OutputShare) {
        let share: Box<vdaf::OutputShare<T::Field>> = share.0.downcast().expect(SAME_PREPARER);
        self.sum_of_mut(sum).accumulate(&share).expect(SAME_PREPARER);
    }

    fn merge(&self, sum: &mut AggregateShare, other: &AggregateShare) {
        self.sum_of_mut(sum).merge(self.sum_of(other)).expect(SAME_PREPARER);
    }

    fn encode(&self, sum: &AggregateShare) -> Vec<u8> {
        self.sum_of(sum).get_encoded().expect(ENCODES)
    }

    fn decode(&self, bytes: &[u8]) -> Result<AggregateShare, VdafError> {
        Ok(AggregateShare(Box::new(self.decode_sum(bytes)?)))
    }

    fn unshard(&self, leader: &[u8], helper: &[u8], count: u64) -> Result<AggregateResult, VdafError> {
        let shares = [self.decode_sum(leader)?, self.decode_sum(helper)?];
        let count = count.try_into().map_err(vdaf_error)?;
        let result = self.vdaf.unshard(&(), shares, count).map_err(vdaf_error)?;
        Ok((self.output)(result))
    }
}

/// State of the leader while the helper prepares.
struct Prio3Pending<T: Type> {
    vdaf: Vdaf18<T>,
    context: Vec<u8>,
    state: <Vdaf18<T> as Aggregator<SEED, 16>>::VerifyState,
}

impl<T> Pending for Prio3Pending<T>
where
    T: Type<Field: Send + Sync> + Send + Sync + 'static,
{
    fn finish(self: Box<Self>, answer: &[u8]) -> Result<OutputShare, ReportError> {
        let inbound = decode_message(answer)?;
        if !matches!(inbound, PingPongMessage::Finish { .. }) {
            return Err(ReportError::InvalidMessage);
        }
        let state = self
            .vdaf
            .leader_continued(&self.context, &(), self.state, &inbound)
            .and_then(|transition| transition.evaluate(&self.context, &self.vdaf))
            .map_err(reject)?;
        match state {
            PingPongState::Finished { output_share } => Ok(opaque_share(output_share)),
            PingPongState::Continued(_) | PingPongState::FinishedWithOutbound { .. } => unreachable!("{ONE_ROUND}"),
        }
    }
}

fn decode_message(bytes: &[u8]) -> Result<PingPongMessage, ReportError> {
    PingPongMessage::get_decoded(bytes).map_err(|_| ReportError::InvalidMessage)
}

/// Maps a verification error to a report error (DAP-18 section 4.5.3.4). A decoding error is not a failed proof.
fn reject(error: PingPongError) -> ReportError {
    match error {
        PingPongError::CodecVerifierShare(_)
        | PingPongError::CodecVerifierMessage(_)
        | PingPongError::PeerMessageMismatch { .. } => ReportError::InvalidMessage,
        _ => ReportError::VdafPrepError,
    }
}
