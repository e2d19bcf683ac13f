//! The test cases, as seen by a user of the parties.

use tokio::time::Instant;

use super::{
    super::{
        api::{Aggregator, QueryObject},
        number::{JsonNumber, Numbers},
        vdaf::VdafObject,
    },
    RunContext,
    remote::RemoteError,
    row::{Row, measurements, total},
    task::{Attempt, CellFailure, Collected, InjectedFault, Task},
};
use crate::{
    cli::args::QueryKind,
    model::{Duration, Time, VdafConfig},
};
use dapbox_support::clock;

/// Enough reports for several aggregation jobs in any implementation.
const MANY_REPORTS: usize = 300;
/// Further in the future than any accepted clock skew.
const FAR_FUTURE: Duration = Duration(3 * 86_400);

/// Runs the case of one cell.
pub async fn run(context: &RunContext, row: Row, mode: QueryKind) -> Result<(), CellFailure> {
    let cell = CellRun { context, row, mode };
    match row {
        Row::Count | Row::Sum | Row::Sumvec | Row::Histogram | Row::Multihot | Row::L1BoundSum | Row::SumvecHmac => {
            cell.expect_success(context.reports).await.map(drop)
        }
        Row::ManyReports => cell.expect_success(MANY_REPORTS).await.map(drop),
        Row::OutOfRange => {
            cell.expect_one_refused(Numbers::one(256), None, "the number 256 was accepted for a sum of 8 bits").await
        }
        Row::TooEarly => {
            let future = clock::now().saturating_add(FAR_FUTURE);
            cell.expect_one_refused(
                Numbers::one(1),
                Some(future),
                "a report from three days in the future was accepted",
            )
            .await
        }
        Row::TaskExpired => cell.expired_task().await,
        Row::UnknownTask => cell.unknown_task().await,
        Row::BadParameter => cell.bad_parameter().await,
        Row::TooFew => cell.too_few().await,
        Row::CollectedTwice => cell.collected_twice().await,
        Row::Overlap => cell.overlap().await,
        Row::LateReport => cell.late_report().await,
        Row::CollectorToken => {
            cell.with_fault(InjectedFault::CollectorToken, "with a collector token unknown to the leader").await
        }
        Row::LeaderToken => {
            cell.with_fault(InjectedFault::LeaderToken, "with a leader token unknown to the helper").await
        }
        Row::VerifyKey => cell.with_fault(InjectedFault::VerifyKey, "with different verification keys").await,
        Row::CollectorKey => {
            cell.with_fault(InjectedFault::CollectorKey, "with a key that the collector does not have").await
        }
    }
}

struct CellRun<'a> {
    context: &'a RunContext,
    row: Row,
    mode: QueryKind,
}

impl<'a> CellRun<'a> {
    async fn set_up(&self, min_batch_size: usize, fault: InjectedFault) -> Result<Task<'a>, CellFailure> {
        Task::set_up(self.context, &self.row.vdaf(), self.mode, min_batch_size, fault).await
    }

    /// Uploads and collects; the result must be exactly right.
    async fn expect_success(&self, count: usize) -> Result<(Task<'a>, Collected), CellFailure> {
        let task = self.set_up(count, InjectedFault::None).await?;
        let uploaded = measurements(&self.row.vdaf(), count);
        task.upload_all(&uploaded).await?;
        let collected = self.expect_total(&task, &uploaded).await?;
        Ok((task, collected))
    }

    async fn expect_total(&self, task: &Task<'_>, uploaded: &[Numbers]) -> Result<Collected, CellFailure> {
        let query = task.query(0);
        let collected = task.collect(&query).await?;
        collected.check(&total(&self.row.vdaf(), uploaded), uploaded.len(), &query)?;
        Ok(collected)
    }

    /// Uploads a report that must be refused among others that must be counted.
    async fn expect_one_refused(
        &self,
        measurement: Numbers,
        time: Option<Time>,
        wrong: &str,
    ) -> Result<(), CellFailure> {
        let task = self.set_up(self.context.reports, InjectedFault::None).await?;
        let uploaded = measurements(&self.row.vdaf(), self.context.reports);
        let (first, last) = uploaded.split_at(uploaded.len() / 2);
        task.upload_all(first).await?;
        expect_refusal(task.upload(measurement, time).await, wrong)?;
        task.upload_all(last).await?;
        self.expect_total(&task, &uploaded).await.map(drop)
    }

    async fn expired_task(&self) -> Result<(), CellFailure> {
        let task = self.set_up(self.context.reports, InjectedFault::Expired).await?;
        expect_refusal(task.upload(Numbers::one(1), None).await, "a report of an expired task was accepted")
    }

    async fn unknown_task(&self) -> Result<(), CellFailure> {
        let task = Task::generate(self.context, &self.row.vdaf(), self.mode, self.context.reports, InjectedFault::None)
            .await?;
        expect_refusal(task.upload(Numbers::one(1), None).await, "a report of an unknown task was accepted")
    }

    async fn bad_parameter(&self) -> Result<(), CellFailure> {
        let task = Task::generate(self.context, &self.row.vdaf(), self.mode, self.context.reports, InjectedFault::None)
            .await?;
        let key = task.add_to_collector(InjectedFault::None).await?;
        let wrong = VdafObject::from(&VdafConfig::Prio3Histogram { length: 4, chunk_length: 0 });
        for (role, name) in [(Aggregator::Leader, "leader"), (Aggregator::Helper, "helper")] {
            let added = task.add_with_vdaf(role, &key, wrong.clone()).await.map(drop);
            expect_refusal(added, &format!("the {name} accepted a histogram with chunk length 0"))?;
        }
        Ok(())
    }

    async fn too_few(&self) -> Result<(), CellFailure> {
        let task = self.set_up(self.context.reports, InjectedFault::None).await?;
        task.upload_all(&measurements(&self.row.vdaf(), self.context.reports - 1)).await?;
        task.expect_no_result(&task.query(0), &format!("below the minimum batch size of {}", self.context.reports))
            .await
    }

    async fn collected_twice(&self) -> Result<(), CellFailure> {
        let (task, first) = self.expect_success(self.context.reports).await?;
        let query = task.query(0);
        self.expect_same_result(&task, &first, query.clone()).await?;
        let Some(id) = first.batch_id else { return Ok(()) };
        let by_id = QueryObject { subtype: Some(JsonNumber(0)), batch_id: Some(id), ..query };
        self.expect_same_result(&task, &first, by_id).await
    }

    async fn late_report(&self) -> Result<(), CellFailure> {
        let (task, first) = self.expect_success(self.context.reports).await?;
        // It may be refused immediately, or be dropped during aggregation.
        if let Err(RemoteError::Invalid(why)) = task.upload(Numbers::one(1), None).await {
            return CellFailure::failed(why);
        }
        self.expect_same_result(&task, &first, task.query(0)).await
    }

    /// A collected batch must give the same result again, or none.
    async fn expect_same_result(
        &self,
        task: &Task<'_>,
        first: &Collected,
        query: QueryObject,
    ) -> Result<(), CellFailure> {
        match task.attempt(&query, Instant::now() + self.context.wait).await? {
            Attempt::Complete(again) if (again.report_count, &again.result) != (first.report_count, &first.result) => {
                let (was, is) = (first.report_count, again.report_count);
                CellFailure::failed(format!(
                    "first {was} reports, {}; then {is} reports, {}",
                    first.result, again.result
                ))
            }
            Attempt::Complete(_) | Attempt::Refused(_) | Attempt::Pending => Ok(()),
        }
    }

    async fn overlap(&self) -> Result<(), CellFailure> {
        let (task, _) = self.expect_success(self.context.reports).await?;
        task.expect_no_result(&task.query(1), "for an interval that overlaps a collected one").await
    }

    async fn with_fault(&self, fault: InjectedFault, wrong: &str) -> Result<(), CellFailure> {
        let task = self.set_up(self.context.reports, fault).await?;
        task.upload_all(&measurements(&self.row.vdaf(), self.context.reports)).await?;
        task.expect_no_result(&task.query(0), wrong).await
    }
}

/// Fails unless the party refused. A bad-request response is a refusal; no valid response is not.
fn expect_refusal(done: Result<(), RemoteError>, wrong: &str) -> Result<(), CellFailure> {
    match done {
        Ok(()) => CellFailure::failed(wrong),
        Err(RemoteError::Refused(_) | RemoteError::BadRequest(_)) => Ok(()),
        Err(RemoteError::Invalid(why)) => CellFailure::failed(why),
    }
}
