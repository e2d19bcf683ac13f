//! `dapbox bench peer`: sends aggregation jobs to a helper that runs elsewhere, of any implementation.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration as Span, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tokio::time::sleep;

use super::{
    cores, helper, inputs,
    load::Latency,
    template::{PartyContext, ServerTemplate},
    workload,
};
use crate::{
    cli::{
        args::{OutputArgs, PeerArgs},
        failure::Failure,
        local_pair::WorkDir,
        style,
        taskfile::TaskFile,
    },
    client::{AggregatorKeys, Client},
    model::{self, AggregationJobId, BaseUrl, PrepareOutcome, PrepareResp, ReportError, Role, Secret, TaskParameters},
    peer::{Peer, RetryPolicy},
    support::format,
    vdaf::Measurement,
    wire::ResourceKind,
};

/// Interval between polls if the helper does not send Retry-After.
const DEFAULT_RETRY_DELAY: Span = Span::from_millis(100);
/// Maximum length of a response to a job, in bytes, and its time limit.
const MAX_RESPONSE_BYTES: usize = 256 << 20;
const RESPONSE_TIMEOUT: Span = Span::from_secs(120);

/// Arguments of `dapbox bench peer`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Acts as the leader: generates reports and sends them to the helper in aggregation jobs. The \
helper stores them like any others: use a task made for this, and remove it afterwards.\n\n\
The result includes the helper's machine and the network. To compare two helpers, measure both from the same \
machine, one after the other.\n\n\
    Examples:\n  \
    dapbox bench peer --task leader.toml\n  \
    dapbox bench peer --task leader.toml \\\n      --helper-url http://127.0.0.1:9002/dap-09/ \\\n      --reports 20000 --job-size 500 --in-flight 1,10 -o json")]
pub struct Args {
    /// The leader's task file.
    #[arg(long, value_name = "FILE")]
    task: PathBuf,
    /// DAP URL of the helper, if it differs from the one in the task.
    #[arg(long, value_name = "URL")]
    helper_url: Option<BaseUrl>,
    /// Reports per run, rounded up to full jobs.
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    reports: u64,
    #[command(flatten)]
    jobs: helper::Options,
    #[command(flatten)]
    peer: PeerArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Results of one helper.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// The DAP URL of the helper.
    pub helper: String,
    /// The VDAF.
    pub vdaf: String,
    /// The protocol revision.
    pub revision: &'static str,
    /// The runs.
    pub runs: Vec<Run>,
}

/// Results of one job size and number of jobs in flight.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Reports per job.
    pub job_size: usize,
    /// Concurrent jobs.
    pub jobs_in_flight: usize,
    /// Answered jobs.
    pub jobs: usize,
    /// Accepted reports.
    pub reports: usize,
    /// Rejected reports, by error.
    pub refused: BTreeMap<ReportError, usize>,
    /// Time from the first request to the last response, in seconds.
    pub seconds: f64,
    /// Reports accepted per second.
    pub reports_per_second: f64,
    /// Reports per day at this rate.
    pub reports_per_day: f64,
    /// Latency of jobs.
    pub job: Latency,
}

/// Runs the benchmark.
pub async fn measure(args: &Args) -> Result<Results, Failure> {
    let directory = WorkDir::within(None)?;
    let bench = Arc::new(Bench::new(args, directory.path()).await?);
    let mut runs = Vec::new();
    for size in &args.jobs.job_size {
        for in_flight in &args.jobs.in_flight {
            let jobs = bench.clone().prepare(args.reports, *size as usize).await?;
            runs.push(bench.send(jobs, *size as usize, *in_flight as usize).await?);
        }
    }
    let task = bench.task();
    Ok(Results {
        helper: bench.url.clone(),
        vdaf: format::vdaf(&task.vdaf),
        revision: bench.leader.context.wire.path_prefix(),
        runs,
    })
}

/// The leader as seen by the helper.
struct Bench {
    leader: PartyContext,
    keys: AggregatorKeys,
    measurement: Measurement,
    token: Secret,
    peer: Peer,
    /// The DAP URL of the helper.
    url: String,
}

impl Bench {
    /// Reads the task and fetches the helper's key. The leader's own key is generated below `dir`.
    async fn new(args: &Args, dir: &Path) -> Result<Self, Failure> {
        let task = TaskFile::read(&args.task)?.aggregator_task();
        let found = task.and_then(|task| match task.party.clone() {
            model::Party::Leader { helper_token, .. } => Some((task, helper_token)),
            model::Party::Helper { .. } => None,
        });
        let (task, token) = found.ok_or_else(|| {
            Failure::usage("not a leader's task file (leader.toml of 'dapbox task new')").context(args.task.display())
        })?;
        let url =
            args.helper_url.as_ref().map_or_else(|| task.public.helper_url.clone(), |url| url.as_str().to_owned());
        let peer = args.peer.peer()?.with_limits(RESPONSE_TIMEOUT, MAX_RESPONSE_BYTES);
        let there = TaskParameters { helper_url: url.clone(), ..task.public.clone() };
        let helper = Client::new(there, peer.clone(), RetryPolicy::default())?.key(Role::Helper).await?;
        let template = ServerTemplate::new(dir).await?;
        let keys = AggregatorKeys { leader: template.public_key()?, helper };
        let measurement = workload::measurement(&task.public.vdaf);
        Ok(Self { leader: PartyContext::new(task, template.keys)?, keys, measurement, token, peer, url })
    }

    fn task(&self) -> &TaskParameters {
        &self.leader.context.task.public
    }

    /// Encodes the requests of full jobs. Each report can be sent only once.
    async fn prepare(self: Arc<Self>, reports: u64, size: usize) -> Result<Vec<Bytes>, Failure> {
        let number = (reports as usize).next_multiple_of(size);
        let make = move || {
            let bar = style::progress(number as u64, "making");
            let one = || {
                inputs::prepare_init(&self.leader, inputs::report(&self.leader.context, &self.keys, &self.measurement)?)
            };
            let prepare_inits = cores::generate(number, &bar, one)?;
            bar.finish_and_clear();
            Ok(prepare_inits
                .chunks_exact(size)
                .map(|prepare_inits| inputs::encode_job(&self.leader.context, prepare_inits).into())
                .collect())
        };
        tokio::task::spawn_blocking(make).await?
    }

    /// Sends all jobs, `in_flight` at a time, and counts the accepted and rejected reports.
    async fn send(&self, jobs: Vec<Bytes>, size: usize, in_flight: usize) -> Result<Run, Failure> {
        let bar = style::progress(jobs.len() as u64, "sending");
        let begin = Instant::now();
        let answers = stream::iter(jobs).map(|request| async {
            let answer = self.job(request, size).await;
            bar.inc(1);
            answer
        });
        let answers: Vec<(Span, Vec<PrepareResp>)> = answers.buffer_unordered(in_flight).try_collect().await?;
        let took = begin.elapsed();
        bar.finish_and_clear();
        let mut run = Run {
            job_size: size,
            jobs_in_flight: in_flight,
            jobs: answers.len(),
            reports: 0,
            refused: BTreeMap::new(),
            seconds: took.as_secs_f64(),
            reports_per_second: 0.0,
            reports_per_day: 0.0,
            job: Latency::of(answers.iter().map(|(took, _)| *took).collect()),
        };
        for resp in answers.iter().flat_map(|(_, resps)| resps) {
            match &resp.outcome {
                PrepareOutcome::Continue(_) | PrepareOutcome::Finished => run.reports += 1,
                PrepareOutcome::Reject(error) => *run.refused.entry(*error).or_default() += 1,
            }
        }
        if run.reports == 0 {
            let reasons: Vec<_> = run.refused.keys().map(ToString::to_string).collect();
            return Err(Failure::new(format!("the helper rejected all reports: {}", reasons.join(", "))));
        }
        run.reports_per_second = run.reports as f64 / run.seconds;
        run.reports_per_day = run.reports_per_second * 86_400.0;
        Ok(run)
    }

    /// Sends a job and polls until the helper has answered it.
    async fn job(&self, request: Bytes, size: usize) -> Result<(Span, Vec<PrepareResp>), Failure> {
        let wire = self.leader.context.wire;
        let begin = Instant::now();
        let (mut body, mut location) = (request, None);
        let mut call =
            wire.create_request(ResourceKind::AggregationJob, &self.task().id, AggregationJobId::random().as_bytes());
        loop {
            let reply = self.peer.ask(&self.url, &call, Some(&self.token), body).await?;
            if let Some(answer) = reply.ready {
                return Ok((begin.elapsed(), wire.decode_job_resp(&answer, size)?));
            }
            location = reply.location.or(location);
            let poll =
                location.as_deref().and_then(|location| wire.poll_request(ResourceKind::AggregationJob, location));
            call = poll.ok_or_else(|| Failure::new("the helper did not send the location of the job's result"))?;
            body = Bytes::new();
            sleep(reply.retry_after.unwrap_or(DEFAULT_RETRY_DELAY)).await;
        }
    }
}
