//! The cases, each as a user of the parties would see it.

use tokio::time::Instant;

use super::{
    super::{
        super::args::QueryKind,
        api::{Aggregator, QueryObject},
        number::{Numbers, Plain},
        vdaf::VdafObject,
    },
    World,
    remote::Trouble,
    row::{Row, measurements, total},
    task::{Attempt, Bad, Collected, Task, Twist},
};
use crate::model::{Duration, Time, VdafConfig};

/// Enough for several aggregation jobs anywhere.
const MANY: usize = 300;
/// A far future, longer than any clock is wrong.
const FAR: Duration = Duration(3 * 86_400);

/// Tries one cell.
pub async fn run(world: &World, row: Row, mode: QueryKind) -> Result<(), Bad> {
    let trial = Trial { world, row, mode };
    match row {
        Row::Count | Row::Sum | Row::Sumvec | Row::Histogram | Row::Multihot | Row::SumvecHmac => {
            trial.good(world.reports).await.map(drop)
        }
        Row::ManyReports => trial.good(MANY).await.map(drop),
        Row::OutOfRange => trial.beside(Numbers::one(256), None, "a sum of 8 bits took the number 256").await,
        Row::TooEarly => {
            let future = Time::now().saturating_add(FAR);
            trial.beside(Numbers::one(1), Some(future), "a report from three days ahead was uploaded").await
        }
        Row::TaskOver => trial.over().await,
        Row::UnknownTask => trial.unknown().await,
        Row::BadParameter => trial.bad_parameter().await,
        Row::TooFew => trial.too_few().await,
        Row::CollectedTwice => trial.twice().await,
        Row::Overlap => trial.overlap().await,
        Row::LateReport => trial.late().await,
        Row::CollectorToken => trial.twisted(Twist::CollectorToken, "with a token that the leader does not know").await,
        Row::LeaderToken => {
            trial.twisted(Twist::LeaderToken, "though the helper does not know the leader's token").await
        }
        Row::VerifyKey => trial.twisted(Twist::VerifyKey, "though the aggregators verify with different keys").await,
        Row::CollectorKey => trial.twisted(Twist::CollectorKey, "though the collector does not have the key").await,
    }
}

struct Trial<'a> {
    world: &'a World,
    row: Row,
    mode: QueryKind,
}

impl<'a> Trial<'a> {
    async fn set_up(&self, min_batch_size: usize, twist: Twist) -> Result<Task<'a>, Bad> {
        Task::set_up(self.world, &self.row.vdaf(), self.mode, min_batch_size, twist).await
    }

    /// Uploads and collects; the result must be exactly right.
    async fn good(&self, count: usize) -> Result<(Task<'a>, Collected), Bad> {
        let task = self.set_up(count, Twist::None).await?;
        let uploaded = measurements(&self.row.vdaf(), count);
        task.upload_all(&uploaded).await?;
        let collected = self.expect(&task, &uploaded).await?;
        Ok((task, collected))
    }

    async fn expect(&self, task: &Task<'_>, uploaded: &[Numbers]) -> Result<Collected, Bad> {
        let query = task.query(0);
        let collected = task.collect(&query).await?;
        collected.check(&total(&self.row.vdaf(), uploaded), uploaded.len(), &query)?;
        Ok(collected)
    }

    /// A report that must be refused, among others that must be counted.
    async fn beside(&self, measurement: Numbers, time: Option<Time>, wrong: &str) -> Result<(), Bad> {
        let task = self.set_up(self.world.reports, Twist::None).await?;
        let uploaded = measurements(&self.row.vdaf(), self.world.reports);
        let (first, last) = uploaded.split_at(uploaded.len() / 2);
        task.upload_all(first).await?;
        must_be_refused(task.upload(measurement, time).await, wrong)?;
        task.upload_all(last).await?;
        self.expect(&task, &uploaded).await.map(drop)
    }

    async fn over(&self) -> Result<(), Bad> {
        let task = self.set_up(self.world.reports, Twist::Over).await?;
        must_be_refused(task.upload(Numbers::one(1), None).await, "a report of a task that is over was uploaded")
    }

    async fn unknown(&self) -> Result<(), Bad> {
        let task = Task::draw(self.world, &self.row.vdaf(), self.mode, self.world.reports, Twist::None).await?;
        must_be_refused(task.upload(Numbers::one(1), None).await, "a report of a task that nobody has was uploaded")
    }

    async fn bad_parameter(&self) -> Result<(), Bad> {
        let task = Task::draw(self.world, &self.row.vdaf(), self.mode, self.world.reports, Twist::None).await?;
        let key = task.tell_collector(Twist::None).await?;
        let wrong = VdafObject::from(&VdafConfig::Prio3Histogram { length: 4, chunk_length: 0 });
        for (role, name) in [(Aggregator::Leader, "leader"), (Aggregator::Helper, "helper")] {
            let told = task.tell_with(role, &key, wrong.clone()).await.map(drop);
            must_be_refused(told, &format!("the {name} took a histogram with chunks of length 0"))?;
        }
        Ok(())
    }

    async fn too_few(&self) -> Result<(), Bad> {
        let task = self.set_up(self.world.reports, Twist::None).await?;
        task.upload_all(&measurements(&self.row.vdaf(), self.world.reports - 1)).await?;
        task.never(&task.query(0), &format!("below the minimum of {}", self.world.reports)).await
    }

    async fn twice(&self) -> Result<(), Bad> {
        let (task, first) = self.good(self.world.reports).await?;
        let query = task.query(0);
        self.same(&task, &first, query.clone()).await?;
        let Some(id) = first.batch_id else { return Ok(()) };
        let by_id = QueryObject { subtype: Some(Plain(0)), batch_id: Some(id), ..query };
        self.same(&task, &first, by_id).await
    }

    async fn late(&self) -> Result<(), Bad> {
        let (task, first) = self.good(self.world.reports).await?;
        // It may be refused at once, or be dropped when it is aggregated.
        if let Err(Trouble::Broken(why)) = task.upload(Numbers::one(1), None).await {
            return Bad::failed(why);
        }
        self.same(&task, &first, task.query(0)).await
    }

    /// A batch that was collected has the same result, or none.
    async fn same(&self, task: &Task<'_>, first: &Collected, query: QueryObject) -> Result<(), Bad> {
        match task.attempt(&query, Instant::now() + self.world.wait).await? {
            Attempt::Complete(again) if (again.report_count, &again.result) != (first.report_count, &first.result) => {
                let (was, is) = (first.report_count, again.report_count);
                Bad::failed(format!("first {was} reports, {}; then {is} reports, {}", first.result, again.result))
            }
            Attempt::Complete(_) | Attempt::Refused(_) | Attempt::Pending => Ok(()),
        }
    }

    async fn overlap(&self) -> Result<(), Bad> {
        let (task, _) = self.good(self.world.reports).await?;
        task.never(&task.query(1), "of an interval that overlaps one that was collected").await
    }

    async fn twisted(&self, twist: Twist, wrong: &str) -> Result<(), Bad> {
        let task = self.set_up(self.world.reports, twist).await?;
        task.upload_all(&measurements(&self.row.vdaf(), self.world.reports)).await?;
        task.never(&task.query(0), wrong).await
    }
}

/// What a party must not do. That it cannot even read the request is a refusal, too; that it says nothing is not.
fn must_be_refused(done: Result<(), Trouble>, wrong: &str) -> Result<(), Bad> {
    match done {
        Ok(()) => Bad::failed(wrong),
        Err(Trouble::Refused(_) | Trouble::Unreadable(_)) => Ok(()),
        Err(Trouble::Broken(why)) => Bad::failed(why),
    }
}
