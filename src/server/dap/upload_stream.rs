//! Uploads of many reports in one request (DAP-18 section 4.4.2), stored while they arrive.
//!
//! # Decision: reports before a malformed one are stored
//!
//! Reports are stored as they arrive, because a request may be long. If the rest of the body is malformed, the client
//! sends all of it again. Uploads are idempotent, so known reports are skipped.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::Instant;

use crate::{
    dap::{context::UploadContext, upload},
    transport::http::Request,
};
use dapbox_aggregator::{Error, TaskContext, upload::Verdict};
use dapbox_protocol::{
    model::{Report, ReportError, ReportId},
    wire::{Malformed, Problem, ProblemType, Wire, current::UploadReader},
};

/// Number of reports stored together: enough to share a commit, which other uploads share, too.
const GROUP_LEN: usize = 64;

/// The rejected reports, in order of arrival.
type Refused = Vec<(ReportId, ReportError)>;

/// Stores the reports of an upload, of any number. Returns the rejected ones.
pub async fn take(ctx: &UploadContext, context: &Arc<TaskContext>, mut request: Request) -> Result<Refused, Error> {
    ctx.disk.check()?;
    let config = ctx.config.get();
    let limits = &config.limits;
    request.expect_at_most(limits.max_upload_bytes)?;
    request.count_as_pending(&ctx.slots.upload_bodies);
    let deadline = Instant::now() + *limits.request_timeout;
    let (mut left, mut lease) = (limits.max_upload_bytes, ctx.memory.open());
    let mut reader = UploadReader::new(&context.task.public, limits.max_report_bytes);
    let mut upload = Upload::new(ctx, context);
    while let Some(chunk) = request.next_chunk(deadline).await? {
        left = left.checked_sub(chunk.len()).ok_or_else(|| Request::too_long(limits.max_upload_bytes))?;
        // Buffers at most one partial report and one group of complete ones.
        let held = (limits.max_upload_bytes - left).min(2 * limits.max_report_bytes);
        let bodies = &ctx.slots.upload_bodies;
        if let Err(busy) = request.cover(&mut lease, held, bodies, *limits.max_body_silence).await {
            upload.store().await?;
            return Err(busy.into());
        }
        reader.feed(chunk);
        loop {
            match reader.next() {
                Ok(Some(report)) => upload.add(report).await?,
                Ok(None) => break,
                Err(malformed) => return upload.abort(malformed).await,
            }
        }
    }
    match reader.finish() {
        Ok(()) => upload.finish().await,
        Err(malformed) => upload.abort(malformed).await,
    }
}

/// Stores reports that have arrived. Returns the rejected ones.
pub async fn store(ctx: &UploadContext, context: &Arc<TaskContext>, reports: Vec<Report>) -> Result<Refused, Error> {
    let mut upload = Upload::new(ctx, context);
    for report in reports {
        upload.add(report).await?;
    }
    upload.finish().await
}

/// An upload in progress.
struct Upload<'a> {
    ctx: &'a UploadContext,
    max_report_bytes: usize,
    context: &'a Arc<TaskContext>,
    /// Reports that are not stored yet, and their approximate size in bytes.
    group: Vec<Report>,
    bytes: usize,
    /// Whether a group was stored.
    has_stored: bool,
    tally: UploadResult,
}

impl<'a> Upload<'a> {
    fn new(ctx: &'a UploadContext, context: &'a Arc<TaskContext>) -> Self {
        Self {
            ctx,
            context,
            max_report_bytes: ctx.config.get().limits.max_report_bytes,
            group: Vec::new(),
            bytes: 0,
            has_stored: false,
            tally: UploadResult::default(),
        }
    }

    async fn add(&mut self, report: Report) -> Result<(), Error> {
        self.bytes += upload::size(&report);
        self.group.push(report);
        // Limits the memory to two reports of the maximum length.
        if self.group.len() >= GROUP_LEN || self.bytes >= self.max_report_bytes {
            self.store().await?;
        }
        Ok(())
    }

    async fn store(&mut self) -> Result<(), Error> {
        if self.group.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        // The slot is taken only now, not while the client may be idle. An upload that has stored a group waits for a
        // slot instead of failing.
        let _slot = match self.has_stored {
            false => self.ctx.slots.upload()?,
            true => self.ctx.slots.next_upload().await,
        };
        self.has_stored = true;
        let reports = std::mem::take(&mut self.group);
        let ids: Vec<_> = reports.iter().map(|report| report.metadata.id).collect();
        let verdicts = upload::store(self.ctx, self.context, reports).await?;
        self.tally.add(self.context.wire, ids, verdicts);
        Ok(())
    }

    /// Stores the group and returns the error for a malformed body.
    async fn abort(mut self, malformed: Malformed) -> Result<Refused, Error> {
        self.store().await?;
        let _slot = self.ctx.slots.upload()?;
        Err(upload::count_malformed(self.ctx, self.context, malformed).await)
    }

    async fn finish(mut self) -> Result<Refused, Error> {
        self.store().await?;
        Ok(self.tally.finish()?)
    }
}

/// The error of a report with unknown extensions of these types: repeated ones are invalid, whatever they mean.
fn extension_error(kinds: &[u16]) -> ReportError {
    let distinct: BTreeSet<_> = kinds.iter().collect();
    if distinct.len() < kinds.len() { ReportError::InvalidMessage } else { ReportError::UnsupportedExtension }
}

/// The verdicts on the reports of an upload.
#[derive(Default)]
struct UploadResult {
    refused: Refused,
    unknown_extensions: BTreeSet<u16>,
}

impl UploadResult {
    fn add(&mut self, wire: &dyn Wire, ids: Vec<ReportId>, verdicts: Vec<Verdict>) {
        for (id, verdict) in ids.into_iter().zip(verdicts) {
            match verdict {
                // A repeated upload has the same response as the first one.
                Verdict::Stored | Verdict::Repeated => {}
                Verdict::Refused(error) => self.refused.push((id, wire.upload_error(error))),
                Verdict::BucketLimit => self.refused.push((id, ReportError::ReportDropped)),
                Verdict::UnknownExtensions(numbers) if wire.report_policy().extensions_reject_upload => {
                    self.unknown_extensions.extend(numbers);
                }
                Verdict::UnknownExtensions(numbers) => self.refused.push((id, extension_error(&numbers))),
            }
        }
    }

    /// Returns the rejected reports. DAP-18 cannot reject a single report for its extensions (section 4.4.2.2):
    /// the problem lists the unknown extensions instead of the rejected reports. Reports without unknown extensions are
    /// stored nevertheless, and the client may send them again.
    fn finish(self) -> Result<Refused, Problem> {
        if self.unknown_extensions.is_empty() {
            return Ok(self.refused);
        }
        let detail = "discarded reports with unknown public extensions";
        let problem = Problem::new(ProblemType::UnsupportedExtension).with_detail(detail);
        Err(problem.with_unsupported_extensions(self.unknown_extensions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapbox_protocol::wire::current::{DAP_18, DAP_19};

    #[test]
    fn maps_refusals_in_order() {
        let ids: Vec<_> = (0..4).map(|n| ReportId::new([n; 16])).collect();
        let mut tally = UploadResult::default();
        tally.add(&DAP_18, ids[..2].to_vec(), vec![Verdict::Refused(ReportError::TaskExpired), Verdict::Stored]);
        tally.add(&DAP_18, ids[2..].to_vec(), vec![Verdict::Repeated, Verdict::Refused(ReportError::BatchCollected)]);
        let expected = vec![(ids[0], ReportError::ReportDropped), (ids[3], ReportError::BatchCollected)];
        assert_eq!(tally.finish(), Ok(expected));
    }

    #[test]
    fn reports_all_unknown_extensions() {
        let mut tally = UploadResult::default();
        let verdicts = [vec![42, 23], vec![7, 42]].map(Verdict::UnknownExtensions).to_vec();
        let ids = vec![ReportId::new([1; 16]), ReportId::new([2; 16])];
        tally.add(&DAP_18, ids, verdicts);
        let problem = tally.finish().unwrap_err();
        assert_eq!(problem.kind, ProblemType::UnsupportedExtension);
        assert_eq!(problem.unsupported_extensions, [7, 23, 42]);
    }

    #[test]
    fn rejects_reports_for_their_extensions() {
        let ids: Vec<_> = (0..3).map(|n| ReportId::new([n; 16])).collect();
        let mut tally = UploadResult::default();
        let verdicts = [vec![42], vec![7, 42, 7]].map(Verdict::UnknownExtensions).into_iter().chain([Verdict::Stored]);
        tally.add(&DAP_19, ids.clone(), verdicts.collect());
        let expected = vec![(ids[0], ReportError::UnsupportedExtension), (ids[1], ReportError::InvalidMessage)];
        assert_eq!(tally.finish(), Ok(expected));
    }
}
