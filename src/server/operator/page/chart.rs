//! The history of a task as bar charts, rendered by the server.

use std::fmt::Write;

use maud::{Markup, html};

use super::text::ago;
use dapbox_aggregator::views::overview::{Sample, TaskView};
use dapbox_protocol::model::{Duration, Role, Time};
use dapbox_support::format::{count, relative};

/// Height of a chart, in its own units.
const HEIGHT: f64 = 40.0;

/// Width of a chart, in its own units. It scales to the available space.
const WIDTH: f64 = 600.0;

/// Minimum range of a chart.
const HOUR: Duration = Duration(3600);

/// A data series.
struct Series {
    /// For ids and classes.
    key: &'static str,
    title: &'static str,
    of: fn(&Sample) -> u64,
}

const UPLOADED: Series = Series { key: "uploaded", title: "Uploads", of: |sample| sample.uploaded };
const AGGREGATED: Series = Series { key: "aggregated", title: "Aggregated", of: |sample| sample.aggregated };
const REFUSED: Series = Series { key: "refused", title: "Refused", of: |sample| sample.refused };

/// The history of a task: uploads (leader), aggregated and rejected reports, each with its own scale.
pub fn history(view: &TaskView, now: Time) -> Markup {
    let Some(range) = Range::of(&view.history) else {
        return html! { p.dim { "No history yet." } };
    };
    let series: &[Series] = match view.status.role {
        Role::Leader => &[UPLOADED, AGGREGATED, REFUSED],
        _ => &[AGGREGATED, REFUSED],
    };
    html! {
        div.charts {
            @for series in series { (chart(series, view, range, now)) }
        }
    }
}

fn chart(series: &Series, view: &TaskView, range: Range, now: Time) -> Markup {
    let total: u64 = view.history.iter().map(series.of).fold(0, u64::saturating_add);
    let peak = peak(series, view);
    let (key, id) = (series.key, view.status.id);
    html! {
        figure.chart {
            figcaption {
                span.name { (series.title) " per minute" }
                span.total { @if total > 0 { (count(total)) " in all" } @else { "none" } }
            }
            div.plane {
                // The description of the drawing contains it.
                div.scale aria-hidden="true" {
                    span { @if peak > 0.0 { (number(peak)) } }
                    span { "0" }
                }
                svg.plot.(key) role="img" aria-labelledby={ "t-" (id) "-" (key) " d-" (id) "-" (key) }
                    viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" {
                    title id={ "t-" (id) "-" (key) } { (series.title) " per minute" }
                    desc id={ "d-" (id) "-" (key) } {
                        (count(total)) " in all, at most " (number(peak)) " per minute, since " (relative(range.first, now))
                    }
                    path.grid d={ "M0 .5H" (WIDTH) "M0 20H" (WIDTH) } {}
                    path.bars d=(bars(&view.history, series.of, peak, range)) {}
                    (base(range))
                }
                div.axis {
                    (ago(range.start, now))
                    span { @if range.end.0.abs_diff(now.0) < 120 { "now" } @else { (ago(range.end, now)) } }
                }
            }
        }
    }
}

/// The small chart of a folded task, without a description.
pub fn spark(view: &TaskView) -> Markup {
    let series = if view.status.role == Role::Leader { UPLOADED } else { AGGREGATED };
    html! {
        svg.spark.(series.key) viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" aria-hidden="true"
            focusable="false" {
            @if let Some(range) = Range::of(&view.history) {
                path.bars d=(bars(&view.history, series.of, peak(&series, view), range)) {}
                (base(range))
            }
        }
    }
}

/// The time axis, where data is known.
fn base(range: Range) -> Markup {
    html! { path.base d={ "M" (format!("{:.1}", range.x(range.first))) " 39.5H" (WIDTH) } {} }
}

/// The time range of a chart.
#[derive(Clone, Copy, Debug)]
struct Range {
    /// The left end: one hour before the right end, or earlier.
    start: Time,
    /// Since when data is known.
    first: Time,
    end: Time,
}

impl Range {
    fn of(history: &[Sample]) -> Option<Self> {
        let (first, last) = (history.first()?.start, history.last()?);
        let end = last.start.saturating_add(last.duration);
        Some(Self { start: first.min(end.saturating_sub(HOUR)), first, end })
    }

    fn x(&self, at: Time) -> f64 {
        at.0.saturating_sub(self.start.0) as f64 * self.unit()
    }

    fn unit(&self) -> f64 {
        WIDTH / self.end.0.saturating_sub(self.start.0).max(1) as f64
    }
}

fn peak(series: &Series, view: &TaskView) -> f64 {
    view.history.iter().map(|sample| per_minute(sample, series.of)).fold(0.0, f64::max)
}

/// Formats a rate with the digits that matter.
fn number(rate: f64) -> String {
    if rate >= 10.0 || rate == rate.trunc() { count(rate.round() as u64) } else { format!("{rate:.1}") }
}

fn per_minute(sample: &Sample, of: fn(&Sample) -> u64) -> f64 {
    of(sample) as f64 * 60.0 / sample.duration.0.max(1) as f64
}

/// All bars as one path, each at its time: a gap shows that the server did not run.
fn bars(history: &[Sample], of: fn(&Sample) -> u64, peak: f64, range: Range) -> String {
    let mut path = String::new();
    for sample in history.iter().filter(|sample| of(sample) > 0) {
        let x = range.x(sample.start);
        // Bars have a minimum width.
        let width = (sample.duration.0 as f64 * range.unit() * 0.8).max(2.0);
        // Bars have a minimum height.
        let height = (per_minute(sample, of) / peak * (HEIGHT - 2.0)).max(1.5);
        // Writing to a string cannot fail.
        let _ = write!(path, "M{x:.1} {HEIGHT}v-{height:.1}h{width:.1}v{height:.1}z");
    }
    path
}
