//! What the task measures, what needs attention, and the key figures of the range.

use maud::{Markup, html};

use super::{Context, quantiles};
use crate::{
    document,
    number::{brief, exact, percent, quantile},
    series::Measure,
    summary,
    view::TaskView,
};
use dapbox_protocol::model::Epsilon;
use dapbox_support::format::{self, count, counted, relative};

/// The title and what is measured.
pub fn header(context: &Context) -> Markup {
    let view = context.view();
    let presentation = &view.settings.presentation;
    html! {
        div.head {
            h1 { (view.title()) }
            @if let Some(description) = &presentation.description { p.description { (description) } }
            div.sub { p { (summary::measures(view)) } (super::controls::files(context)) }
        }
    }
}

/// What the operator should look at.
pub fn attention(context: &Context) -> Markup {
    // Errors are for the operator.
    let notices = summary::attention(context.view(), context.addresses.overview.is_some());
    html! {
        @if !notices.is_empty() {
            section #attention .attention aria-labelledby="h-attention" {
                h2 #h-attention { (document::warning()) "Needs attention" }
                ul { @for notice in &notices { li { (notice) } } }
            }
        }
    }
}

/// What to expect before the first result.
pub fn no_results(context: &Context) -> Markup {
    let view = context.view();
    let all = view.windows.iter().any(|window| window.collected().is_some());
    html! {
        div.empty {
            @if all {
                p { b { "No results in this range." } " Select another range." }
            } @else if context.series.windows.is_empty() {
                p { b { "No results yet." } " The first window has not begun." }
            } @else {
                p {
                    b { "No results yet." }
                    " A window is collected after it has ended, if it has at least "
                    (format::counted(view.parameters.min_batch_size, "report")) "."
                }
            }
            @if let Some(next) = summary::next_window(view) { p.dim { "Next: " (next) "." } }
        }
    }
}

/// The numbers of the range.
pub fn key_figures(context: &Context) -> Markup {
    let series = &context.series;
    let total = series.total();
    let view = context.view();
    html! {
        section .cards aria-label="Key figures" {
            (main_figure(context))
            div.card {
                h2 { "Reports" }
                p.big { (count(total.reports)) }
                p.dim {
                    "in " (format::counted(total.windows, summary::noun(view)))
                    @let missing = series.missing();
                    @if missing > 0 { ", " (count(missing)) " without a result" }
                }
            }
            @if let Some(last) = summary::last_collected(view) {
                div.card {
                    h2 { "Latest result" }
                    p.big { (summary::window_label(view, &series.calendar, last)) }
                    @if let Some(collected) = last.collected() {
                        p.dim { (format::counted(collected.report_count, "report")) }
                        p.dim { "collected " (relative(collected.collected, view.now)) }
                    }
                }
            }
            div.card {
                h2 { "Next" }
                p.big { (summary::next_window_brief(view)) }
                @if let Some(next) = summary::next_window(view) { p.dim { (next) } }
            }
        }
    }
}

/// The figure that answers the task's question for the range.
fn main_figure(context: &Context) -> Markup {
    let series = &context.series;
    let total = series.total();
    let (bound, unit) = (total.bound(series.noise), series.unit());
    html! {
        div.card.main {
            @match series.measure {
                Measure::Count => {
                    h2 { "True reports" }
                    p.big { (total.share(0, series.noise).map_or_else(String::new, |share| percent(share.value))) }
                    p.dim { @for value in &total.values { (exact(*value)) } " of " (count(total.reports)) }
                }
                Measure::Sum => {
                    h2 { "Mean per report" }
                    p.big { (total.mean(0, series.noise).map_or_else(String::new, |mean| brief(mean.value))) small { (unit) } }
                    p.dim { "sum " @for value in &total.values { (exact(*value)) } (unit) }
                }
                Measure::Histogram if quantiles::of(context, &total, 0.5).is_some() => {
                    h2 { "Median" }
                    @if let Some(median) = quantiles::of(context, &total, 0.5) { p.big { (quantile(median)) small { (unit) } } }
                    @if let (Some(low), Some(high)) = (quantiles::of(context, &total, 0.25), quantiles::of(context, &total, 0.75)) {
                        p.dim { "the middle half: " (quantile(low)) " to " (quantile(high)) (unit) }
                    }
                }
                Measure::Histogram | Measure::Flags | Measure::Vector => {
                    h2 { (largest_title(series.measure)) }
                    @if let Some((at, value)) = total.largest() {
                        @let label = series.value_label(at);
                        p.big.long[label.chars().count() > LONG] { (shortened(&label)) }
                        p.dim {
                            @match series.measure {
                                Measure::Vector => { (brief(value / total.reports.max(1) as f64)) (unit) " per report" }
                                _ => { (percent(value / total.reports.max(1) as f64)) " of reports" }
                            }
                        }
                    } @else {
                        p.big { "none" }
                        p.dim { "all numbers are zero" @if bound > 0.0 { " or negative" } }
                    }
                }
            }
            @if bound > 0.0 { p.dim { "noise: ±" (brief(bound)) " in each number" } }
        }
    }
}

fn largest_title(measure: Measure) -> &'static str {
    match measure {
        Measure::Histogram => "Most frequent",
        Measure::Flags => "Most frequent flag",
        _ => "Largest position",
    }
}

/// Labels with more characters are written smaller.
const LONG: usize = 22;

/// Maximum number of characters of a label in a key figure.
const MAX_LABEL: usize = 70;

fn shortened(label: &str) -> String {
    match label.chars().count() > MAX_LABEL {
        true => label.chars().take(MAX_LABEL).chain(['…']).collect(),
        false => label.to_owned(),
    }
}

/// What the results have spent together: epsilons add up.
fn spent(view: &TaskView, epsilon: Epsilon) -> String {
    let results = view.windows.iter().filter(|window| window.collected().is_some()).count() as u64;
    let total = epsilon.times(results).map_or_else(|| "0".to_owned(), |total| total.to_string());
    format!("epsilon {total} in total, by {} of epsilon {epsilon}", counted(results, "result"))
}

/// The parameters of the task.
pub fn facts(context: &Context) -> Markup {
    let view = context.view();
    let parameters = &view.parameters;
    let schedule = &view.settings.schedule;
    html! {
        details.facts #facts {
            summary { "About this task" }
            dl {
                dt { "Measurement" } dd { (format::vdaf(&parameters.vdaf)) }
                dt { "Batches" } dd { (format::batches(parameters.batch_mode, parameters.min_batch_size)) }
                @if let Some(epsilon) = parameters.noise {
                    dt { "Noise" } dd { (format::noise(&parameters.vdaf, epsilon)) }
                    dt { "Privacy" } dd { (spent(view, epsilon)) }
                }
                dt { "Windows" } dd { (summary::schedule(view)) }
                dt { "Time zone" } dd { (schedule.time_zone) }
                dt { "Leader" } dd { (parameters.leader_url) }
                dt { "Helper" } dd { (parameters.helper_url) }
                dt { "Task ID" } dd { code { (view.id) } }
            }
        }
    }
}
