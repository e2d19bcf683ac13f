//! Uploads of several reports in one request (DAP-18 section 4.4.2), stored while they come in.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::Instant;

use crate::{app::App, dap::flow, transport::http::Request};
use dapbox_aggregator::{Error, TaskContext, upload::Verdict};
use dapbox_protocol::{
    model::{Report, ReportError, ReportId},
    wire::{
        Malformed, Problem, ProblemType,
        dap18::{UploadReader, upload_error},
    },
};

/// Reports that are stored together: enough to share a commit, which other uploads share as well.
const GROUP: usize = 64;

/// The reports that were refused, in the order in which they came.
type Refused = Vec<(ReportId, ReportError)>;

/// Takes the reports of an upload, as many as there are, and says which were refused.
///
/// What comes before an error is stored all the same: the client sends all of it again, and reports that are known are
/// passed over.
pub async fn take(app: &Arc<App>, context: &Arc<TaskContext>, mut request: Request) -> Result<Refused, Error> {
    app.disk.check()?;
    let limits = &app.config.limits;
    request.expect_at_most(limits.max_upload_bytes)?;
    request.await_among(&app.slots.upload_bodies);
    let deadline = Instant::now() + *limits.request_timeout;
    let (mut left, mut lease) = (limits.max_upload_bytes, app.upload_memory.open());
    let mut reader = UploadReader::new(&context.task.public, limits.max_report_bytes);
    let mut upload = Upload { app, context, group: Vec::new(), bytes: 0, has_begun: false, tally: Tally::default() };
    while let Some(chunk) = request.next_chunk(deadline).await? {
        left = left.checked_sub(chunk.len()).ok_or_else(|| Request::too_long(limits.max_upload_bytes))?;
        // Of what has come no more is held than a report that goes on and a group that is to be stored.
        let held = (limits.max_upload_bytes - left).min(2 * limits.max_report_bytes);
        let bodies = &app.slots.upload_bodies;
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

/// An upload that is coming in.
struct Upload<'a> {
    app: &'a Arc<App>,
    context: &'a Arc<TaskContext>,
    /// Reports that are not stored yet, and about how many bytes they have.
    group: Vec<Report>,
    bytes: usize,
    /// Whether some were stored.
    has_begun: bool,
    tally: Tally,
}

impl Upload<'_> {
    async fn add(&mut self, report: Report) -> Result<(), Error> {
        self.bytes += flow::size(&report);
        self.group.push(report);
        // However long reports may be, no more than two of the longest are held.
        if self.group.len() >= GROUP || self.bytes >= self.app.config.limits.max_report_bytes {
            self.store().await?;
        }
        Ok(())
    }

    async fn store(&mut self) -> Result<(), Error> {
        if self.group.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        // Only now, and not while the client may be sending nothing. What has begun is not sent away.
        let _slot = match self.has_begun {
            false => self.app.slots.upload()?,
            true => self.app.slots.next_upload().await,
        };
        self.has_begun = true;
        let reports = std::mem::take(&mut self.group);
        let ids: Vec<_> = reports.iter().map(|report| report.metadata.id).collect();
        let verdicts = flow::upload(self.app, self.context, reports).await?;
        self.tally.add(ids, verdicts);
        Ok(())
    }

    /// The upload does not go on.
    async fn abort(mut self, malformed: Malformed) -> Result<Refused, Error> {
        self.store().await?;
        let _slot = self.app.slots.upload()?;
        Err(flow::malformed_upload(self.app, self.context, malformed).await)
    }

    async fn finish(mut self) -> Result<Refused, Error> {
        self.store().await?;
        Ok(self.tally.finish()?)
    }
}

/// What became of an upload's reports.
#[derive(Default)]
struct Tally {
    refused: Refused,
    unknown_extensions: BTreeSet<u16>,
}

impl Tally {
    fn add(&mut self, ids: Vec<ReportId>, verdicts: Vec<Verdict>) {
        for (id, verdict) in ids.into_iter().zip(verdicts) {
            match verdict {
                // Whoever repeats an upload learns that it was taken, like the first time.
                Verdict::Stored | Verdict::Repeated => {}
                Verdict::Refused(error) => self.refused.push((id, upload_error(error))),
                Verdict::BucketLimit => self.refused.push((id, ReportError::ReportDropped)),
                Verdict::UnknownExtensions(numbers) => self.unknown_extensions.extend(numbers),
            }
        }
    }

    /// The protocol has no way to refuse a single report for its extensions (section 4.4.2.2): the client is told of
    /// them instead of the other refusals. The reports without any are taken all the same, which it does not learn; it
    /// may send them again.
    fn finish(self) -> Result<Refused, Problem> {
        if self.unknown_extensions.is_empty() {
            return Ok(self.refused);
        }
        let detail = "reports with public extensions that are not known here were discarded";
        let problem = Problem::new(ProblemType::UnsupportedExtension).with_detail(detail);
        Err(problem.with_unsupported_extensions(self.unknown_extensions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_their_order_and_say_what_the_protocol_has_words_for() {
        let ids: Vec<_> = (0..4).map(|n| ReportId::new([n; 16])).collect();
        let mut tally = Tally::default();
        tally.add(ids[..2].to_vec(), vec![Verdict::Refused(ReportError::TaskExpired), Verdict::Stored]);
        tally.add(ids[2..].to_vec(), vec![Verdict::Repeated, Verdict::Refused(ReportError::BatchCollected)]);
        let expected = vec![(ids[0], ReportError::ReportDropped), (ids[3], ReportError::BatchCollected)];
        assert_eq!(tally.finish(), Ok(expected));
    }

    #[test]
    fn unknown_extensions_are_told_together() {
        let mut tally = Tally::default();
        let verdicts = [vec![42, 23], vec![7, 42]].map(Verdict::UnknownExtensions).to_vec();
        tally.add(vec![ReportId::new([1; 16]), ReportId::new([2; 16])], verdicts);
        let problem = tally.finish().unwrap_err();
        assert_eq!(problem.kind, ProblemType::UnsupportedExtension);
        assert_eq!(problem.unsupported_extensions, [7, 23, 42]);
    }
}
