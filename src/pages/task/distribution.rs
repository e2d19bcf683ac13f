//! The values by position in one window or range: the distribution of a histogram, the shares of flags, the means of a
//! vector.

use maud::{Markup, html};

use super::{
    Context,
    comparison::{self, change},
    figure::{Figure, noise},
    quantiles,
    shown::{Shown, shown},
    values::{position_name, ticks, value, write},
};
use crate::{
    Selection,
    chart::{
        columns::Columns,
        rows::{Range, bar},
        scale::{Format, Scale},
    },
    number::{brief, exact},
    series::{Measure, Series, Total},
    summary,
};
use dapbox_results::statistics::Interval95;
use dapbox_support::format::{count, counted};

/// Height of the chart.
const HEIGHT: f64 = 260.0;

/// Up to this number, positions are rows with their labels.
const MAX_ROWS: usize = 40;

/// Maximum number of columns; more positions are grouped.
const MAX_COLUMNS: usize = 256;

/// Maximum number of rows of the table; all numbers are in the files.
const MAX_TABLE: usize = 300;

/// The figure of the values by position.
pub fn section(context: &Context) -> Markup {
    let series = &context.series;
    let shown = shown(context);
    if shown.total.is_empty() {
        return html! { div.empty { p { b { (shown.label) } ": no result." } } };
    }
    let length = shown.total.values.len();
    let presentation = &series.view.settings.presentation;
    let is_ordered = series.measure == Measure::Histogram && presentation.labels.is_empty() && length > 12;
    let has_rows = length <= MAX_ROWS && !is_ordered && presentation.edges.is_empty();
    let title = match series.measure {
        Measure::Flags => "Share of reports with each flag",
        Measure::Vector => "Mean per report at each position",
        _ => "Distribution",
    };
    let chart = html! {
        (range_links(context))
        (quantiles::figures(context, &shown))
        @if has_rows { (rows(context, &shown, true)) } @else { (columns(context, &shown)) }
    };
    let mut remarks: Vec<Markup> = Vec::new();
    if series.measure == Measure::Flags {
        remarks.push(html! {
            "Lines show the interval of 95 % confidence (Wilson). It treats the reports as a sample of all that could have been made."
        });
    }
    remarks.extend(shown.compared.as_ref().map(|_| comparison::remark()));
    remarks.extend(noise(context));
    remarks.extend(quantiles::remark(context));
    let table = (!has_rows).then(|| rows(context, &shown, false));
    Figure { id: "distribution", title, lead: lead(context, &shown), chart, remarks, table }.render()
}

fn lead(context: &Context, shown: &Shown) -> Markup {
    let windows = shown.total.windows;
    let unit = context.series.unit();
    html! {
        b { (shown.label) } ": " (count(shown.total.reports)) " reports"
        @if windows > 1 { " in " (counted(windows, summary::noun(context.view()))) }
        @if let Some((total, label)) = &shown.compared {
            ", compared with " span.other { b { (label) } ": " (count(total.reports)) " reports" }
        }
        "."
        @if !unit.is_empty() && context.series.measure != Measure::Flags { " Values in" (unit) "." }
    }
}

/// Links to the previous and next window, and back to the range.
fn range_links(context: &Context) -> Markup {
    let Some(number) = context.selection.window else {
        return html! {};
    };
    let numbers: Vec<u64> = context
        .series
        .windows
        .iter()
        .filter(|window| window.collected().is_some())
        .map(|window| window.number)
        .collect();
    let before = numbers.iter().rev().find(|other| **other < number);
    let after = numbers.iter().find(|other| **other > number);
    let address = |window: Option<u64>| context.page(&Selection { window, ..*context.selection });
    html! {
        nav.steps aria-label="Windows" {
            @if let Some(before) = before { a href=(address(Some(*before))) rel="prev" { "← Previous" } }
            @if let Some(after) = after { a href=(address(Some(*after))) rel="next" { "Next →" } }
            a href=(address(None)) { "Whole range" }
        }
    }
}

/// A row per position, with a bar unless a chart has them.
fn rows(context: &Context, shown: &Shown, has_bars: bool) -> Markup {
    let series = &context.series;
    let length = shown.total.values.len();
    let compared = shown.compared.as_ref().map(|(total, _)| total);
    let of = |total: &Total, at| value(series, total, at);
    let all = (0..length).flat_map(|at| [of(&shown.total, at), compared.and_then(|total| of(total, at))]);
    let range = Range::of(all.flatten());
    let has_noise = series.noise.is_some();
    let is_vector = series.measure == Measure::Vector;
    html! {
        div.across {
            table.rows.comparing[compared.is_some()] {
                thead {
                    tr {
                        th scope="col" { (position_name(series)) }
                        @if has_bars { th scope="col" aria-label="Bar" {} }
                        th.n scope="col" { @if is_vector { "Mean" } @else { "Share" } }
                        @if series.measure == Measure::Flags { th.n.wide scope="col" { "95 % interval" } }
                        th.n.wide scope="col" { @if is_vector { "Sum" } @else { "Reports" } }
                        @if has_noise { th.n.wide scope="col" { "± noise" } }
                        @if compared.is_some() { th.n.wide scope="col" { "Compared" } th.n scope="col" { "Change" } }
                    }
                }
                tbody {
                    @for at in 0..length.min(MAX_TABLE) {
                        @let (value, other) = (of(&shown.total, at), compared.and_then(|total| of(total, at)));
                        tr {
                            th scope="row" { (series.value_label(at)) }
                            @if has_bars { td.drawn { @if let Some(value) = value { (bar(range, value, other)) } } }
                            td.n { b { (value.map_or_else(String::new, |value| write(series, value.value))) } }
                            @if series.measure == Measure::Flags {
                                td.n.wide {
                                    @if let Some(value) = value { (write(series, value.low)) " – " (write(series, value.high)) }
                                }
                            }
                            td.n.wide { @if let Some(number) = shown.total.values.get(at) { (exact(*number)) } }
                            @if has_noise { td.n.wide { (brief(shown.total.bound(series.noise))) } }
                            @if let Some(total) = compared {
                                td.n.wide { (other.map_or_else(String::new, |other| write(series, other.value))) }
                                td.n { (change(series, &shown.total, total, at)) }
                            }
                        }
                    }
                }
            }
        }
        @if length > MAX_TABLE {
            p.dim { "The first " (MAX_TABLE) " of " (count(length as u64)) " rows. All numbers are in the files." }
        }
    }
}

/// Positions as columns, grouped if there are many.
fn columns(context: &Context, shown: &Shown) -> Markup {
    let series = &context.series;
    let length = shown.total.values.len();
    let group = length.div_ceil(MAX_COLUMNS).max(1);
    let values = grouped(series, &shown.total, group);
    let compared = shown.compared.as_ref().map(|(total, _)| grouped(series, total, group));
    let compared: Option<Vec<f64>> = compared.map(|values| values.into_iter().map(|value| value.value).collect());
    let ends = values.iter().flat_map(|value| [value.low, value.high, value.value]);
    let ends = ends.chain(compared.iter().flatten().copied());
    let (low, high) = ends.fold((0.0_f64, 0.0_f64), |(low, high), end| (low.min(end), high.max(end)));
    let format = if series.measure == Measure::Vector { Format::Number } else { Format::Percent };
    let scale = Scale::from_zero(low, high, HEIGHT, format);
    let largest = values.iter().enumerate().max_by(|(_, a), (_, b)| a.value.total_cmp(&b.value));
    let description = largest.map_or_else(String::new, |(at, value)| {
        format!(
            "{length} positions; the largest value is {} at {}.",
            write(series, value.value),
            label(series, at, group, length)
        )
    });
    let tip = |at: usize| {
        let sum = (at * group..((at + 1) * group).min(length)).map(|at| shown.total.values[at]);
        let sum = if group == 1 { sum.map(exact).collect::<Vec<_>>().join(", ") + ", " } else { String::new() };
        format!("{}: {sum}{}", label(series, at, group, length), write(series, values[at].value))
    };
    let chart = Columns {
        id: "positions",
        scale: &scale,
        title: "Values by position",
        description: &description,
        values: &values,
        compared: compared.as_deref(),
        ticks: &ticks(series, length),
        marks: &quantiles::marks(context, &shown.total),
        tip: &tip,
    };
    html! {
        (chart.render())
        @if group > 1 {
            p.remark {
                "Each column is the " @if series.measure == Measure::Histogram { "sum" } @else { "mean" } " of "
                (group) " successive positions, of " (count(length as u64)) "."
            }
        }
    }
}

/// The values of groups of positions: the sum of bins, the mean of other positions.
fn grouped(series: &Series, total: &Total, group: usize) -> Vec<Interval95> {
    let values: Vec<_> = (0..total.values.len()).filter_map(|at| value(series, total, at)).collect();
    let divisor = |size: usize| if series.measure == Measure::Histogram { 1.0 } else { size as f64 };
    let merge = |values: &[Interval95]| {
        let sum: f64 = values.iter().map(|value| value.value).sum();
        let below = values.iter().map(|value| (value.value - value.low).powi(2)).sum::<f64>().sqrt();
        let above = values.iter().map(|value| (value.high - value.value).powi(2)).sum::<f64>().sqrt();
        Interval95 { value: sum, low: sum - below, high: sum + above }.per(divisor(values.len()))
    };
    values.chunks(group).map(merge).collect()
}

fn label(series: &Series, at: usize, group: usize, length: usize) -> String {
    let (first, last) = (at * group, ((at + 1) * group).min(length) - 1);
    let edges = &series.view.settings.presentation.edges;
    match (edges.get(first), edges.get(last + 1)) {
        (Some(low), Some(high)) => crate::number::bin(*low, *high),
        _ if first == last => series.value_label(first),
        _ => format!("{}s {first}–{last}", position_name(series)),
    }
}
