//! `dapbox bench helper`: aggregation jobs, as a leader sends them to a helper, against the limit that cryptography sets.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration as Span, Instant},
};

use bytes::Bytes;
use serde::Serialize;

use super::{
    cores, limit,
    load::{self, Connection, Until},
    machine::Machine,
    stage::Stage,
    workload::Workload,
};
use crate::{
    cli::{Failure, args::Dap, style},
    client::{AggregatorKeys, make_report},
    hpke::{Keypair, Suite},
    model::{AggregationJobId, JobInit, PartialBatch, PrepareInit, PrepareOutcome, ReportShare, Role, Secret, Time},
    vdaf::InputShare,
    wire::Interaction,
};

/// Both servers' base URL in the task; connections are made to the address that the server really has.
const ORIGIN: &str = "http://localhost/";

/// How long making reports may take for each VDAF, beyond the fewest that are needed.
const MAKING: Span = Span::from_secs(20);

/// The most memory that reports may take, in bytes.
const MEMORY: usize = 1 << 30;

/// Rounds of jobs that each run has at least: one to warm up, and two that count.
const ROUNDS: usize = 3;

/// Reports that are made to find out what one takes.
const SAMPLE: usize = 64;

/// How often the server's latency is looked at while it is busy.
const LOOK: Span = Span::from_millis(20);

/// Arguments of `dapbox bench helper`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What is measured: count, sum:BITS, histogram:BINS, sumvec:LENGTHxBITS; several with commas between.
    #[arg(long, value_name = "VDAF", value_delimiter = ',',
        default_values = ["count", "sum:32", "histogram:100", "sumvec:1000x1", "sumvec:10000x1"])]
    vdaf: Vec<Workload>,
    /// Reports in each aggregation job.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [100, 500],
        value_parser = clap::value_parser!(u64).range(1..=100_000))]
    job_size: Vec<u64>,
    /// Aggregation jobs at the same time.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 4, 10],
        value_parser = clap::value_parser!(u64).range(1..=1024))]
    in_flight: Vec<u64>,
}

/// What was measured of one VDAF.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The VDAF.
    pub vdaf: String,
    /// The revision of the protocol.
    pub revision: &'static str,
    /// Reports that were made beforehand.
    pub reports_made: usize,
    /// The runs.
    pub runs: Vec<Run>,
}

/// What was measured of one VDAF, job size and number of jobs in flight.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Reports in each job.
    pub job_size: usize,
    /// Jobs at the same time.
    pub jobs_in_flight: usize,
    /// Open and preparation of one report on one core, in microseconds, while all cores do the same.
    pub limit_us_per_report: f64,
    /// The same for all cores: reports in a second.
    pub limit_reports_per_second: f64,
    /// What the ratio is to: the limit, and with one job in flight a bare fdatasync for each job added to it.
    pub bound_reports_per_second: f64,
    /// What the server did.
    pub reports_per_second: f64,
    /// The one in units of the other.
    pub ratio: f64,
    /// What it could do in a day.
    pub reports_per_day: f64,
    /// Jobs that were answered.
    pub jobs: usize,
    /// Reports that the answers accept: all of them, or this fails.
    pub reports: usize,
    /// Durable commits.
    pub commits: u64,
    /// Reports in each commit.
    pub reports_per_commit: f64,
    /// How long the server took meanwhile to tell its keys.
    pub hpke_config: Latency,
}

/// How long answers took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// How many there were.
    pub answers: usize,
    /// The median.
    pub median_ms: f64,
    /// Of a hundred, one was slower.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Latency {
    /// Of these times.
    pub fn of(mut times: Vec<Span>) -> Self {
        times.sort();
        let at = |place: usize| times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3);
        let last = times.len().saturating_sub(1);
        Self { answers: times.len(), median_ms: at(last / 2), p99_ms: at(last * 99 / 100), max_ms: at(last) }
    }
}

/// Measures all that the options ask for, below `dir`.
pub async fn measure(
    options: &Options,
    dap: Dap,
    time: Span,
    dir: &Path,
    machine: &Machine,
) -> Result<Vec<Measured>, Failure> {
    let mut all = Vec::with_capacity(options.vdaf.len());
    for workload in &options.vdaf {
        let bench = Bench::new(workload, dap, dir).await?;
        all.push(bench.measure(options, time, machine).await?);
    }
    Ok(all)
}

/// A helper and whoever sends it reports.
struct Bench {
    stage: Arc<Stage>,
    workload: Workload,
    token: Secret,
    leader: Keypair,
    keys: AggregatorKeys,
}

impl Bench {
    async fn new(workload: &Workload, dap: Dap, dir: &Path) -> Result<Self, Failure> {
        let url = format!("{ORIGIN}{}/", crate::wire::of(dap.revision()).prefix());
        let files = workload.task(dap.revision(), [url.clone(), url])?;
        let (Some(task), Some(leader)) = (files.helper.aggregator_task(), files.leader.leader) else {
            return Err(Failure::new("the task files are not for a helper and a leader"));
        };
        let template = dir.join(format!("helper-{}", task.public.id));
        let stage = Arc::new(Stage::new(template, task).await?);
        let ours = Keypair::generate(0, Suite::DEFAULT)?;
        let keys = AggregatorKeys { leader: ours.config().clone(), helper: stage.public_key()? };
        Ok(Self { stage, workload: workload.clone(), token: leader.helper_token, leader: ours, keys })
    }

    async fn measure(self, options: &Options, time: Span, machine: &Machine) -> Result<Measured, Failure> {
        let bench = Arc::new(self);
        let sizes = options.clone();
        let shared = bench.clone();
        let reports = Arc::new(tokio::task::spawn_blocking(move || shared.prepare(&sizes, time)).await??);
        let mut measured = Measured {
            vdaf: bench.workload.to_string(),
            revision: bench.stage.context.wire.prefix(),
            reports_made: reports.len(),
            runs: Vec::new(),
        };
        let mut before = bench.limit(&reports, time).await?;
        for job_size in &options.job_size {
            let requests = Arc::new(bench.requests(&reports, *job_size as usize));
            for in_flight in &options.in_flight {
                let shape = Shape { job_size: *job_size as usize, in_flight: *in_flight as usize };
                let seen = bench.run(&requests, shape, time).await?;
                let after = bench.limit(&reports, time).await?;
                // Machines are not the same all the time: what is compared is measured side by side.
                measured.runs.push(seen.judge(shape, (before + after) / 2.0, machine));
                before = after;
            }
        }
        Ok(measured)
    }

    /// Does what clients do, and then the leader: as many reports as the longest run may take.
    fn prepare(&self, options: &Options, time: Span) -> Result<Vec<PrepareInit>, Failure> {
        let one = || self.init();
        let begin = Instant::now();
        let bar = style::spinner("looking what a report takes");
        let mut reports = cores::make(SAMPLE, &bar, one)?;
        let each = begin.elapsed() / SAMPLE as u32;
        let limit = limit::helper(&self.stage, &reports, time / 10)?;
        bar.finish_and_clear();

        let largest = |numbers: &[u64]| numbers.iter().copied().max().unwrap_or(1) as usize;
        let fewest = ROUNDS * largest(&options.job_size) * largest(&options.in_flight);
        let enough = (limit * time.as_secs_f64() * 1.2) as usize;
        let affordable = (MAKING.as_secs_f64() / each.as_secs_f64()) as usize;
        let bytes = |init: &PrepareInit| {
            init.message.len() + init.share.public_share.len() + init.share.input_share.payload.len()
        };
        // They are there twice, as reports and as requests.
        let room = MEMORY / 2 / reports.iter().map(bytes).max().unwrap_or_default().max(1);
        let number = enough.min(affordable).max(fewest).min(room);
        let bar = style::progress(number as u64, "making");
        bar.inc(reports.len() as u64);
        reports.extend(cores::make(number.saturating_sub(reports.len()), &bar, one)?);
        bar.finish_and_clear();
        Ok(reports)
    }

    /// Does for one report what a client and then the leader do.
    fn init(&self) -> Result<PrepareInit, Failure> {
        let context = &self.stage.context;
        let (task, wire, preparer) = (&context.task.public, context.wire, context.preparer.as_ref());
        let report = make_report(task, preparer, &self.keys, &self.workload.measurement, Time::now())?;
        let aad = wire.input_share_aad(task, &report.metadata, &report.extensions, &report.public_share);
        let opened = self.leader.open(&wire.input_share_info(Role::Leader), &aad, &report.leader_share)?;
        let plaintext = wire.decode_plaintext(&opened.into())?;
        let share = InputShare {
            report_id: &report.metadata.id,
            public_share: &report.public_share,
            input_share: &plaintext.payload,
        };
        let (_, message) = preparer
            .leader_start(context.verification(), share)
            .map_err(|error| Failure::new(format!("a report that was just made does not hold: {error:?}")))?;
        let share = ReportShare {
            metadata: report.metadata,
            extensions: report.extensions,
            public_share: report.public_share,
            input_share: report.helper_share,
        };
        Ok(PrepareInit { share, message: message.into() })
    }

    /// The requests for jobs of whole size.
    fn requests(&self, reports: &[PrepareInit], job_size: usize) -> Vec<Vec<u8>> {
        let context = &self.stage.context;
        let (task, wire) = (&context.task.public, context.wire);
        let request = |inits: &[PrepareInit]| {
            let init = JobInit {
                verify_key_id: Some(context.task.verify_key_id),
                aggregation_parameter: Bytes::new(),
                batch: PartialBatch::TimeInterval,
                extensions: Vec::new(),
                inits: inits.to_vec(),
            };
            let job = AggregationJobId::random();
            let call = wire.create_call(Interaction::AggregationJob, &task.id, job.as_bytes());
            load::request(&task.helper_url, &call, Some(&self.token), &wire.encode_job_init(task, &init))
        };
        reports.chunks_exact(job_size).map(request).collect()
    }

    async fn limit(self: &Arc<Self>, reports: &Arc<Vec<PrepareInit>>, time: Span) -> Result<f64, Failure> {
        let (bench, reports) = (self.clone(), reports.clone());
        let spinner = style::spinner(&format!("{}: the limit", self.workload));
        let limit = tokio::task::spawn_blocking(move || limit::helper(&bench.stage, &reports, time.min(limit::TIME)));
        let limit = limit.await?;
        spinner.finish_and_clear();
        limit
    }

    /// Sends the jobs to a server that has not seen them yet.
    async fn run(self: &Arc<Self>, requests: &Arc<Vec<Vec<u8>>>, shape: Shape, time: Span) -> Result<Seen, Failure> {
        let Shape { job_size, in_flight } = shape;
        let running = self.stage.start().await?;
        let (address, before) = (running.server.address(), running.server.commits());
        let spinner = style::spinner(&format!("{}: {in_flight} x {job_size}", self.workload));
        let until = Until { time, answers: ROUNDS * in_flight };
        let (bench, shared) = (self.clone(), requests.clone());
        let seen = tokio::task::spawn_blocking(move || bench.load(address, &shared, in_flight, until));
        let (outcome, hpke_config) = seen.await??;
        let commits = running.server.commits() - before;
        running.stop().await?;
        spinner.finish_and_clear();
        for exchange in &outcome.exchanges {
            self.check(&exchange.answer, job_size)?;
        }
        let (jobs, reports_per_second) = (outcome.exchanges.len(), outcome.per_second * job_size as f64);
        Ok(Seen { jobs, reports_per_second, commits, hpke_config })
    }

    /// The load, and a look at the server's latency meanwhile.
    fn load(
        &self,
        address: SocketAddr,
        requests: &[Vec<u8>],
        in_flight: usize,
        until: Until,
    ) -> Result<(load::Outcome, Latency), Failure> {
        let task = &self.stage.context.task.public;
        let question = load::request(&task.helper_url, &self.stage.context.wire.hpke_config_call(&task.id), None, &[]);
        let over = AtomicBool::new(false);
        let watch = || {
            let mut connection = Connection::new(address)?;
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let begin = Instant::now();
                connection.ask(&question)?;
                times.push(begin.elapsed());
                std::thread::sleep(LOOK);
            }
            Ok::<_, Failure>(Latency::of(times))
        };
        std::thread::scope(|scope| {
            let watch = scope.spawn(watch);
            let outcome = load::run(address, requests, in_flight, until);
            over.store(true, Ordering::Relaxed);
            let latency = cores::joined(watch)?;
            Ok((outcome?, latency?))
        })
    }

    /// Whether every report of a job was taken.
    fn check(&self, answer: &[u8], job_size: usize) -> Result<(), Failure> {
        let resps = self.stage.context.wire.decode_job_resp(&Bytes::copy_from_slice(answer), job_size)?;
        let taken = resps.iter().filter(|resp| matches!(resp.outcome, PrepareOutcome::Continue(_))).count();
        if taken == job_size {
            return Ok(());
        }
        Err(Failure::new(format!("the helper took {taken} of a job's {job_size} reports")))
    }
}

/// The shape of a load.
#[derive(Clone, Copy)]
struct Shape {
    job_size: usize,
    in_flight: usize,
}

/// What was seen of a run.
struct Seen {
    jobs: usize,
    reports_per_second: f64,
    commits: u64,
    hpke_config: Latency,
}

impl Seen {
    fn judge(self, shape: Shape, limit: f64, machine: &Machine) -> Run {
        let Self { jobs, reports_per_second, commits, hpke_config } = self;
        let Shape { job_size, in_flight } = shape;
        // A job that is alone has to wait for the disk while nothing is computed.
        let waiting = if in_flight == 1 { machine.fdatasync_us / 1e6 } else { 0.0 };
        let bound = job_size as f64 / (job_size as f64 / limit + waiting);
        let reports = jobs * job_size;
        Run {
            job_size,
            jobs_in_flight: in_flight,
            limit_us_per_report: machine.cores as f64 / limit * 1e6,
            limit_reports_per_second: limit,
            bound_reports_per_second: bound,
            reports_per_second,
            ratio: reports_per_second / bound,
            reports_per_day: reports_per_second * 86_400.0,
            jobs,
            reports,
            commits,
            reports_per_commit: reports as f64 / commits as f64,
            hpke_config,
        }
    }
}
