//! Opens a sample of uploaded reports before they are stored, so that a client learns that its reports cannot be
//! aggregated (`leader.upload_sample_ratio`).
//!
//! Sampling is best effort: it uses idle workers only, for a few uploads at a time and for a limited time.

use std::{sync::Arc, time::Duration};

use crate::dap::context::UploadContext;
use dapbox_aggregator::{
    TaskContext,
    upload::{Sampled, try_share},
};
use dapbox_protocol::model::Report;

/// Maximum delay of an upload by its sample. After it, the reports are stored without the sample.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens a sample of the reports. Returns the reports that cannot be aggregated, with the errors.
pub async fn take(ctx: &UploadContext, context: &Arc<TaskContext>, reports: &[Report]) -> Sampled {
    try_take(ctx, context, reports).await.unwrap_or_default()
}

async fn try_take(ctx: &UploadContext, context: &Arc<TaskContext>, reports: &[Report]) -> Option<Sampled> {
    let ratio = ctx.config.get().leader.upload_sample_ratio;
    let task = context.task.public.id;
    if ctx.pool.is_busy() {
        return None;
    }
    let _permit = ctx.sampler.try_acquire(ratio)?;
    let ring = ctx.keys.ring();
    let mut sample = ctx.sampler.choose(task, ratio, reports);
    // Reports that are sealed to an unknown key are rejected later.
    sample.retain(|report| ring.get(report.leader_share.config_id).is_some());
    if sample.is_empty() {
        return None;
    }
    let permit = ctx.pool.try_admit(&task)?;
    let shared = context.clone();
    let open = move || {
        let keyed = |report: Report| {
            let (id, key) = (report.metadata.id, report.leader_share.config_id);
            (id, key, try_share(&shared, &ring, report))
        };
        sample.into_iter().map(keyed).collect::<Vec<_>>()
    };
    let opened = tokio::time::timeout(SAMPLE_TIMEOUT, ctx.pool.run(&permit, open)).await.ok()?.ok()?;
    ctx.sampler.note_good(opened.iter().filter(|(_, _, tried)| tried.is_ok()).map(|(_, key, _)| (task, *key)));
    Some(opened.into_iter().filter_map(|(id, _, tried)| Some((id, tried.err()?))).collect())
}
