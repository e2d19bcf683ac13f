//! Charts of one number per window: counts, sums and reports.

use maud::{Markup, html};

use super::{
    Context,
    figure::{Figure, grouping, joined, legend, noise},
    values,
};
use crate::{
    chart::{
        frame::{Axis, Frame},
        marks,
        scale::{Format, Scale},
    },
    number::{brief, exact, percent},
    series::{Column, Measure},
    summary,
};
use dapbox_results::statistics::Interval95;
use dapbox_support::format::count;

/// Height of a main chart.
const HEIGHT: f64 = 240.0;

/// Height of a chart of secondary numbers.
const LOW: f64 = 90.0;

/// The charts of a count or a sum.
pub fn section(context: &Context) -> Markup {
    let is_sum = context.series.measure == Measure::Sum;
    let has_line = context.series.collected().nth(1).is_some();
    html! {
        @if has_line { @if is_sum { (mean(context)) } @else { (true_share(context)) } }
        (amount(context))
    }
}

/// The sum of all windows of the range.
pub fn total(context: &Context) -> Markup {
    let series = &context.series;
    let total = series.total();
    let is_sum = series.measure == Measure::Sum;
    let value = values::value(series, &total, 0);
    let unit = series.unit();
    html! {
        section.figure #total aria-labelledby="h-total" {
            h2 #h-total { "Added up" }
            p.lead { b { (series.label()) } " as one range." }
            dl.facts-of {
                dt.capital { (context.nouns()) } dd { (count(total.windows)) }
                dt { "Reports" } dd { (count(total.reports)) }
                dt { @if is_sum { "Sum" } @else { "True reports" } }
                dd { @for value in &total.values { (exact(*value)) } (unit) }
                @if let Some(value) = value {
                    dt { @if is_sum { "Mean per report" } @else { "Share of true reports" } }
                    dd {
                        b { (values::write(series, value.value)) } (unit)
                        @if value.high > value.low {
                            ", with 95 % confidence from " (values::write(series, value.low)) " to "
                            (values::write(series, value.high))
                        }
                    }
                }
            }
        }
    }
}

/// One value of each column with a result.
fn points<'a>(context: &'a Context, value: impl Fn(&Column) -> Option<Interval95>) -> Vec<(&'a Column, Interval95)> {
    context.series.collected().filter_map(|column| Some((column, value(column)?))).collect()
}

/// The smallest and largest value with their intervals.
fn extent(points: &[(&Column, Interval95)]) -> (f64, f64) {
    let low = points.iter().map(|(_, value)| value.low.min(value.value)).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|(_, value)| value.high.max(value.value)).fold(f64::NEG_INFINITY, f64::max);
    (low, high)
}

/// The sums or counts as bars.
fn amount(context: &Context) -> Markup {
    let series = &context.series;
    let points = points(context, |column| column.total.per_window(0, series.noise));
    let (low, high) = extent(&points);
    let scale = Scale::from_zero(low, high, HEIGHT, Format::Number);
    let is_sum = series.measure == Measure::Sum;
    let title = if is_sum { "Sum" } else { "True reports" };
    let has_noise = series.noise.is_some();
    let shapes = html! {
        (marks::bars(&points, &scale))
        @if has_noise { (marks::error_bars(&points, &scale)) }
    };
    let unit = series.unit();
    let tip = |column: &Column| {
        let value = column.total.values.first().map(|value| exact(*value)).unwrap_or_default();
        format!("{value}{unit} of {} reports", count(column.total.reports))
    };
    let description = format!("Bars over time, between {} and {} per window.", brief(low), brief(high));
    let chart = Frame {
        id: "amount",
        series,
        axis: &Axis::from(&scale),
        title,
        description: &description,
        tip: &tip,
        chosen: None,
        address: &|column| context.column_address(column),
    };
    let lead = match (is_sum, unit.trim()) {
        (true, "") => html! { "Sum of the measurements of all reports, per window." },
        (true, unit) => html! { "Sum of the measurements of all reports in " (unit) ", per window." },
        (false, _) => html! { "Number of reports with a true measurement, per window." },
    };
    let chart = html! { (chart.render(&shapes)) (legend(context)) };
    let remarks = [grouping(context), joined(context), noise(context)].into_iter().flatten().collect();
    Figure { id: "amount", title, lead, chart, remarks, table: Some(table(context)) }.render()
}

/// The mean per report as a line.
fn mean(context: &Context) -> Markup {
    let series = &context.series;
    let points = points(context, |column| column.total.mean(0, series.noise));
    let unit = series.unit();
    let tip = |column: &Column| {
        column
            .total
            .mean(0, series.noise)
            .map(|mean| format!("{}{unit} per report", brief(mean.value)))
            .unwrap_or_default()
    };
    let chart = line_chart(context, "mean", "Mean per report", &points, Format::Number, &tip);
    let lead = html! { "Sum divided by the number of reports" @if !unit.is_empty() { ", in" (unit) } "." };
    Figure { id: "mean", title: "Mean per report", lead, chart, remarks: Vec::new(), table: None }.render()
}

/// The share of true reports as a line with its interval.
fn true_share(context: &Context) -> Markup {
    let series = &context.series;
    let points = points(context, |column| column.total.share(0, series.noise));
    let tip = |column: &Column| {
        column
            .total
            .share(0, series.noise)
            .map(|share| format!("{} of reports", percent(share.value)))
            .unwrap_or_default()
    };
    let chart = line_chart(context, "share", "Share of true reports", &points, Format::Percent, &tip);
    let lead = html! { "Reports with a true measurement, as a share of all reports." };
    let remarks = vec![html! {
        "The band is the interval of 95 % confidence (Wilson): it treats the reports as a sample of all that could have been made."
    }];
    Figure { id: "share", title: "Share of true reports", lead, chart, remarks, table: None }.render()
}

/// A line over time.
pub fn line_chart(
    context: &Context,
    id: &str,
    title: &str,
    points: &[(&Column, Interval95)],
    format: Format,
    tip: &dyn Fn(&Column) -> String,
) -> Markup {
    let (low, high) = extent(points);
    let scale = Scale::fitting(low, high, HEIGHT, format);
    let write = |value: f64| if format == Format::Percent { percent(value) } else { brief(value) };
    let description = format!("A line over time, between {} and {}.", write(low), write(high));
    let frame = Frame {
        id,
        series: &context.series,
        axis: &Axis::from(&scale),
        title,
        description: &description,
        tip,
        chosen: None,
        address: &|column| context.column_address(column),
    };
    html! {
        (frame.render(&marks::line(points, &scale)))
        @if scale.low > 0.0 { p.remark { "The vertical axis begins at " (write(scale.low)) ", not at zero." } }
    }
}

/// The number of reports.
pub fn reports(context: &Context) -> Markup {
    let series = &context.series;
    let per_window = |column: &Column| {
        let windows = column.total.windows.max(1) as f64;
        Some(Interval95::around(column.total.reports as f64 / windows, 0.0))
    };
    let points = points(context, per_window);
    let (low, high) = extent(&points);
    let scale = Scale::from_zero(low, high, LOW, Format::Number);
    let tip = |column: &Column| format!("{} reports", count(column.total.reports));
    let description = format!("Bars over time, between {} and {} per window.", brief(low), brief(high));
    let frame = Frame {
        id: "reports",
        series,
        axis: &Axis::from(&scale),
        title: "Reports",
        description: &description,
        tip: &tip,
        chosen: context.selection.window,
        // The main chart has the links.
        address: &|_| None,
    };
    let chart = html! { div.quiet { (frame.render(&marks::bars(&points, &scale))) } };
    let min = series.view.parameters.min_batch_size;
    let lead = html! { "Number of reports in each " (summary::noun(series.view)) ". A result needs at least " (count(min)) "." };
    Figure { id: "reports", title: "Reports", lead, chart, remarks: Vec::new(), table: None }.render()
}

/// The numbers of all columns.
fn table(context: &Context) -> Markup {
    let series = &context.series;
    let is_sum = series.measure == Measure::Sum;
    let has_noise = series.noise.is_some();
    html! {
        table {
            thead {
                tr {
                    th scope="col" { "Window" }
                    th.n scope="col" { "Reports" }
                    th.n scope="col" { @if is_sum { "Sum" } @else { "True" } }
                    @if has_noise { th.n scope="col" { "± 95 %" } }
                    th.n scope="col" { @if is_sum { "Mean per report" } @else { "Share" } }
                }
            }
            tbody {
                @for column in &series.columns {
                    tr {
                        th scope="row" { (context.column_link(column)) }
                        @if column.total.is_empty() {
                            td.gap colspan=(if has_noise { 4 } else { 3 }) { (column.gap.map_or("", |gap| gap.text())) }
                        } @else {
                            td.n { (count(column.total.reports)) }
                            td.n { @for value in &column.total.values { (exact(*value)) } }
                            @if has_noise { td.n { (brief(column.total.bound(series.noise))) } }
                            td.n {
                                @if is_sum {
                                    (column.total.mean(0, series.noise).map_or_else(String::new, |mean| brief(mean.value)))
                                } @else {
                                    (column.total.share(0, series.noise).map_or_else(String::new, |share| percent(share.value)))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
