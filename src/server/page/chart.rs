//! A task's history as charts: bars on a line of time, drawn here, so that there is nothing for a script to do.

use std::fmt::Write;

use maud::{Markup, html};

use super::text::instant;
use crate::model::{
    Role, Time,
    overview::{Sample, TaskView},
    words::{count, relative},
};

/// Height of a chart in its own units.
const HEIGHT: f64 = 40.0;

/// Width of a chart in its own units. It is drawn as wide as there is room.
const WIDTH: f64 = 600.0;

/// What a chart shows.
struct Series {
    /// For ids and classes.
    key: &'static str,
    title: &'static str,
    of: fn(&Sample) -> u64,
}

const UPLOADED: Series = Series { key: "uploaded", title: "Uploads", of: |sample| sample.uploaded };
const AGGREGATED: Series = Series { key: "aggregated", title: "Aggregated", of: |sample| sample.aggregated };
const REFUSED: Series = Series { key: "refused", title: "Refused", of: |sample| sample.refused };

/// The history of a task: uploads (leader), aggregated and refused reports, each on a scale of its own.
pub fn history(view: &TaskView, now: Time) -> Markup {
    let (Some(first), Some(last)) = (view.history.first(), view.history.last()) else {
        return html! { p.dim { "The history begins with the first minute that the server has run." } };
    };
    let series: &[Series] = match view.status.role {
        Role::Leader => &[UPLOADED, AGGREGATED, REFUSED],
        _ => &[AGGREGATED, REFUSED],
    };
    let end = last.start.saturating_add(last.duration);
    html! {
        div.charts {
            @for series in series { (chart(series, view, [first.start, end], now)) }
        }
    }
}

fn chart(series: &Series, view: &TaskView, [start, end]: [Time; 2], now: Time) -> Markup {
    let total: u64 = view.history.iter().map(series.of).fold(0, u64::saturating_add);
    let peak = view.history.iter().map(|sample| per_minute(sample, series.of)).fold(0.0, f64::max);
    let (key, id) = (series.key, view.status.id);
    let told = format!("{} in all since {}", count(total), relative(start, now));
    html! {
        figure.chart {
            figcaption {
                span.name { (series.title) }
                @if peak > 0.0 {
                    span.scale { "at most " b { (per(peak)) } }
                } @else {
                    span.scale { "none" }
                }
            }
            svg.plot.(key) role="img" aria-labelledby={ "t-" (id) "-" (key) " d-" (id) "-" (key) }
                viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" {
                title id={ "t-" (id) "-" (key) } { (series.title) " per minute" }
                desc id={ "d-" (id) "-" (key) } { (told) "; at most " (per(peak)) }
                path.grid d={ "M0 .5H" (WIDTH) "M0 20H" (WIDTH) } {}
                path.bars d=(bars(&view.history, series.of, peak, [start, end])) {}
                path.base d={ "M0 39.5H" (WIDTH) } {}
            }
            div.axis {
                span { (instant(start, now)) }
                span.total { (count(total)) " in all" }
                span { @if end.0.abs_diff(now.0) < 120 { "now" } @else { (instant(end, now)) } }
            }
        }
    }
}

/// The mini chart of a folded task: the charts below say it in full.
pub fn spark(view: &TaskView) -> Markup {
    let series = if view.status.role == Role::Leader { UPLOADED } else { AGGREGATED };
    let peak = view.history.iter().map(|sample| per_minute(sample, series.of)).fold(0.0, f64::max);
    let range = view.history.first().zip(view.history.last());
    html! {
        svg.spark.(series.key) viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" aria-hidden="true"
            focusable="false" {
            @if let Some((first, last)) = range {
                path.bars d=(bars(&view.history, series.of, peak, [first.start, last.start.saturating_add(last.duration)])) {}
            }
            path.base d={ "M0 39.5H" (WIDTH) } {}
        }
    }
}

/// A number of reports per minute.
fn per(rate: f64) -> String {
    if rate >= 10.0 || rate == rate.trunc() {
        format!("{}/min", count(rate.round() as u64))
    } else {
        format!("{rate:.1}/min")
    }
}

fn per_minute(sample: &Sample, of: fn(&Sample) -> u64) -> f64 {
    of(sample) as f64 * 60.0 / sample.duration.0.max(1) as f64
}

/// All bars as one path: each where its time is, so that hours without a server are gaps.
fn bars(history: &[Sample], of: fn(&Sample) -> u64, peak: f64, [start, end]: [Time; 2]) -> String {
    let unit = WIDTH / end.0.saturating_sub(start.0).max(1) as f64;
    let mut path = String::new();
    for sample in history.iter().filter(|sample| of(sample) > 0) {
        let x = sample.start.0.saturating_sub(start.0) as f64 * unit;
        let width = sample.duration.0 as f64 * unit * 0.8;
        // Something is never drawn as nothing.
        let height = (per_minute(sample, of) / peak * (HEIGHT - 2.0)).max(1.5);
        // Writing to a string cannot fail.
        let _ = write!(path, "M{x:.1} {HEIGHT}v-{height:.1}h{width:.1}v{height:.1}z");
    }
    path
}
