//! What the preparers of both VDAF drafts have in common, which is what does not name `prio`.

use std::any::Any;

use super::{AggregateResult, OutputShare, VdafError, VerifyParams};
use crate::model::ReportError;

/// Leader and helper.
pub(super) const AGGREGATORS: u8 = 2;
/// The leader's aggregator id.
pub(super) const LEADER: usize = 0;
/// The helper's aggregator id.
pub(super) const HELPER: usize = 1;

/// Why a downcast or a sum cannot fail: shares never leave the task that they belong to, and outside this room nobody
/// can make one but through the task's preparer. A violation is a bug of ours, which the pool turns into a fault.
pub(super) const SAME_PREPARER: &str = "a share is only given to the preparer that made it";

/// Why an encoding cannot fail: `prio` fails to encode only what outgrows a length prefix, and
/// [`table`](super::table) forbids that.
pub(super) const ENCODES: &str = "shares within the limits of the table encode";

/// Why one round is all that a preparation has.
pub(super) const ONE_ROUND: &str = "Prio3 has one round";

/// What `prio` does not do, in its own words.
pub(super) fn vdaf_error(error: impl std::error::Error) -> VdafError {
    VdafError(error.to_string())
}

/// A sum as a result.
pub(super) fn number(sum: impl Into<u128>) -> AggregateResult {
    AggregateResult::Number(sum.into())
}

/// Sums as a result.
pub(super) fn vector(sums: Vec<impl Into<u128>>) -> AggregateResult {
    AggregateResult::Vector(sums.into_iter().map(Into::into).collect())
}

/// Sums with noise as a result: modulo a field's modulus, so that those above half of it are below zero.
pub(super) fn signed(modulus: u128, sums: Vec<impl Into<u128>>) -> AggregateResult {
    let signed = |sum: u128| if sum > modulus / 2 { -((modulus - sum) as i128) } else { sum as i128 };
    AggregateResult::Noisy(sums.into_iter().map(|sum| signed(sum.into())).collect())
}

/// Adds noise to the elements of an aggregate share.
pub(super) type NoiseFn<F> = Box<dyn Fn(&mut [F]) -> Result<(), VdafError> + Send + Sync>;

/// Makes an output share opaque.
pub(super) fn boxed(output: impl Any + Send) -> OutputShare {
    OutputShare(Box::new(output))
}

/// A task's key has the right length from the day that the task is made, so that a wrong one is nobody's fault but
/// ours; no report verifies with it.
pub(super) fn verify_key<'a, const SEED: usize>(verify: &VerifyParams<'a>) -> Result<&'a [u8; SEED], ReportError> {
    verify.key.try_into().map_err(|_| ReportError::VdafPrepError)
}

/// Checks that the joint randomness part that an aggregator has computed is the one in the public share, whose parts have
/// `length` bytes, or none where the VDAF has no joint randomness. `prepared` is an encoding that ends with the computed
/// part: a preparation share (VDAF-08), a verifier share (VDAF-18), or a message with one.
///
/// `prio` verifies with the computed part and ignores the one in the public share. If they differ, the two aggregators
/// verify with different joint randomness. A degenerate proof passes all the same: the helper commits the report, and only
/// then does the leader see that the seeds differ. Their batches never match again.
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

/// The encoded elements of an aggregate share, if there are `elements` of them with `size` bytes each.
pub(super) fn elements(bytes: &[u8], elements: usize, size: usize) -> Result<impl Iterator<Item = &[u8]>, VdafError> {
    let expected = elements * size;
    if bytes.len() != expected {
        let why = format!("an aggregate share has {expected} bytes, but {} were given", bytes.len());
        return Err(VdafError(why));
    }
    Ok(bytes.chunks_exact(size))
}
