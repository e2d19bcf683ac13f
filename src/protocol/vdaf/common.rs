//! Helpers of the preparers of both VDAF drafts. Nothing here uses `prio`.

use std::any::Any;

use super::{AggregateResult, OutputShare, VdafError, VerifyParams};
use crate::model::ReportError;

/// Leader and helper.
pub(super) const AGGREGATORS: u8 = 2;
/// The leader's aggregator id.
pub(super) const LEADER: usize = 0;
/// The helper's aggregator id.
pub(super) const HELPER: usize = 1;

/// Why a downcast or an addition cannot fail: only the preparer of a task creates the shares of the task. A violation
/// is a bug, which the worker pool turns into a fault.
pub(super) const SAME_PREPARER: &str = "only the preparer that created a share processes it";

/// Why encoding cannot fail: `prio` fails only if a length prefix overflows, which the limits of
/// [`table`](super::table) prevent.
pub(super) const ENCODES: &str = "shares within the limits of the table encode";

/// Why a preparation has one round.
pub(super) const ONE_ROUND: &str = "Prio3 has one round";

/// Converts an error of `prio`.
pub(super) fn vdaf_error(error: impl std::error::Error) -> VdafError {
    VdafError(error.to_string())
}

/// The result of a VDAF that yields one number.
pub(super) fn number_result(sum: impl Into<u128>) -> AggregateResult {
    AggregateResult::Number(sum.into())
}

/// The result of a VDAF that yields a vector.
pub(super) fn vector_result(sums: Vec<impl Into<u128>>) -> AggregateResult {
    AggregateResult::Vector(sums.into_iter().map(Into::into).collect())
}

/// The result of a VDAF with noise that yields a vector.
pub(super) fn noisy_result(modulus: u128, sums: Vec<impl Into<u128>>) -> AggregateResult {
    AggregateResult::Noisy(sums.into_iter().map(|sum| signed(modulus, sum.into())).collect())
}

/// The result of a VDAF with noise that yields one number.
pub(super) fn noisy_number_result(modulus: u128, sum: impl Into<u128>) -> AggregateResult {
    AggregateResult::NoisyNumber(signed(modulus, sum.into()))
}

/// A field element as a signed number: values above half of the field's modulus are negative.
fn signed(modulus: u128, sum: u128) -> i128 {
    if sum > modulus / 2 { -((modulus - sum) as i128) } else { sum as i128 }
}

/// Adds noise to the elements of an aggregate share.
pub(super) type NoiseFn<F> = Box<dyn Fn(&mut [F]) -> Result<(), VdafError> + Send + Sync>;

/// Wraps an output share of any VDAF.
pub(super) fn opaque_share(output: impl Any + Send) -> OutputShare {
    OutputShare(Box::new(output))
}

/// The verification key as an array. Its length is checked when the task is created; a key of any other length is a
/// bug, and no report verifies with it.
pub(super) fn verify_key<'a, const SEED: usize>(verify: &VerifyParams<'a>) -> Result<&'a [u8; SEED], ReportError> {
    verify.key.try_into().map_err(|_| ReportError::VdafPrepError)
}

/// Checks that the joint randomness part computed by an aggregator equals its part in the public share.
///
/// `length` is the length of a part in bytes, or zero if the VDAF has no joint randomness. `prepared` is an encoding
/// that ends with the computed part: a preparation share (VDAF-08), a verifier share (VDAF-18), or a message with one.
///
/// `prio` verifies with the computed part and ignores the public share. If the two differ, the aggregators verify with
/// different joint randomness, yet a degenerate proof passes at the helper. The helper commits the report before the
/// leader detects the difference, and the batches of the two never match again.
pub(super) fn check_joint_rand_part(
    aggregator: usize,
    public_share: &[u8],
    prepared: &[u8],
    length: usize,
) -> Result<(), ReportError> {
    let claimed = public_share.get(aggregator * length..(aggregator + 1) * length);
    let computed = prepared.len().checked_sub(length).map(|start| &prepared[start..]);
    if claimed.is_some() && claimed == computed { Ok(()) } else { Err(ReportError::VdafPrepError) }
}

/// Splits an encoded aggregate share into its elements of `size` bytes. Fails unless there are exactly `elements`.
pub(super) fn elements(bytes: &[u8], elements: usize, size: usize) -> Result<impl Iterator<Item = &[u8]>, VdafError> {
    let expected = elements * size;
    if bytes.len() != expected {
        let why = format!("aggregate share has {} bytes, expected {expected}", bytes.len());
        return Err(VdafError(why));
    }
    Ok(bytes.chunks_exact(size))
}
