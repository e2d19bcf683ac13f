//! `dapbox bench helper`: aggregation jobs, as a leader sends them to a helper, against the limit that cryptography sets.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration as Span, Instant},
};

use bytes::Bytes;
use serde::Serialize;

use super::{
    CommonArgs, cores,
    cores::Rate,
    cpu, limit,
    load::{self, Connection, Latency, LoadSpec},
    machine::Machine,
    made,
    stage::{JobDriver, PartyContext, ServerTemplate},
    workload::{Workload, urls},
};
use crate::{
    cli::{Failure, args::Dap, style},
    client::AggregatorKeys,
    model::{self, AggregationJobId, PrepareInit, PrepareOutcome, Secret},
    wire::ResourceKind,
};

/// How often the server's latency is looked at while it is busy.
const PROBE_INTERVAL: Span = Span::from_millis(20);

/// What is measured by default.
const DEFAULT_WORKLOADS: [&str; 5] = ["count", "sum:32", "histogram:100", "sumvec:1000x1", "sumvec:10000x1"];

/// Arguments of `dapbox bench helper`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Reports in each aggregation job.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [100, 500],
        value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub job_size: Vec<u64>,
    /// Aggregation jobs at the same time.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 4, 10],
        value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub in_flight: Vec<u64>,
}

/// What was measured of one VDAF.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
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
    /// The part of the cores that was ours while that was measured. If it is not about 1, others were busy too, and the
    /// ratio is lower than it would be without them.
    pub limit_cores_share: f64,
    /// The same for all cores: reports in a second.
    pub limit_reports_per_second: f64,
    /// What the ratio is to: the limit, and with one job in flight a bare fdatasync for each job added to it.
    pub bound_reports_per_second: f64,
    /// What the server did.
    pub reports_per_second: f64,
    /// The one in units of the other.
    pub ratio: f64,
    /// What the server takes of a core's time for a report, in microseconds.
    pub server_cpu_us_per_report: f64,
    /// The part of the cores that others took during the run, where the system tells.
    pub others_cores_share: Option<f64>,
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

/// Measures all that the options ask for, below `dir`.
pub async fn measure(
    options: &Options,
    common: &CommonArgs,
    dir: &Path,
    machine: &Machine,
) -> Result<Vec<Results>, Failure> {
    let workloads = common.workloads(&DEFAULT_WORKLOADS)?;
    let mut all = Vec::with_capacity(workloads.len());
    for workload in &workloads {
        let bench = Bench::new(workload, common.dap, dir).await?;
        all.push(bench.measure(options, common.seconds, machine).await?);
    }
    Ok(all)
}

/// A helper and whoever sends it reports.
struct Bench {
    stage: ServerTemplate,
    workload: Workload,
    token: Secret,
    leader: PartyContext,
    helper: PartyContext,
    keys: AggregatorKeys,
}

impl Bench {
    async fn new(workload: &Workload, dap: Dap, dir: &Path) -> Result<Self, Failure> {
        let files = workload.task(dap.revision(), urls(dap.revision()))?;
        let (Some(ours), Some(task)) = (files.leader.aggregator_task(), files.helper.aggregator_task()) else {
            return Err(Failure::new("the task files are not for a leader and a helper"));
        };
        let model::Party::Leader { helper_token: token, .. } = ours.party.clone() else {
            return Err(Failure::new("the leader's task has no token for the helper"));
        };
        // Of the leader there are only the keys.
        let (leader, stage) = (ServerTemplate::new(dir).await?, ServerTemplate::new(dir).await?);
        let keys = AggregatorKeys { leader: leader.public_key()?, helper: stage.public_key()? };
        let (leader, helper) = (PartyContext::new(ours, leader.keys)?, stage.add(task).await?);
        Ok(Self { stage, workload: workload.clone(), token, leader, helper, keys })
    }

    async fn measure(self, options: &Options, time: Span, machine: &Machine) -> Result<Results, Failure> {
        let bench = Arc::new(self);
        let (shared, sizes) = (bench.clone(), options.clone());
        let reports = Arc::new(tokio::task::spawn_blocking(move || shared.make(&sizes, time)).await??);
        let mut measured = Results {
            vdaf: bench.workload.to_string(),
            revision: bench.helper.context.wire.path_prefix(),
            reports_made: reports.len(),
            runs: Vec::new(),
        };
        let mut before = bench.limit(&reports, time).await?;
        for job_size in &options.job_size {
            let requests = Arc::new(bench.requests(&reports, *job_size as usize));
            for in_flight in &options.in_flight {
                let shape = Jobs { size: *job_size as usize, in_flight: *in_flight as usize };
                let seen = bench.run(&requests, shape, time).await?;
                let after = bench.limit(&reports, time).await?;
                // Machines are not the same all the time: what is compared is measured side by side.
                measured.runs.push(seen.into_run(shape, before.mean(after), machine));
                before = after;
            }
        }
        Ok(measured)
    }

    /// Does what clients do, and then the leader: as many reports as the longest run may take.
    fn make(&self, options: &Options, time: Span) -> Result<Vec<PrepareInit>, Failure> {
        let one = || {
            let report = made::report(&self.leader.context, &self.keys, &self.workload.measurement)?;
            made::prepare_init(&self.leader, report)
        };
        let wanted = |some: &[PrepareInit]| {
            let limit = limit::helper(&self.helper, some, time / 10)?;
            Ok(limit.per_second() * time.as_secs_f64() * 1.2)
        };
        let largest = |numbers: &[u64]| numbers.iter().copied().max().unwrap_or(1) as usize;
        let fewest = made::MIN_ROUNDS * largest(&options.job_size) * largest(&options.in_flight);
        made::generate(one, made::init_bytes, wanted, fewest)
    }

    /// The requests for jobs of whole size.
    fn requests(&self, reports: &[PrepareInit], job_size: usize) -> Vec<Vec<u8>> {
        let context = &self.helper.context;
        let (task, wire) = (&context.task.public, context.wire);
        let request = |prepare_inits: &[PrepareInit]| {
            let job = AggregationJobId::random();
            let call = wire.create_request(ResourceKind::AggregationJob, &task.id, job.as_bytes());
            load::request(&task.helper_url, &call, Some(&self.token), &made::encode_job(context, prepare_inits))
        };
        reports.chunks_exact(job_size).map(request).collect()
    }

    async fn limit(self: &Arc<Self>, reports: &Arc<Vec<PrepareInit>>, time: Span) -> Result<Rate, Failure> {
        let (bench, reports) = (self.clone(), reports.clone());
        let spinner = style::spinner(&format!("{}: the limit", self.workload));
        let limit = tokio::task::spawn_blocking(move || limit::helper(&bench.helper, &reports, time.min(limit::TIME)));
        let limit = limit.await?;
        spinner.finish_and_clear();
        limit
    }

    /// Sends the jobs to a server that has not seen them yet.
    async fn run(self: &Arc<Self>, requests: &Arc<Vec<Vec<u8>>>, jobs: Jobs, time: Span) -> Result<RunSample, Failure> {
        let Jobs { size, in_flight } = jobs;
        let running = self.stage.start(JobDriver::Enabled).await?;
        let (address, before) = (running.server.address(), running.server.commits());
        let spinner = style::spinner(&format!("{}: {in_flight} x {size}", self.workload));
        let shape =
            LoadSpec { connections: in_flight, threads: in_flight, time, answers: made::MIN_ROUNDS * in_flight };
        let (bench, shared) = (self.clone(), requests.clone());
        let (begin, cpu, everybody) = (Instant::now(), cpu::process_time(), cpu::system_time());
        let ran = tokio::task::spawn_blocking(move || bench.load(address, &shared, shape));
        let (outcome, hpke_config) = ran.await??;
        let ours = cpu::process_time().saturating_sub(cpu);
        let others = cpu::system_time().zip(everybody).map(|(now, before)| now.saturating_sub(before + ours));
        let others_cores = others.map(|time| time.as_secs_f64() / begin.elapsed().as_secs_f64());
        let commits = running.server.commits() - before;
        running.stop().await?;
        spinner.finish_and_clear();
        for exchange in &outcome.exchanges {
            self.check(&exchange.answer, size)?;
        }
        Ok(RunSample {
            jobs: outcome.exchanges.len(),
            reports_per_second: outcome.per_second * size as f64,
            cpu: ours.saturating_sub(outcome.cpu),
            others_cores,
            commits,
            hpke_config,
        })
    }

    /// The load, and a look at the server's latency meanwhile.
    fn load(
        &self,
        address: SocketAddr,
        requests: &[Vec<u8>],
        shape: LoadSpec,
    ) -> Result<(load::LoadResult, Latency), Failure> {
        let (task, wire) = (&self.helper.context.task.public, self.helper.context.wire);
        let question = load::request(&task.helper_url, &wire.hpke_config_request(Some(&task.id)), None, &[]);
        let over = AtomicBool::new(false);
        let watch = || {
            let mut connection = Connection::new(address)?;
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let begin = Instant::now();
                connection.exchange(&question)?;
                times.push(begin.elapsed());
                thread::sleep(PROBE_INTERVAL);
            }
            Ok::<_, Failure>(Latency::of(times))
        };
        thread::scope(|scope| {
            let watch = scope.spawn(watch);
            let outcome = load::run(address, requests, shape);
            over.store(true, Ordering::Relaxed);
            let latency = cores::join_thread(watch)?;
            Ok((outcome?, latency?))
        })
    }

    /// Whether every report of a job was taken.
    fn check(&self, answer: &[u8], size: usize) -> Result<(), Failure> {
        let resps = self.helper.context.wire.decode_job_resp(&Bytes::copy_from_slice(answer), size)?;
        let taken = resps.iter().filter(|resp| matches!(resp.outcome, PrepareOutcome::Continue(_))).count();
        if taken == size {
            return Ok(());
        }
        Err(Failure::new(format!("the helper took {taken} of a job's {size} reports")))
    }
}

/// How large jobs are, and how many there are at the same time.
#[derive(Clone, Copy)]
struct Jobs {
    size: usize,
    in_flight: usize,
}

/// What was seen of a run.
struct RunSample {
    jobs: usize,
    reports_per_second: f64,
    cpu: Span,
    /// How many cores others took.
    others_cores: Option<f64>,
    commits: u64,
    hpke_config: Latency,
}

impl RunSample {
    fn into_run(self, shape: Jobs, limit: Rate, machine: &Machine) -> Run {
        let Self { jobs, reports_per_second, cpu, others_cores, commits, hpke_config } = self;
        let Jobs { size, in_flight } = shape;
        // A job that is alone has to wait for the disk while nothing is computed.
        let waiting = if in_flight == 1 { machine.fdatasync_us / 1e6 } else { 0.0 };
        let bound = size as f64 / (size as f64 / limit.per_second() + waiting);
        let reports = jobs * size;
        Run {
            job_size: size,
            jobs_in_flight: in_flight,
            limit_us_per_report: limit.each.as_secs_f64() * 1e6,
            limit_cores_share: limit.share,
            limit_reports_per_second: limit.per_second(),
            bound_reports_per_second: bound,
            reports_per_second,
            ratio: reports_per_second / bound,
            server_cpu_us_per_report: cpu.as_secs_f64() * 1e6 / reports as f64,
            others_cores_share: others_cores.map(|cores| cores / machine.cores as f64),
            reports_per_day: reports_per_second * 86_400.0,
            jobs,
            reports,
            commits,
            reports_per_commit: reports as f64 / commits as f64,
            hpke_config,
        }
    }
}
