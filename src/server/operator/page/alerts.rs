//! The section of errors that need attention, at the top of the page.

use maud::{Markup, html};

use super::{icon::Icon, text::task_name};
use dapbox_aggregator::{
    counters,
    views::overview::{Overview, TaskView, TlsStatus},
};
use dapbox_protocol::model::Duration;
use dapbox_support::format::{count, counted, span};

/// A certificate that expires within this time should have been renewed.
const EXPIRY_WARNING: u64 = 14 * 86_400;

/// Maximum number of helpers in the list.
const MAX_HELPERS: usize = 10;

/// Maximum number of tasks listed for a helper.
const MAX_LINKS: usize = 5;

/// Whether the section has any entry.
pub fn needs_attention(overview: &Overview) -> bool {
    !of_server(overview).is_empty() || overview.tasks.iter().any(|view| !task_errors(view).is_empty())
}

/// The errors of the server and of its tasks.
pub fn section(overview: &Overview) -> Markup {
    let (server, peers) = (of_server(overview), of_peers(overview));
    html! {
        @if needs_attention(overview) {
            section #of-attention .alerts aria-labelledby="attention" {
                h2 #attention { (Icon::Bad.draw()) "Needs attention" }
                ul {
                    @for error in &server { li { (error) } }
                    @for peer in peers.iter().take(MAX_HELPERS) { li { (line(peer)) } }
                    @if peers.len() > MAX_HELPERS { li { "and " (count((peers.len() - MAX_HELPERS) as u64)) " more" } }
                }
            }
        }
    }
}

/// The same kind of error of one helper, for some tasks.
struct HelperAlert<'a> {
    kind: Kind,
    url: &'a str,
    /// The error of the first task.
    error: String,
    tasks: Vec<&'a TaskView>,
}

/// One line for a helper, regardless of the number of its tasks.
fn line(HelperAlert { url, error, tasks, .. }: &HelperAlert<'_>) -> Markup {
    let link = |view: &TaskView| html! { a href={ "#about-" (view.status.id) } { (task_name(&view.status)) } };
    html! {
        @if let [only] = tasks[..] {
            (link(only)) ": " (error)
        } @else {
            "Helper " code { (url) } ", " (counted(tasks.len() as u64, "task")) ": " (error) " ("
            @for (at, view) in tasks.iter().take(MAX_LINKS).enumerate() { @if at > 0 { ", " } (link(view)) }
            @if tasks.len() > MAX_LINKS { ", and " (count((tasks.len() - MAX_LINKS) as u64)) " more" }
            ")"
        }
    }
}

fn of_server(overview: &Overview) -> Vec<String> {
    // Reasons against readiness are shown above.
    let advice = overview.disk.advice().filter(|advice| !overview.not_ready.contains(advice));
    let mut found: Vec<_> = advice.into_iter().collect();
    if let Some(TlsStatus { certificate: Some(certificate), last_error }) = &overview.tls {
        let left = certificate.not_after.0.saturating_sub(overview.now.0);
        if left == 0 {
            found.push("The TLS certificate has expired. Clients and peers cannot connect.".to_owned());
        } else if left < EXPIRY_WARNING {
            found.push(format!("The TLS certificate expires in {}.", span(Duration(left))));
        }
        found.extend(last_error.iter().map(|why| format!("The TLS certificate cannot be renewed: {why}")));
    }
    if overview.log_lines_dropped > 0 {
        found.push(format!(
            "{} log lines were dropped: standard error is blocked or closed.",
            count(overview.log_lines_dropped)
        ));
    }
    found
}

fn of_peers(overview: &Overview) -> Vec<HelperAlert<'_>> {
    let mut found: Vec<HelperAlert<'_>> = Vec::new();
    for view in &overview.tasks {
        let url = view.status.helper_url.as_str();
        for (kind, error) in task_errors(view) {
            match found.iter_mut().find(|stuck| (stuck.kind, stuck.url) == (kind, url)) {
                Some(stuck) => stuck.tasks.push(view),
                None => found.push(HelperAlert { kind, url, error, tasks: vec![view] }),
            }
        }
    }
    found
}

/// A kind of error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The helper does not accept a request.
    HelperError,
    /// The helper's results contradict ours.
    Contradiction,
}

/// The errors of a task.
pub fn task_errors(view: &TaskView) -> Vec<(Kind, String)> {
    let stuck = view.status.last_error.clone().map(|error| (Kind::HelperError, error));
    let contradiction = counters::contradiction(&view.status.counters);
    stuck.into_iter().chain(contradiction.map(|error| (Kind::Contradiction, error))).collect()
}
