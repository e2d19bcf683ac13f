//! Outstanding collections: lists, selects and cancels them.

use serde_json::{Value, json};

use crate::{
    cli::{
        Failure, Outcome, show,
        style::{self, Style, print},
        table::{Cell, Table},
        task::confirm,
        timestamp,
    },
    collector::{CollectionJob, CollectionJournal, CollectionRecord, Collector},
    model::{CollectionJobId, FixedSizeQuery, Interval, Query},
};

/// Describes a job's query.
pub fn describe(query: &Query) -> String {
    match query {
        Query::TimeInterval(interval) => show::interval(*interval),
        Query::FixedSize(FixedSizeQuery::CurrentBatch) => "the next batch".to_owned(),
        Query::FixedSize(FixedSizeQuery::ByBatchId(id)) => format!("batch {id}"),
    }
}

fn state(job: &CollectionJob) -> &'static str {
    match (job.is_delivered, &job.result, &job.location) {
        (true, ..) => "delivered, not released at the leader",
        (_, Some(_), _) => "received, not delivered",
        (_, _, Some(_)) => "accepted by the leader",
        (_, _, None) => "sent, not confirmed",
    }
}

/// Prints outstanding collections and collected intervals.
pub fn list(record: &CollectionRecord, as_json: bool) -> Outcome {
    let interval = |interval: &Interval| json!({ "start": interval.start().0, "duration": interval.duration().0 });
    if as_json {
        let query = |query: &Query| match query {
            Query::TimeInterval(wanted) => json!({ "interval": interval(wanted) }),
            Query::FixedSize(FixedSizeQuery::CurrentBatch) => json!({ "current_batch": true }),
            Query::FixedSize(FixedSizeQuery::ByBatchId(id)) => json!({ "batch_id": id }),
        };
        let job = |job: &CollectionJob| json!({ "id": job.id, "query": query(&job.query), "begun": job.begun, "state": state(job) });
        let list = json!({
            "outstanding": record.jobs.iter().map(job).collect::<Vec<Value>>(),
            "collected": record.collected.iter().map(interval).collect::<Vec<Value>>(),
            "next": record.collected_until(),
        });
        return Ok(print(list)?);
    }
    let style = Style::stdout();
    if record.jobs.is_empty() {
        print("No outstanding collections.")?;
    } else {
        let mut table = Table::new(style, ["id", "query", "started", "state"]);
        for job in &record.jobs {
            let (query, started) = (Cell::bold(describe(&job.query)), timestamp::show(job.begun));
            table.row([job.id.into(), query, started.into(), Cell::dim(state(job))]);
        }
        print(table)?;
    }
    if !record.collected.is_empty() {
        print("\nCollected:")?;
    }
    for collected in &record.collected {
        print(format!("  {}", show::interval(*collected)))?;
    }
    Ok(())
}

/// Selects an outstanding job: the named one, or the only one.
pub fn choose(record: &CollectionRecord, named: Option<CollectionJobId>) -> Result<CollectionJob, Failure> {
    let pending: Vec<&CollectionJob> = record.jobs.iter().filter(|job| !job.is_delivered).collect();
    match (named, &pending[..]) {
        (Some(id), jobs) => jobs
            .iter()
            .find(|job| job.id == id)
            .map(|job| (*job).clone())
            .ok_or_else(|| Failure::new(format!("no outstanding collection {id} (hint: --list shows all)"))),
        (None, [job]) => Ok((*job).clone()),
        (None, []) => Err(Failure::new("no outstanding collection")),
        (None, jobs) => {
            let ids: Vec<_> = jobs.iter().map(|job| format!("\n  {}  {}", job.id, describe(&job.query))).collect();
            Err(Failure::usage(format!(
                "several outstanding collections (hint: select one by its id):{}",
                ids.concat()
            )))
        }
    }
}

/// Cancels a collection.
pub async fn cancel(collector: &Collector, journal: &mut CollectionJournal, job: &CollectionJob, yes: bool) -> Outcome {
    let what = describe(&job.query);
    if !yes {
        print(format!(
            "Collection {} of {what}. If the leader has already closed its batch, the result\nis lost.",
            job.id
        ))?;
        if !confirm("cancel it")? {
            return Err(Failure::new("aborted: nothing was cancelled"));
        }
    }
    collector.cancel(journal, &job.id).await?;
    Ok(print(format!("Collection {} of {what} cancelled.", job.id))?)
}

/// Warns about other outstanding collections.
pub fn note_others(record: &CollectionRecord, besides: &CollectionJobId) {
    let others = record.jobs.iter().filter(|job| job.id != *besides && !job.is_delivered).count() as u64;
    if others > 0 {
        let others = style::counted(others, "other collection");
        style::warn(format!(
            "{others} outstanding (hint: --list shows them, --resume continues and --cancel cancels one)"
        ));
    }
}
