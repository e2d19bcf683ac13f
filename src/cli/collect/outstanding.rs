//! Collections that are outstanding: which there are, which one a command is about, and giving one up.

use serde_json::{Value, json};

use crate::{
    cli::{
        Failure, Outcome, show,
        style::{self, Style, say},
        task::confirmed,
        timestamp,
    },
    collector::{CollectionJob, CollectionJournal, CollectionRecord, Collector},
    model::{CollectionJobId, FixedSizeQuery, Interval, Query},
};

/// A job's query in words.
pub fn describe(query: &Query) -> String {
    match query {
        Query::TimeInterval(interval) => show::interval(*interval),
        Query::FixedSize(FixedSizeQuery::CurrentBatch) => "the next batch".to_owned(),
        Query::FixedSize(FixedSizeQuery::ByBatchId(id)) => format!("batch {id}"),
    }
}

fn state(job: &CollectionJob) -> &'static str {
    match (job.is_delivered, &job.result, &job.location) {
        (true, ..) => "delivered, not released by the leader",
        (_, Some(_), _) => "received, not delivered",
        (_, _, Some(_)) => "accepted by the leader",
        (_, _, None) => "not known to be accepted",
    }
}

/// Prints what is outstanding and what was collected.
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
        return Ok(say(list)?);
    }
    let style = Style::stdout();
    if record.jobs.is_empty() {
        say("No collection is outstanding.")?;
    }
    for job in &record.jobs {
        let facts = format!("begun {}, {}", timestamp::show(job.begun), state(job));
        say(format!("{}  {}  {}", job.id, style.bold(&describe(&job.query)), style.dim(&facts)))?;
    }
    if !record.collected.is_empty() {
        say("\nCollected:")?;
    }
    for collected in &record.collected {
        say(format!("  {}", show::interval(*collected)))?;
    }
    Ok(())
}

/// The job that a command is about: the one that is named, or the only one.
pub fn choose(record: &CollectionRecord, named: Option<CollectionJobId>) -> Result<CollectionJob, Failure> {
    let pending: Vec<&CollectionJob> = record.jobs.iter().filter(|job| !job.is_delivered).collect();
    match (named, &pending[..]) {
        (Some(id), jobs) => jobs
            .iter()
            .find(|job| job.id == id)
            .map(|job| (*job).clone())
            .ok_or_else(|| Failure::new(format!("no collection with the id {id} is outstanding: see --list"))),
        (None, [job]) => Ok((*job).clone()),
        (None, []) => Err(Failure::new("no collection is outstanding")),
        (None, jobs) => {
            let ids: Vec<_> = jobs.iter().map(|job| format!("\n  {}  {}", job.id, describe(&job.query))).collect();
            Err(Failure::usage(format!("several collections are outstanding; name one:{}", ids.concat())))
        }
    }
}

/// Gives a collection up.
pub async fn cancel(collector: &Collector, journal: &mut CollectionJournal, job: &CollectionJob, yes: bool) -> Outcome {
    let what = describe(&job.query);
    if !yes {
        say(format!(
            "Collection {} of {what}. If the leader has closed the batch for it, the result\nis lost.",
            job.id
        ))?;
        if !confirmed("cancel it")? {
            return Err(Failure::new("nothing was cancelled"));
        }
    }
    collector.cancel(journal, &job.id).await?;
    Ok(say(format!("Collection {} of {what} is cancelled.", job.id))?)
}

/// Says on standard error what else is outstanding.
pub fn note_others(record: &CollectionRecord, besides: &CollectionJobId) {
    let others = record.jobs.iter().filter(|job| job.id != *besides && !job.is_delivered).count() as u64;
    if others > 0 {
        let others = style::counted(others, "other collection");
        style::warn(format!("{others} outstanding: --list shows them, --resume and --cancel end them"));
    }
}
