//! `dapbox bench helper`: sends aggregation jobs to a helper, and compares it with the limit that cryptography sets.

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
    cpu, inputs, limit,
    load::{self, Connection, Latency, LoadSpec},
    machine::Machine,
    template::{JobDriver, PartyContext, ServerTemplate},
    workload::{Workload, urls},
};
use crate::{
    cli::{args::RevisionArg, failure::Failure, style},
    client::AggregatorKeys,
    model::{self, AggregationJobId, PrepareInit, PrepareOutcome, Secret},
    wire::ResourceKind,
};

/// Interval between two probes of the server's latency under load.
const PROBE_INTERVAL: Span = Span::from_millis(20);

/// Workloads measured by default.
const DEFAULT_WORKLOADS: [&str; 5] = ["count", "sum:32", "histogram:100", "sumvec:1000x1", "sumvec:10000x1"];

/// Arguments of `dapbox bench helper`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Reports per aggregation job.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [100, 500],
        value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub job_size: Vec<u64>,
    /// Concurrent aggregation jobs.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 4, 10],
        value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub in_flight: Vec<u64>,
}

/// Results of one VDAF.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// The VDAF.
    pub vdaf: String,
    /// The protocol revision.
    pub revision: &'static str,
    /// Reports generated in advance.
    pub reports_made: usize,
    /// The runs.
    pub runs: Vec<Run>,
}

/// Results of one VDAF, job size and number of jobs in flight.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Reports per job.
    pub job_size: usize,
    /// Concurrent jobs.
    pub jobs_in_flight: usize,
    /// Core time to open and prepare one report while all cores do the same, in microseconds.
    pub limit_us_per_report: f64,
    /// Share of the cores that this process had during that measurement. Below 1, other processes were busy, and the
    /// ratio is lower than without them.
    pub limit_cores_share: f64,
    /// Reports per second on all cores, cryptography only.
    pub limit_reports_per_second: f64,
    /// Denominator of the ratio: the limit, plus one fdatasync per job if only one job is in flight.
    pub bound_reports_per_second: f64,
    /// Reports aggregated per second.
    pub reports_per_second: f64,
    /// Throughput divided by the bound.
    pub ratio: f64,
    /// Core time of the server per report, in microseconds.
    pub server_cpu_us_per_report: f64,
    /// Share of the cores that other processes used during the run, if the system reports it.
    pub others_cores_share: Option<f64>,
    /// Reports per day at this rate.
    pub reports_per_day: f64,
    /// Answered jobs.
    pub jobs: usize,
    /// Accepted reports; a rejected report is an error.
    pub reports: usize,
    /// Durable commits.
    pub commits: u64,
    /// Reports per commit.
    pub reports_per_commit: f64,
    /// Latency of `hpke_config` requests during the run.
    pub hpke_config: Latency,
}

/// Runs the benchmark for each workload, below `dir`.
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

/// A helper and the load generator's part of the task.
struct Bench {
    template: ServerTemplate,
    workload: Workload,
    token: Secret,
    leader: PartyContext,
    helper: PartyContext,
    keys: AggregatorKeys,
}

impl Bench {
    async fn new(workload: &Workload, dap: RevisionArg, dir: &Path) -> Result<Self, Failure> {
        let files = workload.task(dap.revision(), urls(dap.revision()))?;
        let (Some(ours), Some(task)) = (files.leader.aggregator_task(), files.helper.aggregator_task()) else {
            return Err(Failure::new("the task files do not belong to a leader and a helper"));
        };
        let model::Party::Leader { helper_token: token, .. } = ours.party.clone() else {
            return Err(Failure::new("the leader's task has no token for the helper"));
        };
        // No leader runs: only its keys are needed.
        let (leader, template) = (ServerTemplate::new(dir).await?, ServerTemplate::new(dir).await?);
        let keys = AggregatorKeys { leader: leader.public_key()?, helper: template.public_key()? };
        let (leader, helper) = (PartyContext::new(ours, leader.keys)?, template.add(task).await?);
        Ok(Self { template, workload: workload.clone(), token, leader, helper, keys })
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
                // Machines vary over time, so the limit is measured before and after each run.
                measured.runs.push(seen.into_run(shape, before.mean(after), machine));
                before = after;
            }
        }
        Ok(measured)
    }

    /// Generates as many prepared reports as the longest run may use.
    fn make(&self, options: &Options, time: Span) -> Result<Vec<PrepareInit>, Failure> {
        let one = || {
            let report = inputs::report(&self.leader.context, &self.keys, &self.workload.measurement)?;
            inputs::prepare_init(&self.leader, report)
        };
        let wanted = |some: &[PrepareInit]| {
            let limit = limit::helper(&self.helper, some, time / 10)?;
            Ok(limit.per_second() * time.as_secs_f64() * 1.2)
        };
        let largest = |numbers: &[u64]| numbers.iter().copied().max().unwrap_or(1) as usize;
        let fewest = inputs::MIN_ROUNDS * largest(&options.job_size) * largest(&options.in_flight);
        inputs::generate(one, inputs::init_bytes, wanted, fewest)
    }

    /// Encodes the requests of all full jobs.
    fn requests(&self, reports: &[PrepareInit], job_size: usize) -> Vec<Vec<u8>> {
        let context = &self.helper.context;
        let (task, wire) = (&context.task.public, context.wire);
        let request = |prepare_inits: &[PrepareInit]| {
            let job = AggregationJobId::random();
            let call = wire.create_request(ResourceKind::AggregationJob, &task.id, job.as_bytes());
            load::request(&task.helper_url, &call, Some(&self.token), &inputs::encode_job(context, prepare_inits))
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

    /// Sends the jobs to a fresh server.
    async fn run(self: &Arc<Self>, requests: &Arc<Vec<Vec<u8>>>, jobs: Jobs, time: Span) -> Result<RunSample, Failure> {
        let Jobs { size, in_flight } = jobs;
        let running = self.template.start(JobDriver::Enabled).await?;
        let (address, before) = (running.server.address(), running.server.commits());
        let spinner = style::spinner(&format!("{}: {in_flight} x {size}", self.workload));
        let shape =
            LoadSpec { connections: in_flight, threads: in_flight, time, answers: inputs::MIN_ROUNDS * in_flight };
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

    /// Generates the load and probes the server's latency meanwhile.
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

    /// Fails unless the helper accepted every report of a job.
    fn check(&self, answer: &[u8], size: usize) -> Result<(), Failure> {
        let resps = self.helper.context.wire.decode_job_resp(&Bytes::copy_from_slice(answer), size)?;
        let taken = resps.iter().filter(|resp| matches!(resp.outcome, PrepareOutcome::Continue(_))).count();
        if taken == size {
            return Ok(());
        }
        Err(Failure::new(format!("the helper accepted {taken} of a job's {size} reports")))
    }
}

/// Size and concurrency of the jobs of a run.
#[derive(Clone, Copy)]
struct Jobs {
    size: usize,
    in_flight: usize,
}

/// Measurements of one run.
struct RunSample {
    jobs: usize,
    reports_per_second: f64,
    cpu: Span,
    /// Cores used by other processes.
    others_cores: Option<f64>,
    commits: u64,
    hpke_config: Latency,
}

impl RunSample {
    fn into_run(self, shape: Jobs, limit: Rate, machine: &Machine) -> Run {
        let Self { jobs, reports_per_second, cpu, others_cores, commits, hpke_config } = self;
        let Jobs { size, in_flight } = shape;
        // With one job in flight, nothing is computed during its fdatasync.
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
