//! What was measured, for people.

use super::{aggregation, helper, peer, upload};
use crate::cli::style::{self, Style};

/// The widest line of a table.
const WIDTH: usize = 98;

/// What the helper did.
pub fn helper(measured: &[helper::Results]) -> String {
    let style = Style::stdout();
    let mut lines = Vec::new();
    for helper::Results { vdaf, revision, runs, reports_made } in measured {
        let made = style::count(*reports_made as u64);
        lines.push(style.bold(&format!("helper, {vdaf}, {revision} ({made} reports made beforehand)")));
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
    let note = "size: reports in a job. jobs: in flight. limit us: to open and prepare a report on one core. cpu us: what \
        the server takes of a core. limit/s, server/s: reports in a second on all cores, from memory, and over HTTP \
        with durable commits. ratio: of the two; with one job in flight, an fdatasync for each is added to the limit. \
        each: reports in a commit. ms: what hpke_config took meanwhile.";
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

/// What a helper elsewhere did.
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
    let note = "size: reports in a job. jobs: in flight. reports: that the helper has taken. ms: from a job's request to its \
        answer, network and all.";
    lines.push(style.dim(&wrapped(note)));
    lines.join("\n")
}

/// What the leader took.
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
    let note = "reports/s: durable before the answer. each: reports in a commit. ms: from request to answer. cpu us: what \
        the server takes of a core for a report. load us: what making the load takes for a request, on the same cores.";
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

/// What leader and helper did together.
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
    let note = "Leader and helper share all cores. leader us, helper us: cryptography for a report on one core. cpu us: what \
        both servers take of a core. limit/s: reports in a second if there were nothing but cryptography. both/s: from \
        when the leader begins to when all are aggregated. ratio: of the two.";
    lines.push(style.dim(&wrapped(note)));
    lines.extend(busy(measured.iter().map(|run| run.limit_cores_share)));
    lines.join("\n")
}

/// The same words in lines that fit.
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

/// Says if others were busy on the same cores.
fn busy(shares: impl Iterator<Item = f64>) -> Option<String> {
    let least = shares.fold(1.0, f64::min);
    let text = format!(
        "Others took up to {:.0} % of the cores: ratios would be higher without them. The limit does not depend on it.",
        (1.0 - least) * 100.0
    );
    (least < 0.97).then(|| Style::stdout().bad(&wrapped(&text)))
}

/// A large number in three digits: `1,234 M`, `12.3 M`.
fn large(number: f64) -> String {
    let millions = number / 1e6;
    if millions < 100.0 { format!("{millions:.1} M") } else { format!("{} M", style::count(millions as u64)) }
}
