//! Verifiable distributed aggregation functions: the only room that names `prio`.
//!
//! Outside, everything that a VDAF owns is either encoded bytes or an opaque sum. One object-safe trait,
//! [`Preparer`], covers every VDAF of every revision; [`preparer`] makes the one that a task asks for.

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

/// What a client measures, before it is split.
///
/// In JSON: `true`, `7`, `[0, 1, 1]`. Numbers from 2^64 on are decimal text; smaller ones may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Measurement {
    /// For counts.
    Flag(bool),
    /// For sums, and the bin's index for histograms.
    Number(#[serde(with = "number::one")] u128),
    /// For vectors; flags are 0 and 1.
    Vector(#[serde(with = "number::many")] Vec<u128>),
}

/// What a collector learns.
///
/// In JSON: `7`, `[0, 1, 1]`, `[-2, 1, 3]`. Numbers of 64 bits or more are decimal text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AggregateResult {
    /// From counts and sums.
    Number(#[serde(with = "number::one")] u128),
    /// From vectors and histograms.
    Vector(#[serde(with = "number::many")] Vec<u128>),
    /// From vectors and histograms of a task with noise, which may be below zero. Without a number below zero it is read
    /// back as a vector.
    Noisy(#[serde(with = "number::signed")] Vec<i128>),
}

/// A measurement, split for two aggregators, all parts encoded. Has no `Debug`: both shares together are the measurement.
#[derive(Clone, PartialEq, Eq)]
pub struct MeasurementShares {
    /// The public share.
    pub public_share: Vec<u8>,
    /// The leader's input share.
    pub leader_share: Vec<u8>,
    /// The helper's input share.
    pub helper_share: Vec<u8>,
}

/// An aggregator's decrypted part of one report, all parts encoded.
#[derive(Clone, Copy)]
pub struct InputShare<'a> {
    /// The report's id, which is the VDAF nonce.
    pub report_id: &'a ReportId,
    /// The public share.
    pub public_share: &'a [u8],
    /// This aggregator's input share.
    pub input_share: &'a [u8],
}

/// What verification is bound to.
#[derive(Clone, Copy)]
pub struct VerifyParams<'a> {
    /// The key that leader and helper share.
    pub key: &'a [u8],
    /// The application context; empty where the VDAF draft has none.
    pub context: &'a [u8],
}

/// One report's verified share, of a type that only its [`Preparer`] knows.
pub struct OutputShare(Box<dyn Any + Send>);

/// A running sum of output shares, of a type that only its [`Preparer`] knows.
pub struct AggregateShare(Box<dyn Any + Send + Sync>);

/// Why a VDAF refused something that we or our user asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct VdafError(pub String);

/// A VDAF with its parameters, for two aggregators.
pub trait Preparer: Send + Sync {
    /// Length of the verification key in bytes.
    fn verify_key_length(&self) -> usize;

    /// About how many bytes a report's [`Pending`] and its message take: an input share and a few of a proof's parts.
    fn leader_state_bytes(&self) -> usize;

    /// Splits a measurement. Refuses one that is outside the VDAF's range.
    fn shard(
        &self,
        context: &[u8],
        measurement: &Measurement,
        report_id: &ReportId,
    ) -> Result<MeasurementShares, VdafError>;

    /// The leader's first step: its state, and the encoded message for the helper. Deterministic, so that a
    /// restarted leader makes the same message again.
    ///
    /// [`ReportError::InvalidMessage`] if a share does not decode, [`ReportError::VdafPrepError`] otherwise: among others,
    /// if the leader's joint randomness part in the public share is not the one that it computes.
    fn leader_start(&self, verify: VerifyParams, share: InputShare)
    -> Result<(Box<dyn Pending>, Vec<u8>), ReportError>;

    /// The helper's only step: its output share, and the encoded message for the leader.
    ///
    /// What it accepts, an honest leader accepts, too: for the same public share and the message that the leader made,
    /// [`Pending::finish`] succeeds.
    ///
    /// [`ReportError::InvalidMessage`] if a share does not decode, [`ReportError::VdafPrepError`] if the leader's message
    /// does not, if the helper's joint randomness part in the public share is not the one that it computes, or if the proof
    /// does not hold.
    fn helper_answer(
        &self,
        verify: VerifyParams,
        share: InputShare,
        message: &[u8],
    ) -> Result<(OutputShare, Vec<u8>), ReportError>;

    /// About how many bytes a sum takes.
    fn aggregate_share_bytes(&self) -> usize;
    /// The sum of no shares.
    fn zero(&self) -> AggregateShare;
    /// Whether aggregate shares get noise before they are given out.
    fn has_noise(&self) -> bool;
    /// What an aggregate share that is given out begins with: the sum of no shares, with noise in it if the task has
    /// noise. Every call draws it anew, so that whoever calls this for a batch has to store what comes of it before
    /// anybody sees it, and must never call it for the same batch again after that. For long vectors it takes its time.
    fn sample_noise(&self) -> Result<AggregateShare, VdafError>;
    /// Adds one report to a sum.
    fn add(&self, sum: &mut AggregateShare, share: OutputShare);
    /// Adds another sum to a sum.
    fn merge(&self, sum: &mut AggregateShare, other: &AggregateShare);
    /// The VDAF's encoding of a sum, as the collector expects it.
    fn encode(&self, sum: &AggregateShare) -> Vec<u8>;
    /// Reads a sum back.
    fn decode(&self, bytes: &[u8]) -> Result<AggregateShare, VdafError>;
    /// Puts the two encoded aggregate shares of `count` reports together.
    fn unshard(&self, leader: &[u8], helper: &[u8], count: u64) -> Result<AggregateResult, VdafError>;
}

/// The leader's state between its message and the helper's answer.
pub trait Pending: Send {
    /// Takes the helper's encoded message and completes the preparation.
    fn finish(self: Box<Self>, answer: &[u8]) -> Result<OutputShare, ReportError>;
}

/// Makes a VDAF without noise, or says what is wrong with its parameters. Clients need no more.
pub fn preparer(revision: Revision, config: &VdafConfig) -> Result<Arc<dyn Preparer>, VdafError> {
    with_noise(revision, config, None)
}

/// Makes the VDAF that a task asks for, with its noise, or says what is wrong with its parameters. For those who give
/// out aggregates or read them.
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
        Revision::Dap18 => draft18::preparer(config, epsilon),
    }
}
