//! `dapbox bench growth`: reports go through what a helper does with a job that is prepared: reserve the ids, add the
//! sums, remember the ids, store the answer, durably. Only the cryptography is left out.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration as Span, Instant},
};

use bytes::Bytes;
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::task::JoinSet;

use super::usage;
use crate::{
    aggregator::{
        Sum, Sums, TaskContext,
        helper::{self, Prepared, Request, Reserved},
        tasks,
    },
    cli::{
        Failure, Outcome,
        args::Format,
        local::Directory,
        style::{self, Style, say},
        task,
        taskfile::{TaskFiles, VerifyKey},
    },
    model::{
        AggregationJobId, Bucket, Checksum, Duration, PartialBatch, Point, PrepareOutcome, PrepareResp, ReportId,
        ReportMetadata, Revision, Task, Time, VdafConfig,
    },
    server,
    store::Store,
    vdaf::table,
};

/// The time of the first reports: 2023-11-15, at midnight.
const FIRST_DAY: Time = Time(1_700_006_400);
const DAY: u64 = 86_400;
/// How long a rate is measured.
const PROBE: Span = Span::from_secs(4);
/// Bins of the histogram that is measured.
const BINS: usize = 100;

/// Arguments of `dapbox bench growth`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The reports are made up, and their shares with them; what is stored of them goes through a helper's own \
    code, with durable commits. Times are made up too: a day passes with every --per-day reports, and retention is \
    swept as it would be. Needs up to 40 bytes of disk for each report, in --dir; everything is removed in the end.\n\n\
    Examples:\n  \
    dapbox bench growth --reports 1000000\n  \
    dapbox bench growth --dir /var/lib/dapbox-bench -o json"
)]
pub struct Args {
    /// How many reports to end with.
    #[arg(long, value_name = "N", default_value_t = 40_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    reports: u64,
    /// Reports in each aggregation job.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    job_size: u64,
    /// Reports on each day.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    per_day: u64,
    /// Jobs that are stored at once.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    in_flight: u64,
    /// The directory to fill, which must not exist; a temporary one by default.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What was measured at one number of reports.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    /// Reports that are remembered.
    reports: u64,
    /// Reports stored per second from here on.
    reports_per_second: f64,
    /// The same, in units of what it was without any.
    speed: f64,
    /// Opening the data directory, in seconds.
    start_seconds: f64,
    /// Memory after opening it, in bytes.
    resident_bytes: Option<u64>,
    /// Memory beyond that of an empty one, per report.
    memory_per_report: Option<f64>,
    /// Disk, in bytes.
    disk_bytes: u64,
    /// Disk beyond that of an empty one, per report.
    disk_per_report: Option<f64>,
}

/// Runs `dapbox bench growth`.
pub async fn run(args: Args) -> Outcome {
    if let Some(dir) = args.dir.as_ref().filter(|dir| dir.exists()) {
        return Err(Failure::usage(format!("{} exists; name a directory that does not", dir.display())));
    }
    let directory = Directory::new(None)?;
    let dir = args.dir.clone().unwrap_or_else(|| directory.path().join("data"));
    let outcome = measure(&args, &dir).await;
    if args.dir.is_some() {
        std::fs::remove_dir_all(&dir)?;
    }
    let points = outcome?;
    Ok(match args.output {
        Format::Json => say(serde_json::to_string_pretty(&points)?),
        Format::Text => say(table_of(&points)),
    }?)
}

async fn measure(args: &Args, dir: &Path) -> Result<Vec<Measured>, Failure> {
    let context = Arc::new(TaskContext::new(Arc::new(task()?)).map_err(Failure::new)?);
    let load = Arc::new(Load {
        context: context.clone(),
        job_size: args.job_size,
        per_day: args.per_day,
        next: AtomicU64::new(0),
    });
    let bar = style::progress(args.reports, "reports");
    let mut points: Vec<Measured> = Vec::new();
    let milestones = [0, 1_000_000, 10_000_000].into_iter().filter(|n| *n < args.reports).chain([args.reports]);
    for milestone in milestones {
        let store = open(dir)?;
        if milestone == 0 {
            let task = Task::clone(&context.task);
            store.write(Point::Trial, move |tx| tasks::add(tx, task)).await??;
        }
        fill(args, &store, &load, &bar, Until::Reports(milestone)).await?;
        store.close().await;
        drop(store);
        points.push(look(args, dir, &load, &bar, points.first()).await?);
    }
    bar.finish_and_clear();
    Ok(points)
}

fn open(dir: &Path) -> Result<Store, Failure> {
    Ok(Store::open(dir, server::store_options(&crate::config::Config::default()))?)
}

/// Opens what is there and measures it, then goes on for a moment.
async fn look(
    args: &Args,
    dir: &Path,
    load: &Arc<Load>,
    bar: &ProgressBar,
    empty: Option<&Measured>,
) -> Result<Measured, Failure> {
    let disk_bytes = usage::on_disk(dir)?;
    let begin = Instant::now();
    let store = open(dir)?;
    let start_seconds = begin.elapsed().as_secs_f64();
    let (resident_bytes, reports) = (usage::resident(), load.stored());
    let begin = Instant::now();
    fill(args, &store, load, bar, Until::Time(begin + PROBE)).await?;
    let reports_per_second = (load.stored() - reports) as f64 / begin.elapsed().as_secs_f64();
    store.close().await;
    let each = |now: u64, empty: u64| now.saturating_sub(empty) as f64 / reports as f64;
    Ok(Measured {
        reports,
        reports_per_second,
        speed: empty.map_or(1.0, |empty| reports_per_second / empty.reports_per_second),
        start_seconds,
        resident_bytes,
        memory_per_report: empty.and_then(|empty| Some(each(resident_bytes?, empty.resident_bytes?))),
        disk_bytes,
        disk_per_report: empty.map(|empty| each(disk_bytes, empty.disk_bytes)),
    })
}

/// When to stop.
#[derive(Clone, Copy)]
enum Until {
    Reports(u64),
    Time(Instant),
}

async fn fill(args: &Args, store: &Store, load: &Arc<Load>, bar: &ProgressBar, until: Until) -> Outcome {
    let mut workers = JoinSet::new();
    for _ in 0..args.in_flight {
        let (store, load, bar) = (store.clone(), load.clone(), bar.clone());
        workers.spawn(async move {
            while match until {
                Until::Reports(most) => load.stored() < most,
                Until::Time(end) => Instant::now() < end,
            } {
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

/// A job as it is once it is prepared.
struct Job {
    request: Request,
    metadata: Vec<ReportMetadata>,
    prepared: Prepared,
}

/// Where jobs come from.
struct Load {
    context: Arc<TaskContext>,
    job_size: u64,
    per_day: u64,
    /// Reports that were made up so far.
    next: AtomicU64,
}

impl Load {
    fn stored(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    fn next_job(&self) -> Job {
        let first = self.next.fetch_add(self.job_size, Ordering::Relaxed);
        let now = Time(FIRST_DAY.0 + first * DAY / self.per_day);
        let metadata: Vec<_> =
            (0..self.job_size).map(|_| ReportMetadata { id: ReportId::random(), time: now }).collect();
        let mut checksum = Checksum::default();
        metadata.iter().for_each(|metadata| checksum.add(&metadata.id));
        let task = &self.context.task.public;
        let bucket = Bucket::Time(now.truncate(task.time_precision));
        let sum = Sum { reports: metadata.clone(), checksum, share: self.context.preparer.zero() };
        // What the helper says about a report of a histogram: a seed behind a header.
        let message = Bytes::from_static(&[0; 21]);
        let answer = |metadata: &ReportMetadata| PrepareResp {
            report_id: metadata.id,
            outcome: PrepareOutcome::Continue(message.clone()),
        };
        let prepared = Prepared { resps: metadata.iter().map(answer).collect(), sums: Sums([(bucket, sum)].into()) };
        let (job, hash) = (AggregationJobId::random(), [0; 32]);
        Job {
            request: Request { task: task.id, job, hash, batch: PartialBatch::TimeInterval, now },
            metadata,
            prepared,
        }
    }
}

async fn store_job(store: &Store, context: &Arc<TaskContext>, job: Job) -> Outcome {
    let Job { request, metadata, prepared } = job;
    let skew = Duration(60);
    let reserved = store.write(Point::Trial, move |tx| helper::reserve(tx, &request, skew, &metadata)).await?;
    if !matches!(&reserved, Reserved::New(verdicts) if verdicts.iter().all(Option::is_none)) {
        return Err(Failure::new("a fresh report was refused"));
    }
    let context = context.clone();
    let stored = store.write(Point::Trial, move |tx| helper::commit(tx, &context, &request, prepared)).await?;
    stored.map(drop).ok_or_else(|| Failure::new("a job was not stored"))
}

/// The helper's side of a task.
fn task() -> Result<Task, Failure> {
    let parameters = table::Parameters { length: Some(BINS), ..table::Parameters::default() };
    let vdaf: VdafConfig = table::configure("histogram", &parameters).map_err(Failure::new)?;
    let urls = ["leader", "helper"].map(|name| format!("https://{name}.example/dap-09/"));
    let batch = crate::cli::args::BatchArgs::default();
    let task = task::parameters(Revision::Dap09, urls, vdaf, &batch)?;
    let files = TaskFiles::generate(task, &VerifyKey::default())?;
    files.helper.aggregator_task().ok_or_else(|| Failure::new("the helper's file holds no task"))
}

fn table_of(points: &[Measured]) -> String {
    let style = Style::stdout();
    let header = format!(
        "{:>12} {:>11} {:>6} {:>9} {:>10} {:>8} {:>10} {:>8}",
        "reports", "reports/s", "speed", "start", "memory", "each", "disk", "each"
    );
    let mut lines = vec![style.bold(&header)];
    let mebibytes = |bytes: u64| format!("{} MiB", style::count(bytes >> 20));
    let bytes = |bytes: Option<f64>| bytes.map_or(String::new(), |bytes| format!("{bytes:.1} B"));
    for point in points {
        lines.push(format!(
            "{:>12} {:>11} {:>6.2} {:>7.2} s {:>10} {:>8} {:>10} {:>8}",
            style::count(point.reports),
            style::count(point.reports_per_second as u64),
            point.speed,
            point.start_seconds,
            point.resident_bytes.map_or(String::new(), mebibytes),
            bytes(point.memory_per_report),
            mebibytes(point.disk_bytes),
            bytes(point.disk_per_report),
        ));
    }
    if let Some(peak) = usage::peak() {
        lines.push(style.dim(&format!("The most memory that this took at any moment: {}.", mebibytes(peak))));
    }
    lines.join("\n")
}
