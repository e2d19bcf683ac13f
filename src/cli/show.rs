//! Text output of tasks and results.

use std::fmt::Write;

use super::{
    style::{self, Style},
    table::{Cell, Table},
    timestamp,
};
use crate::{
    aggregator::{
        counters::{self, AGGREGATE_SUCCESS},
        privacy,
    },
    collector::CollectedAggregate,
    model::{Interval, Revision, Role, TaskId, VdafConfig},
    results::statistics::Exact,
    store::name::TaskName,
    support::{duration, format},
    vdaf::AggregateResult,
    views::status::{CollectedBatchStatus, Provisioned, SetUpInBand, TaskStatus},
    wire,
};

pub use crate::support::format::{batches, vdaf};

/// The name of a role.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Collector => "collector",
        Role::Client => "client",
        Role::Leader => "leader",
        Role::Helper => "helper",
    }
}

/// The name of a revision, which is also its path: `dap-09`.
pub fn revision(revision: Revision) -> String {
    wire::for_revision(revision).path_prefix().to_owned()
}

/// A task's name and id, or its id alone.
pub fn task_label(name: Option<&TaskName>, id: &TaskId) -> String {
    name.map_or_else(|| id.to_string(), |name| format!("{name} ({id})"))
}

/// A table of tasks.
pub fn task_table(tasks: &[TaskStatus], style: Style) -> String {
    let header = ["id", "name", "protocol", "role", "waiting", "aggregated", "to collect", "computes"];
    let mut table = Table::new(style, header).right(4..7);
    for task in tasks {
        let noise = task.noise.map(|epsilon| format!(", epsilon {epsilon}")).unwrap_or_default();
        let in_band = if task.in_band.is_some() { ", in-band" } else { "" };
        table.row([
            task.id.into(),
            Cell::bold(task.name.as_ref().map_or("", TaskName::as_str)),
            revision(task.revision).into(),
            role(task.role).into(),
            style::count(task.waiting).into(),
            style::count(aggregated_total(task)).into(),
            style::count(task.aggregated).into(),
            Cell::dim(format!("{}{noise}{in_band}", vdaf(&task.vdaf))),
        ]);
    }
    table.to_string()
}

/// Number of reports aggregated since the task was added.
fn aggregated_total(task: &TaskStatus) -> u64 {
    task.counters.get(AGGREGATE_SUCCESS).copied().unwrap_or(0).max(task.aggregated)
}

/// A task's parameters and progress.
pub fn task(task: &TaskStatus, style: Style) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}{value}", style.dim(&format!("{name:<18}")));
    };
    task_parameters(task, &mut line);
    task_progress(task, style, &mut line);
    if !task.collected.is_empty() {
        line("collected batches", String::new());
    }
    for batch in &task.collected {
        let reports = batch.report_count.map(|count| format!("  {}", style::counted(count, "report")));
        let fetched = batch.fetched.map(|at| format!(" {}", timestamp::show(at))).unwrap_or_default();
        let (name, result) = (collected_batch(batch), batch.result.name());
        let _ = writeln!(text, "    {name}{}  {result}{fetched}", reports.unwrap_or_default());
    }
    if task.collected_unlisted > 0 {
        let _ = writeln!(text, "    and {} more", style::count(task.collected_unlisted));
    }
    if !task.counters.is_empty() {
        let _ = writeln!(text, "  {}", style.dim("counters"));
    }
    let width = task.counters.keys().map(String::len).max().unwrap_or_default();
    for (name, count) in &task.counters {
        let reason = if counters::is_refusal(name) { refusal(name) } else { String::new() };
        let _ = writeln!(text, "    {}  {}{reason}", style.dim(&format!("{name:<width$}")), style::count(*count));
    }
    format!("{}\n{text}", style.bold(&format!("Task {}", task.id)))
}

/// The lines of `task` that do not change while the task is open.
fn task_parameters(task: &TaskStatus, line: &mut impl FnMut(&str, String)) {
    if let Some(name) = &task.name {
        line("name", name.to_string());
    }
    line("protocol", revision(task.revision));
    line("role", role(task.role).to_owned());
    line("leader", task.leader_url.clone());
    line("helper", task.helper_url.clone());
    line("computes", vdaf(&task.vdaf));
    line("batches", batches(task.batch_mode, task.min_batch_size));
    if let Some(epsilon) = task.noise {
        line("noise", format::noise(&task.vdaf, epsilon));
    }
    if let Some(account) = &task.privacy {
        line("privacy", privacy::describe(account));
    }
    line("time precision", duration::show(std::time::Duration::from_secs(task.time_precision.0)));
    if !task.info.is_empty() {
        // Quoted, as it may contain any characters.
        line("info", format!("{:?}", task.info));
    }
    if let Some(open) = task.task_interval {
        line("open", interval(open));
    }
    if let Some(end) = task.task_expiration {
        line("expires", timestamp::show(end));
    }
    if let Some(provisioned) = &task.provisioned {
        line("set up", provisioned_by(provisioned));
    }
    if let Some(in_band) = &task.in_band {
        line("set up", set_up_in_band(in_band));
    }
    if let Some(horizon) = task.horizon {
        line("closed before", timestamp::show(horizon));
    }
}

/// The lines of `task` about its reports and batches.
fn task_progress(task: &TaskStatus, style: Style, line: &mut impl FnMut(&str, String)) {
    line("waiting", style::counted(task.waiting, "report"));
    line("in flight", style::counted(task.jobs, "aggregation job"));
    let aggregated = style::counted(aggregated_total(task), "report");
    line("aggregated", format!("{aggregated}, {} of them not yet collected", style::count(task.aggregated)));
    line("collected", style::counted(task.batches_collected, "batch"));
    if task.results_not_fetched > 0 {
        line("not fetched", format!("the results of {}", style::counted(task.results_not_fetched, "batch")));
    }
    if task.collections_waiting > 0 {
        line("collections", format!("{} waiting", style::count(task.collections_waiting)));
    }
    if let Some(error) = &task.last_error {
        line("error", style.bad(error));
    }
    if let Some(contradiction) = counters::contradiction(&task.counters) {
        line("error", style.bad(&contradiction));
    }
}

/// The reason of a counter of rejected reports.
fn refusal(name: &str) -> String {
    let whose = if name.starts_with("helper_") { "by the helper: " } else { "" };
    format!("  refused: {whose}{}", counters::reason(name))
}

/// The id of a collected batch, or its interval if it has no id.
pub fn collected_batch(batch: &CollectedBatchStatus) -> String {
    match (batch.id, batch.interval) {
        (Some(id), _) => id.to_string(),
        (None, Some(range)) => interval(range),
        (None, None) => "a batch".to_owned(),
    }
}

/// Describes who provisioned a task, and whether a party has contacted it.
pub fn provisioned_by(Provisioned { at, by, is_never_contacted, removed_from }: &Provisioned) -> String {
    let contact = if *is_never_contacted { ", not contacted yet" } else { "" };
    let end = removed_from.map(|from| format!("; removed at {} unless contacted", timestamp::show(from)));
    format!(
        "by a control plane, {}, with API token {by}{contact}{}",
        timestamp::show(*at),
        end.filter(|_| *is_never_contacted).unwrap_or_default()
    )
}

/// Describes the origin of an in-band task.
pub fn set_up_in_band(SetUpInBand { at, peer }: &SetUpInBand) -> String {
    format!("in-band, {}, with the peer {peer}", timestamp::show(*at))
}

/// A half-open interval.
pub fn interval(interval: Interval) -> String {
    format!("{} to {}", timestamp::show(interval.start()), timestamp::show(interval.end()))
}

/// A collected aggregate, with bars for histograms and vectors.
pub fn collected(collected: &CollectedAggregate, config: &VdafConfig, style: Style) -> String {
    let mut text = format!(
        "{} from {}\n",
        style.bold(&style::counted(collected.report_count, "report")),
        interval(collected.interval)
    );
    if let Some(batch) = collected.batch_id {
        text.push_str(&format!("batch {batch}\n"));
    }
    text.push('\n');
    match &collected.result {
        AggregateResult::Number(number) => {
            text.push_str(&format!("  {}\n", single(Exact::from(*number), collected.report_count, config, style)));
        }
        AggregateResult::NoisyNumber(number) => {
            text.push_str(&format!("  {}\n", single(Exact::from(*number), collected.report_count, config, style)));
        }
        AggregateResult::Vector(values) => {
            let labels: Vec<_> = (0..values.len()).map(|i| i.to_string()).collect();
            text.push_str(&plot(&labels, values, style));
        }
        AggregateResult::Noisy(values) => {
            let labels: Vec<_> = (0..values.len()).map(|i| i.to_string()).collect();
            let texts = values.iter().map(|value| signed(Exact::from(*value))).collect();
            // Negative values have no bar.
            let lengths: Vec<_> = values.iter().map(|value| u128::try_from(*value).unwrap_or(0)).collect();
            text.push_str(&bars(&labels, texts, &lengths, style));
        }
    }
    text
}

/// Formats a signed number with thousands separators.
fn signed(number: Exact) -> String {
    let sign = if number.is_negative { "-" } else { "" };
    format!("{sign}{}", style::count(number.magnitude))
}

/// A single number with its share or average per report.
pub fn single(number: Exact, reports: u64, config: &VdafConfig, style: Style) -> String {
    let each = number.as_f64() / reports.max(1) as f64;
    let meaning = match config {
        VdafConfig::Prio3Count => format!("of {}, {:.1} %", style::count(reports), each * 100.0),
        _ => format!("{each:.2} on average"),
    };
    format!("{}  {}", style.bold(&signed(number)), style.dim(&meaning))
}

/// A bar chart: one line per value with its label.
pub fn plot(labels: &[String], values: &[u128], style: Style) -> String {
    bars(labels, values.iter().map(|value| style::count(*value)).collect(), values, style)
}

fn bars(labels: &[String], texts: Vec<String>, values: &[u128], style: Style) -> String {
    let width = |texts: &[String]| texts.iter().map(|text| text.chars().count()).max().unwrap_or_default();
    let (label_width, value_width) = (width(labels), width(&texts));
    let room = style.width().saturating_sub(label_width + value_width + 6);
    let bar_width = room.min(style.width().saturating_sub(30));
    let largest = values.iter().copied().max().unwrap_or_default();
    let mut plot = String::new();
    for ((label, text), value) in labels.iter().zip(&texts).zip(values) {
        let bar = match style.bar(*value, largest, bar_width) {
            bar if bar.is_empty() => bar,
            bar => format!("  {}", style.accent(&bar)),
        };
        let _ = writeln!(plot, "  {label:>label_width$}  {text:>value_width$}{bar}");
    }
    plot
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Duration, Time};

    #[test]
    fn shows_negative_noisy_values() {
        let collected = CollectedAggregate {
            report_count: 1200,
            interval: Interval::new(Time(3600), Duration(3600)).unwrap(),
            batch_id: None,
            location: None,
            result: AggregateResult::Noisy(vec![-1003, 0, 1200]),
        };
        let vdaf = VdafConfig::Prio3Histogram { length: 3, chunk_length: 1 };
        let text = super::collected(&collected, &vdaf, Style::plain());
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(&lines[..2], ["  0  -1,003", "  1       0"]);
        assert!(lines[2].starts_with("  2   1,200  █"), "{text}");
    }

    #[test]
    fn aligns_plots_within_width() {
        let labels = ["0", "10+", "long label"].map(str::to_owned);
        let plot = super::plot(&labels, &[10, 20_190, 0], Style::plain());
        let lines: Vec<_> = plot.lines().collect();
        assert!(lines[1].starts_with("         10+  20,190  █████"), "{plot}");
        assert_eq!(lines[2], "  long label       0");
        assert!(lines.iter().all(|line| line.chars().count() <= style::WIDTH));
        let narrow = super::plot(&labels, &[10, 20_190, 0], Style::ascii(60));
        assert!(narrow.is_ascii() && narrow.lines().all(|line| line.len() <= 60), "{narrow}");
        assert!(narrow.contains("10+  20,190  ######"), "{narrow}");
    }
}
