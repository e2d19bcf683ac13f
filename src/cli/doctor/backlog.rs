//! Reports that wait too long for aggregation.

use super::context::DoctorContext;
use crate::{
    cli::{
        findings::{CheckResult, passed, warning},
        show, style,
    },
    model::Role,
    views::overview::TaskView,
};

/// Maximum waiting time of a report, in seconds, in addition to leader.max_job_delay.
const PATIENCE: u64 = 600;

/// Checks that the leader's reports are aggregated in time. Needs a running server.
pub fn check_backlog(context: &DoctorContext) -> Option<CheckResult> {
    let overview = context.overview.as_ref()?;
    let led: Vec<&TaskView> = overview.tasks.iter().filter(|task| task.status.role == Role::Leader).collect();
    if led.is_empty() {
        return None;
    }
    let allowed = PATIENCE + context.config.leader.max_job_delay.as_secs();
    let age = |task: &TaskView| task.oldest_waiting.map(|oldest| overview.now.0.saturating_sub(oldest.0));
    let late = led.iter().filter_map(|task| Some((task, age(task)?))).max_by_key(|(_, age)| *age);
    let stuck = led.iter().find(|task| task.status.last_error.is_some());
    Some(match (late, stuck) {
        (Some((task, age)), _) if age > allowed => {
            let why = task.status.last_error.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            warning(
                format!("{}: the oldest report has waited for {}{why}", label(task), show_age(age)),
                "See the checks of the helper and 'dapbox status'.",
            )
        }
        (_, Some(task)) => {
            let why = task.status.last_error.clone().unwrap_or_default();
            warning(format!("{}: {why}", label(task)), "See the checks of the helper; the server retries the job.")
        }
        _ => {
            let waiting = led.iter().map(|task| task.status.waiting).sum();
            passed(format!("{} waiting for aggregation, none too long", style::counted(waiting, "report")))
        }
    })
}

fn label(task: &TaskView) -> String {
    show::task_label(task.status.name.as_ref(), &task.status.id)
}

fn show_age(seconds: u64) -> String {
    crate::support::duration::show(std::time::Duration::from_secs(seconds))
}
