//! `dapbox collect`: an aggregate, as the collector gets it.

mod outstanding;
mod query;
mod render;
mod source;

use std::{
    path::{Path, PathBuf},
    time::Duration as Span,
};

use clap::ValueEnum;

use super::{
    Failure, Outcome,
    args::{PeerArgs, duration},
    show,
    signals::Signals,
    style,
    task::confirmed,
    timestamp,
};
use crate::{
    collector::{
        CollectError, CollectedAggregate, CollectionJob, CollectionJournal, CollectionJournalError, CollectionRecord,
        Collector, Progress,
    },
    model::{CollectionJobId, FixedSizeQuery, Interval, Query, TaskParameters, Time},
    support::clock,
    wire::ProblemType,
};

use outstanding::describe;
use query::{Asked, AskedArgs, Known};
use source::SourceArgs;

/// Arguments of `dapbox collect`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A batch is given out once. Without options, a task that is collected by time is collected from where \
    the last collection ended to the end of the last finished unit of its time precision, and another task by its \
    next batch. Times are UTC and multiples of the time precision.\n\n\
    Each collection is recorded beside the file with the collector's key before the leader is asked: \
    collector.toml has collector.jobs.json. A collection that was interrupted stays outstanding, and the same command \
    resumes it. A result that was received is printed again until it could be written.\n\n\
    Examples:\n  \
    dapbox collect --task collector.toml\n  \
    dapbox collect --task collector.toml --include-current\n  \
    dapbox collect --task collector.toml --interval 2026-11-22T10:00 1h\n  \
    dapbox collect --task collector.toml --since 2026-11-01 --until 2026-11-08\n  \
    dapbox collect --task collector.toml --current-batch -o json\n  \
    dapbox collect --task collector.toml --ca-file our-ca.pem\n  \
    dapbox collect --task collector.toml -o csv \\\n      --batch-id jX0WsbqRp6dOnwQ0bHvTRfMyJIXbpUNnJvBN4ZNVn5g\n  \
    dapbox collect --task collector.toml --list\n  \
    dapbox collect --task collector.toml --resume\n  \
    dapbox collect --task collector.toml --cancel --yes\n\n\
    A task that was made with Divvi Up has no collector.toml. Its credential file is read as it is; the rest is what Divvi \
    Up shows of the task:\n  \
    dapbox collect --credential collector-credential.json \\\n      \
    --leader https://leader.example/dap-09/ \\\n      \
    --task-id 9GgQd3pEE6DiJtYTFyOYGDjRQzdrRaUrVL0Yn-3uAF4 \\\n      \
    --vdaf histogram --length 10 --time-precision 1h --since 2026-11-01"
)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    asked: AskedArgs,
    #[command(flatten)]
    outstanding: OutstandingArgs,
    /// Stop waiting when it takes longer; the collection stays outstanding.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    timeout: Span,
    #[command(flatten)]
    peer: PeerArgs,
    /// Do not ask before the running unit of time is closed, or a collection is cancelled.
    #[arg(short, long)]
    yes: bool,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

const ASKED: [&str; 7] = ["interval", "since", "until", "next", "include_current", "batch_id", "current_batch"];

/// What to do about collections that are outstanding.
#[derive(Debug, clap::Args)]
struct OutstandingArgs {
    /// List the collections that are outstanding and the intervals that were collected; do not ask the leader.
    #[arg(long, help_heading = HEADING, conflicts_with_all = ASKED)]
    list: bool,
    /// Resume a collection: the one with this id, or the only one.
    #[arg(long, value_name = "ID", num_args = 0..=1, help_heading = HEADING,
        conflicts_with_all = ASKED, conflicts_with = "list")]
    resume: Option<Option<CollectionJobId>>,
    /// Cancel a collection, at the leader too: the one with this id, or the only one.
    #[arg(long, value_name = "ID", num_args = 0..=1, help_heading = HEADING,
        conflicts_with_all = ASKED, conflicts_with_all = ["list", "resume"])]
    cancel: Option<Option<CollectionJobId>>,
    /// Where collections are recorded, if not beside the file with the collector's key.
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    jobs_file: Option<PathBuf>,
}

const HEADING: &str = "Outstanding collections";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people; histograms and vectors are drawn.
    Text,
    /// One JSON object.
    Json,
    /// A header and one row for each number.
    Csv,
}

/// Runs `dapbox collect`.
pub async fn run(args: Args) -> Outcome {
    let mut source = args.source.clone().read()?;
    let public = source.task.public.clone();
    let jobs_file = args.outstanding.jobs_file.clone().unwrap_or_else(|| std::mem::take(&mut source.jobs_file));
    if args.outstanding.list {
        let record = CollectionRecord::read(&jobs_file, public.id, public.revision)?;
        return outstanding::list(&record, args.output == Output::Json);
    }
    let began = source.began;
    if args.outstanding.resume.is_none() && args.outstanding.cancel.is_none() {
        // The arguments are checked before anything is written.
        let record = CollectionRecord::read(&jobs_file, public.id, public.revision)?;
        args.asked.query(&known(&public, began, &record)).map_err(Failure::usage)?;
    }
    let collector = source.collector(args.peer.peer()?)?;
    let mut journal = CollectionJournal::open(&jobs_file, public.id, public.revision)
        .map_err(|error| Failure::new(format!("{error}{}", elsewhere(&error))))?;
    if let Some(named) = args.outstanding.cancel {
        let job = outstanding::choose(journal.record(), named)?;
        return outstanding::cancel(&collector, &mut journal, &job, args.yes).await;
    }
    collector.release_delivered(&mut journal).await.map_err(|error| {
        Failure::new(format!("the leader has not released a batch whose result was delivered: {error}"))
    })?;
    // Before anything is printed that a person or a script may react to.
    let mut signals = Signals::new()?;
    let collection = Collection { args: &args, collector: &collector, public: &public, began };
    tokio::select! {
        outcome = collection.run(&mut journal) => outcome,
        _ = signals.next() => Err(Failure::new(format!("interrupted{}", outstanding_hint(&jobs_file, &public)))),
    }
}

/// What to do if collections cannot be recorded in the usual place.
fn elsewhere(error: &CollectionJournalError) -> &'static str {
    match error {
        CollectionJournalError::Io { .. } => "\n--jobs-file FILE records collections elsewhere.",
        _ => "",
    }
}

/// What to do about a collection that was interrupted, if one is outstanding.
fn outstanding_hint(jobs_file: &Path, public: &TaskParameters) -> &'static str {
    // Each change is durable, so the file is right at any moment.
    match CollectionRecord::read(jobs_file, public.id, public.revision) {
        Ok(record) if record.jobs.is_empty() => "",
        _ => OUTSTANDING,
    }
}

/// Why a collection has no result.
enum Ended {
    /// The leader does not have the job.
    Gone,
    /// Another job is to take its place.
    Replaced,
    /// Anything else.
    Failed(Failure),
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Gone | Ended::Replaced => Failure::new("the leader no longer has the job: collect again"),
            Ended::Failed(failure) => failure,
        }
    }
}

fn known(public: &TaskParameters, began: Option<Time>, record: &CollectionRecord) -> Known {
    let (mode, precision) = (public.batch_mode, public.time_precision);
    // A report of the very moment of the expiration is still taken.
    let last = public.task_expiration.map(|time| time.truncate(precision).saturating_add(precision));
    let ends = public.task_interval.map(|interval| interval.end()).or(last);
    Known { mode, precision, began, collected_until: record.collected_until(), ends, now: clock::now() }
}

/// One run of the command.
struct Collection<'a> {
    args: &'a Args,
    collector: &'a Collector,
    public: &'a TaskParameters,
    began: Option<Time>,
}

impl Collection<'_> {
    /// Resumes what is outstanding or begins a new collection.
    async fn run(&self, journal: &mut CollectionJournal) -> Outcome {
        if let Some(job) = self.job_to_resume(journal.record())? {
            let what = format!("{} that was begun at {}", describe(&job.query), timestamp::show(job.begun));
            style::note(format!("resuming the collection of {what}"));
            let ended = match self.is_outgrown(&job, journal.record())? {
                true => self.replace(journal, &job).await,
                false => self.finish(journal, &job.id, &job.query).await,
            };
            match ended {
                Err(Ended::Replaced) => {
                    style::note("the leader is not done with it: more has finished, and is asked for instead")
                }
                // The leader does not have it any more, and so it is asked for anew.
                Err(Ended::Gone) if self.args.outstanding.resume.is_none() => {
                    style::warn("the leader no longer has the job");
                }
                ended => return ended.map_err(Failure::from),
            }
        }
        let query = self.new_query(journal.record()).await?;
        let begun = self.collector.begin(journal, query, clock::now());
        let id = begun.map_err(|error| explain(&error, &query, journal.record(), None))?;
        outstanding::note_others(journal.record(), &id);
        Ok(self.finish(journal, &id, &query).await?)
    }

    /// Whether the interval is ours to choose and more has finished since a job began. A job with too few reports would
    /// never end.
    fn is_outgrown(&self, job: &CollectionJob, record: &CollectionRecord) -> Result<bool, Failure> {
        if self.args.outstanding.resume.is_some() || job.result.is_some() {
            return Ok(false);
        }
        Ok(match (self.asked(record)?, job.query) {
            (Asked::For { query: Query::TimeInterval(now), is_default: true }, Query::TimeInterval(before)) => {
                before.end() < now.end()
            }
            _ => false,
        })
    }

    /// Takes the result of an outstanding job if it is there, and cancels the job if it is not.
    async fn replace(&self, journal: &mut CollectionJournal, job: &CollectionJob) -> Result<(), Ended> {
        let explained = |error: CollectError, journal: &CollectionJournal| match error {
            CollectError::Deleted => Ended::Gone,
            error => Ended::Failed(explain(&error, &job.query, journal.record(), journal.job(&job.id))),
        };
        match self.collector.poll_once(journal, &job.id, Some(self.args.timeout)).await {
            Ok(Some(collected)) => {
                let delivered = self.deliver(journal, &job.id, &job.query, &collected).await;
                return delivered.map_err(Ended::Failed);
            }
            Ok(None) => {}
            Err(error) => return Err(explained(error, journal)),
        }
        match self.collector.cancel(journal, &job.id).await {
            Ok(()) => Err(Ended::Replaced),
            Err(error) => Err(explained(error, journal)),
        }
    }

    fn asked(&self, record: &CollectionRecord) -> Result<Asked, Failure> {
        self.args.asked.query(&known(self.public, self.began, record)).map_err(Failure::usage)
    }

    /// The job to resume instead of beginning another one: the one that is named, one with the same query, or, if the
    /// interval is ours to choose, the first that is outstanding from there on.
    fn job_to_resume(&self, record: &CollectionRecord) -> Result<Option<CollectionJob>, Failure> {
        if let Some(named) = self.args.outstanding.resume {
            return outstanding::choose(record, named).map(Some);
        }
        let (same, from) = match self.asked(record)? {
            Asked::For { query, is_default: false } => (Some(query), None),
            Asked::For { query: Query::TimeInterval(interval), .. } => (None, Some(interval.start())),
            Asked::For { query, .. } => (Some(query), None),
            Asked::NothingFinished { start, .. } => (None, Some(start)),
        };
        let is_meant = |job: &&CollectionJob| match job.query {
            Query::TimeInterval(interval) => from.is_some_and(|from| interval.end() > from) || Some(job.query) == same,
            Query::FixedSize(_) => Some(job.query) == same,
        };
        Ok(record.jobs.iter().find(is_meant).cloned())
    }

    /// The query of a new job, if it may be asked.
    async fn new_query(&self, record: &CollectionRecord) -> Result<Query, Failure> {
        let query = match self.asked(record)? {
            Asked::For { query, .. } => query,
            Asked::NothingFinished { start, end: None } => {
                return Err(Failure::new(format!(
                    "nothing to collect: the task has ended, and the last collection was up to {}",
                    timestamp::show(start)
                )));
            }
            Asked::NothingFinished { start, end: Some(end) } => {
                let hint = match start <= clock::now() {
                    true => " (hint: --include-current collects the running one before that)",
                    false => "",
                };
                return Err(Failure::new(format!(
                    "nothing to collect: no unit of time has finished since {}. The next one does at {}{hint}",
                    timestamp::show(start),
                    timestamp::show(end)
                )));
            }
        };
        let Query::TimeInterval(interval) = query else { return Ok(query) };
        let overlaps =
            |job: &&CollectionJob| matches!(job.query, Query::TimeInterval(other) if other.overlaps(&interval));
        if let Some(job) = record.jobs.iter().find(overlaps) {
            return Err(Failure::new(format!(
                "the collection {} of {} is outstanding and overlaps this one: continue it with --resume={}, or end \
                 it with --cancel={}",
                job.id,
                describe(&job.query),
                job.id,
                job.id
            )));
        }
        self.confirm_closing(&interval).await?;
        Ok(query)
    }

    /// A unit of time that has not finished is closed only if that was said.
    async fn confirm_closing(&self, interval: &Interval) -> Outcome {
        let now = clock::now();
        if interval.end() <= now {
            return Ok(());
        }
        let cost = format!(
            "This closes everything up to {}, and it is {}.\nThe leader refuses all further reports of that time.",
            timestamp::show(interval.end()),
            timestamp::show(now)
        );
        if !self.args.asked.includes_current() {
            style::warn(cost);
            return Ok(());
        }
        if self.args.yes {
            return Ok(());
        }
        style::warn(cost);
        // On a thread of its own, so that Ctrl-C is heard meanwhile.
        if tokio::task::spawn_blocking(|| confirmed("collect it now")).await?? {
            Ok(())
        } else {
            Err(Failure::new("nothing was collected"))
        }
    }

    /// Runs a job to its end and prints the result.
    async fn finish(&self, journal: &mut CollectionJournal, id: &CollectionJobId, query: &Query) -> Result<(), Ended> {
        let spinner = style::spinner("asking the leader");
        let progress = |progress| match progress {
            Progress::Accepted => spinner.set_message("collecting"),
            Progress::Waiting(asked) => {
                spinner.set_message("waiting for the leader");
                let note = self.why_it_waits(query).filter(|_| asked == 1);
                note.into_iter().for_each(|note| spinner.suspend(|| style::note(note)));
            }
        };
        let result = self.collector.run(journal, id, Some(self.args.timeout), progress).await;
        spinner.finish_and_clear();
        match result {
            Ok(collected) => self.deliver(journal, id, query, &collected).await.map_err(Ended::Failed),
            Err(CollectError::Deleted) => Err(Ended::Gone),
            Err(error) => Err(Ended::Failed(explain(&error, query, journal.record(), journal.job(id)))),
        }
    }

    /// Why the leader may have too few reports: the youngest ones are not asked for.
    fn why_it_waits(&self, query: &Query) -> Option<String> {
        let current = clock::now().truncate(self.public.time_precision);
        match query {
            Query::TimeInterval(interval) if interval.end() == current => Some(format!(
                "reports since {} are not asked for: their unit of time has not finished, and --include-current would \
                 close it",
                timestamp::show(current)
            )),
            _ => None,
        }
    }

    /// Prints a result, and only then has the leader and the ledger give it up.
    async fn deliver(
        &self,
        journal: &mut CollectionJournal,
        id: &CollectionJobId,
        query: &Query,
        collected: &CollectedAggregate,
    ) -> Outcome {
        if !style::try_say(render::render(id, collected, query, self.public, self.args.output)?)? {
            return Err(Failure::new(format!("the result could not be written{OUTSTANDING}")));
        }
        if let Err(error) = self.collector.complete(journal, id, collected).await {
            style::warn(format!("the next collection releases the batch first, which failed now: {error}"));
        }
        Ok(())
    }
}

/// What to do about a collection that is not complete.
const OUTSTANDING: &str = "\nThe collection stays outstanding: --resume continues it, --cancel ends it.";

/// What the operator can do about it.
fn explain(error: &CollectError, query: &Query, record: &CollectionRecord, job: Option<&CollectionJob>) -> Failure {
    if let CollectError::UnsupportedQuery(_) = error {
        return Failure::usage(error);
    }
    let outstanding = if job.is_some() { OUTSTANDING } else { "" };
    let CollectError::Request(call) = error else {
        let hint = match error {
            CollectError::TimedOut(_) => {
                "\nReports may still be on their way through the aggregators, or be too few: ask \
                the leader's\noperator for 'dapbox task show'. A longer --timeout waits longer."
            }
            _ => "",
        };
        return Failure::new(format!("{error}{hint}{outstanding}"));
    };
    let hint = match (call.problem().map(|problem| problem.kind), query) {
        (Some(ProblemType::InvalidBatchSize), Query::FixedSize(_)) => {
            "\nThe batch has too few reports, or is not one that was collected before."
        }
        (Some(ProblemType::InvalidBatchSize), Query::TimeInterval(_)) => {
            "\nThere are not enough reports: the task's minimum batch size protects the single client. Collect a longer\n\
             interval, or wait for more reports."
        }
        (Some(ProblemType::BatchOverlap), Query::TimeInterval(interval)) => &overlap_hint(record, interval),
        (Some(ProblemType::BatchInvalid), Query::TimeInterval(_)) => {
            "\nIf a part of the interval is given up already, use a later --since."
        }
        (Some(ProblemType::BatchInvalid), Query::FixedSize(FixedSizeQuery::CurrentBatch)) => {
            "\nNo batch is ready yet: wait for more reports."
        }
        (Some(ProblemType::UnauthorizedRequest), _) => "\nThe token in the file is not the one that the leader knows.",
        (Some(ProblemType::UnrecognizedTask), _) => {
            "\nHas the leader's operator added leader.toml? Or is it another leader, or another id?"
        }
        _ => "",
    };
    Failure::new(format!("{error}{hint}{outstanding}"))
}

/// What is left of an interval of which a part was collected before.
fn overlap_hint(record: &CollectionRecord, interval: &Interval) -> String {
    let free = record.uncollected_within(interval);
    if free == [*interval] {
        return "\nA part of the interval was collected before, and not by a collection that is recorded here. A report is\n\
                counted once only: use a later --since."
            .to_owned();
    }
    let lines = free.iter().map(|free| format!("\n  {}", show::interval(*free)));
    let lines = if free.is_empty() { "\n  nothing".to_owned() } else { lines.collect() };
    format!("\nA part of the interval was collected before, and a report is counted once only. Free of it are:{lines}")
}
