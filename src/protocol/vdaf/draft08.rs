//! VDAF-08 (draft-irtf-cfrg-vdaf-08), implemented with `prio` 0.16 and used by DAP-09.
//!
//! Every VDAF here is a Prio3, so two aggregators need one round of the ping-pong topology (section 5.8).

use std::sync::Arc;

use prio16::{
    codec::{CodecError, Decode, Encode, ParameterizedDecode},
    dp::{DifferentialPrivacyStrategy, PureDpBudget, Rational, distributions::PureDpDiscreteLaplace},
    field::{FftFriendlyFieldElement, Field64, Field128, FieldElement, FieldElementWithInteger},
    flp::{
        FlpError, Type, TypeWithNoise,
        gadgets::{Mul, ParallelSum},
        types::{Count, Histogram, MultihotCountVec, Sum, SumVec},
    },
    topology::ping_pong::{PingPongContinuedValue, PingPongError, PingPongMessage, PingPongState, PingPongTopology},
    vdaf::{
        self, Aggregatable, Aggregator, Client, Collector, PrepareTransition, Vdaf,
        prio3::Prio3,
        xof::{Xof, XofHmacSha256Aes128, XofTurboShake128},
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

/// Algorithm identifiers of section 10. The last two are private codepoints that deployed peers use.
mod algorithm {
    pub const COUNT: u32 = 0;
    pub const SUM: u32 = 1;
    pub const SUM_VEC: u32 = 2;
    pub const HISTOGRAM: u32 = 3;
    pub const MULTIHOT_COUNT_VEC: u32 = 0xFFFF_0000;
    pub const SUM_VEC_FIELD64_MULTIPROOF: u32 = 0xFFFF_1003;
}

/// The gadget of all vector VDAFs: chunks of multiplications over a field.
type Chunks<F> = ParallelSum<F, Mul<F>>;

/// Creates the preparer of a VDAF. Fails if the parameters are invalid.
pub(super) fn preparer(config: &VdafConfig, noise: Option<Epsilon>) -> Result<Arc<dyn Preparer>, VdafError> {
    table::check(config)?;
    match *config {
        VdafConfig::Prio3Count => {
            build_number(algorithm::COUNT, Ok(Count::<Field64>::new()), table::flag, scaled_noise(config, 1, noise)?)
        }
        VdafConfig::Prio3Sum { max } => {
            let (bits, max) = whole_bits(max)?;
            let input = move |m: &Measurement| table::number(m, max);
            build_number(algorithm::SUM, Sum::<Field128>::new(bits), input, scaled_noise(config, 1, noise)?)
        }
        VdafConfig::Prio3SumVec { max, length, chunk_length } => {
            let (bits, max) = whole_bits(max)?;
            let input = move |m: &Measurement| Ok(table::numbers(m, length, max)?.to_vec());
            let typ = SumVec::<Field128, Chunks<_>>::new(bits, length, chunk_length);
            build_vector::<_, XofTurboShake128, 16, _>(algorithm::SUM_VEC, 1, typ, input, noise)
        }
        VdafConfig::Prio3Histogram { length, chunk_length } => {
            // The index fits: it is less than `length`.
            let input = move |m: &Measurement| Ok(table::number(m, length as u128 - 1)? as usize);
            let typ = Histogram::<Field128, Chunks<_>>::new(length, chunk_length);
            build_vector::<_, XofTurboShake128, 16, _>(algorithm::HISTOGRAM, 1, typ, input, noise)
        }
        VdafConfig::Prio3MultihotCountVec { length, max_weight, chunk_length } => {
            let input = move |m: &Measurement| table::flags(m, length, max_weight);
            let typ = MultihotCountVec::<Field128, Chunks<_>>::new(length, max_weight, chunk_length);
            match scaled_noise(config, length, noise)? {
                None => build_standard(algorithm::MULTIHOT_COUNT_VEC, typ, input, vector_result, None),
                noise_fn => {
                    let output = |sums| noisy_result(Field128::modulus(), sums);
                    build_standard(algorithm::MULTIHOT_COUNT_VEC, typ, input, output, noise_fn)
                }
            }
        }
        VdafConfig::Prio3L1BoundSum { .. } => {
            let why = "Prio3L1BoundSum is not available in DAP-09 (hint: use --dap 18 or 19, or Prio3SumVec)";
            Err(VdafError(why.to_owned()))
        }
        VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, chunk_length, proofs } => {
            // The numbers fit: they have at most 32 bits.
            let input = move |m: &Measurement| {
                Ok(table::numbers(m, length, MaxMeasurement::of_bits(bits as u32).0.into())?
                    .iter()
                    .map(|number| *number as u64)
                    .collect())
            };
            let typ = SumVec::<Field64, Chunks<_>>::new(bits, length, chunk_length);
            let id = algorithm::SUM_VEC_FIELD64_MULTIPROOF;
            build_vector::<_, XofHmacSha256Aes128, 32, _>(id, proofs, typ, input, noise)
        }
    }
}

/// Number of bits and value of a maximum. Fails unless the maximum has the form 2^bits - 1, which VDAF-08 requires.
fn whole_bits(max: MaxMeasurement) -> Result<(usize, u128), VdafError> {
    let why = "the largest number must have the form 2^bits - 1 in DAP-09, such as 255";
    Ok((max.bits().ok_or_else(|| VdafError(why.to_owned()))?, max.0.into()))
}

/// Builds a Prio3 with the parameters of the draft: one proof, TurboSHAKE128, seeds of 16 bytes.
fn build_standard<T>(
    id: u32,
    typ: Result<T, FlpError>,
    input: impl Fn(&Measurement) -> Result<T::Measurement, VdafError> + Send + Sync + 'static,
    output: fn(T::AggregateResult) -> AggregateResult,
    noise_fn: Option<NoiseFn<T::Field>>,
) -> Result<Arc<dyn Preparer>, VdafError>
where
    T: Type<Field: Send + Sync> + Send + Sync + 'static,
{
    build::<T, XofTurboShake128, 16>(id, 1, typ.map_err(vdaf_error)?, input, output, noise_fn)
}

/// Builds a Prio3 over numbers, with optional noise.
fn build_number<T, N>(
    id: u32,
    typ: Result<T, FlpError>,
    input: impl Fn(&Measurement) -> Result<T::Measurement, VdafError> + Send + Sync + 'static,
    noise_fn: Option<NoiseFn<T::Field>>,
) -> Result<Arc<dyn Preparer>, VdafError>
where
    T: Type<AggregateResult = N> + Send + Sync + 'static,
    T::Field: FieldElementWithInteger<Integer: Into<u128>> + Send + Sync,
    N: Into<u128> + 'static,
{
    match noise_fn {
        None => build_standard(id, typ, input, number_result, None),
        Some(_) => {
            let output = |sum| noisy_number_result(T::Field::modulus().into(), sum);
            build_standard(id, typ, input, output, noise_fn)
        }
    }
}

/// Builds a Prio3 over vectors, with optional noise.
fn build_vector<T, P, const SEED: usize, N>(
    id: u32,
    proofs: u8,
    typ: Result<T, FlpError>,
    input: impl Fn(&Measurement) -> Result<T::Measurement, VdafError> + Send + Sync + 'static,
    noise: Option<Epsilon>,
) -> Result<Arc<dyn Preparer>, VdafError>
where
    T: TypeWithNoise<PureDpDiscreteLaplace> + Type<AggregateResult = Vec<N>> + Send + Sync + 'static,
    T::Field: FieldElementWithInteger<Integer: Into<u128>> + Send + Sync,
    P: Xof<SEED> + Send + Sync + 'static,
    N: Into<u128> + 'static,
{
    let typ = typ.map_err(vdaf_error)?;
    match noise {
        None => build::<T, P, SEED>(id, proofs, typ, input, vector_result, None),
        Some(epsilon) => {
            let noise_fn = laplace_noise(typ.clone(), epsilon)?;
            let output = |sums| noisy_result(T::Field::modulus().into(), sums);
            build::<T, P, SEED>(id, proofs, typ, input, output, Some(noise_fn))
        }
    }
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
    Ok(Box::new(move |share| typ.add_noise_to_result(&strategy, share, 0).map_err(vdaf_error)))
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
    F: FftFriendlyFieldElement,
    SumVec<F, Chunks<F>>: TypeWithNoise<PureDpDiscreteLaplace> + Type<Field = F> + Send + Sync + 'static,
{
    let Some(epsilon) = epsilon else { return Ok(None) };
    let flags = SumVec::<F, Chunks<F>>::new(1, length, 1).map_err(vdaf_error)?;
    laplace_noise(flags, noise::epsilon_of_flags(config, length, epsilon)?).map(Some)
}

fn build<T, P, const SEED: usize>(
    id: u32,
    proofs: u8,
    typ: T,
    input: impl Fn(&Measurement) -> Result<T::Measurement, VdafError> + Send + Sync + 'static,
    output: fn(T::AggregateResult) -> AggregateResult,
    noise_fn: Option<NoiseFn<T::Field>>,
) -> Result<Arc<dyn Preparer>, VdafError>
where
    T: Type<Field: Send + Sync> + Send + Sync + 'static,
    P: Xof<SEED> + Send + Sync + 'static,
{
    let seed = if typ.joint_rand_len() > 0 { SEED } else { 0 };
    let bytes = |elements: usize| elements * T::Field::ENCODED_SIZE + seed;
    Ok(Arc::new(Prio3Preparer::<T, P, SEED> {
        leader_share_length: bytes(typ.input_len() + typ.proof_len() * usize::from(proofs)),
        prepare_share_length: bytes(typ.verifier_len() * usize::from(proofs)),
        joint_rand_part_length: seed,
        vdaf: Prio3::new(AGGREGATORS, proofs, id, typ).map_err(vdaf_error)?,
        input: Box::new(input),
        output,
        noise_fn,
    }))
}

/// Validates a measurement and converts it for `prio`.
type Input<T> = Box<dyn Fn(&Measurement) -> Result<<T as Type>::Measurement, VdafError> + Send + Sync>;

/// A Prio3 for two aggregators.
struct Prio3Preparer<T, P, const SEED: usize>
where
    T: Type,
    P: Xof<SEED>,
{
    vdaf: Prio3<T, P, SEED>,
    /// Length of the leader's input share in bytes. Checked before decoding, so that `prio` does not allocate memory
    /// for a share that is too short.
    leader_share_length: usize,
    /// Length of a preparation share in bytes. Checked before any computation.
    prepare_share_length: usize,
    /// Length of a joint randomness part in bytes; zero if the VDAF has none.
    joint_rand_part_length: usize,
    input: Input<T>,
    output: fn(T::AggregateResult) -> AggregateResult,
    /// Adds noise; `None` for a task without noise.
    noise_fn: Option<NoiseFn<T::Field>>,
}

impl<T, P, const SEED: usize> Prio3Preparer<T, P, SEED>
where
    T: Type<Field: Send + Sync> + Send + Sync + 'static,
    P: Xof<SEED> + Send + Sync + 'static,
{
    fn decode_shares(&self, aggregator: usize, share: &InputShare) -> Result<Shares<T, P, SEED>, ReportError> {
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
struct Shares<T, P, const SEED: usize>
where
    T: Type,
    P: Xof<SEED>,
{
    public: <Prio3<T, P, SEED> as Vdaf>::PublicShare,
    input: <Prio3<T, P, SEED> as Vdaf>::InputShare,
}

impl<T, P, const SEED: usize> Preparer for Prio3Preparer<T, P, SEED>
where
    T: Type<Field: Send + Sync> + Send + Sync + 'static,
    P: Xof<SEED> + Send + Sync + 'static,
{
    fn verify_key_length(&self) -> usize {
        SEED
    }

    fn leader_state_bytes(&self) -> usize {
        // The message exists twice for a moment: among the parts of the request and in the encoded request.
        self.leader_share_length + 2 * self.prepare_share_length
    }

    fn shard(&self, _: &[u8], measurement: &Measurement, report_id: &ReportId) -> Result<MeasurementShares, VdafError> {
        let measurement = (self.input)(measurement)?;
        let (public, inputs) = self.vdaf.shard(&measurement, report_id.as_bytes()).map_err(vdaf_error)?;
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
        let (state, message) =
            self.vdaf.leader_initialized(key, &(), share.report_id.as_bytes(), &public, &input).map_err(reject)?;
        let message = message.get_encoded().expect(ENCODES);
        check_joint_rand_part(LEADER, share.public_share, &message, self.joint_rand_part_length)?;
        let pending = Prio3Pending { vdaf: self.vdaf.clone(), state };
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
            Ok(PingPongMessage::Initialize { prep_share }) if prep_share.len() == self.prepare_share_length => {
                prep_share
            }
            // A message that does not decode is a failed preparation (VDAF-08 section 5.8).
            _ => return Err(ReportError::VdafPrepError),
        };
        let (state, own) = self
            .vdaf
            .prepare_init(key, HELPER, &(), share.report_id.as_bytes(), &public, &input)
            .map_err(|_| ReportError::VdafPrepError)?;
        let encoded = own.get_encoded().expect(ENCODES);
        check_joint_rand_part(HELPER, share.public_share, &encoded, self.joint_rand_part_length)?;
        let leaders = ParameterizedDecode::get_decoded_with_param(&state, &leaders)
            .map_err(|_: CodecError| ReportError::VdafPrepError)?;
        let message =
            self.vdaf.prepare_shares_to_prepare_message(&(), [leaders, own]).map_err(|_| ReportError::VdafPrepError)?;
        let answer = PingPongMessage::Finish { prep_msg: message.get_encoded().expect(ENCODES) };
        match self.vdaf.prepare_next(state, message).map_err(|_| ReportError::VdafPrepError)? {
            PrepareTransition::Finish(output) => Ok((opaque_share(output), answer.get_encoded().expect(ENCODES))),
            PrepareTransition::Continue(..) => unreachable!("{ONE_ROUND}"),
        }
    }

    fn aggregate_share_bytes(&self) -> usize {
        self.vdaf.output_len() * T::Field::ENCODED_SIZE
    }

    fn zero(&self) -> AggregateShare {
        let zeros = vec![T::Field::zero(); self.vdaf.output_len()];
        AggregateShare(Box::new(vdaf::AggregateShare::from(zeros)))
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
struct Prio3Pending<T, P, const SEED: usize>
where
    T: Type,
    P: Xof<SEED>,
{
    vdaf: Prio3<T, P, SEED>,
    state: PingPongState<SEED, 16, Prio3<T, P, SEED>>,
}

impl<T, P, const SEED: usize> Pending for Prio3Pending<T, P, SEED>
where
    T: Type<Field: Send + Sync> + Send + Sync + 'static,
    P: Xof<SEED> + Send + Sync + 'static,
{
    fn finish(self: Box<Self>, answer: &[u8]) -> Result<OutputShare, ReportError> {
        let inbound = decode_message(answer)?;
        if !matches!(inbound, PingPongMessage::Finish { .. }) {
            return Err(ReportError::InvalidMessage);
        }
        match self.vdaf.leader_continued(self.state, &(), &inbound).map_err(reject)? {
            PingPongContinuedValue::FinishedNoMessage { output_share } => Ok(opaque_share(output_share)),
            PingPongContinuedValue::WithMessage { .. } => unreachable!("{ONE_ROUND}"),
        }
    }
}

fn decode_message(bytes: &[u8]) -> Result<PingPongMessage, ReportError> {
    PingPongMessage::get_decoded(bytes).map_err(|_| ReportError::InvalidMessage)
}

/// Maps a preparation error to a report error (DAP-09 section 4.5.1.2). A decoding error is not a failed proof.
fn reject(error: PingPongError) -> ReportError {
    match error {
        PingPongError::CodecPrepShare(_)
        | PingPongError::CodecPrepMessage(_)
        | PingPongError::PeerMessageMismatch { .. } => ReportError::InvalidMessage,
        _ => ReportError::VdafPrepError,
    }
}
