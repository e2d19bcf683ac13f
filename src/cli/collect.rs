//! `dapbox collect`: collects aggregates.

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
    args::{PeerArgs, parse_duration},
    show,
    signals::StopSignals,
    style,
    task::confirm,
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
use query::{QueryArgs, QueryChoice, TaskTimes};
use source::SourceArgs;

/// Arguments of `dapbox collect`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A batch can be collected once. By default, a time-interval task is collected from the end of the last \
    collection to the end of the last complete unit of its time precision, and a fixed-size task by its next batch. \
    Times are UTC and multiples of the time precision.\n\n\
    Collections are recorded beside the file with the collector's key, for example in collector.jobs.json, before the \
    request is sent. An interrupted collection stays outstanding, and the same command resumes it. A received result is \
    printed again until it was written.\n\n\
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
    A task created with Divvi Up has no collector.toml. Use its credential file, and the parameters that Divvi Up \
    shows:\n  \
    dapbox collect --credential collector-credential.json \\\n      \
    --leader https://leader.example/dap-09/ \\\n      \
    --task-id 9GgQd3pEE6DiJtYTFyOYGDjRQzdrRaUrVL0Yn-3uAF4 \\\n      \
    --vdaf histogram --length 10 --time-precision 1h --since 2026-11-01"
)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    asked: QueryArgs,
    #[command(flatten)]
    outstanding: OutstandingArgs,
    /// Maximum waiting time; after it, the collection stays outstanding.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5m")]
    timeout: Span,
    #[command(flatten)]
    peer: PeerArgs,
    /// Do not ask for confirmation before closing the current time unit or cancelling a collection.
    #[arg(short, long)]
    yes: bool,
    /// Output format.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    output: Output,
}

const QUERY_OPTIONS: [&str; 7] = ["interval", "since", "until", "next", "include_current", "batch_id", "current_batch"];

/// Arguments for outstanding collections.
#[derive(Debug, clap::Args)]
struct OutstandingArgs {
    /// List outstanding collections and collected intervals, without a request to the leader.
    #[arg(long, help_heading = HEADING, conflicts_with_all = QUERY_OPTIONS)]
    list: bool,
    /// Resume the collection with this id, or the only outstanding one.
    #[arg(long, value_name = "ID", num_args = 0..=1, help_heading = HEADING,
        conflicts_with_all = QUERY_OPTIONS, conflicts_with = "list")]
    resume: Option<Option<CollectionJobId>>,
    /// Cancel the collection with this id, or the only outstanding one, also at the leader.
    #[arg(long, value_name = "ID", num_args = 0..=1, help_heading = HEADING,
        conflicts_with_all = QUERY_OPTIONS, conflicts_with_all = ["list", "resume"])]
    cancel: Option<Option<CollectionJobId>>,
    /// File that records collections. Default: beside the file with the collector's key.
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    jobs_file: Option<PathBuf>,
}

const HEADING: &str = "Outstanding collections";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Text for people, with bars for histograms and vectors.
    Text,
    /// One JSON object.
    Json,
    /// A header and one row per number.
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
        args.asked.query(&times(&public, began, &record)).map_err(Failure::usage)?;
    }
    let collector = source.collector(args.peer.peer()?)?;
    let mut journal = CollectionJournal::open(&jobs_file, public.id, public.revision)
        .map_err(|error| Failure::new(format!("{error}{}", journal_hint(&error))))?;
    if let Some(named) = args.outstanding.cancel {
        let job = outstanding::choose(journal.record(), named)?;
        return outstanding::cancel(&collector, &mut journal, &job, args.yes).await;
    }
    collector.release_delivered(&mut journal).await.map_err(|error| {
        Failure::new(format!("cannot release the batch of a delivered result at the leader: {error}"))
    })?;
    // Before any output to which a user or a script may react with a signal.
    let mut signals = StopSignals::new()?;
    let collection = Collection { args: &args, collector: &collector, public: &public, began };
    tokio::select! {
        outcome = collection.run(&mut journal) => outcome,
        _ = signals.next() => Err(Failure::new(format!("interrupted{}", outstanding_hint(&jobs_file, &public)))),
    }
}

/// A hint if collections cannot be recorded in the default file.
fn journal_hint(error: &CollectionJournalError) -> &'static str {
    match error {
        CollectionJournalError::Io { .. } => " (hint: --jobs-file FILE selects another file)",
        _ => "",
    }
}

/// A hint if a collection is outstanding.
fn outstanding_hint(jobs_file: &Path, public: &TaskParameters) -> &'static str {
    // The file is current: each change is durable.
    match CollectionRecord::read(jobs_file, public.id, public.revision) {
        Ok(record) if record.jobs.is_empty() => "",
        _ => OUTSTANDING,
    }
}

/// The reason why a collection has no result.
enum NoResult {
    /// The leader no longer has the job.
    Gone,
    /// The job was cancelled to be replaced.
    Replaced,
    /// Any other failure.
    Failed(Failure),
}

impl From<NoResult> for Failure {
    fn from(ended: NoResult) -> Self {
        match ended {
            NoResult::Gone | NoResult::Replaced => {
                Failure::new("the leader no longer has the collection job (hint: collect again)")
            }
            NoResult::Failed(failure) => failure,
        }
    }
}

fn times(public: &TaskParameters, began: Option<Time>, record: &CollectionRecord) -> TaskTimes {
    let (mode, precision) = (public.batch_mode, public.time_precision);
    // A report at the exact time of expiration is accepted.
    let last = public.task_expiration.map(|time| time.truncate(precision).saturating_add(precision));
    let ends = public.task_interval.map(|interval| interval.end()).or(last);
    TaskTimes { mode, precision, began, collected_until: record.collected_until(), ends, now: clock::now() }
}

/// One run of the command.
struct Collection<'a> {
    args: &'a Args,
    collector: &'a Collector,
    public: &'a TaskParameters,
    began: Option<Time>,
}

impl Collection<'_> {
    /// Resumes an outstanding collection or starts a new one.
    async fn run(&self, journal: &mut CollectionJournal) -> Outcome {
        if let Some(job) = self.job_to_resume(journal.record())? {
            let (query, begun) = (describe(&job.query), timestamp::show(job.begun));
            style::note(format!("resuming the collection of {query}, started at {begun}"));
            let ended = match self.is_superseded(&job, journal.record())? {
                true => self.replace(journal, &job).await,
                false => self.finish(journal, &job.id, &job.query).await,
            };
            match ended {
                Err(NoResult::Replaced) => {
                    style::note("the leader has no result yet; collecting the longer interval that is complete now")
                }
                Err(NoResult::Gone) if self.args.outstanding.resume.is_none() => {
                    style::warn("the leader no longer has the collection job; starting a new one");
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

    /// Returns whether the default interval has grown since the job started. A job with too few reports would never
    /// finish.
    fn is_superseded(&self, job: &CollectionJob, record: &CollectionRecord) -> Result<bool, Failure> {
        if self.args.outstanding.resume.is_some() || job.result.is_some() {
            return Ok(false);
        }
        Ok(match (self.asked(record)?, job.query) {
            (QueryChoice::For { query: Query::TimeInterval(now), is_default: true }, Query::TimeInterval(before)) => {
                before.end() < now.end()
            }
            _ => false,
        })
    }

    /// Delivers the result of an outstanding job, or cancels the job if it has none.
    async fn replace(&self, journal: &mut CollectionJournal, job: &CollectionJob) -> Result<(), NoResult> {
        let explained = |error: CollectError, journal: &CollectionJournal| match error {
            CollectError::Deleted => NoResult::Gone,
            error => NoResult::Failed(explain(&error, &job.query, journal.record(), journal.job(&job.id))),
        };
        match self.collector.poll_once(journal, &job.id, Some(self.args.timeout)).await {
            Ok(Some(collected)) => {
                let delivered = self.deliver(journal, &job.id, &job.query, &collected).await;
                return delivered.map_err(NoResult::Failed);
            }
            Ok(None) => {}
            Err(error) => return Err(explained(error, journal)),
        }
        match self.collector.cancel(journal, &job.id).await {
            Ok(()) => Err(NoResult::Replaced),
            Err(error) => Err(explained(error, journal)),
        }
    }

    fn asked(&self, record: &CollectionRecord) -> Result<QueryChoice, Failure> {
        self.args.asked.query(&times(self.public, self.began, record)).map_err(Failure::usage)
    }

    /// Returns the job to resume: the one of `--resume`, one with the same query, or, for the default interval, the first
    /// outstanding one from its start.
    fn job_to_resume(&self, record: &CollectionRecord) -> Result<Option<CollectionJob>, Failure> {
        if let Some(named) = self.args.outstanding.resume {
            return outstanding::choose(record, named).map(Some);
        }
        let (same, from) = match self.asked(record)? {
            QueryChoice::For { query, is_default: false } => (Some(query), None),
            QueryChoice::For { query: Query::TimeInterval(interval), .. } => (None, Some(interval.start())),
            QueryChoice::For { query, .. } => (Some(query), None),
            QueryChoice::NothingFinished { start, .. } => (None, Some(start)),
        };
        let is_meant = |job: &&CollectionJob| match job.query {
            Query::TimeInterval(interval) => from.is_some_and(|from| interval.end() > from) || Some(job.query) == same,
            Query::FixedSize(_) => Some(job.query) == same,
        };
        Ok(record.jobs.iter().find(is_meant).cloned())
    }

    /// Returns the query of a new job, if it is valid.
    async fn new_query(&self, record: &CollectionRecord) -> Result<Query, Failure> {
        let query = match self.asked(record)? {
            QueryChoice::For { query, .. } => query,
            QueryChoice::NothingFinished { start, end: None } => {
                return Err(Failure::new(format!(
                    "nothing to collect: the task has ended, and everything until {} is collected",
                    timestamp::show(start)
                )));
            }
            QueryChoice::NothingFinished { start, end: Some(end) } => {
                let hint = match start <= clock::now() {
                    true => " (hint: --include-current collects the current one now)",
                    false => "",
                };
                return Err(Failure::new(format!(
                    "nothing to collect: no time unit is complete since {}; the next one is at {}{hint}",
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
                "the outstanding collection {} of {} overlaps this one (hint: continue it with --resume={}, or cancel it \
                 with --cancel={})",
                job.id,
                describe(&job.query),
                job.id,
                job.id
            )));
        }
        self.confirm_closing(&interval).await?;
        Ok(query)
    }

    /// Asks for confirmation before a collection closes the current time unit.
    async fn confirm_closing(&self, interval: &Interval) -> Outcome {
        let now = clock::now();
        if interval.end() <= now {
            return Ok(());
        }
        let cost = format!(
            "this closes the time until {}, and it is {} now.\nThe leader refuses further reports of that time",
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
        // On a blocking thread, so that Ctrl-C is handled.
        if tokio::task::spawn_blocking(|| confirm("collect it now")).await?? {
            Ok(())
        } else {
            Err(Failure::new("cancelled: nothing was collected"))
        }
    }

    /// Polls a job until it finishes and prints the result.
    async fn finish(
        &self,
        journal: &mut CollectionJournal,
        id: &CollectionJobId,
        query: &Query,
    ) -> Result<(), NoResult> {
        let spinner = style::spinner("connecting");
        let progress = |progress| match progress {
            Progress::Accepted => spinner.set_message("collecting"),
            Progress::Waiting(asked) => {
                spinner.set_message("waiting for the leader");
                let note = self.explain_wait(query).filter(|_| asked == 1);
                note.into_iter().for_each(|note| spinner.suspend(|| style::note(note)));
            }
        };
        let result = self.collector.run(journal, id, Some(self.args.timeout), progress).await;
        spinner.finish_and_clear();
        match result {
            Ok(collected) => self.deliver(journal, id, query, &collected).await.map_err(NoResult::Failed),
            Err(CollectError::Deleted) => Err(NoResult::Gone),
            Err(error) => Err(NoResult::Failed(explain(&error, query, journal.record(), journal.job(id)))),
        }
    }

    /// Explains why the leader may have too few reports: the newest ones are not in the interval.
    fn explain_wait(&self, query: &Query) -> Option<String> {
        let current = clock::now().truncate(self.public.time_precision);
        match query {
            Query::TimeInterval(interval) if interval.end() == current => Some(format!(
                "reports since {} are not included: their time unit is not complete (hint: --include-current includes and \
                 closes it)",
                timestamp::show(current)
            )),
            _ => None,
        }
    }

    /// Prints a result, then releases it at the leader and in the journal.
    async fn deliver(
        &self,
        journal: &mut CollectionJournal,
        id: &CollectionJobId,
        query: &Query,
        collected: &CollectedAggregate,
    ) -> Outcome {
        if !style::try_print(render::render(id, collected, query, self.public, self.args.output)?)? {
            return Err(Failure::new(format!("the result could not be written{OUTSTANDING}")));
        }
        if let Err(error) = self.collector.complete(journal, id, collected).await {
            style::warn(format!("cannot release the batch at the leader, the next collection retries: {error}"));
        }
        Ok(())
    }
}

/// The hint for an incomplete collection.
const OUTSTANDING: &str = "\nThe collection stays outstanding: --resume continues it, --cancel cancels it.";

/// Explains an error with a hint for the operator.
fn explain(error: &CollectError, query: &Query, record: &CollectionRecord, job: Option<&CollectionJob>) -> Failure {
    if let CollectError::UnsupportedQuery(_) = error {
        return Failure::usage(error);
    }
    let outstanding = if job.is_some() { OUTSTANDING } else { "" };
    let CollectError::Request(call) = error else {
        let hint = match error {
            CollectError::TimedOut(_) => {
                "\nReports may still be in aggregation, or too few (hint: ask the leader's operator \
                for\n'dapbox task show', or use a longer --timeout)"
            }
            _ => "",
        };
        return Failure::new(format!("{error}{hint}{outstanding}"));
    };
    let hint = match (call.problem().map(|problem| problem.kind), query) {
        (Some(ProblemType::InvalidBatchSize), Query::FixedSize(_)) => {
            "\nThe batch has too few reports, or was not collected before."
        }
        (Some(ProblemType::InvalidBatchSize), Query::TimeInterval(_)) => {
            "\nThe interval has fewer reports than the minimum batch size (hint: collect a longer interval, or wait for\n\
             more reports)"
        }
        (Some(ProblemType::BatchOverlap), Query::TimeInterval(interval)) => &overlap_hint(record, interval),
        (Some(ProblemType::BatchInvalid), Query::TimeInterval(_)) => {
            "\nA part of the interval may be expired (hint: use a later --since)"
        }
        (Some(ProblemType::BatchInvalid), Query::FixedSize(FixedSizeQuery::CurrentBatch)) => {
            "\nNo batch is ready yet (hint: wait for more reports)"
        }
        (Some(ProblemType::UnauthorizedRequest), _) => "\nThe leader does not accept the token in the file.",
        (Some(ProblemType::UnrecognizedTask), _) => {
            "\nThe leader does not know the task (hint: check that its operator added leader.toml, and the leader's URL)"
        }
        _ => "",
    };
    Failure::new(format!("{error}{hint}{outstanding}"))
}

/// Lists the uncollected parts of an interval.
fn overlap_hint(record: &CollectionRecord, interval: &Interval) -> String {
    let free = record.uncollected_within(interval);
    if free == [*interval] {
        return "\nA part of the interval was already collected, by a collection that is not recorded here (hint: use a later\n\
                --since)"
            .to_owned();
    }
    let lines = free.iter().map(|free| format!("\n  {}", show::interval(*free)));
    let lines = if free.is_empty() { "\n  none".to_owned() } else { lines.collect() };
    format!("\nA part of the interval was already collected. Uncollected parts:{lines}")
}
