//! Batches that are not collected: progress towards the minimum, and what is missing.

use maud::{Markup, html};

use super::{
    icon::Icon,
    text::{brief, instant, interval},
};
use dapbox_aggregator::views::{
    overview::{BatchState, BatchView, TaskView},
    status::{CollectedBatchStatus, ResultState, TaskStatus},
};
use dapbox_protocol::model::{Role, Time};
use dapbox_support::format::{count, counted};

/// Maximum number of batches shown; the rest is folded.
const MAX_SHOWN: usize = 6;

/// Position of the minimum on each bar, in percent of its width. The rest shows how far it is exceeded.
const MINIMUM_AT: f64 = 80.0;

/// Icon and text of a batch state.
pub fn state(state: BatchState) -> (Icon, &'static str) {
    match state {
        BatchState::Ready => (Icon::Good, "Ready to collect"),
        BatchState::NotAggregatedYet => (Icon::Half, "Not aggregated yet"),
        BatchState::TooFew => (Icon::Empty, "Too few reports"),
    }
}

/// The batches of a task.
pub fn section(view: &TaskView, now: Time) -> Markup {
    let min = view.status.min_batch_size;
    let (shown, folded) = view.batches.split_at(view.batches.len().min(MAX_SHOWN));
    let unlisted = view.counts.batches().saturating_sub(view.batches.len() as u64);
    html! {
        @if view.batches.is_empty() {
            (none(view))
        } @else {
            p.legend {
                span { span.key.k-done {} "aggregated" }
                @if view.batches.iter().any(|batch| batch.waiting > 0) {
                    span { span.key.k-wait {} "waiting" }
                }
                span { span.key.k-min {} "minimum, " (counted(min, "report")) }
            }
            ul.batches { @for batch in shown { (row(batch, min, now)) } }
            @if !folded.is_empty() {
                details.more id={ "more-" (view.status.id) } {
                    summary { (count(folded.len() as u64)) @if folded.len() == 1 { " older batch" } @else { " older batches" } }
                    ul.batches { @for batch in folded { (row(batch, min, now)) } }
                }
            }
            @if unlisted > 0 {
                p.dim { (counted(unlisted, "batch")) " more older batches are not collected." }
            }
        }
    }
}

/// The collected batches, and whether their results were fetched.
pub fn collected(status: &TaskStatus, now: Time) -> Markup {
    let (shown, folded) = status.collected.split_at(status.collected.len().min(MAX_SHOWN));
    html! {
        @if shown.is_empty() { p.dim { "No collected batches." } }
        ul.batches { @for batch in shown { (collected_row(batch, now)) } }
        @if !folded.is_empty() {
            details.more id={ "more-collected-" (status.id) } {
                summary { (counted(folded.len() as u64, "more batch")) }
                ul.batches { @for batch in folded { (collected_row(batch, now)) } }
            }
        }
        @if status.collected_unlisted > 0 {
            p.dim { (counted(status.collected_unlisted, "batch")) " more: " code { "dapbox task show" } " lists them." }
        }
    }
}

fn collected_row(batch: &CollectedBatchStatus, now: Time) -> Markup {
    let icon = match batch.result {
        ResultState::Fetched => Icon::Good,
        ResultState::NotFetched => Icon::Half,
        ResultState::Pending | ResultState::Unknown => Icon::Later,
        ResultState::Failed => Icon::Bad,
    };
    html! {
        li.batch {
            span.what {
                @if let Some(range) = batch.interval { span.when { (interval(range)) } }
                @if let Some(id) = batch.id { code.id { (id) } }
            }
            span.state {
                (icon.draw()) (batch.result.name())
                @if let Some(at) = batch.fetched { " " (instant(at, now)) }
            }
            @if let Some(reports) = batch.report_count { span.numbers { (counted(reports, "report")) } }
        }
    }
}

fn none(view: &TaskView) -> Markup {
    let status = &view.status;
    html! {
        p.dim {
            @if status.batches_collected > 0 {
                "All aggregated reports are collected."
            } @else if status.waiting > 0 {
                "No batches yet: reports are assigned to batches when they are aggregated."
            } @else if status.role == Role::Leader {
                "No batches yet. Clients upload reports to the leader: " code { "dapbox upload --help" }
            } @else {
                "No batches yet. The leader sends reports after clients have uploaded them."
            }
        }
    }
}

fn row(batch: &BatchView, min: u64, now: Time) -> Markup {
    let (icon, words) = state(batch.state);
    let open_until = batch.open_until(now).filter(|_| batch.state == BatchState::Ready);
    html! {
        li.batch {
            span.what {
                @if let Some(range) = batch.interval { span.when { (interval(range)) } }
                @if let Some(id) = &batch.id { code.id { (id) } }
                @if batch.interval.is_none() && batch.id.is_none() { "Next batch" }
            }
            (bar(batch, min))
            span.state {
                (icon.draw()) (words)
                @if let Some(end) = open_until { ", open until " (brief(end, now)) }
            }
            span.numbers { (numbers(batch, min)) }
        }
    }
}

fn numbers(batch: &BatchView, min: u64) -> String {
    let all = batch.aggregated.saturating_add(batch.waiting);
    let aggregated = count(batch.aggregated);
    let waiting = if batch.waiting > 0 { format!(" + {} waiting", count(batch.waiting)) } else { String::new() };
    let lacking = match batch.state {
        BatchState::TooFew if all < min => format!(", {} more needed", count(min - all)),
        _ => String::new(),
    };
    format!("{aggregated}{waiting} of {}{lacking}", count(min))
}

/// The progress as a bar. The text beside it contains the same.
fn bar(batch: &BatchView, min: u64) -> Markup {
    let part = |reports: u64| reports as f64 / min.max(1) as f64 * MINIMUM_AT;
    // A bar is at least 1 % wide and never exceeds its frame.
    let visible = |reports: u64| if reports == 0 { 0.0 } else { part(reports).max(1.0) };
    let done = visible(batch.aggregated).min(100.0);
    let waiting = visible(batch.waiting).min(100.0 - done);
    html! {
        svg.fill width="100%" height="14" aria-hidden="true" focusable="false" {
            rect.track x="0" y="3" width="100%" height="8" {}
            @if done > 0.0 { rect.done x="0" y="3" width={ (format!("{done:.2}")) "%" } height="8" {} }
            @if waiting > 0.0 {
                rect.wait x={ (format!("{done:.2}")) "%" } y="3" width={ (format!("{waiting:.2}")) "%" } height="8" {}
            }
            rect.least x={ (MINIMUM_AT) "%" } y="0" width="2" height="14" {}
        }
    }
}
