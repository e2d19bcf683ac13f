//! `dapbox bench growth`: stores prepared jobs like a helper, durably: reserve ids, merge buckets, record ids, store the
//! answer. Only the cryptography is left out.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration as Span, Instant},
};

use bytes::Bytes;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::usage;
use crate::{
    aggregator::{
        BucketAccumulator, BucketAccumulators, TaskContext,
        helper::{self, PreparedJob, Request, Reservation},
        retention, tasks,
    },
    cli::{
        args::{self, Format, OutputArgs},
        failure::{Failure, Outcome},
        local_pair::WorkDir,
        style::{self, Style, print},
        table::Table,
        task,
        taskfile::{TaskFiles, VerifyKey},
    },
    config::{Config, Retention, Seconds},
    model::{
        AggregationJobId, Bucket, Checksum, PartialBatchSelector, PrepareOutcome, PrepareResp, ReportId,
        ReportMetadata, Revision, Task, Time, VdafConfig,
    },
    server,
    store::{Options, Store, SweepCursor, Tx, compact},
    support::Point,
    vdaf::table,
};

/// Time of the first reports: 2023-11-15, at midnight.
const FIRST_DAY: Time = Time(1_700_006_400);
const DAY: u64 = 86_400;
/// Maximum number of reports that one rate is measured with.
const PROBE_REPORTS: u64 = 500_000;
/// Bins of the measured histogram.
const BINS: usize = 100;

/// Arguments of `dapbox bench growth`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reports and shares are synthetic, but a helper's own code stores them, with durable commits. Time is \
    synthetic, too: a day passes with every --per-day reports, and stored answers expire accordingly. Needs up to 40 bytes \
    of disk per report below --dir; all of it is removed at the end.\n\n\
    Examples:\n  \
    dapbox bench growth --reports 1000000\n  \
    dapbox bench growth --dir /var/lib/dapbox-bench -o json"
)]
pub struct Args {
    /// Number of reports to store.
    #[arg(long, value_name = "N", default_value_t = 40_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    reports: u64,
    /// Reports per aggregation job.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    job_size: u64,
    /// Reports per day.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    per_day: u64,
    /// Retention of answers to jobs (retention.answer_age), in synthetic time.
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = args::parse_duration)]
    answer_age: Span,
    /// Pause after each synthetic day, in which the database can clean up.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = args::parse_duration)]
    pause: Span,
    /// Jobs stored concurrently.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    in_flight: u64,
    /// Directory to create and fill; a temporary one by default.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Measurements at one number of reports.
#[derive(Clone, Debug, Serialize)]
struct GrowthPoint {
    /// Recorded reports.
    reports: u64,
    /// Whether the data directory was compacted before.
    compacted: bool,
    /// Reports stored per second from this point.
    reports_per_second: f64,
    /// This rate divided by the rate of an empty directory.
    speed: f64,
    /// Time to open the data directory, in seconds.
    start_seconds: f64,
    /// Memory of a process that has just opened it, in bytes.
    resident_bytes: Option<u64>,
    /// Memory per report, without that of an empty directory.
    memory_per_report: Option<f64>,
    /// Disk usage, in bytes.
    disk_bytes: u64,
    /// Disk usage per report, without that of an empty directory.
    disk_per_report: Option<f64>,
}

/// Runs `dapbox bench growth`.
pub async fn run(args: Args) -> Outcome {
    if let Some(dir) = args.dir.as_ref().filter(|dir| dir.exists()) {
        return Err(Failure::usage(format!("{} exists; choose a directory that does not exist", dir.display())));
    }
    let directory = WorkDir::new(None)?;
    let dir = args.dir.clone().unwrap_or_else(|| directory.path().join("data"));
    let measured = GrowthBench::new(&args, &dir)?.measure().await;
    if args.dir.is_some() {
        std::fs::remove_dir_all(&dir)?;
    }
    let measured = measured?;
    Ok(match args.output.format {
        Format::Json => print(serde_json::to_string_pretty(&measured)?),
        Format::Text => print(format_table(&measured)),
    }?)
}

/// A growing data directory.
struct GrowthBench<'a> {
    args: &'a Args,
    dir: &'a Path,
    load: Arc<JobSource>,
    bar: ProgressBar,
    measured: Vec<GrowthPoint>,
}

impl<'a> GrowthBench<'a> {
    fn new(args: &'a Args, dir: &'a Path) -> Result<Self, Failure> {
        let context = Arc::new(TaskContext::new(Arc::new(task()?)).map_err(Failure::new)?);
        let (job_size, per_day) = (args.job_size, args.per_day);
        let load = Arc::new(JobSource { context, job_size, per_day, next: AtomicU64::new(0) });
        Ok(Self { args, dir, load, bar: style::progress(args.reports, "reports"), measured: Vec::new() })
    }

    async fn measure(mut self) -> Result<Vec<GrowthPoint>, Failure> {
        let store = open(self.dir)?;
        let task = Task::clone(&self.load.context.task);
        store.try_write(Point::TaskAdd, move |tx| tasks::add(tx, task)).await?;
        store.close().await;
        let milestones = [0, 1_000_000, 10_000_000].into_iter().filter(|n| *n < self.args.reports);
        for milestone in milestones.chain([self.args.reports]) {
            let store = open(self.dir)?;
            while self.load.stored() < milestone {
                let day = (self.load.stored() / self.args.per_day + 1) * self.args.per_day;
                self.fill(&store, milestone.min(day)).await?;
                self.sweep(&store).await?;
                tokio::time::sleep(self.args.pause).await;
            }
            store.close().await;
            self.measure_point(false).await?;
        }
        let dir = self.dir.to_owned();
        let cache = store_options().cache_bytes;
        tokio::task::spawn_blocking(move || compact(&dir, cache, &mut |_, _, _| {})).await??;
        self.measure_point(true).await?;
        self.bar.finish_and_clear();
        Ok(self.measured)
    }

    /// Measures the directory, and the rate of further jobs.
    async fn measure_point(&mut self, compacted: bool) -> Outcome {
        let disk_bytes = usage::on_disk(self.dir)?;
        let OpenCost { seconds: start_seconds, resident_bytes } = OpenCost::in_child_process(self.dir)?;
        let reports = self.load.stored();
        let store = open(self.dir)?;
        let begin = Instant::now();
        self.fill(&store, reports + PROBE_REPORTS.min(self.args.reports)).await?;
        let reports_per_second = (self.load.stored() - reports) as f64 / begin.elapsed().as_secs_f64();
        store.close().await;
        let empty = self.measured.first();
        let each = |now: u64, empty: u64| now.saturating_sub(empty) as f64 / reports as f64;
        let measured = GrowthPoint {
            reports,
            compacted,
            reports_per_second,
            speed: empty.map_or(1.0, |empty| reports_per_second / empty.reports_per_second),
            start_seconds,
            resident_bytes,
            memory_per_report: empty.and_then(|empty| Some(each(resident_bytes?, empty.resident_bytes?))),
            disk_bytes,
            disk_per_report: empty.map(|empty| each(disk_bytes, empty.disk_bytes)),
        };
        self.measured.push(measured);
        Ok(())
    }

    /// Stores jobs until `until` reports are stored.
    async fn fill(&self, store: &Store, until: u64) -> Outcome {
        let mut workers = JoinSet::new();
        for _ in 0..self.args.in_flight {
            let (store, load, bar) = (store.clone(), self.load.clone(), self.bar.clone());
            workers.spawn(async move {
                while load.stored() < until {
                    let job = load.next_job();
                    bar.inc(job.prepared.resps.len() as u64);
                    store_job(&store, &load.context, job).await?;
                }
                Ok::<_, Failure>(())
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Deletes expired records, as a server does.
    async fn sweep(&self, store: &Store) -> Outcome {
        let retention = Retention { answer_age: Seconds(self.args.answer_age), ..Retention::default() };
        let (task, now) = (self.load.context.task.public.id, self.load.now(self.load.stored()));
        let mut next = Some(SweepCursor::default());
        while let Some(place) = next {
            let retention = retention.clone();
            let step = move |tx: &mut Tx<'_>| retention::sweep(tx, &task, now, &retention, place);
            next = store.write(Point::Sweep, step).await?;
        }
        Ok(())
    }
}

fn store_options() -> Options {
    server::store_options(&Config::default())
}

fn open(dir: &Path) -> Result<Store, Failure> {
    Ok(Store::open(dir, store_options())?)
}

/// Cost of opening a data directory.
#[derive(Debug, Serialize, Deserialize)]
struct OpenCost {
    seconds: f64,
    resident_bytes: Option<u64>,
}

impl OpenCost {
    /// Opens the directory in a fresh process, so that all of its memory is due to that.
    fn in_child_process(dir: &Path) -> Result<Self, Failure> {
        let output = Command::new(std::env::current_exe()?).args(["bench", "open"]).arg(dir).output()?;
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout)?);
        }
        Err(Failure::new(String::from_utf8_lossy(&output.stderr))
            .context("cannot open the directory in another process"))
    }
}

/// Arguments of `dapbox bench open`.
#[derive(Debug, clap::Args)]
pub struct OpenArgs {
    /// Data directory to open.
    dir: PathBuf,
}

/// Runs `dapbox bench open`: opens a data directory and prints the cost as JSON.
pub async fn run_open(args: OpenArgs) -> Outcome {
    let begin = Instant::now();
    let store = open(&args.dir)?;
    let opened = OpenCost { seconds: begin.elapsed().as_secs_f64(), resident_bytes: usage::resident() };
    store.close().await;
    Ok(print(serde_json::to_string(&opened)?)?)
}

/// A prepared job.
struct Job {
    request: Request,
    metadata: Vec<ReportMetadata>,
    prepared: PreparedJob,
}

/// Generates prepared jobs.
struct JobSource {
    context: Arc<TaskContext>,
    job_size: u64,
    per_day: u64,
    /// Number of reports generated so far.
    next: AtomicU64,
}

impl JobSource {
    fn stored(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// The time of a report, by its index.
    fn now(&self, report: u64) -> Time {
        Time(FIRST_DAY.0 + report * DAY / self.per_day)
    }

    fn next_job(&self) -> Job {
        let first = self.next.fetch_add(self.job_size, Ordering::Relaxed);
        let now = self.now(first);
        let metadata: Vec<_> =
            (0..self.job_size).map(|_| ReportMetadata { id: ReportId::random(), time: now }).collect();
        let mut checksum = Checksum::default();
        metadata.iter().for_each(|metadata| checksum.add(&metadata.id));
        let task = &self.context.task.public;
        let bucket = Bucket::Time(now.truncate(task.time_precision));
        let sum = BucketAccumulator { reports: metadata.clone(), checksum, share: self.context.preparer.zero() };
        // A helper's message for a histogram report: a header and a seed.
        let message = Bytes::from_static(&[0; 21]);
        let answer = |metadata: &ReportMetadata| PrepareResp {
            report_id: metadata.id,
            outcome: PrepareOutcome::Continue(message.clone()),
        };
        let prepared = PreparedJob {
            resps: metadata.iter().map(answer).collect(),
            sums: BucketAccumulators([(bucket, sum)].into()),
        };
        let (job, hash) = (AggregationJobId::random(), [0; 32]);
        Job {
            request: Request {
                task: task.id,
                job,
                hash,
                batch: PartialBatchSelector::TimeInterval,
                verify_key_id: None,
                now,
            },
            metadata,
            prepared,
        }
    }
}

async fn store_job(store: &Store, context: &Arc<TaskContext>, job: Job) -> Outcome {
    let Job { request, metadata, prepared } = job;
    let bounds = helper::Bounds::of(&Config::default().limits);
    let reserve = move |tx: &mut Tx<'_>| helper::reserve(tx, &request, bounds, &metadata);
    let reserved = store.write(Point::HelperReserve, reserve).await?;
    if !matches!(&reserved, Reservation::New(verdicts) if verdicts.iter().all(Option::is_none)) {
        return Err(Failure::new("a new report was rejected"));
    }
    let context = context.clone();
    let commit = move |tx: &mut Tx<'_>| helper::commit(tx, &context, &request, bounds, prepared);
    let stored = store.write(Point::HelperCommit, commit).await?;
    stored.map(drop).ok_or_else(|| Failure::new("a job was not stored"))
}

/// The helper's part of a task.
fn task() -> Result<Task, Failure> {
    let parameters = table::VdafParameters { length: Some(BINS), ..table::VdafParameters::default() };
    let vdaf: VdafConfig = table::configure("histogram", &parameters).map_err(Failure::new)?;
    let urls = ["leader", "helper"].map(|name| format!("https://{name}.example/dap-09/"));
    let batch = crate::cli::args::BatchArgs::default();
    let task = task::parameters(Revision::Dap09, urls, vdaf, &batch)?;
    let files = TaskFiles::generate(task, &VerifyKey::default())?;
    files.helper.aggregator_task().ok_or_else(|| Failure::new("the helper's file contains no task"))
}

fn format_table(measured: &[GrowthPoint]) -> String {
    let style = Style::stdout();
    let header = ["reports", "reports/s", "speed", "start", "memory", "each", "disk", "each"];
    let mut table = Table::new(style, header).right(0..8);
    let mebibytes = |bytes: u64| format!("{} MiB", style::count(bytes >> 20));
    let bytes = |bytes: Option<f64>| bytes.map_or(String::new(), |bytes| format!("{bytes:.1} B"));
    for point in measured {
        table.row([
            if point.compacted { "compacted".to_owned() } else { style::count(point.reports) }.into(),
            style::count(point.reports_per_second as u64).into(),
            format!("{:.2}", point.speed).into(),
            format!("{:.2} s", point.start_seconds).into(),
            point.resident_bytes.map_or(String::new(), mebibytes).into(),
            bytes(point.memory_per_report).into(),
            mebibytes(point.disk_bytes).into(),
            bytes(point.disk_per_report).into(),
        ]);
    }
    let note = "speed: reports/s by those of an empty directory. start, memory: a fresh process that opens it. \
                each: per report. compacted: the last row after dapbox compact.";
    format!("{table}\n{}", style.dim(note))
}
