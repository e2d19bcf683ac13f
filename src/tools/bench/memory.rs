//! `dapbox bench memory`: peak memory of a leader and a helper that aggregate reports, each in its own process with the
//! default configuration.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration as Span, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{usage, workload::Workload};
use crate::{
    cli::{
        args::{Format, OutputArgs, RevisionArg},
        control::Socket,
        failure::{Failure, Outcome},
        local_pair::WorkDir,
        style::{self, Style, print},
        table::Table,
    },
    client::{Client, ClientError},
    model::{Report, TaskId},
    peer::{Peer, PeerOptions, RetryPolicy},
    vdaf::Measurement,
    wire,
};
use dapbox_support::clock;

/// Concurrent uploads.
const CONCURRENCY: usize = 16;
/// The benchmark fails after this time without progress.
const STALL_TIMEOUT: Span = Span::from_secs(60);

/// Arguments of `dapbox bench memory`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Starts a leader and a helper, each in its own process with the default configuration and options from \
    the environment. Prints the peak memory of each process (VmHWM) after the start, after the uploads and after the \
    aggregation. Linux only.\n\n\
    Examples:\n  \
    dapbox bench memory\n  \
    dapbox bench memory --dap 18 --vdaf count --reports 10000 -o json"
)]
pub struct Args {
    /// Number of reports.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    reports: u64,
    /// DAP revision.
    #[arg(long, value_enum, value_name = "REVISION", default_value_t = RevisionArg::default())]
    dap: RevisionArg,
    /// Workload: count, sum:BITS, histogram:BINS, sumvec:LENGTHxBITS or l1-bound-sum:LENGTHxMAX.
    #[arg(long, value_name = "VDAF", default_value = "sumvec:10000x1")]
    vdaf: Workload,
    #[command(flatten)]
    output: OutputArgs,
}

/// The results.
#[derive(Debug, Serialize)]
struct MemoryResults {
    /// The workload.
    vdaf: String,
    /// Number of aggregated reports.
    reports: u64,
    /// Total size of the leader's encrypted input shares, in bytes.
    leader_share_bytes: u64,
    /// Time from the last upload to the end of the aggregation, in seconds.
    aggregation_seconds: f64,
    leader: PeakMemory,
    helper: PeakMemory,
}

/// Peak memory of a process so far, in bytes.
#[derive(Debug, Default, Serialize)]
struct PeakMemory {
    started: u64,
    uploaded: u64,
    aggregated: u64,
}

/// Runs `dapbox bench memory`.
pub async fn run(args: Args) -> Outcome {
    let directory = WorkDir::new(None)?;
    let leader = ServerProcess::start(directory.path(), "leader")?;
    let helper = ServerProcess::start(directory.path(), "helper")?;
    let measured = measure(&args, &leader, &helper).await?;
    Ok(match args.output.format {
        Format::Json => print(serde_json::to_string_pretty(&measured)?),
        Format::Text => print(format_table(&measured)),
    }?)
}

async fn measure(args: &Args, leader: &ServerProcess, helper: &ServerProcess) -> Result<MemoryResults, Failure> {
    let revision = args.dap.revision();
    let urls = [leader, helper].map(|node| format!("{}/{}/", node.origin, wire::for_revision(revision).path_prefix()));
    let files = args.vdaf.task(revision, urls)?;
    let wrong_file = || Failure::new("the task files do not belong to a leader and a helper");
    leader.control.add_task(&files.leader.aggregator_task().ok_or_else(wrong_file)?).await?;
    helper.control.add_task(&files.helper.aggregator_task().ok_or_else(wrong_file)?).await?;

    let client = Client::new(files.client.parameters(), Peer::new(&PeerOptions::default())?, RetryPolicy::default())?;
    let reports = make_reports(&client, &args.vdaf.measurement, args.reports).await?;
    let mut peaks = [PeakMemory::default(), PeakMemory::default()];
    let nodes = [leader, helper];
    let look = |peaks: &mut [PeakMemory; 2], field: fn(&mut PeakMemory) -> &mut u64| -> Outcome {
        for (peaks, node) in peaks.iter_mut().zip(nodes) {
            *field(peaks) = node.peak()?;
        }
        Ok(())
    };
    look(&mut peaks, |peaks| &mut peaks.started)?;
    let leader_share_bytes = reports.iter().map(|report| report.leader_share.payload.len() as u64).sum();
    upload(&client, &reports).await?;
    drop(reports);
    look(&mut peaks, |peaks| &mut peaks.uploaded)?;
    let start = Instant::now();
    wait_for_aggregation(&leader.control, &files.client.task.id, args.reports).await?;
    let aggregation_seconds = start.elapsed().as_secs_f64();
    look(&mut peaks, |peaks| &mut peaks.aggregated)?;
    let [leader, helper] = peaks;
    Ok(MemoryResults {
        vdaf: args.vdaf.to_string(),
        reports: args.reports,
        leader_share_bytes,
        aggregation_seconds,
        leader,
        helper,
    })
}

async fn make_reports(client: &Client, measurement: &Measurement, count: u64) -> Result<Vec<Report>, Failure> {
    let bar = style::progress(count, "making reports");
    let items = stream::iter(0..count)
        .map(|_| client.prepare(measurement.clone(), clock::now()))
        .buffer_unordered(thread::available_parallelism().map_or(1, usize::from))
        .inspect_ok(|_| bar.inc(1));
    let reports = items.try_collect().await;
    bar.finish_and_clear();
    Ok(reports?)
}

async fn upload(client: &Client, reports: &[Report]) -> Outcome {
    let bar = style::progress(reports.len() as u64, "uploading");
    let uploads = stream::iter(reports).map(|report| client.send(std::slice::from_ref(report)));
    let mut uploads = uploads.buffer_unordered(CONCURRENCY);
    while let Some(refused) = uploads.next().await {
        if let Some((_, error)) = refused?.pop() {
            return Err(ClientError::Refused(error).into());
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

async fn wait_for_aggregation(leader: &Socket, id: &TaskId, total: u64) -> Outcome {
    let bar = style::progress(total, "aggregating");
    let (mut last, mut moved) = (0, Instant::now());
    while last < total {
        let status = leader.task(id).await?.ok_or_else(|| Failure::new("the task was removed"))?;
        if status.aggregated != last {
            (last, moved) = (status.aggregated, Instant::now());
            bar.set_position(last);
        }
        if moved.elapsed() > STALL_TIMEOUT {
            let trouble = status.last_error.as_deref().unwrap_or("no error was recorded");
            return Err(Failure::new(format!("aggregation stalled at {last} of {total} reports: {trouble}")));
        }
        tokio::time::sleep(Span::from_millis(20)).await;
    }
    bar.finish_and_clear();
    Ok(())
}

/// An aggregator in its own process, killed when this is dropped.
struct ServerProcess {
    origin: String,
    control: Socket,
    child: Child,
}

impl ServerProcess {
    fn start(dir: &Path, name: &str) -> Result<Self, Failure> {
        let data_dir = dir.join(name);
        let file = dir.join(format!("{name}-appliance.toml"));
        let text = format!(
            "data_dir = {data_dir:?}\nlisten = \"127.0.0.1:0\"\n[monitor]\nlisten = \"\"\n[log]\nformat = \"json\"\n"
        );
        fs::write(&file, text)?;
        let mut command = Command::new(std::env::current_exe()?);
        // DAPBOX_CONFIG would name another file. The other variables set options, which may be part of the measurement.
        command.arg("serve").arg("--config").arg(&file).env_remove("DAPBOX_CONFIG");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let control = Socket::new(data_dir.join("control.sock"))?;
        let mut node = Self { origin: String::new(), control, child };
        node.origin = format!("http://{}", node.address().map_err(|failure| failure.context(name))?);
        Ok(node)
    }

    /// Waits for the log line with the address, and drains the log from then on so that the server never blocks on it.
    fn address(&mut self) -> Result<String, Failure> {
        let stderr = self.child.stderr.take().ok_or_else(|| Failure::new("the process has no standard error"))?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // The receiver is gone once the address is known.
                let _ = sender.send(line);
            }
        });
        let mut said = Vec::new();
        while let Ok(line) = receiver.recv() {
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = entry["fields"]["address"].as_str().or(entry["address"].as_str()) {
                return Ok(address.to_owned());
            }
            said.push(line);
        }
        Err(Failure::new(format!("the server did not start: {}", said.join("; "))))
    }

    /// Peak memory of the process so far, in bytes.
    fn peak(&self) -> Result<u64, Failure> {
        usage::peak(self.child.id())
            .ok_or_else(|| Failure::new("this system does not report the peak memory of processes"))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Both fail if the process has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn format_table(measured: &MemoryResults) -> String {
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let MemoryResults { vdaf, reports, leader_share_bytes, aggregation_seconds, leader, helper } = measured;
    let mut table = Table::new(Style::stdout(), ["peak memory", "leader", "helper"]).right(1..3);
    let rows = [
        ("after the start", leader.started, helper.started),
        ("after the uploads", leader.uploaded, helper.uploaded),
        ("after aggregation", leader.aggregated, helper.aggregated),
    ];
    for (when, leader, helper) in rows {
        table.row([when.into(), mib(leader).into(), mib(helper).into()]);
    }
    let reports = style::counted(*reports, "report");
    let share = mib(*leader_share_bytes);
    format!("{reports} of {vdaf}\nleader's shares: {share}; aggregated in {aggregation_seconds:.2} s\n\n{table}")
}
