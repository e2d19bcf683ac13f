//! Inputs generated before a run: reports, and the leader's messages made from them.

use std::time::{Duration as Span, Instant};

use bytes::Bytes;

use super::{cores, limit, template::PartyContext};
use crate::{
    aggregator::{InputShareOpener, TaskContext, leader},
    cli::{failure::Failure, style},
    client::{AggregatorKeys, make_report},
    model::{AggregationJobInitReq, BatchId, BatchMode, HpkeCiphertext, PartialBatchSelector, PrepareInit, Report},
    vdaf::Measurement,
};
use dapbox_support::clock;

/// Minimum rounds of requests in each run: one to warm up and two that count.
pub const MIN_ROUNDS: usize = 3;

/// Maximum time to generate inputs for one VDAF, beyond the required minimum.
const GENERATION_TIME: Span = Span::from_secs(20);

/// Maximum memory of the inputs, in bytes.
const GENERATION_MEMORY: usize = 1 << 30;

/// Number of items generated to estimate their cost.
const SAMPLE_SIZE: usize = 64;

/// Generates items on all cores: as many as `wanted` returns for a sample, limited by time and memory, but at least
/// `fewest`.
pub fn generate<T: Send>(
    one: impl Fn() -> Result<T, Failure> + Sync,
    bytes: impl Fn(&T) -> usize,
    wanted: impl FnOnce(&[T]) -> Result<f64, Failure>,
    fewest: usize,
) -> Result<Vec<T>, Failure> {
    let bar = style::progress(fewest.max(SAMPLE_SIZE) as u64, "making");
    let begin = Instant::now();
    let mut items = cores::generate(SAMPLE_SIZE, &bar, &one)?;
    let each = begin.elapsed().as_secs_f64() / SAMPLE_SIZE as f64;
    let affordable = GENERATION_TIME.as_secs_f64() / each;
    let number = (wanted(&items)?.min(affordable) as usize).max(fewest);
    // Each item is in memory twice: as report and as request.
    let number = number.min(GENERATION_MEMORY / 2 / items.iter().map(bytes).max().unwrap_or_default().max(1));
    bar.set_length(number as u64);
    items.extend(cores::generate(number.saturating_sub(items.len()), &bar, one)?);
    bar.finish_and_clear();
    Ok(items)
}

/// Generates a report, like a client.
pub fn report(context: &TaskContext, keys: &AggregatorKeys, measurement: &Measurement) -> Result<Report, Failure> {
    Ok(make_report(&context.task.public, context.preparer.as_ref(), keys, measurement, clock::now())?)
}

/// Prepares a report, like a leader.
pub fn prepare_init(leader: &PartyContext, report: Report) -> Result<PrepareInit, Failure> {
    let opener = InputShareOpener::new(&leader.context, &leader.keys);
    let (init, _) = leader::start_report(&leader.context, &opener, leader.context.verification(), report)
        .map_err(limit::invalid_report)?;
    Ok(init)
}

/// Encodes a leader's request for a job.
pub fn encode_job(context: &TaskContext, prepare_inits: &[PrepareInit]) -> Vec<u8> {
    let task = &context.task.public;
    let batch = match task.batch_mode {
        BatchMode::TimeInterval => PartialBatchSelector::TimeInterval,
        // A batch per job keeps each batch within its maximum size.
        BatchMode::FixedSize { .. } => PartialBatchSelector::FixedSize(BatchId::random()),
    };
    let init = AggregationJobInitReq {
        verify_key_id: Some(context.task.verify_key_id),
        aggregation_parameter: Bytes::new(),
        batch,
        extensions: Vec::new(),
        prepare_inits: prepare_inits.to_vec(),
    };
    context.wire.encode_job_init(task, &init)
}

/// Approximate memory of a report, in bytes.
pub fn report_bytes(report: &Report) -> usize {
    let sealed = |share: &HpkeCiphertext| share.payload.len() + share.enc.len();
    size_of::<Report>() + report.public_share.len() + sealed(&report.leader_share) + sealed(&report.helper_share)
}

/// Approximate memory of a prepared report, in bytes.
pub fn init_bytes(init: &PrepareInit) -> usize {
    size_of::<PrepareInit>() + init.message.len() + init.share.public_share.len() + init.share.input_share.payload.len()
}
