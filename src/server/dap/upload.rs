//! Stores uploaded reports (leader).

use std::sync::Arc;

use crate::dap::{context::UploadContext, upload_sample};
use dapbox_aggregator::{
    Error, TaskContext,
    upload::{self, Verdict},
};
use dapbox_protocol::{model::Report, wire::Malformed};
use dapbox_store::{Tx, WriteError};
use dapbox_support::Point;

/// Stores reports. Returns the verdict on each (DAP-09 section 4.4.2, DAP-18 section 4.4.2).
pub async fn store(
    ctx: &UploadContext,
    context: &Arc<TaskContext>,
    reports: Vec<Report>,
) -> Result<Vec<Verdict>, Error> {
    let (now, task) = (ctx.clock.now(), context.task.public.id);
    let admission = ctx.disk.admit(reports.iter().map(size).sum())?;
    let sampled = upload_sample::take(ctx, context, &reports).await;
    let (config, keys, wakeups) = (ctx.config.clone(), ctx.keys.clone(), ctx.wakeups.clone());
    let write = move |tx: &mut Tx<'_>| {
        let verdicts = upload::accept(tx, now, &config.get().limits, &keys.ring(), &task, &reports, &sampled)?;
        // Within the write, because the report is stored even if the client disconnects.
        wakeups.jobs.notify_one();
        Ok::<_, WriteError<Error>>((verdicts, admission))
    };
    let (verdicts, _admission) = ctx.store.try_write(Point::Upload, write).await?;
    Ok(verdicts)
}

/// Approximate size of a report, in bytes.
pub fn size(report: &Report) -> usize {
    let sealed = [&report.leader_share, &report.helper_share].map(|share| share.enc.len() + share.payload.len());
    report.public_share.len() + sealed.iter().sum::<usize>()
}

/// Counts an upload that cannot be decoded. Returns the error for the client.
pub async fn count_malformed(ctx: &UploadContext, context: &TaskContext, malformed: Malformed) -> Error {
    let task = context.task.public.id;
    match ctx.store.write(Point::UploadMalformed, move |tx| upload::count_malformed(tx, &task)).await {
        Ok(()) => malformed.into(),
        Err(fault) => fault.into(),
    }
}
