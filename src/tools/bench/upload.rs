//! `dapbox bench upload`: uploads reports to a leader, like clients.

use std::{path::Path, sync::Arc, time::Duration as Span};

use serde::Serialize;

use super::{
    CommonArgs, cores, cpu, inputs,
    load::{self, Latency, LoadSpec},
    template::{JobDriver, PartyContext, ServerTemplate},
    workload::{Workload, urls},
};
use crate::{
    cli::{failure::Failure, style},
    client::AggregatorKeys,
    hpke::{Keypair, Suite},
    model::Report,
};

/// Maximum rate that requests are generated for, per second.
const FASTEST: f64 = 30_000.0;

/// Workloads measured by default.
const DEFAULT_WORKLOADS: [&str; 2] = ["count", "histogram:100"];

/// Arguments of `dapbox bench upload`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Concurrent connections, each with one request at a time.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [10, 128],
        value_parser = clap::value_parser!(u64).range(1..=1000))]
    connections: Vec<u64>,
    /// Reports per request; more than 1 with --dap 18 or 19.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    reports_per_upload: u64,
}

/// Results of one VDAF.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// The VDAF.
    pub vdaf: String,
    /// The protocol revision.
    pub revision: &'static str,
    /// Length of a request, in bytes.
    pub request_bytes: usize,
    /// The runs.
    pub runs: Vec<Run>,
}

/// Results of one number of connections.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Number of connections, each with one request at a time.
    pub connections: usize,
    /// Reports stored durably per second.
    pub reports_per_second: f64,
    /// Reports per day at this rate.
    pub reports_per_day: f64,
    /// Accepted reports; a rejected report is an error.
    pub reports: usize,
    /// Durable commits.
    pub commits: u64,
    /// Reports per commit.
    pub reports_per_commit: f64,
    /// Latency of responses.
    pub latency: Latency,
    /// Core time of the server per report, in microseconds.
    pub server_cpu_us_per_report: f64,
    /// Core time of the load generator per request, in microseconds.
    pub generator_cpu_us_per_request: f64,
}

/// Runs the benchmark for each workload, below `dir`.
pub async fn measure(options: &Options, common: &CommonArgs, dir: &Path) -> Result<Vec<Results>, Failure> {
    let most = crate::wire::for_revision(common.dap.revision()).reports_per_upload() as u64;
    if options.reports_per_upload > most {
        return Err(Failure::usage(format!(
            "--reports-per-upload: this revision allows at most {} per request",
            style::counted(most, "report")
        )));
    }
    let workloads = common.workloads(&DEFAULT_WORKLOADS)?;
    let mut all = Vec::with_capacity(workloads.len());
    for workload in &workloads {
        all.push(measure_one(workload, options, common, dir).await?);
    }
    Ok(all)
}

async fn measure_one(
    workload: &Workload,
    options: &Options,
    common: &CommonArgs,
    dir: &Path,
) -> Result<Results, Failure> {
    let revision = common.dap.revision();
    let files = workload.task(revision, urls(revision))?;
    let task = files.leader.aggregator_task().ok_or_else(|| Failure::new("the leader's file contains no task"))?;
    let template = ServerTemplate::new(dir).await?;
    let leader = template.add(task).await?;
    let helper = Keypair::generate(1, Suite::DEFAULT)?;
    let keys = AggregatorKeys { leader: template.public_key()?, helper: helper.config().clone() };

    let (workload, time, together) = (workload.clone(), common.seconds, options.reports_per_upload as usize);
    let most = options.connections.iter().copied().max().unwrap_or(1) as usize;
    let party = leader.clone();
    let requests = tokio::task::spawn_blocking(move || -> Result<_, Failure> {
        let one = || inputs::report(&party.context, &keys, &workload.measurement);
        let fewest = together * inputs::MIN_ROUNDS * most;
        let reports = inputs::generate(one, inputs::report_bytes, |_| Ok(FASTEST * time.as_secs_f64()), fewest)?;
        let name = workload.to_string();
        Ok((name, reports.chunks_exact(together).map(|reports| request(&party, reports)).collect::<Vec<_>>()))
    });
    let (vdaf, requests) = requests.await??;
    let requests = Arc::new(requests);
    let request_bytes = requests.first().map_or(0, Vec::len);
    let mut measured = Results { vdaf, revision: leader.context.wire.path_prefix(), request_bytes, runs: Vec::new() };
    for connections in &options.connections {
        let shape = LoadSpec {
            connections: *connections as usize,
            threads: cores::count().min(*connections as usize),
            time,
            answers: inputs::MIN_ROUNDS * *connections as usize,
        };
        measured.runs.push(run(&template, &leader, &requests, together, shape).await?);
    }
    Ok(measured)
}

/// Encodes the request that uploads reports.
pub fn request(leader: &PartyContext, reports: &[Report]) -> Vec<u8> {
    let (task, wire) = (&leader.context.task.public, leader.context.wire);
    load::request(&task.leader_url, &wire.upload_request(&task.id), None, &wire.encode_upload(task, reports))
}

async fn run(
    template: &ServerTemplate,
    leader: &PartyContext,
    requests: &Arc<Vec<Vec<u8>>>,
    together: usize,
    shape: LoadSpec,
) -> Result<Run, Failure> {
    let running = template.start(JobDriver::Disabled).await?;
    let (address, before, requests) = (running.server.address(), running.server.commits(), requests.clone());
    let spinner = style::spinner(&format!("uploading over {}", style::counted(shape.connections as u64, "connection")));
    let cpu = cpu::process_time();
    let outcome = tokio::task::spawn_blocking(move || load::run(address, &requests, shape)).await??;
    let cpu = cpu::process_time().saturating_sub(cpu);
    let commits = running.server.commits() - before;
    spinner.finish_and_clear();
    let (uploads, reports) = (outcome.exchanges.len(), outcome.exchanges.len() * together);
    let waiting = running.status(&leader.context.task.public.id)?.waiting;
    running.stop().await?;
    if waiting != reports as u64 || outcome.exchanges.iter().any(|exchange| !exchange.answer.is_empty()) {
        return Err(Failure::new(format!("the leader stored {waiting} of {reports} uploaded reports")));
    }
    let each = |time: Span, number: usize| time.as_secs_f64() * 1e6 / number as f64;
    let reports_per_second = outcome.per_second * together as f64;
    Ok(Run {
        connections: shape.connections,
        reports_per_second,
        reports_per_day: reports_per_second * 86_400.0,
        reports,
        commits,
        reports_per_commit: reports as f64 / commits as f64,
        latency: outcome.latency(),
        server_cpu_us_per_report: each(cpu.saturating_sub(outcome.cpu), reports),
        generator_cpu_us_per_request: each(outcome.cpu, uploads),
    })
}
