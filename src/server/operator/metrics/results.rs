//! Metrics of the tasks that this server collects.

use super::{Metric, gauge, set::MetricSet};
use crate::results::{context::ResultsContext, load, operations};
use dapbox_aggregator::views::results::CollectorTaskStatus;
use dapbox_protocol::{model::TaskId, vdaf::AggregateResult};
use dapbox_results::{Presentation, Window};
use dapbox_support::Fault;

/// Maximum number of positions of a vector that are exposed as metrics.
const MAX_POSITIONS: usize = 128;

pub const WINDOWS: Metric = gauge("dapbox_results_windows", "Windows of a collected task, by state (collector)");
pub const LAST_COLLECTED: Metric = gauge(
    "dapbox_results_last_collected_timestamp_seconds",
    "When a result was last stored, in seconds since 1970; absent if there is none (collector)",
);
pub const LATEST: Metric = gauge(
    "dapbox_results_latest",
    "Result of the latest collected window; for vectors the first 128 positions, with their labels (collector)",
);
pub const REPORT_COUNT: Metric =
    gauge("dapbox_results_report_count", "Reports in the latest collected window (collector)");
pub const NEXT_DEADLINE: Metric = gauge(
    "dapbox_results_next_deadline_timestamp_seconds",
    "When the aggregators begin to delete reports of a window that is not collected, in seconds since 1970; absent if unknown (collector)",
);
pub const WEBHOOK_QUEUE: Metric =
    gauge("dapbox_results_webhook_queue", "Notifications that wait for the webhooks of a task (collector)");

/// Gathers the values of all collector tasks.
pub fn gather(gathered: &mut MetricSet, ctx: &ResultsContext) -> Result<(), Fault> {
    for id in load::task_ids(ctx)? {
        let Some(status) = operations::status_of(ctx, &id)? else { continue };
        task(gathered, &status);
        if let Some((window, result)) = latest(ctx, &id)? {
            let task = id.to_string();
            let reports = window.collected().map_or(0, |collected| collected.report_count);
            gathered.whole(REPORT_COUNT, &[("task", &task)], reports);
            values(gathered, &task, &status.presentation, &result);
        }
    }
    Ok(())
}

fn task(gathered: &mut MetricSet, status: &CollectorTaskStatus) {
    let id = status.id.to_string();
    let own: &[(&'static str, &str)] = &[("task", &id)];
    for state in dapbox_results::WindowState::NAMES {
        let count = status.windows.get(state).copied().unwrap_or(0);
        gathered.whole(WINDOWS, &[("task", &id), ("state", state)], count);
    }
    gathered.time(LAST_COLLECTED, own, status.last_collected);
    gathered.time(NEXT_DEADLINE, own, status.next_deadline);
    gathered.whole(WEBHOOK_QUEUE, own, status.webhook_queue);
}

/// The latest collected window of a task with its result.
fn latest(ctx: &ResultsContext, id: &TaskId) -> Result<Option<(Window, AggregateResult)>, Fault> {
    ctx.store.read(|view| {
        let Some(state) = view.collector(id) else { return Ok(None) };
        let found = state.windows.values().rev().find(|window| window.collected().is_some());
        let Some(window) = found else { return Ok(None) };
        Ok(view.window_result(id, window.number)?.map(|result| (window.clone(), result)))
    })
}

fn values(gathered: &mut MetricSet, task: &str, shown: &Presentation, result: &AggregateResult) {
    // Prometheus has floating-point numbers only.
    let numbers: Vec<f64> = match result {
        AggregateResult::Number(number) => vec![*number as f64],
        AggregateResult::NoisyNumber(number) => vec![*number as f64],
        AggregateResult::Vector(numbers) => numbers.iter().take(MAX_POSITIONS).map(|number| *number as f64).collect(),
        AggregateResult::Noisy(numbers) => numbers.iter().take(MAX_POSITIONS).map(|number| *number as f64).collect(),
    };
    if let [number] = numbers[..] {
        gathered.real(LATEST, &[("task", task)], number);
        return;
    }
    for (position, number) in numbers.into_iter().enumerate() {
        let place = position.to_string();
        let label = shown.labels.get(position).map_or("", String::as_str);
        gathered.real(LATEST, &[("task", task), ("position", &place), ("label", label)], number);
    }
}
