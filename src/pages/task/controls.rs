//! The choice of a range: links and a form, whose address holds the choice.

use maud::{Markup, html};

use super::Context;
use crate::{Selection, address};
use dapbox_protocol::model::{Duration, Time};

/// Ranges that end with the last window, by number of days.
const RANGES: [(&str, u64); 4] = [("7 days", 7), ("30 days", 30), ("90 days", 90), ("12 months", 365)];

const DAY: u64 = 86_400;

/// Links to the files of the selection.
pub fn files(context: &Context) -> Markup {
    html! {
        p.files {
            "Data "
            @for (extension, name) in [("csv", "CSV"), ("ndjson", "NDJSON"), ("json", "JSON")] {
                a href=(address::file(context.view(), context.addresses, extension, context.selection)) { (name) }
            }
        }
    }
}

/// The choice of the range and of its comparison.
pub fn controls(context: &Context) -> Markup {
    let (view, selection) = (context.view(), context.selection);
    let bounds = bounds(context);
    html! {
        section.controls aria-label="Range" {
            nav.ranges aria-label="Ranges" {
                @if let Some((first, last)) = bounds {
                    @for (name, days) in RANGES {
                        @let from = last.saturating_sub(Duration(days * DAY));
                        @if from > first && days * DAY >= 2 * longest(context) {
                            @let choice = Selection { from: Some(from), to: None, window: None, compare: None, ..*selection };
                            (link(context, name, &choice))
                        }
                    }
                }
                @let all = Selection { from: None, to: None, window: None, compare: None, ..*selection };
                (link(context, "All", &all))
            }
            (form(context, bounds))
        }
        @if view.windows.is_empty() { p.dim { "There are no windows yet." } }
    }
}

/// The form of the range and of its comparison.
fn form(context: &Context, bounds: Option<(Time, Time)>) -> Markup {
    let selection = context.selection;
    let field = |at: Option<Time>| at.map(|at| context.series.calendar.date_field(at));
    let (compare_from, compare_to) = selection.compare.unzip();
    html! {
        form.choice method="get" action=(context.addresses.task) {
            label { "From " input type="date" name="from" value=[field(selection.from)]; }
            label { "to " input type="date" name="to" value=[field(selection.to)]; }
            label.check { input type="checkbox" name="sum" value="1" checked[selection.sum]; " Add up" }
            details.compare open[selection.compare.is_some()] {
                summary { "Compare" }
                label { "with " input type="date" name="compare_from" value=[field(compare_from)]; }
                " "
                label { "to " input type="date" name="compare_to" value=[field(compare_to)]; }
                @if let Some(choice) = previous_period(context, bounds) {
                    " " a href=(context.page(&choice)) { "Previous period" }
                }
            }
            button type="submit" { "Show" }
        }
    }
}

/// The comparison with the range of the same length before the chosen one.
fn previous_period(context: &Context, bounds: Option<(Time, Time)>) -> Option<Selection> {
    let selection = context.selection;
    let (first, last) = bounds?;
    let (from, to) = (selection.from?, selection.to.unwrap_or(last));
    let before = from.saturating_sub(Duration(to.0.checked_sub(from.0)?));
    let choice = Selection { compare: Some((before, from)), window: None, ..*selection };
    (before < from && from > first && selection.compare != choice.compare).then_some(choice)
}

fn link(context: &Context, name: &str, choice: &Selection) -> Markup {
    let is_current = context.selection == choice;
    html! {
        a href=(context.page(choice)) aria-current=[is_current.then_some("true")] { (name) }
    }
}

/// Length of the longest window, in seconds.
fn longest(context: &Context) -> u64 {
    let lengths = context.view().windows.iter().filter_map(|window| window.interval).map(|span| span.duration().0);
    lengths.max().unwrap_or_default()
}

/// Start of the first and end of the last window that has begun.
fn bounds(context: &Context) -> Option<(Time, Time)> {
    let view = context.view();
    let begun =
        view.windows.iter().filter_map(|window| window.shown_interval()).filter(|span| span.start() <= view.now);
    let (first, last) = (begun.clone().map(|span| span.start()).min()?, begun.map(|span| span.end()).max()?);
    Some((first, last))
}
