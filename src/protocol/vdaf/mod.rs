//! Verifiable distributed aggregation functions (VDAFs): the only module that uses `prio`.
//!
//! Other modules see encoded bytes and opaque shares. The object-safe trait [`Preparer`] covers every VDAF of every
//! revision; [`preparer`] and [`preparer_for_task`] create one.

mod common;
mod draft08;
mod draft18;
pub mod noise;
mod number;
pub mod table;
#[cfg(test)]
mod tests;
mod verify_key;

use std::{any::Any, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::{number::JsonU128, verify_key::derive_verify_key};
use crate::model::{Epsilon, ReportError, ReportId, Revision, TaskParameters, VdafConfig};

/// A measurement of a client.
///
/// In JSON: `true`, `7`, `[0, 1, 1]`. Numbers of 2^64 and more are decimal text; smaller numbers may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Measurement {
    /// A measurement for counts.
    Flag(bool),
    /// A measurement for sums, or a bucket index for histograms.
    Number(#[serde(with = "number::one")] u128),
    /// A measurement for vectors; flags are 0 and 1.
    Vector(#[serde(with = "number::many")] Vec<u128>),
}

/// An aggregate.
///
/// In JSON: `7`, `[0, 1, 1]`, `[-2, 1, 3]`. Numbers that do not fit in 64 bits are decimal text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AggregateResult {
    /// The aggregate of a count or a sum.
    Number(#[serde(with = "number::one")] u128),
    /// The aggregate of vectors or a histogram.
    Vector(#[serde(with = "number::many")] Vec<u128>),
    /// The aggregate of vectors or a histogram with noise; numbers may be negative. If none is, it deserializes as a
    /// vector.
    Noisy(#[serde(with = "number::signed")] Vec<i128>),
    /// The aggregate of a count or a sum with noise, which may be negative. If it is not, it deserializes as a number.
    NoisyNumber(#[serde(with = "number::signed_one")] i128),
}

/// The encoded shares of a measurement. Has no `Debug`, because both input shares together reveal the measurement.
#[derive(Clone, PartialEq, Eq)]
pub struct MeasurementShares {
    /// The public share.
    pub public_share: Vec<u8>,
    /// The leader's input share.
    pub leader_share: Vec<u8>,
    /// The helper's input share.
    pub helper_share: Vec<u8>,
}

/// One aggregator's decrypted share of a report, encoded.
#[derive(Clone, Copy)]
pub struct InputShare<'a> {
    /// The report id, which is the VDAF nonce.
    pub report_id: &'a ReportId,
    /// The public share.
    pub public_share: &'a [u8],
    /// This aggregator's input share.
    pub input_share: &'a [u8],
}

/// Inputs that verification is bound to.
#[derive(Clone, Copy)]
pub struct VerifyParams<'a> {
    /// The verification key that leader and helper share.
    pub key: &'a [u8],
    /// The application context; empty if the VDAF draft has none.
    pub context: &'a [u8],
}

/// The verified share of one report. Only the [`Preparer`] that created it knows its type.
pub struct OutputShare(Box<dyn Any + Send>);

/// A sum of output shares. Only the [`Preparer`] that created it knows its type.
pub struct AggregateShare(Box<dyn Any + Send + Sync>);

/// An invalid VDAF configuration, measurement or aggregate share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct VdafError(pub String);

/// A VDAF with its parameters, for two aggregators.
pub trait Preparer: Send + Sync {
    /// Length of the verification key in bytes.
    fn verify_key_length(&self) -> usize;

    /// Approximate memory of a [`Pending`] state with its message, in bytes.
    fn leader_state_bytes(&self) -> usize;

    /// Splits a measurement into shares. Fails if the measurement is out of range.
    fn shard(
        &self,
        context: &[u8],
        measurement: &Measurement,
        report_id: &ReportId,
    ) -> Result<MeasurementShares, VdafError>;

    /// The leader's first step: returns its state and the encoded message for the helper. Deterministic, so that a
    /// restarted leader sends the same message again.
    ///
    /// # Errors
    ///
    /// [`ReportError::InvalidMessage`] if a share does not decode; [`ReportError::VdafPrepError`] otherwise, for
    /// example if the leader's joint randomness part in the public share is wrong.
    fn leader_start(&self, verify: VerifyParams, share: InputShare)
    -> Result<(Box<dyn Pending>, Vec<u8>), ReportError>;

    /// The helper's only step: returns its output share and the encoded message for the leader.
    ///
    /// If it succeeds, an honest leader succeeds too: [`Pending::finish`] accepts the message for the same public
    /// share.
    ///
    /// # Errors
    ///
    /// [`ReportError::InvalidMessage`] if a share does not decode. [`ReportError::VdafPrepError`] if the leader's
    /// message does not decode, the helper's joint randomness part in the public share is wrong, or the proof is
    /// invalid.
    fn helper_answer(
        &self,
        verify: VerifyParams,
        share: InputShare,
        message: &[u8],
    ) -> Result<(OutputShare, Vec<u8>), ReportError>;

    /// Approximate memory of an aggregate share, in bytes.
    fn aggregate_share_bytes(&self) -> usize;
    /// The aggregate share of no reports.
    fn zero(&self) -> AggregateShare;
    /// Whether aggregate shares contain noise.
    fn has_noise(&self) -> bool;
    /// Samples the noise of one aggregate share, and returns the sum of no reports plus that noise (no noise if the
    /// task has none).
    ///
    /// Every call samples anew. The caller must store the result before any party sees it, and must not sample again
    /// for the same batch: a second sample would help to average the noise out. Sampling for long vectors is slow.
    fn sample_noise(&self) -> Result<AggregateShare, VdafError>;
    /// Adds the output share of one report to a sum.
    fn add(&self, sum: &mut AggregateShare, share: OutputShare);
    /// Adds another sum to a sum.
    fn merge(&self, sum: &mut AggregateShare, other: &AggregateShare);
    /// Encodes a sum for the collector.
    fn encode(&self, sum: &AggregateShare) -> Vec<u8>;
    /// Decodes a sum.
    fn decode(&self, bytes: &[u8]) -> Result<AggregateShare, VdafError>;
    /// Combines the two encoded aggregate shares of `count` reports into the aggregate.
    fn unshard(&self, leader: &[u8], helper: &[u8], count: u64) -> Result<AggregateResult, VdafError>;
}

/// The leader's state between its message and the helper's response.
pub trait Pending: Send {
    /// Completes the preparation with the helper's encoded message.
    fn finish(self: Box<Self>, answer: &[u8]) -> Result<OutputShare, ReportError>;
}

/// Creates the preparer of a VDAF without noise, as clients need it. Fails if the parameters are invalid.
pub fn preparer(revision: Revision, config: &VdafConfig) -> Result<Arc<dyn Preparer>, VdafError> {
    with_noise(revision, config, None)
}

/// Creates the preparer of a task, with its noise. Aggregators and collectors need this one. Fails if the parameters
/// are invalid.
pub fn preparer_for_task(task: &TaskParameters) -> Result<Arc<dyn Preparer>, VdafError> {
    with_noise(task.revision, &task.vdaf, task.noise)
}

fn with_noise(
    revision: Revision,
    config: &VdafConfig,
    epsilon: Option<Epsilon>,
) -> Result<Arc<dyn Preparer>, VdafError> {
    if let Some(epsilon) = epsilon {
        noise::Noise::new(config, epsilon)?;
    }
    match revision {
        Revision::Dap09 => draft08::preparer(config, epsilon),
        Revision::Dap18 | Revision::Dap19 => draft18::preparer(config, epsilon),
    }
}
