//! Results as text.

use super::{aggregation, helper, peer, upload};
use crate::cli::style::{self, Style};

/// Maximum width of a table, in characters.
const WIDTH: usize = 98;

/// The results of `bench helper`.
pub fn helper(measured: &[helper::Results]) -> String {
    let style = Style::stdout();
    let mut lines = Vec::new();
    for helper::Results { vdaf, revision, runs, reports_made } in measured {
        let made = style::count(*reports_made as u64);
        lines.push(style.bold(&format!("helper, {vdaf}, {revision} ({made} reports generated in advance)")));
        lines.push(style.bold(&format!(
            "{:>5} {:>4} {:>8} {:>7} {:>8} {:>8} {:>5} {:>8} {:>7} {:>6} {:>6} {:>6} {:>6}",
            "size",
            "jobs",
            "limit us",
            "cpu us",
            "limit/s",
            "server/s",
            "ratio",
            "per day",
            "commits",
            "each",
            "p50 ms",
            "p99 ms",
            "max ms"
        )));
        lines.extend(runs.iter().map(helper_run));
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

fn helper_run(run: &helper::Run) -> String {
    format!(
        "{:>5} {:>4} {:>8.1} {:>7.1} {:>8} {:>8} {:>5.2} {:>8} {:>7} {:>6.0} {:>6.1} {:>6.1} {:>6.1}",
        run.job_size,
        run.jobs_in_flight,
        run.limit_us_per_report,
        run.server_cpu_us_per_report,
        style::count(run.limit_reports_per_second as u64),
        style::count(run.reports_per_second as u64),
        run.ratio,
        large(run.reports_per_day),
        style::count(run.commits),
        run.reports_per_commit,
        run.hpke_config.median_ms,
        run.hpke_config.p99_ms,
        run.hpke_config.max_ms,
    )
}

/// The results of `bench peer`.
pub fn peer(measured: &peer::Results) -> String {
    let style = Style::stdout();
    let peer::Results { helper, vdaf, revision, runs } = measured;
    let mut lines = vec![style.bold(&format!("{helper}, {vdaf}, {revision}"))];
    lines.push(style.bold(&format!(
        "{:>6} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "size", "jobs", "reports", "refused", "reports/s", "per day", "p50 ms", "p99 ms"
    )));
    lines.extend(runs.iter().map(|run| {
        format!(
            "{:>6} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9.1} {:>9.1}",
            run.job_size,
            run.jobs_in_flight,
            style::count(run.reports as u64),
            style::count(run.refused.values().sum::<usize>() as u64),
            style::count(run.reports_per_second as u64),
            large(run.reports_per_day),
            run.job.median_ms,
            run.job.p99_ms,
        )
    }));
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
        lines.push(style.bold(&format!(
            "{:>11} {:>9} {:>8} {:>8} {:>6} {:>7} {:>7} {:>7} {:>7} {:>7}",
            "connections", "reports/s", "per day", "commits", "each", "p50 ms", "p99 ms", "max ms", "cpu us", "load us"
        )));
        lines.extend(runs.iter().map(upload_run));
    }
    let note = "reports/s: stored durably. each: reports per commit. ms: from request to response. cpu us: core time of \
        the server per report. load us: core time of the load generator per request, on the same cores.";
    lines.push(style.dim(&wrapped(note)));
    lines.join("\n")
}

fn upload_run(run: &upload::Run) -> String {
    format!(
        "{:>11} {:>9} {:>8} {:>8} {:>6.0} {:>7.2} {:>7.2} {:>7.2} {:>7.1} {:>7.1}",
        run.connections,
        style::count(run.reports_per_second as u64),
        large(run.reports_per_day),
        style::count(run.commits),
        run.reports_per_commit,
        run.latency.median_ms,
        run.latency.p99_ms,
        run.latency.max_ms,
        run.server_cpu_us_per_report,
        run.generator_cpu_us_per_request,
    )
}

/// The results of `bench aggregation`.
pub fn aggregation(measured: &[aggregation::Results]) -> String {
    let style = Style::stdout();
    let mut lines = vec![style.bold(&format!(
        "{:<24} {:>8} {:>9} {:>9} {:>7} {:>8} {:>8} {:>5} {:>8}",
        "aggregation", "reports", "leader us", "helper us", "cpu us", "limit/s", "both/s", "ratio", "per day"
    ))];
    for run in measured {
        lines.push(format!(
            "{:<24} {:>8} {:>9.1} {:>9.1} {:>7.1} {:>8} {:>8} {:>5.2} {:>8}",
            format!("{}, {}", run.vdaf, run.revision),
            style::count(run.reports as u64),
            run.leader_us_per_report,
            run.helper_us_per_report,
            run.cpu_us_per_report,
            style::count(run.limit_reports_per_second as u64),
            style::count(run.reports_per_second as u64),
            run.ratio,
            large(run.reports_per_day),
        ));
    }
    let note = "Leader and helper share all cores. leader us, helper us: core time of cryptography per report. cpu us: core \
        time of both servers per report. limit/s: reports per second, cryptography only. both/s: reports per second, from \
        the leader's first job to the last aggregated report. ratio: both/s by limit/s.";
    lines.push(style.dim(&wrapped(note)));
    lines.extend(busy(measured.iter().map(|run| run.limit_cores_share)));
    lines.join("\n")
}

/// Breaks text into lines of at most `WIDTH` characters.
fn wrapped(text: &str) -> String {
    let mut lines = String::with_capacity(text.len() + 8);
    let mut width = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count() + 1;
        if width + length > WIDTH {
            lines.push('\n');
            width = 0;
        } else if width > 0 {
            lines.push(' ');
        }
        lines.push_str(word);
        width += length;
    }
    lines
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
