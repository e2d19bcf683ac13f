//! The values by position over time: stacked columns, small multiples or a heat map.

use maud::{Markup, html};

use super::{
    Context,
    figure::legend,
    multiples,
    over_time::figure,
    quantiles,
    values::{ticks, value, write},
};
use crate::{
    chart::{
        frame::{Axis, Frame, WIDTH, coordinate},
        heat::{self, Heat, SHADES},
        scale::{Format, Scale},
        stack,
    },
    number::{percent, quantile},
    series::{Column, Measure},
};
use dapbox_support::format::count;

/// Height of charts.
const HEIGHT: f64 = 260.0;

/// Maximum height of a heat map.
const MAX_HEIGHT: f64 = 400.0;

/// Height of a row of a heat map with few rows.
const ROW_HEIGHT: f64 = 18.0;

/// Maximum number of rows of a heat map; more positions are grouped.
const MAX_ROWS: usize = 128;

/// The figure of the development over time.
pub fn section(context: &Context) -> Markup {
    let series = &context.series;
    let length = series.length();
    match series.measure {
        // Stacks cannot show errors or negative numbers.
        Measure::Histogram if length <= stack::MAX_LAYERS && series.noise.is_none() => stacked(context),
        // Ordered bins show more side by side.
        Measure::Histogram if !series.view.settings.presentation.edges.is_empty() => heat_map(context),
        _ if length <= multiples::MAX_PANELS => multiples::section(context),
        _ => heat_map(context),
    }
}

/// Shares of bins as stacked columns.
fn stacked(context: &Context) -> Markup {
    let series = &context.series;
    let length = series.length();
    let shares = |column: &Column| {
        let counts: Vec<f64> = column.total.floats().into_iter().map(|count| count.max(0.0)).collect();
        let all = counts.iter().sum::<f64>().max(1.0);
        counts.into_iter().map(|count| count / all).collect::<Vec<_>>()
    };
    let columns: Vec<_> = series.collected().map(|column| (column, shares(column))).collect();
    let scale = Scale::from_zero(0.0, 1.0, HEIGHT, Format::Percent);
    let tip = |column: &Column| {
        let line = |(at, share): (usize, f64)| format!("{}: {}", series.value_label(at), percent(share));
        shares(column).into_iter().enumerate().rev().map(line).collect::<Vec<_>>().join("\n")
    };
    let description = format!("Stacked columns of {length} bins over time.");
    let frame = Frame {
        id: "development",
        series,
        axis: &Axis::from(&scale),
        title: "Development of the distribution",
        description: &description,
        tip: &tip,
        chosen: context.selection.window,
        address: &|column| context.column_address(column),
    };
    let chart = html! {
        ul.layers aria-label="Bins" {
            @for at in 0..length {
                li {
                    svg.key width="12" height="12" aria-hidden="true" {
                        rect.{ "l" (stack::layer_color(at, length)) } width="12" height="12" {}
                    }
                    (series.value_label(at))
                }
            }
        }
        (frame.render(&stack::layers(&columns, &scale)))
        (legend(context))
    };
    figure(context, true, html! { "Share of each bin in the reports, over time." }, chart, Vec::new())
}

/// Values as shades.
fn heat_map(context: &Context) -> Markup {
    let series = &context.series;
    let length = series.length();
    let group = length.div_ceil(MAX_ROWS).max(1);
    let rows = length.div_ceil(group);
    let columns: Vec<&Column> = series.collected().collect();
    let cells = |column: &Column| -> Vec<f64> {
        let values: Vec<f64> =
            (0..length).filter_map(|at| value(series, &column.total, at)).map(|value| value.value).collect();
        let divisor = |size: usize| if series.measure == Measure::Histogram { 1.0 } else { size as f64 };
        values.chunks(group).map(|chunk| chunk.iter().sum::<f64>() / divisor(chunk.len())).collect()
    };
    let values: Vec<(u64, Vec<f64>)> = columns.iter().map(|column| (column.first, cells(column))).collect();
    let most = values.iter().flat_map(|(_, cells)| cells).copied().fold(0.0, f64::max);
    let height = (rows as f64 * ROW_HEIGHT).clamp(80.0, MAX_HEIGHT);
    // Ordered bins grow upwards, other positions are read from the top.
    let presentation = &series.view.settings.presentation;
    let is_ordered = presentation.labels.is_empty() || !presentation.edges.is_empty();
    let is_upward = series.measure == Measure::Histogram && is_ordered;
    let map = Heat { id: "development", columns: &columns, rows, height }.render(|column, row| {
        let at = if is_upward { rows - 1 - row } else { row };
        let found = values.binary_search_by_key(&column.first, |(first, _)| *first);
        found.ok().and_then(|found| values[found].1.get(at)).map_or(0, |value| heat::shade(*value, most))
    });
    let y = |share: f64| if is_upward { (1.0 - share) * height } else { share * height };
    let axis = Axis { height, labels: axis_labels(context, group, &y), lines: Vec::new(), base: Some(height) };
    let tip = |column: &Column| {
        let median = quantiles::of(context, &column.total, 0.5)
            .map(|median| format!(", median {}{}", quantile(median), series.unit()));
        format!("{} reports{}", count(column.total.reports), median.unwrap_or_default())
    };
    let description =
        format!("A heat map of {length} positions over time; the darkest shade is {}.", write(series, most));
    let frame = Frame {
        id: "development",
        series,
        axis: &axis,
        title: "Development over time",
        description: &description,
        tip: &tip,
        chosen: context.selection.window,
        address: &|column| context.column_address(column),
    };
    let median = medians(context, &columns, &y);
    let shapes =
        html! { (map) @if let Some(path) = &median { path.median-halo d=(path) {} path.median-line d=(path) {} } };
    let chart = html! { (shade_legend(context, most, median.is_some())) (frame.render(&shapes)) (legend(context)) };
    let mut remarks = Vec::new();
    if group > 1 {
        remarks.push(html! {
            "Each row is the " @if series.measure == Measure::Histogram { "sum" } @else { "mean" } " of " (group)
            " successive positions, of " (count(length as u64)) "."
        });
    }
    if series.noise.is_some() {
        remarks.push(html! { "Negative numbers, which noise causes, are drawn as zero here." });
    }
    let lead = match series.measure {
        Measure::Histogram => html! { "Share of each bin in the reports, over time." },
        Measure::Flags => html! { "Share of reports with each flag, over time." },
        _ => html! { "Mean per report at each position, over time." },
    };
    figure(context, true, lead, chart, remarks)
}

/// Labels of the rows of a heat map.
fn axis_labels(context: &Context, group: usize, y: &dyn Fn(f64) -> f64) -> Vec<(f64, String)> {
    let series = &context.series;
    let length = series.length();
    let labels = &series.view.settings.presentation.labels;
    if !labels.is_empty() && length <= 24 && group == 1 {
        let short = |text: &String| {
            if text.chars().count() > 7 { text.chars().take(6).chain(['…']).collect() } else { text.clone() }
        };
        return (0..length)
            .filter_map(|at| Some((y((at as f64 + 0.5) / length as f64), short(labels.get(at)?))))
            .collect();
    }
    ticks(series, length).into_iter().map(|(x, label)| (y(x), label)).collect()
}

/// A line through the medians, if there are edges.
fn medians(context: &Context, columns: &[&Column], y: &dyn Fn(f64) -> f64) -> Option<String> {
    let mut path = String::new();
    let mut right = f64::NAN;
    for column in columns {
        let position =
            quantiles::of(context, &column.total, 0.5).and_then(|median| quantiles::position(context, median));
        let Some(position) = position else { continue };
        let command = if (column.left - right).abs() < 1e-9 { 'L' } else { 'M' };
        path += &format!("{command}{} {}", coordinate(column.center() * WIDTH), coordinate(y(position)));
        right = column.right;
    }
    (!path.is_empty()).then_some(path)
}

/// The values of the shades.
fn shade_legend(context: &Context, most: f64, has_median: bool) -> Markup {
    let series = &context.series;
    html! {
        div.shades-legend {
            span { "0" }
            svg.ramp width="160" height="12" role="img" aria-label="Shades from low to high values" {
                @for shade in 0..SHADES {
                    @let opacity = format!("{:.2}", shade as f64 / (SHADES - 1) as f64);
                    rect.heat x=(shade * 10) width="10" height="12" fill-opacity=(opacity) {}
                }
            }
            span { (write(series, most)) }
            span.dim { "middle shade " (write(series, heat::value_of_shade(8, most))) }
            @if has_median {
                span.median-key {
                    svg.key width="24" height="12" aria-hidden="true" { path.median-line d="M1 6H23" {} }
                    "median"
                }
            }
        }
    }
}
