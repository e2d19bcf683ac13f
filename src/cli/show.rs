//! How tasks and results look to people.

use std::fmt::Write;

use super::{
    style::{self, Style},
    timestamp,
};
use crate::{
    aggregator::counters::{self, AGGREGATE_SUCCESS},
    collector::CollectedAggregate,
    model::{Interval, Revision, Role, TaskId, VdafConfig},
    store::name::TaskName,
    support::{duration, format},
    vdaf::AggregateResult,
    views::status::{CollectedBatchStatus, Provisioned, SetUpInBand, TaskStatus},
    wire,
};

pub use crate::support::format::{batches, vdaf};

/// A party's name.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Collector => "collector",
        Role::Client => "client",
        Role::Leader => "leader",
        Role::Helper => "helper",
    }
}

/// A revision's name, which is also its path: `dap-09`.
pub fn revision(revision: Revision) -> String {
    wire::for_revision(revision).path_prefix().to_owned()
}

/// A task's name and id, or its id alone.
pub fn task_label(name: Option<&TaskName>, id: &TaskId) -> String {
    name.map_or_else(|| id.to_string(), |name| format!("{name} ({id})"))
}

/// A task in one line.
pub fn task_line(task: &TaskStatus, style: Style) -> String {
    format!(
        "{}  {}{}  {:<6}  {}  {}",
        task.id,
        task.name.as_ref().map(|name| format!("{}  ", style.bold(name.as_str()))).unwrap_or_default(),
        revision(task.revision),
        role(task.role),
        vdaf(&task.vdaf),
        style.dim(&format!(
            "{} waiting, {} aggregated, {} of them to collect{}{}",
            style::count(task.waiting),
            style::count(aggregated_in_all(task)),
            style::count(task.aggregated),
            task.noise.map(|epsilon| format!(", epsilon {epsilon}")).unwrap_or_default(),
            if task.in_band.is_some() { ", set up in-band" } else { "" }
        ))
    )
}

/// How many reports were aggregated since the task was added.
fn aggregated_in_all(task: &TaskStatus) -> u64 {
    task.counters.get(AGGREGATE_SUCCESS).copied().unwrap_or(0).max(task.aggregated)
}

/// A task and how far it is.
pub fn task(task: &TaskStatus, style: Style) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}{value}", style.dim(&format!("{name:<18}")));
    };
    if let Some(name) = &task.name {
        line("name", name.to_string());
    }
    line("protocol", revision(task.revision));
    line("role", role(task.role).to_owned());
    line("leader", task.leader_url.clone());
    line("helper", task.helper_url.clone());
    line("measures", vdaf(&task.vdaf));
    line("batches", batches(task.batch_mode, task.min_batch_size));
    if let Some(epsilon) = task.noise {
        line("noise", format::noise(&task.vdaf, epsilon));
    }
    line("time precision", duration::show(std::time::Duration::from_secs(task.time_precision.0)));
    if !task.info.is_empty() {
        // Quoted, as it may be anything.
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
    line("waiting", style::counted(task.waiting, "report"));
    line("in flight", style::counted(task.jobs, "aggregation job"));
    let aggregated = style::counted(aggregated_in_all(task), "report");
    line("aggregated", format!("{aggregated}, {} of them not collected yet", style::count(task.aggregated)));
    line("collected", style::counted(task.batches_collected, "batch"));
    if task.results_not_fetched > 0 {
        line("not fetched", format!("the results of {}", style::counted(task.results_not_fetched, "batch")));
    }
    if task.collections_waiting > 0 {
        line("collections", format!("{} waiting", style::count(task.collections_waiting)));
    }
    if let Some(trouble) = &task.last_error {
        line("trouble", style.bad(trouble));
    }
    if let Some(contradiction) = counters::contradiction(&task.counters) {
        line("trouble", style.bad(&contradiction));
    }
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
        let _ = writeln!(text, "  {}", style.dim("counted so far"));
    }
    let width = task.counters.keys().map(String::len).max().unwrap_or_default();
    for (name, count) in &task.counters {
        let reason = if counters::is_refusal(name) { refusal(name) } else { String::new() };
        let _ = writeln!(text, "    {}  {}{reason}", style.dim(&format!("{name:<width$}")), style::count(*count));
    }
    format!("{}\n{text}", style.bold(&format!("Task {}", task.id)))
}

/// Why reports are counted under this name.
fn refusal(name: &str) -> String {
    let whose = if name.starts_with("helper_") { "by the helper: " } else { "" };
    format!("  refused: {whose}{}", counters::reason(name))
}

/// The id of a collected batch or, where batches have none, its interval.
pub fn collected_batch(batch: &CollectedBatchStatus) -> String {
    match (batch.id, batch.interval) {
        (Some(id), _) => id.to_string(),
        (None, Some(range)) => interval(range),
        (None, None) => "a batch".to_owned(),
    }
}

/// That a control plane has set a task up, and whether anything came of it.
pub fn provisioned_by(Provisioned { at, by, is_never_contacted, removed_from }: &Provisioned) -> String {
    let came = if *is_never_contacted { ", and nobody has contacted it yet" } else { "" };
    let end = removed_from.map(|from| format!("; removed from {} on, unless somebody does", timestamp::show(from)));
    format!(
        "by a control plane, {}, with the API token {by}{came}{}",
        timestamp::show(*at),
        end.filter(|_| *is_never_contacted).unwrap_or_default()
    )
}

/// That a task was set up in-band.
pub fn set_up_in_band(SetUpInBand { at, peer }: &SetUpInBand) -> String {
    format!("in-band, {}, with the peer {peer}", timestamp::show(*at))
}

/// A half-open interval.
pub fn interval(interval: Interval) -> String {
    format!("{} to {}", timestamp::show(interval.start()), timestamp::show(interval.end()))
}

/// A collected aggregate; histograms and vectors are drawn.
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
            text.push_str(&format!("  {}\n", single(*number, collected.report_count, config, style)));
        }
        AggregateResult::Vector(values) => {
            let labels: Vec<_> = (0..values.len()).map(|i| i.to_string()).collect();
            text.push_str(&plot(&labels, values, style));
        }
        AggregateResult::Noisy(values) => {
            let labels: Vec<_> = (0..values.len()).map(|i| i.to_string()).collect();
            let texts = values.iter().map(|value| signed(*value)).collect();
            // What is below zero has no bar.
            let lengths: Vec<_> = values.iter().map(|value| u128::try_from(*value).unwrap_or(0)).collect();
            text.push_str(&bars(&labels, texts, &lengths, style));
        }
    }
    text
}

/// A number with separators that may be below zero.
fn signed(number: i128) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", style::count(number.unsigned_abs()))
}

/// A single number, with what it means for one report.
pub fn single(number: u128, reports: u64, config: &VdafConfig, style: Style) -> String {
    let each = number as f64 / reports.max(1) as f64;
    let meaning = match config {
        VdafConfig::Prio3Count => format!("of {}, {:.1} %", style::count(reports), each * 100.0),
        _ => format!("{each:.2} on average"),
    };
    format!("{}  {}", style.bold(&style::count(number)), style.dim(&meaning))
}

/// Values as bars with labels, one in a line.
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
    fn what_noise_took_below_zero_is_below_zero() {
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
    fn plots_are_aligned_and_fit_the_width() {
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
