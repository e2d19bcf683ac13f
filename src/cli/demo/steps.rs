//! The five steps of the demo.

use std::{
    io,
    time::{Duration as Span, Instant},
};

use serde::Serialize;

use super::{
    super::{
        Failure, Outcome,
        args::{Format, QueryKind},
        local_pair::{Node, Pair, WorkDir},
        show,
        style::{self, Style, print},
        task,
        taskfile::{Parameters, TaskFiles, VerifyKey},
        upload,
    },
    Args, Dataset, Question,
};
use crate::{
    client::{Client, ClientError},
    collector::{CollectedAggregate, Collector},
    config::Seconds,
    model::{BatchMode, Duration, FixedSizeQuery, HpkeCiphertext, Interval, Query, Report, Revision, TaskId, Time},
    peer::{Peer, PeerOptions, RetryPolicy},
    results::statistics::Exact,
    support::clock,
    vdaf::AggregateResult,
    views::status::TaskStatus,
};

const PRECISION: Duration = Duration(3600);
/// Time without progress after which the demo fails.
const IDLE_TIMEOUT: Span = Span::from_secs(30);

/// Runs all steps. Fails unless the aggregate is exactly that of the data.
pub async fn run(args: &Args, dataset: &Dataset, question: &Question, pair: &Pair, directory: &WorkDir) -> Outcome {
    let demo = Demo { args, dataset, question, pair, style: Style::stdout(), first: clock::now() };
    let (style, start) = (demo.style, Instant::now());
    let files = demo.set_up(directory).await?;
    let uploading = Instant::now();
    let upload = demo.upload(&files).await?;
    let aggregation = demo.aggregate(&files.client.task.id, uploading).await?;
    let (collected, collection) = demo.collect(&files).await?;
    let expected = question.answer(&dataset.rows);
    let took = Timings::of([upload, aggregation, collection, start.elapsed()]);
    if args.output.format == Format::Json {
        print(serde_json::to_string_pretty(&demo.summary(&files.client.task, &collected, &expected, took))?)?;
    }
    demo.compare(&collected, &expected)?;
    demo.print(format!("\nTotal time: {}.", style::elapsed(start.elapsed())))?;
    if !directory.is_temporary() {
        demo.print(format!("The aggregators' data and the task files are in {}.", directory.path().display()))?;
    }
    demo.print(style.dim("Charts of months of results: dapbox pair --example"))?;
    Ok(())
}

/// The JSON output.
#[derive(Serialize)]
struct Summary<'a> {
    task: TaskId,
    revision: Revision,
    rows: usize,
    report_count: u64,
    /// Labels of the numbers.
    labels: &'a [String],
    /// The collected result.
    result: &'a AggregateResult,
    /// The result computed from the data.
    expected: &'a AggregateResult,
    /// Whether both are equal and all rows were counted.
    exact: bool,
    seconds: Timings,
}

/// Durations of the steps, in seconds.
#[derive(Serialize)]
struct Timings {
    upload: f64,
    /// Time after the last upload.
    aggregation: f64,
    collection: f64,
    all: f64,
}

impl Timings {
    fn of(spans: [Span; 4]) -> Self {
        let [upload, aggregation, collection, all] = spans.map(|span| span.as_secs_f64());
        Self { upload, aggregation, collection, all }
    }
}

struct Demo<'a> {
    args: &'a Args,
    dataset: &'a Dataset,
    question: &'a Question,
    pair: &'a Pair,
    style: Style,
    /// Start of the demo: no report is older.
    first: Time,
}

impl Demo<'_> {
    async fn set_up(&self, directory: &WorkDir) -> Result<TaskFiles, Failure> {
        self.heading(1, "Set up", "two organisations agree on a task")?;
        let start = Instant::now();
        let files = TaskFiles::generate(self.parameters(), &VerifyKey::default())?;
        files.write(directory.path())?;
        self.pair.add(&files, self.args.sabotage.is_some()).await?;
        let task = &files.client.task;
        self.line("leader", &task.leader_url)?;
        self.line("helper", &task.helper_url)?;
        self.line("task", &task.id.to_string())?;
        self.line("protocol", &show::revision(task.revision))?;
        self.line("computes", &show::vdaf(&task.vdaf))?;
        self.line("batches", &show::batches(task.batch, task.min_batch_size))?;
        self.line("done", &format!("task created and added to both in {}", style::elapsed(start.elapsed())))?;
        Ok(files)
    }

    fn parameters(&self) -> Parameters {
        let rows = self.dataset.rows.len() as u64;
        let (batch, min_batch_size) = match self.args.query {
            QueryKind::TimeInterval => (BatchMode::TimeInterval, rows.min(100)),
            // One batch for all reports: the leader fills batches up to the minimum.
            QueryKind::FixedSize => (BatchMode::fixed_size(None), rows),
        };
        let (revision, id) = (self.args.dap.revision(), TaskId::random());
        Parameters {
            id,
            revision,
            info: task::default_info(revision, &id),
            leader_url: self.pair.leader.url(revision),
            helper_url: self.pair.helper.url(revision),
            min_batch_size,
            time_precision: Seconds::new(PRECISION.0),
            starts: None,
            expires: None,
            report_expiry_age: None,
            noise: None,
            configuration: None,
            batch,
            vdaf: self.question.vdaf.clone(),
        }
    }

    async fn upload(&self, files: &TaskFiles) -> Result<Span, Failure> {
        self.heading(2, "Upload", "each client splits its answer into two encrypted shares")?;
        let peer = Peer::new(&PeerOptions::default())?;
        let client = Client::new(files.client.parameters(), peer, RetryPolicy::default())?;
        let mut measurements = self.dataset.rows.iter().map(|row| self.question.measurement(row));
        let start = Instant::now();
        // The first one separately, to show what the aggregators receive.
        if let Some((row, measurement)) = self.dataset.rows.first().zip(measurements.next()) {
            let report = client.prepare(measurement, clock::now()).await?;
            if let Some((_, error)) = client.send(std::slice::from_ref(&report)).await?.pop() {
                return Err(ClientError::Refused(error).into());
            }
            self.show_report(&self.question.describe(row), &report)?;
        }
        let summary = upload::upload(&client, measurements.collect(), None, self.args.concurrency).await;
        if let Some(error) = summary.failure {
            return Err(error.into());
        }
        if let Some(rejection) = summary.last_rejection {
            let rejected = style::counted(summary.rejected.values().sum(), "report");
            return Err(Failure::new(format!("{rejected} rejected at upload: {rejection}")));
        }
        let (uploads, took) = (summary.accepted + 1, start.elapsed());
        let speed = format!("{}, {}", style::elapsed(took), style::rate(uploads, took));
        self.line("done", &format!("{} in {speed}", style::counted(uploads, "upload")))?;
        Ok(took)
    }

    fn show_report(&self, answer: &str, report: &Report) -> io::Result<()> {
        let describe = |share: &HpkeCiphertext| {
            let bytes: Vec<_> = share.payload.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("{} ...  {} bytes", bytes.join(" "), style::count(share.payload.len()))
        };
        self.line("1st answer", answer)?;
        self.line("leader sees", &describe(&report.leader_share))?;
        self.line("helper sees", &describe(&report.helper_share))?;
        self.note("A share alone is random, and encrypted so that only its aggregator can read it.")
    }

    async fn aggregate(&self, id: &TaskId, uploading: Instant) -> Result<Span, Failure> {
        self.heading(3, "Aggregate", "both verify the proofs together, and each adds up its shares")?;
        let start = Instant::now();
        let total = self.dataset.rows.len() as u64;
        let status = wait_for_aggregation(&self.pair.leader, id, total).await?;
        if status.aggregated < total {
            return Err(incomplete(&status, total));
        }
        self.line("verified", &format!("{}, none rejected", style::counted(status.aggregated, "report")))?;
        self.note("Aggregation started with the first upload. Neither aggregator has seen an")?;
        self.note("answer: each has a sum of shares, which reveals nothing without the other's.")?;
        let (took, speed) = (start.elapsed(), style::rate(total, uploading.elapsed()));
        self.line("done", &format!("{} after the last upload; with the uploads, {speed}", style::elapsed(took)))?;
        Ok(took)
    }

    async fn collect(&self, files: &TaskFiles) -> Result<(CollectedAggregate, Span), Failure> {
        self.heading(4, "Collect", "the collector receives both encrypted sums and combines them")?;
        let (task, keypair) = files.collector.collector_task()?;
        let collector = Collector::new(task, keypair, Peer::new(&PeerOptions::default())?, RetryPolicy::default())?;
        let start = Instant::now();
        let collected = collector.collect(self.query()?, Some(IDLE_TIMEOUT), |_| ()).await?;
        let took = start.elapsed();
        self.line("reports", &style::count(collected.report_count))?;
        self.line("from", &show::interval(collected.interval))?;
        match (&collected.result, &self.question.labels[..]) {
            (AggregateResult::Number(number), [label]) => {
                self.line(
                    label,
                    &show::single(Exact::from(*number), collected.report_count, &self.question.vdaf, self.style),
                )?;
            }
            (result, labels) => {
                self.print(format!("\n{}", show::plot(labels, numbers(result), self.style)))?;
                self.print(String::new())?;
            }
        }
        self.line("done", &format!("in {}", style::elapsed(took)))?;
        Ok((collected, took))
    }

    fn query(&self) -> Result<Query, Failure> {
        if self.args.query == QueryKind::FixedSize {
            return Ok(Query::FixedSize(FixedSizeQuery::CurrentBatch));
        }
        // The upload may have passed the end of an hour.
        let interval = Interval::aligned_hull(self.first, clock::now(), PRECISION);
        interval.map(Query::TimeInterval).ok_or_else(|| Failure::new("the clock is wrong"))
    }

    fn is_exact(&self, collected: &CollectedAggregate, expected: &AggregateResult) -> bool {
        collected.result == *expected && collected.report_count == self.dataset.rows.len() as u64
    }

    fn summary<'a>(
        &'a self,
        task: &Parameters,
        collected: &'a CollectedAggregate,
        expected: &'a AggregateResult,
        seconds: Timings,
    ) -> Summary<'a> {
        Summary {
            task: task.id,
            revision: task.revision,
            rows: self.dataset.rows.len(),
            report_count: collected.report_count,
            labels: &self.question.labels,
            result: &collected.result,
            expected,
            exact: self.is_exact(collected, expected),
            seconds,
        }
    }

    fn compare(&self, collected: &CollectedAggregate, expected: &AggregateResult) -> Outcome {
        self.heading(5, "Compare", "with the sum computed from the plain data")?;
        let (mine, theirs) = (numbers(expected), numbers(&collected.result));
        let wrong = mine.iter().zip(theirs).filter(|(mine, theirs)| mine != theirs).count();
        if self.is_exact(collected, expected) {
            let what = match mine.len() {
                1 => "the number is".to_owned(),
                numbers => format!("all {numbers} numbers are"),
            };
            let text = format!("Exact: {what} equal to the data.");
            return Ok(self.print(format!("  {}", self.style.good(&text)))?);
        }
        for ((label, mine), theirs) in self.question.labels.iter().zip(mine).zip(theirs) {
            if mine != theirs {
                self.print(format!("  {}", self.style.bad(&format!("{label}: {theirs} instead of {mine}"))))?;
            }
        }
        let text = format!(
            "the aggregate is wrong: {wrong} of {} numbers differ, {} of {} reports counted",
            mine.len(),
            collected.report_count,
            self.dataset.rows.len()
        );
        Err(Failure::new(text))
    }

    fn heading(&self, number: u8, title: &str, what: &str) -> io::Result<()> {
        let gap = if number == 1 { "" } else { "\n" };
        self.print(format!("{gap}{} {}", self.style.bold(&format!("{number}  {title}:")), self.style.dim(what)))
    }

    fn line(&self, name: &str, value: &str) -> io::Result<()> {
        self.print(format!("  {}{value}", self.style.dim(&format!("{name:<13}"))))
    }

    fn note(&self, text: &str) -> io::Result<()> {
        self.print(format!("  {}", self.style.dim(text)))
    }

    /// Prints text, unless the output is JSON.
    fn print(&self, text: String) -> io::Result<()> {
        if self.args.output.format == Format::Text { print(text) } else { Ok(()) }
    }
}

fn numbers(result: &AggregateResult) -> &[u128] {
    match result {
        AggregateResult::Number(number) => std::slice::from_ref(number),
        AggregateResult::Vector(values) => values,
        // The demo's task has no noise.
        AggregateResult::Noisy(_) | AggregateResult::NoisyNumber(_) => &[],
    }
}

/// Waits until all reports are aggregated or rejected. Fails without progress for `IDLE_TIMEOUT`.
async fn wait_for_aggregation(leader: &Node, id: &TaskId, total: u64) -> Result<TaskStatus, Failure> {
    let bar = style::progress(total, "aggregating");
    let mut last = leader.status(id).await?;
    let mut moved = Instant::now();
    while last.aggregated < total {
        tokio::time::sleep(Span::from_millis(25)).await;
        let status = leader.status(id).await?;
        bar.set_position(status.aggregated);
        let idle = status.waiting == 0 && status.jobs == 0;
        if status != last {
            moved = Instant::now();
        } else if idle && moved.elapsed() > Span::from_millis(500) {
            break;
        }
        last = status;
        if moved.elapsed() > IDLE_TIMEOUT {
            bar.finish_and_clear();
            let error = last.last_error.as_deref().unwrap_or("the aggregators report no error");
            let text = format!("aggregation is stuck at {} of {total} reports: {error}", last.aggregated);
            return Err(Failure::new(text));
        }
    }
    bar.finish_and_clear();
    Ok(last)
}

/// The reasons why reports were not aggregated, from the leader's counters.
fn incomplete(status: &TaskStatus, total: u64) -> Failure {
    let reasons: Vec<_> = status
        .counters
        .iter()
        .filter(|(name, _)| !name.ends_with("success"))
        .map(|(name, count)| match name.strip_prefix("helper_") {
            Some(reason) => format!("{count} rejected by the helper ({reason})"),
            None => format!("{count} rejected ({name})"),
        })
        .collect();
    let reasons = if reasons.is_empty() { "no reason is known".to_owned() } else { reasons.join(", ") };
    Failure::new(format!("only {} of {total} reports were aggregated: {reasons}", status.aggregated))
}
