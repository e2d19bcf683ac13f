//! What was measured, for people.

use super::helper::{Measured, Run};
use crate::cli::style::{self, Style};

/// What the helper did.
pub fn helper(measured: &[Measured]) -> String {
    let style = Style::stdout();
    let mut lines = Vec::new();
    for Measured { vdaf, revision, runs, reports_made } in measured {
        let made = style::count(*reports_made as u64);
        lines.push(style.bold(&format!("helper, {vdaf}, {revision} ({made} reports made beforehand)")));
        lines.push(style.bold(&format!(
            "{:>5} {:>4} {:>9} {:>9} {:>9} {:>6} {:>12} {:>7} {:>8} {:>8} {:>7}",
            "size",
            "jobs",
            "limit us",
            "limit/s",
            "server/s",
            "ratio",
            "per day",
            "commits",
            "each",
            "p50 ms",
            "p99 ms"
        )));
        lines.extend(runs.iter().map(helper_run));
    }
    let note = "size: reports in a job. jobs: in flight. limit us: open and prepare one report on one core. limit/s,\n\
        server/s: reports in a second on all cores, from memory and over HTTP with durable commits. ratio: of the two;\n\
        with one job in flight an fdatasync for each is added to the limit. per day: in millions. each: reports in a\n\
        commit. p50, p99: what hpke_config took meanwhile.";
    lines.push(style.dim(note));
    lines.join("\n")
}

fn helper_run(run: &Run) -> String {
    format!(
        "{:>5} {:>4} {:>9.1} {:>9} {:>9} {:>6.2} {:>10.0} M {:>7} {:>8.0} {:>8.1} {:>7.1}",
        run.job_size,
        run.jobs_in_flight,
        run.limit_us_per_report,
        style::count(run.limit_reports_per_second as u64),
        style::count(run.reports_per_second as u64),
        run.ratio,
        run.reports_per_day / 1e6,
        style::count(run.commits),
        run.reports_per_commit,
        run.hpke_config.median_ms,
        run.hpke_config.p99_ms,
    )
}
