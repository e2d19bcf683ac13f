//! The ledger: every window with its state.

use maud::{Markup, html};

use super::{Context, figure::scroll_box};
use crate::summary;
use dapbox_protocol::model::Interval;
use dapbox_results::{Window, WindowState};
use dapbox_support::format::{count, counted};

/// Number of latest windows that have a row each.
const LATEST: usize = 31;

/// Maximum number of rows. Older windows are in the files.
const MAX_ROWS: usize = 250;

/// Successive windows in one row.
struct Row<'a> {
    windows: Vec<&'a Window>,
}

/// The ledger as a folded table.
pub fn section(context: &Context) -> Markup {
    let windows = &context.series.windows;
    let rows = rows(windows);
    let table = html! {
        table {
            thead {
                tr {
                    th scope="col" { "Window" }
                    th scope="col" { "State" }
                    th.n scope="col" { "Reports" }
                    th scope="col" { "Collected" }
                }
            }
            tbody { @for row in rows.iter().take(MAX_ROWS) { (line(context, row)) } }
        }
    };
    html! {
        details.ledger #ledger open[windows.len() <= 12] {
            summary {
                h2 { "Ledger of " (context.nouns()) }
                span.dim { (states(windows)) }
            }
            (scroll_box("Ledger of windows", &table))
            @if rows.len() > MAX_ROWS { p.dim { "Earlier windows are in the files." } }
        }
    }
}

/// The numbers of windows by state.
fn states(windows: &[&Window]) -> String {
    let counted = WindowState::NAMES.into_iter().filter_map(|name| {
        let number = windows.iter().filter(|window| window.state.name() == name).count();
        (number > 0).then(|| format!("{} {}", count(number as u64), name.replace('_', " ")))
    });
    counted.collect::<Vec<_>>().join(", ")
}

/// The windows from the latest; earlier ones in runs of the same state.
fn rows<'a>(windows: &[&'a Window]) -> Vec<Row<'a>> {
    let mut rows: Vec<Row> = Vec::new();
    for (at, window) in windows.iter().rev().enumerate() {
        match rows.last_mut() {
            Some(row) if at > LATEST && is_alike(&row.windows[0].state, &window.state) => row.windows.push(window),
            _ => rows.push(Row { windows: vec![window] }),
        }
    }
    rows
}

/// Whether two states read the same, apart from numbers of reports.
fn is_alike(a: &WindowState, b: &WindowState) -> bool {
    a.name() == b.name() && detail(a, true) == detail(b, true)
}

fn line(context: &Context, row: &Row) -> Markup {
    let (view, calendar) = (context.view(), &context.series.calendar);
    let last = row.windows[0];
    let first = row.windows[row.windows.len() - 1];
    let span = |window: &Window| window.shown_interval();
    let hull = span(first).zip(span(last)).and_then(|(first, last)| {
        Interval::new(first.start(), dapbox_protocol::model::Duration(last.end().0.saturating_sub(first.start().0)))
    });
    let reports = row.windows.iter().filter_map(|window| window.collected()).map(|collected| collected.report_count);
    let is_collected = last.collected().is_some();
    html! {
        tr {
            th scope="row" {
                @if row.windows.len() == 1 { (summary::window_label(view, calendar, last)) }
                @else if let Some(hull) = hull { (calendar.span(hull)) }
                @else { "Batches #" (first.number) " – #" (last.number) }
            }
            td {
                span.state.{ "s-" (last.state.name()) } { (last.state.name().replace('_', " ")) }
                @if row.windows.len() == 1 && last.is_joined { " " span.dim { "joined" } }
                @if row.windows.len() > 1 { " " span.dim { (counted(row.windows.len() as u64, "window")) } }
                @if let Some(why) = detail(&last.state, context.addresses.overview.is_some()) { " " span.why { (why) } }
            }
            td.n { @if is_collected { (count(reports.fold(0_u64, u64::saturating_add))) } }
            td { @if let Some(collected) = last.collected() { (calendar.minute(collected.collected)) } }
        }
    }
}

/// Why a window has no result yet, or never.
///
/// What the leader said is for the operator.
fn detail(state: &WindowState, has_details: bool) -> Option<String> {
    match state {
        WindowState::Requested { last_error, .. } | WindowState::Pending { last_error, .. } => {
            last_error.clone().filter(|_| has_details)
        }
        WindowState::TooFewReports { is_final: true, .. } => Some("given up".to_owned()),
        WindowState::Lost { reason, detail } if detail.is_empty() || !has_details => Some(reason.text().to_owned()),
        WindowState::Lost { reason, detail } => Some(format!("{}: {detail}", reason.text())),
        WindowState::Refused { detail, .. } if has_details => Some(detail.clone()),
        _ => None,
    }
}
