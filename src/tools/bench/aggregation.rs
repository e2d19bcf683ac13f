//! `dapbox bench aggregation`: aggregates waiting reports with a leader and a helper on this machine.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration as Span, Instant},
};

use serde::Serialize;

use super::{
    CommonArgs, cores,
    cores::Rate,
    cpu, inputs, limit,
    load::{self, LoadSpec},
    template::{JobDriver, PartyContext, RunningServer, ServerTemplate},
    upload,
    workload::{ORIGIN, Workload},
};
use crate::{
    aggregator::counters,
    cli::{failure::Failure, style},
    client::AggregatorKeys,
    config::Leader,
    model::{PrepareInit, Report, TaskId},
};

/// Interval between two looks at the progress.
const POLL_INTERVAL: Span = Span::from_millis(5);

/// The benchmark fails after this time without progress.
const STALL_TIMEOUT: Span = Span::from_secs(60);

/// Workloads measured by default.
const DEFAULT_WORKLOADS: [&str; 2] = ["count", "histogram:100"];

/// Arguments of `dapbox bench aggregation`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Reports to aggregate; by default as many whole jobs as run for about --seconds. A last, partial job waits for
    /// leader.max_job_delay and delays the result.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    reports: Option<u64>,
}

/// Results of one VDAF.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// The VDAF.
    pub vdaf: String,
    /// The protocol revision.
    pub revision: &'static str,
    /// Reports aggregated; fewer than uploaded is an error.
    pub reports: usize,
    /// Duration of the aggregation, in seconds.
    pub seconds: f64,
    /// Core time of the leader's cryptography per report, in microseconds.
    pub leader_us_per_report: f64,
    /// Core time of the helper's cryptography per report, in microseconds.
    pub helper_us_per_report: f64,
    /// Reports per second if only the cryptography of both parties ran, from memory on all cores.
    pub limit_reports_per_second: f64,
    /// Reports aggregated per second.
    pub reports_per_second: f64,
    /// Throughput divided by the limit.
    pub ratio: f64,
    /// Reports per day at this rate.
    pub reports_per_day: f64,
    /// Core time of both servers per report, in microseconds.
    pub cpu_us_per_report: f64,
    /// Share of the cores that this process had while the limit was measured.
    pub limit_cores_share: f64,
    /// Durable commits of the leader.
    pub leader_commits: u64,
    /// Durable commits of the helper.
    pub helper_commits: u64,
}

/// Runs the benchmark for each workload, below `dir`.
pub async fn measure(options: &Options, common: &CommonArgs, dir: &Path) -> Result<Vec<Results>, Failure> {
    let workloads = common.workloads(&DEFAULT_WORKLOADS)?;
    let mut all = Vec::with_capacity(workloads.len());
    for workload in &workloads {
        let helper = ServerTemplate::new(dir).await?;
        let theirs = helper.start(JobDriver::Enabled).await?;
        let bench = Bench::new(workload, common, dir, &helper, &theirs).await?;
        let measured = bench.measure(options.reports, common.seconds, &theirs).await;
        theirs.stop().await?;
        all.push(measured?);
    }
    Ok(all)
}

/// A leader, a helper and their common task.
struct Bench {
    template: ServerTemplate,
    workload: Workload,
    leader: PartyContext,
    helper: PartyContext,
    keys: AggregatorKeys,
}

/// The limits that cryptography sets.
struct Limits {
    helper: Rate,
    both: Rate,
}

impl Bench {
    /// Creates a task whose helper URL is the address of the running helper.
    async fn new(
        workload: &Workload,
        common: &CommonArgs,
        dir: &Path,
        helper: &ServerTemplate,
        theirs: &RunningServer,
    ) -> Result<Self, Failure> {
        let prefix = crate::wire::for_revision(common.dap.revision()).path_prefix();
        let urls = [format!("{ORIGIN}{prefix}/"), format!("http://{}/{prefix}/", theirs.server.address())];
        let files = workload.task(common.dap.revision(), urls)?;
        let (Some(ours), Some(task)) = (files.leader.aggregator_task(), files.helper.aggregator_task()) else {
            return Err(Failure::new("the task files do not belong to a leader and a helper"));
        };
        theirs.add(&task).await?;
        let template = ServerTemplate::new(dir).await?;
        let keys = AggregatorKeys { leader: template.public_key()?, helper: helper.public_key()? };
        let leader = template.add(ours).await?;
        let helper = PartyContext::new(task, helper.keys.clone())?;
        Ok(Self { template, workload: workload.clone(), leader, helper, keys })
    }

    async fn measure(self, number: Option<u64>, time: Span, theirs: &RunningServer) -> Result<Results, Failure> {
        let bench = Arc::new(self);
        let shared = bench.clone();
        let reports = Arc::new(tokio::task::spawn_blocking(move || shared.make(number, time)).await??);
        let before = bench.limits(&reports, time).await?;
        let ours = bench.upload_reports(&reports).await?;
        let ran = bench.aggregate(ours, theirs, reports.len()).await?;
        let after = bench.limits(&reports, time).await?;
        let (both, helper) = (before.both.mean(after.both), before.helper.mean(after.helper));
        let us = |time: Span| time.as_secs_f64() * 1e6;
        let number = reports.len() as f64;
        let reports_per_second = number / ran.time.as_secs_f64();
        Ok(Results {
            vdaf: bench.workload.to_string(),
            revision: bench.leader.context.wire.path_prefix(),
            reports: reports.len(),
            seconds: ran.time.as_secs_f64(),
            leader_us_per_report: us(both.each.saturating_sub(helper.each)),
            helper_us_per_report: us(helper.each),
            limit_reports_per_second: both.per_second(),
            reports_per_second,
            ratio: reports_per_second / both.per_second(),
            reports_per_day: reports_per_second * 86_400.0,
            cpu_us_per_report: us(ran.cpu) / number,
            limit_cores_share: both.share,
            leader_commits: ran.leader_commits,
            helper_commits: ran.helper_commits,
        })
    }

    fn make(&self, number: Option<u64>, time: Span) -> Result<Vec<Report>, Failure> {
        let one = || inputs::report(&self.leader.context, &self.keys, &self.workload.measurement);
        if let Some(number) = number {
            let bar = style::progress(number, "making");
            let reports = cores::generate(number as usize, &bar, one);
            bar.finish_and_clear();
            return reports;
        }
        let wanted = |some: &[Report]| {
            let limit = limit::both(&self.leader, &self.helper, some, time / 10)?;
            Ok(limit.per_second() * time.as_secs_f64())
        };
        let mut reports = inputs::generate(one, inputs::report_bytes, wanted, 1)?;
        // A partial job waits for more reports, and that delay must not be measured.
        let job_size = Leader::default().max_job_size;
        if reports.len() > job_size {
            reports.truncate(reports.len() / job_size * job_size);
        }
        Ok(reports)
    }

    async fn limits(self: &Arc<Self>, reports: &Arc<Vec<Report>>, time: Span) -> Result<Limits, Failure> {
        let (bench, reports, time) = (self.clone(), reports.clone(), time.min(limit::TIME));
        let limits = move || {
            let both = limit::both(&bench.leader, &bench.helper, &reports, time)?;
            let some = reports.iter().take(1000).cloned();
            let prepare_inits: Vec<PrepareInit> =
                some.map(|report| inputs::prepare_init(&bench.leader, report)).collect::<Result<_, _>>()?;
            let helper = limit::helper(&bench.helper, &prepare_inits, time)?;
            Ok::<_, Failure>(Limits { helper, both })
        };
        let spinner = style::spinner(&format!("{}: the limit", self.workload));
        let limits = tokio::task::spawn_blocking(limits).await?;
        spinner.finish_and_clear();
        limits
    }

    /// Uploads the reports to a leader that does not aggregate yet.
    async fn upload_reports(self: &Arc<Self>, reports: &Arc<Vec<Report>>) -> Result<RunningServer, Failure> {
        let running = self.template.start(JobDriver::Disabled).await?;
        let (address, bench, reports) = (running.server.address(), self.clone(), reports.clone());
        let spinner = style::spinner(&format!("{}: uploading", self.workload));
        let upload = move || {
            let requests: Vec<_> = reports.chunks(1).map(|report| upload::request(&bench.leader, report)).collect();
            let connections = 16.min(requests.len());
            let all = LoadSpec { connections, threads: 1, time: Span::ZERO, answers: requests.len() };
            load::run(address, &requests, all).map(drop)
        };
        let uploaded = tokio::task::spawn_blocking(upload).await?;
        spinner.finish_and_clear();
        uploaded.map(|()| running)
    }

    /// Starts aggregation and waits until both parties have aggregated all reports.
    async fn aggregate(
        &self,
        ours: RunningServer,
        theirs: &RunningServer,
        number: usize,
    ) -> Result<AggregationRun, Failure> {
        let task = self.leader.context.task.public.id;
        let bar = style::progress(number as u64, "aggregating");
        let helper_before = theirs.server.commits();
        let ours = ours.restart(JobDriver::Enabled).await?;
        let (begin, cpu) = (Instant::now(), cpu::process_time());
        let (mut seen, mut seen_at) = (0, begin);
        let done = loop {
            let aggregated = aggregated_count(&ours, &task)?;
            bar.set_position(aggregated);
            if aggregated >= number as u64 {
                break Ok(());
            }
            if aggregated > seen {
                (seen, seen_at) = (aggregated, Instant::now());
            } else if seen_at.elapsed() > STALL_TIMEOUT {
                break Err(Failure::new(format!("aggregation stalled at {seen} of {number} reports")));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        let (time, cpu) = (begin.elapsed(), cpu::process_time().saturating_sub(cpu));
        bar.finish_and_clear();
        let ran = AggregationRun {
            time,
            cpu,
            leader_commits: ours.server.commits(),
            helper_commits: theirs.server.commits() - helper_before,
        };
        let theirs = aggregated_count(theirs, &task)?;
        ours.stop().await?;
        done?;
        if theirs != number as u64 {
            return Err(Failure::new(format!("the helper aggregated {theirs} of {number} reports")));
        }
        Ok(ran)
    }
}

/// Measurements of one aggregation.
struct AggregationRun {
    time: Span,
    cpu: Span,
    leader_commits: u64,
    helper_commits: u64,
}

fn aggregated_count(server: &RunningServer, task: &TaskId) -> Result<u64, Failure> {
    Ok(server.status(task)?.counters.get(counters::AGGREGATE_SUCCESS).copied().unwrap_or_default())
}
