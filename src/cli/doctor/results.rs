//! Tasks that the server collects: lost results, refused requests and deadlines.

use super::context::DoctorContext;
use crate::{
    cli::{
        findings::{CheckResult, failed, passed, warning},
        show, style,
    },
    model::{Duration, Time},
    support::{clock, timestamp},
    views::results::CollectorTaskStatus,
};

/// Time before a deadline at which it is reported, in seconds.
const NEAR: u64 = 86_400;

/// Checks the windows of all tasks that the server collects.
pub fn check_results(context: &DoctorContext) -> Option<CheckResult> {
    let tasks = &context.collected;
    if tasks.is_empty() {
        return None;
    }
    let is_hidden = tasks.iter().all(|task| task.page.is_none()) && !context.config.results.public;
    Some(tasks.iter().find_map(|task| examine(task, clock::now())).unwrap_or_else(|| {
        let collected = tasks.iter().filter_map(|task| task.windows.get("collected")).sum::<u64>();
        let (tasks, windows) = (style::counted(tasks.len() as u64, "task"), style::counted(collected, "window"));
        match is_hidden && context.is_running() {
            true => passed(format!("{windows} of {tasks} collected; no listener shows them (results.listen)")),
            false => passed(format!("{windows} of {tasks} collected")),
        }
    }))
}

/// The most urgent problem of a task.
fn examine(task: &CollectorTaskStatus, now: Time) -> Option<CheckResult> {
    let label = show::task_label(task.name.as_ref(), &task.id);
    let count = |state: &str| task.windows.get(state).copied().unwrap_or(0);
    let error = task.last_error.clone().unwrap_or_default();
    let deadline = task.next_deadline.filter(|deadline| deadline.saturating_sub(Duration(NEAR)) <= now);
    if let Some(deadline) = deadline {
        let text =
            format!("{label}: the aggregators may delete uncollected reports from {}", timestamp::show(deadline));
        return Some(failed(text, "See 'dapbox results windows' for the window and its error."));
    }
    if count("refused") > 0 {
        let text = format!("{label}: the leader refuses the collector: {error}");
        return Some(failed(text, "Check the token in collector.toml, and add the file again."));
    }
    if count("lost") > 0 {
        let text = format!("{label}: {} lost", style::counted(count("lost"), "result"));
        return Some(warning(text, "See 'dapbox results windows --state lost'; 'dapbox results retry' may help."));
    }
    task.last_error.as_ref().map(|error| {
        warning(format!("{label}: {error}"), "The server repeats the request; see 'dapbox results windows'.")
    })
}
