//! A task: a summary line, and details that unfold.

use maud::{Markup, html};

use super::{
    alerts, batch, chart,
    icon::Icon,
    text::{ago, instant, interval, moment, short_id},
};
use dapbox_aggregator::{
    counters, privacy,
    views::{
        overview::{PeerStatus, TaskView},
        status::TaskStatus,
    },
};
use dapbox_protocol::{
    model::{Interval, Role, Time},
    wire,
};
use dapbox_support::format::{self, count, rate, span};

/// Renders a task.
pub fn entry(view: &TaskView, now: Time, is_open: bool) -> Markup {
    html! {
        details.task id={ "task-" (view.status.id) } open[is_open] {
            (line(view, now))
            div.body id={ "about-" (view.status.id) } {
                @for (n, (_, error)) in alerts::task_errors(view).iter().enumerate() {
                    p.trouble id={ "trouble-" (n) "-" (view.status.id) } { (Icon::Bad.draw()) span { (error) } }
                }
                div.columns id={ "columns-" (view.status.id) } {
                    div {
                        h4 { "Reports" }
                        (reports(view, now))
                        (refusals(view))
                        (peer(view, now))
                    }
                    div {
                        h4 { "History" }
                        (chart::history(view, now))
                        h4 { "Open batches " span.count { (count(view.counts.batches())) } }
                        (batch::section(view, now))
                        @if view.status.role == Role::Leader {
                            h4 { "Collected batches " span.count { (count(view.status.batches_collected)) } }
                            (batch::collected(&view.status, now))
                        }
                    }
                }
                (parameters(&view.status, now))
            }
        }
    }
}

fn line(view: &TaskView, now: Time) -> Markup {
    let status = &view.status;
    let (icon, standing) = standing(view, now);
    let counts = &view.counts;
    html! {
        summary {
            div.title {
                h3 { @if let Some(name) = &status.name { (name) } @else { (format::vdaf(&status.vdaf)) } }
                p.sub {
                    @if status.name.is_some() { span { (format::vdaf(&status.vdaf)) } }
                    @if !status.info.is_empty() { span.info { (status.info) } }
                    code { (short_id(status)) }
                    span { (status.role) }
                    span { (wire::for_revision(status.revision).path_prefix()) }
                }
            }
            p.standing { (icon.draw()) (standing) }
            p.figure {
                @if status.role == Role::Leader {
                    b { (count(status.waiting)) } " waiting"
                } @else {
                    b { (rate(view.aggregation_rate)) } " aggregated"
                }
            }
            p.figure.batchy {
                @if counts.batches_ready > 0 {
                    (Icon::Good.draw()) b { (count(counts.batches_ready)) } " ready to collect"
                } @else if counts.batches_not_aggregated_yet > 0 {
                    (Icon::Half.draw()) b { (count(counts.batches_not_aggregated_yet)) } " not aggregated yet"
                } @else if counts.batches_too_few > 0 {
                    (Icon::Empty.draw()) b { (count(counts.batches_too_few)) } " with too few reports"
                } @else {
                    "no batches"
                }
            }
            (chart::spark(view))
        }
    }
}

/// The state of a task.
fn standing(view: &TaskView, now: Time) -> (Icon, &'static str) {
    let status = &view.status;
    let is_over = status.task_expiration.is_some_and(|end| end < now)
        || status.task_interval.is_some_and(|open: Interval| open.end() <= now);
    if !alerts::task_errors(view).is_empty() {
        (Icon::Bad, "Trouble")
    } else if is_over {
        (Icon::Still, "Ended")
    } else if status.task_interval.is_some_and(|open| now < open.start()) {
        (Icon::Later, "Not started")
    } else {
        (Icon::Good, "Running")
    }
}

fn reports(view: &TaskView, now: Time) -> Markup {
    let status = &view.status;
    let counted_as = |name: &str| count(status.counters.get(name).copied().unwrap_or(0));
    let is_leader = status.role == Role::Leader;
    html! {
        dl.figures {
            @if is_leader {
                dt { "uploaded, last minute" } dd { (rate(view.upload_rate)) }
            }
            dt { "aggregated, last minute" } dd { (rate(view.aggregation_rate)) }
            @if is_leader {
                dt { "waiting for aggregation" } dd { (count(status.waiting)) }
                dt { "oldest waiting, arrived" }
                dd { @if let Some(oldest) = view.oldest_waiting { (ago(oldest, now)) } @else { "none waits" } }
            }
            dt { "aggregation jobs in flight" } dd { (count(status.jobs)) }
            dt { "aggregated, not collected" } dd { (count(status.aggregated)) }
            dt { "batches collected" } dd { (count(status.batches_collected)) }
            @if is_leader {
                dt { "waiting collections" } dd { (count(status.collections_waiting)) }
                dt { "uploaded, total" } dd { (counted_as(counters::REPORT_SUCCESS)) }
            }
            dt { "aggregated, total" } dd { (counted_as(counters::AGGREGATE_SUCCESS)) }
        }
    }
}

fn refusals(view: &TaskView) -> Markup {
    let mut refused: Vec<_> = view.refused.iter().collect();
    // Most frequent first.
    refused.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
    html! {
        h4 { "Refused" }
        @if refused.is_empty() { p.dim { "No rejected reports." } }
        ul.refused {
            @for (name, times) in refused {
                li {
                    b { (count(*times)) }
                    span {
                        @if name.starts_with("helper_") { "by the helper: " }
                        (counters::reason(name)) " " code { (name) }
                    }
                }
            }
        }
    }
}

fn peer(view: &TaskView, now: Time) -> Markup {
    let status = &view.status;
    html! {
        @if status.role == Role::Leader {
            h4 { "Helper" }
            p.long { code { (status.helper_url) } }
            @match &view.peer {
                Some(peer) => (answers(peer, status.last_error.is_some(), now)),
                None => p.dim { "No requests since the start: nothing to aggregate." },
            }
        } @else {
            h4 { "Leader" }
            p.long { code { (status.leader_url) } }
            p.dim { "The helper only responds to the leader." }
        }
    }
}

fn answers(peer: &PeerStatus, is_stuck: bool, now: Time) -> Markup {
    let fails = is_stuck || peer.last_failure > peer.last_success;
    html! {
        p.state {
            @if fails {
                (Icon::Bad.draw()) "Requests fail"
            } @else if peer.last_success.is_some() {
                (Icon::Good.draw()) "Answers"
            } @else {
                (Icon::Later.draw()) "Not asked yet"
            }
        }
        dl.figures {
            @if let Some(at) = peer.last_success { dt { "last answer" } dd { (ago(at, now)) } }
            @if let Some(at) = peer.last_failure { dt { "last failure" } dd { (ago(at, now)) } }
        }
    }
}

/// Parameters, which never change.
fn parameters(status: &TaskStatus, now: Time) -> Markup {
    html! {
        h4 { "Parameters" }
        dl.parameters {
            @if let Some(name) = &status.name { dt { "name" } dd { (name) } }
            dt { "task id" } dd { code { (status.id) } }
            dt { "protocol" } dd { (wire::for_revision(status.revision).path_prefix()) }
            dt { "our role" } dd { (status.role) }
            dt { "leader" } dd { code { (status.leader_url) } }
            dt { "helper" } dd { code { (status.helper_url) } }
            dt { "measures" } dd { (format::vdaf(&status.vdaf)) }
            dt { "batches" } dd { (format::batches(status.batch_mode, status.min_batch_size)) }
            @if let Some(epsilon) = status.noise { dt { "noise" } dd { (format::noise(&status.vdaf, epsilon)) } }
            @if let Some(account) = &status.privacy { dt { "privacy" } dd { (privacy::describe(account)) } }
            @if let Some(in_band) = &status.in_band {
                dt { "set up" } dd { "in-band, with the peer " code { (in_band.peer) } }
            }
            dt { "time precision" } dd { (span(status.time_precision)) }
            @if !status.info.is_empty() { dt { "info" } dd { (status.info) } }
            @if let Some(open) = status.task_interval { dt { "open" } dd { (interval(open)) } }
            @if let Some(end) = status.task_expiration { dt { "ends" } dd { (moment(end, now)) } }
            @if let Some(horizon) = status.horizon { dt { "closed before" } dd { (instant(horizon, now)) } }
        }
    }
}
