//! What needs somebody's attention, before everything else.

use maud::{Markup, html};

use super::{icon::Icon, task::name};
use dapbox_aggregator::{
    counters,
    views::overview::{Overview, TaskView, TlsStatus},
};
use dapbox_protocol::model::Duration;
use dapbox_support::format::{count, counted, span};

/// A certificate that ends within this time should have been renewed.
const SOON: u64 = 14 * 86_400;

/// The most helpers that are named.
const NAMED: usize = 10;

/// The most tasks that are named of a helper.
const LINKED: usize = 5;

/// Whether there is something to say here.
pub fn needs_attention(overview: &Overview) -> bool {
    !of_server(overview).is_empty() || overview.tasks.iter().any(|view| !troubles(view).is_empty())
}

/// The troubles of the server and its tasks, if there are any.
pub fn section(overview: &Overview) -> Markup {
    let (server, peers) = (of_server(overview), of_peers(overview));
    html! {
        @if needs_attention(overview) {
            section #of-attention .alerts aria-labelledby="attention" {
                h2 #attention { (Icon::Bad.draw()) "Needs attention" }
                ul {
                    @for trouble in &server { li { (trouble) } }
                    @for peer in peers.iter().take(NAMED) { li { (line(peer)) } }
                    @if peers.len() > NAMED { li { "and " (count((peers.len() - NAMED) as u64)) " more" } }
                }
            }
        }
    }
}

/// A helper that some tasks have the same kind of trouble with.
struct Stuck<'a> {
    kind: Kind,
    url: &'a str,
    /// What is wrong with the first of the tasks.
    trouble: String,
    tasks: Vec<&'a TaskView>,
}

/// One line for a helper, however many tasks are stuck at it.
fn line(Stuck { url, trouble, tasks, .. }: &Stuck<'_>) -> Markup {
    let link = |view: &TaskView| html! { a href={ "#about-" (view.status.id) } { (name(&view.status)) } };
    html! {
        @if let [only] = tasks[..] {
            (link(only)) ": " (trouble)
        } @else {
            "Helper " code { (url) } ", " (counted(tasks.len() as u64, "task")) ": " (trouble) " ("
            @for (at, view) in tasks.iter().take(LINKED).enumerate() { @if at > 0 { ", " } (link(view)) }
            @if tasks.len() > LINKED { ", and " (count((tasks.len() - LINKED) as u64)) " more" }
            ")"
        }
    }
}

fn of_server(overview: &Overview) -> Vec<String> {
    // What keeps the server from being ready is said above.
    let advice = overview.disk.advice().filter(|advice| !overview.not_ready.contains(advice));
    let mut found: Vec<_> = advice.into_iter().collect();
    if let Some(TlsStatus { certificate: Some(certificate), last_error }) = &overview.tls {
        let left = certificate.not_after.0.saturating_sub(overview.now.0);
        if left == 0 {
            found.push("The TLS certificate has expired: clients and peers cannot connect.".to_owned());
        } else if left < SOON {
            found.push(format!("The TLS certificate ends in {}.", span(Duration(left))));
        }
        found.extend(last_error.iter().map(|why| format!("The TLS certificate was not renewed: {why}")));
    }
    if overview.log_lines_dropped > 0 {
        found.push(format!(
            "The log has lost {} lines: nothing reads standard error, or it cannot be written to.",
            count(overview.log_lines_dropped)
        ));
    }
    found
}

fn of_peers(overview: &Overview) -> Vec<Stuck<'_>> {
    let mut found: Vec<Stuck<'_>> = Vec::new();
    for view in &overview.tasks {
        let url = view.status.helper_url.as_str();
        for (kind, trouble) in troubles(view) {
            match found.iter_mut().find(|stuck| (stuck.kind, stuck.url) == (kind, url)) {
                Some(stuck) => stuck.tasks.push(view),
                None => found.push(Stuck { kind, url, trouble, tasks: vec![view] }),
            }
        }
    }
    found
}

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The helper does not take a request.
    Stuck,
    /// The helper has contradicted us.
    Contradiction,
}

/// What is wrong with a task: what it is stuck at, and whether the helper has contradicted us.
pub fn troubles(view: &TaskView) -> Vec<(Kind, String)> {
    let stuck = view.status.last_error.clone().map(|trouble| (Kind::Stuck, trouble));
    let contradiction = counters::contradiction(&view.status.counters);
    stuck.into_iter().chain(contradiction.map(|trouble| (Kind::Contradiction, trouble))).collect()
}
