//! The figure of values by position over time, with its table.

use maud::{Markup, html};

use super::{
    Context,
    figure::{Figure, grouping, joined},
    quantiles,
    values::{position_name, value, write},
};
use crate::{
    number::{brief, quantile},
    series::Column,
    summary,
};
use dapbox_support::format::count;

/// Maximum number of cells of the table. Larger tables have a summary of each window.
const MAX_CELLS: usize = 1_500;

/// The figure around the chart.
/// `has_links` says whether its columns lead to windows.
pub fn figure(context: &Context, has_links: bool, lead: Markup, chart: Markup, mut remarks: Vec<Markup>) -> Markup {
    remarks.extend(grouping(context));
    remarks.extend(joined(context));
    let place = if has_links { "" } else { " in the table" };
    let noun = summary::noun(context.view());
    let lead = html! { (lead) @if context.series.group == 1 { " Select a " (noun) (place) " to see it alone." } };
    Figure { id: "development", title: "Development over time", lead, chart, remarks, table: Some(table(context)) }
        .render()
}

/// All numbers if they are few, otherwise a summary of each column.
fn table(context: &Context) -> Markup {
    let series = &context.series;
    let length = series.length();
    let is_whole = length * series.columns.len() <= MAX_CELLS;
    let edges = !series.view.settings.presentation.edges.is_empty();
    let shown = if is_whole { length } else { 0 };
    html! {
        @if !is_whole { p.dim { "A summary of each window. All numbers are in the files." } }
        table {
            thead {
                tr {
                    th scope="col" { "Window" }
                    th.n scope="col" { "Reports" }
                    @for at in 0..shown { th.n scope="col" { (series.value_label(at)) } }
                    @if !is_whole {
                        th scope="col" { "Largest " (position_name(series).to_lowercase()) }
                        th.n scope="col" { "Value" }
                        @if edges { th.n scope="col" { "Median" } }
                    }
                }
            }
            tbody { @for column in &series.columns { (row(context, column, shown, edges)) } }
        }
    }
}

fn row(context: &Context, column: &Column, shown: usize, has_edges: bool) -> Markup {
    let series = &context.series;
    let largest = column.total.largest();
    let text =
        |at: usize| value(series, &column.total, at).map_or_else(String::new, |value| write(series, value.value));
    let width = if shown > 0 { shown + 1 } else { 3 + usize::from(has_edges) };
    html! {
        tr {
            th scope="row" { (context.column_link(column)) }
            @if column.total.is_empty() {
                td.gap colspan=(width) { (column.gap.map_or("", |gap| gap.text())) }
            } @else {
                td.n { (count(column.total.reports)) }
                @for at in 0..shown { td.n { (text(at)) } }
                @if shown == 0 {
                    @match largest {
                        Some((at, _)) => { td { (series.value_label(at)) } td.n { (text(at)) } }
                        None => { td { "none" } td {} }
                    }
                    @if has_edges {
                        td.n { (quantiles::of(context, &column.total, 0.5).map_or_else(|| brief(f64::NAN), quantile)) }
                    }
                }
            }
        }
    }
}
