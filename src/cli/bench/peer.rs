//! `dapbox bench peer`: aggregation jobs at a helper that runs elsewhere, whoever wrote it.

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
    cores, helper,
    load::Latency,
    made,
    stage::{PartyContext, ServerTemplate},
    table, workload,
};
use crate::{
    cli::{
        Failure, Outcome,
        args::{Format, PeerArgs},
        local::Directory,
        style::{self, say},
        taskfile::TaskFile,
    },
    client::{AggregatorKeys, Client},
    model::{self, AggregationJobId, BaseUrl, PrepareOutcome, PrepareResp, ReportError, Role, Secret, TaskParameters},
    peer::{Peer, RetryPolicy},
    support::format,
    vdaf::Measurement,
    wire::ResourceKind,
};

/// How long a helper is left alone that does not say when to ask again.
const DEFAULT_RETRY_DELAY: Span = Span::from_millis(100);
/// The longest answer to a job, in bytes, and how long it may take.
const MAX_RESPONSE_BYTES: usize = 256 << 20;
const RESPONSE_TIMEOUT: Span = Span::from_secs(120);

/// Arguments of `dapbox bench peer`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Takes the part of the leader: makes reports, and sends them to the helper in jobs. They are \
    taken like any others, and stay there: have a task made for this, and remove it when you are done.\n\n\
    What is measured is the helper with its machine and the network between. To compare two of them, measure both from the \
    same place, one after the other.\n\n\
    Examples:\n  \
    dapbox bench peer --task leader.toml\n  \
    dapbox bench peer --task leader.toml --at http://127.0.0.1:9002/dap-09/ \\\n      --reports 20000 --job-size 500 --in-flight 1,10 -o json")]
pub struct Args {
    /// The leader's file of a task that the helper has.
    #[arg(long, value_name = "FILE")]
    task: PathBuf,
    /// Where the helper speaks DAP, if it is to be reached elsewhere than the task says.
    #[arg(long, value_name = "URL")]
    at: Option<BaseUrl>,
    /// Reports in each run, made beforehand; as many more as the last job needs.
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    reports: u64,
    #[command(flatten)]
    jobs: helper::Options,
    #[command(flatten)]
    peer: PeerArgs,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What was measured of a helper.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Where it is.
    pub helper: String,
    /// The VDAF.
    pub vdaf: String,
    /// The revision of the protocol.
    pub revision: &'static str,
    /// The runs.
    pub runs: Vec<Run>,
}

/// What was measured with one job size and number of jobs in flight.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Reports in each job.
    pub job_size: usize,
    /// Jobs at the same time.
    pub jobs_in_flight: usize,
    /// Jobs that were answered.
    pub jobs: usize,
    /// Reports that the helper has taken.
    pub reports: usize,
    /// Reports that it has refused, by its reasons.
    pub refused: BTreeMap<ReportError, usize>,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Reports that were taken in a second.
    pub reports_per_second: f64,
    /// What that is in a day.
    pub reports_per_day: f64,
    /// How long jobs took.
    pub job: Latency,
}

/// Runs `dapbox bench peer`.
pub async fn run(args: Args) -> Outcome {
    let directory = Directory::within(None)?;
    let bench = Arc::new(Bench::new(&args, directory.path()).await?);
    let mut runs = Vec::new();
    for size in &args.jobs.job_size {
        for in_flight in &args.jobs.in_flight {
            let jobs = bench.clone().prepare(args.reports, *size as usize).await?;
            runs.push(bench.send(jobs, *size as usize, *in_flight as usize).await?);
        }
    }
    let task = bench.task();
    let measured = Results {
        helper: bench.url.clone(),
        vdaf: format::vdaf(&task.vdaf),
        revision: bench.leader.context.wire.path_prefix(),
        runs,
    };
    Ok(say(match args.output {
        Format::Json => serde_json::to_string_pretty(&measured)?,
        Format::Text => table::peer(&measured),
    })?)
}

/// The leader, as far as the helper can see.
struct Bench {
    leader: PartyContext,
    keys: AggregatorKeys,
    measurement: Measurement,
    token: Secret,
    peer: Peer,
    /// Where the helper is.
    url: String,
}

impl Bench {
    /// Reads the task and asks the helper for its key. There is no leader but for a key, which is made below `dir`.
    async fn new(args: &Args, dir: &Path) -> Result<Self, Failure> {
        let task = TaskFile::read(&args.task)?.aggregator_task();
        let found = task.and_then(|task| match task.party.clone() {
            model::Party::Leader { helper_token, .. } => Some((task, helper_token)),
            model::Party::Helper { .. } => None,
        });
        let (task, token) = found.ok_or_else(|| {
            Failure::usage("is not the leader's file, which 'dapbox task new' calls leader.toml")
                .context(args.task.display())
        })?;
        let url = args.at.as_ref().map_or_else(|| task.public.helper_url.clone(), |url| url.as_str().to_owned());
        let peer = args.peer.peer()?.within(RESPONSE_TIMEOUT, MAX_RESPONSE_BYTES);
        let there = TaskParameters { helper_url: url.clone(), ..task.public.clone() };
        let helper = Client::new(there, peer.clone(), RetryPolicy::default())?.key(Role::Helper).await?;
        let stage = ServerTemplate::new(dir).await?;
        let keys = AggregatorKeys { leader: stage.public_key()?, helper };
        let measurement = workload::measurement(&task.public.vdaf);
        Ok(Self { leader: PartyContext::new(task, stage.keys)?, keys, measurement, token, peer, url })
    }

    fn task(&self) -> &TaskParameters {
        &self.leader.context.task.public
    }

    /// The requests for jobs of whole size: each report can be sent once only.
    async fn prepare(self: Arc<Self>, reports: u64, size: usize) -> Result<Vec<Bytes>, Failure> {
        let number = (reports as usize).next_multiple_of(size);
        let make = move || {
            let bar = style::progress(number as u64, "making");
            let one =
                || made::prepare_init(&self.leader, made::report(&self.leader.context, &self.keys, &self.measurement)?);
            let prepare_inits = cores::generate(number, &bar, one)?;
            bar.finish_and_clear();
            Ok(prepare_inits
                .chunks_exact(size)
                .map(|prepare_inits| made::encode_job(&self.leader.context, prepare_inits).into())
                .collect())
        };
        tokio::task::spawn_blocking(make).await?
    }

    /// Sends all jobs, so many at a time, and sees what the helper says of their reports.
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
            return Err(Failure::new(format!("the helper takes none of the reports: {}", reasons.join(", "))));
        }
        run.reports_per_second = run.reports as f64 / run.seconds;
        run.reports_per_day = run.reports_per_second * 86_400.0;
        Ok(run)
    }

    /// Sends a job and waits for what the helper makes of it.
    async fn job(&self, request: Bytes, size: usize) -> Result<(Span, Vec<PrepareResp>), Failure> {
        let wire = self.leader.context.wire;
        let begin = Instant::now();
        let (mut body, mut place) = (request, None);
        let mut call =
            wire.create_request(ResourceKind::AggregationJob, &self.task().id, AggregationJobId::random().as_bytes());
        loop {
            let reply = self.peer.ask(&self.url, &call, Some(&self.token), body).await?;
            if let Some(answer) = reply.ready {
                return Ok((begin.elapsed(), wire.decode_job_resp(&answer, size)?));
            }
            place = reply.location.or(place);
            let poll = place.as_deref().and_then(|place| wire.poll_request(ResourceKind::AggregationJob, place));
            call = poll.ok_or_else(|| Failure::new("the helper does not say where the answer to a job will be"))?;
            body = Bytes::new();
            sleep(reply.retry_after.unwrap_or(DEFAULT_RETRY_DELAY)).await;
        }
    }
}
