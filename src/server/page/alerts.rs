//! What needs somebody's attention, before everything else.

use maud::{Markup, html};

use super::{icon::Icon, task::name};
use crate::{
    aggregator::counters,
    model::{
        Duration,
        overview::{Overview, TaskView, TlsStatus},
        words::{count, span},
    },
};

/// A certificate that ends within this time should have been renewed.
const SOON: u64 = 14 * 86_400;

/// As many tasks are named at most.
const NAMED: usize = 10;

/// The troubles of the server and its tasks, if there are any.
pub fn section(overview: &Overview) -> Markup {
    let (server, tasks) = (of_server(overview), of_tasks(overview));
    html! {
        @if !server.is_empty() || !tasks.is_empty() {
            section #of-attention .alerts aria-labelledby="attention" {
                h2 #attention { (Icon::Bad.draw()) "Needs attention" }
                ul {
                    @for trouble in &server { li { (trouble) } }
                    @for (view, trouble) in tasks.iter().take(NAMED) {
                        li {
                            a href={ "#about-" (view.status.id) } { (name(&view.status)) }
                            ": " (trouble)
                        }
                    }
                    @if tasks.len() > NAMED { li { "and " (count((tasks.len() - NAMED) as u64)) " more" } }
                }
            }
        }
    }
}

fn of_server(overview: &Overview) -> Vec<String> {
    // What keeps the server from being ready is said above.
    let advice = overview.disk.advice().filter(|advice| !overview.not_ready.contains(advice));
    let mut found: Vec<_> = advice.into_iter().collect();
    if let Some(TlsStatus { certificate: Some(certificate), trouble }) = &overview.tls {
        let left = certificate.not_after.0.saturating_sub(overview.now.0);
        if left == 0 {
            found.push("The TLS certificate has expired: clients and peers cannot connect.".to_owned());
        } else if left < SOON {
            found.push(format!("The TLS certificate ends in {}.", span(Duration(left))));
        }
        found.extend(trouble.iter().map(|why| format!("The TLS certificate was not renewed: {why}")));
    }
    if overview.log_lines_dropped > 0 {
        found.push(format!(
            "The log has lost {} lines: nothing reads standard error, or it cannot be written to.",
            count(overview.log_lines_dropped)
        ));
    }
    found
}

fn of_tasks(overview: &Overview) -> Vec<(&TaskView, String)> {
    overview.tasks.iter().flat_map(|view| troubles(view).into_iter().map(move |trouble| (view, trouble))).collect()
}

/// What is wrong with a task: what it is stuck at, and whether the helper has contradicted us.
pub fn troubles(view: &TaskView) -> Vec<String> {
    let contradiction = counters::contradiction(&view.status.counters);
    view.status.last_trouble.clone().into_iter().chain(contradiction).collect()
}
