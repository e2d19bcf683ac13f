//! Results as text.

use super::{aggregation, helper, peer, upload};
use crate::cli::{
    style::{self, Style},
    table::{Cell, Table},
};

/// Maximum width of a note, in characters.
const WIDTH: usize = 98;

/// The results of `bench helper`.
pub fn helper(measured: &[helper::Results]) -> String {
    let style = Style::stdout();
    let mut lines = Vec::new();
    for helper::Results { vdaf, revision, runs, reports_made } in measured {
        let made = style::count(*reports_made as u64);
        lines.push(style.bold(&format!("helper, {vdaf}, {revision} ({made} reports generated in advance)")));
        let mut table = Table::new(
            style,
            [
                "size", "jobs", "limit us", "cpu us", "limit/s", "server/s", "ratio", "per day", "commits", "each",
                "p50 ms", "p99 ms", "max ms",
            ],
        )
        .right(0..13);
        for run in runs {
            table.row([
                run.job_size.into(),
                run.jobs_in_flight.into(),
                decimals(run.limit_us_per_report, 1),
                decimals(run.server_cpu_us_per_report, 1),
                style::count(run.limit_reports_per_second as u64).into(),
                style::count(run.reports_per_second as u64).into(),
                decimals(run.ratio, 2),
                large(run.reports_per_day).into(),
                style::count(run.commits).into(),
                decimals(run.reports_per_commit, 0),
                decimals(run.hpke_config.median_ms, 1),
                decimals(run.hpke_config.p99_ms, 1),
                decimals(run.hpke_config.max_ms, 1),
            ]);
        }
        lines.push(table.to_string());
    }
    let note = "size: reports per job. jobs: in flight. limit us: core time to open and prepare a report. cpu us: core \
        time of the server per report. limit/s: reports per second on all cores, cryptography only. server/s: reports \
        per second over HTTP with durable commits. ratio: server/s by limit/s; with one job in flight, the limit \
        includes an fdatasync per job. each: reports per commit. ms: latency of hpke_config during the run.";
    lines.push(style.dim(&wrapped(note)));
    let ours = |run: &helper::Run| run.limit_cores_share.min(1.0 - run.others_cores_share.unwrap_or_default());
    lines.extend(busy(measured.iter().flat_map(|measured| &measured.runs).map(ours)));
    lines.join("\n")
}

/// The results of `bench peer`.
pub fn peer(measured: &peer::Results) -> String {
    let style = Style::stdout();
    let peer::Results { helper, vdaf, revision, runs } = measured;
    let mut lines = vec![style.bold(&format!("{helper}, {vdaf}, {revision}"))];
    let header = ["size", "jobs", "reports", "refused", "reports/s", "per day", "p50 ms", "p99 ms"];
    let mut table = Table::new(style, header).right(0..8);
    for run in runs {
        table.row([
            run.job_size.into(),
            run.jobs_in_flight.into(),
            style::count(run.reports as u64).into(),
            style::count(run.refused.values().sum::<usize>() as u64).into(),
            style::count(run.reports_per_second as u64).into(),
            large(run.reports_per_day).into(),
            decimals(run.job.median_ms, 1),
            decimals(run.job.p99_ms, 1),
        ]);
    }
    lines.push(table.to_string());
    let note = "size: reports per job. jobs: in flight. reports: accepted by the helper. ms: from the request of a job to its \
        result, including the network.";
    lines.push(style.dim(&wrapped(note)));
    lines.join("\n")
}

/// The results of `bench upload`.
pub fn upload(measured: &[upload::Results]) -> String {
    let style = Style::stdout();
    let mut lines = Vec::new();
    for upload::Results { vdaf, revision, request_bytes, runs } in measured {
        let bytes = style::count(*request_bytes as u64);
        lines.push(style.bold(&format!("upload, {vdaf}, {revision} (requests of {bytes} bytes)")));
        let mut table = Table::new(
            style,
            [
                "connections",
                "reports/s",
                "per day",
                "commits",
                "each",
                "p50 ms",
                "p99 ms",
                "max ms",
                "cpu us",
                "load us",
            ],
        )
        .right(0..10);
        for run in runs {
            table.row([
                run.connections.into(),
                style::count(run.reports_per_second as u64).into(),
                large(run.reports_per_day).into(),
                style::count(run.commits).into(),
                decimals(run.reports_per_commit, 0),
                decimals(run.latency.median_ms, 2),
                decimals(run.latency.p99_ms, 2),
                decimals(run.latency.max_ms, 2),
                decimals(run.server_cpu_us_per_report, 1),
                decimals(run.generator_cpu_us_per_request, 1),
            ]);
        }
        lines.push(table.to_string());
    }
    let note = "reports/s: stored durably. each: reports per commit. ms: from request to response. cpu us: core time of \
        the server per report. load us: core time of the load generator per request, on the same cores.";
    lines.push(style.dim(&wrapped(note)));
    lines.join("\n")
}

/// The results of `bench aggregation`.
pub fn aggregation(measured: &[aggregation::Results]) -> String {
    let style = Style::stdout();
    let mut table = Table::new(
        style,
        ["aggregation", "reports", "leader us", "helper us", "cpu us", "limit/s", "both/s", "ratio", "per day"],
    )
    .right(1..9);
    for run in measured {
        table.row([
            format!("{}, {}", run.vdaf, run.revision).into(),
            style::count(run.reports as u64).into(),
            decimals(run.leader_us_per_report, 1),
            decimals(run.helper_us_per_report, 1),
            decimals(run.cpu_us_per_report, 1),
            style::count(run.limit_reports_per_second as u64).into(),
            style::count(run.reports_per_second as u64).into(),
            decimals(run.ratio, 2),
            large(run.reports_per_day).into(),
        ]);
    }
    let note = "Leader and helper share all cores. leader us, helper us: core time of cryptography per report. cpu us: core \
        time of both servers per report. limit/s: reports per second, cryptography only. both/s: reports per second, from \
        the leader's first job to the last aggregated report. ratio: both/s by limit/s.";
    let mut lines = vec![table.to_string(), style.dim(&wrapped(note))];
    lines.extend(busy(measured.iter().map(|run| run.limit_cores_share)));
    lines.join("\n")
}

/// A number with a fixed number of decimals.
fn decimals(number: f64, decimals: usize) -> Cell {
    Cell::new(format!("{number:.decimals$}"))
}

/// Breaks text into lines of at most `WIDTH` characters.
fn wrapped(text: &str) -> String {
    crate::cli::findings::wrap(text, WIDTH).join("\n")
}

/// A warning if other processes used the cores.
fn busy(shares: impl Iterator<Item = f64>) -> Option<String> {
    let least = shares.fold(1.0, f64::min);
    let text = format!(
        "Other processes used up to {:.0} % of the cores, so the ratios are too low. The limit is not affected.",
        (1.0 - least) * 100.0
    );
    (least < 0.97).then(|| Style::stdout().bad(&wrapped(&text)))
}

/// A large number in three digits: `1,234 M`, `12.3 M`.
fn large(number: f64) -> String {
    let millions = number / 1e6;
    if millions < 100.0 { format!("{millions:.1} M") } else { format!("{} M", style::count(millions as u64)) }
}
