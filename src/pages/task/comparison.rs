//! The change between two ranges.

use maud::{Markup, html};

use super::{Context, figure::scroll_box, values};
use crate::{
    number::{brief, points, signed},
    series::{Measure, Series, Total},
};
use dapbox_results::statistics::{Interval95, Share};
use dapbox_support::format::count;

/// The difference of a position between two totals.
fn difference(series: &Series, total: &Total, other: &Total, at: usize) -> Option<Interval95> {
    let of = |total: &Total| match series.measure {
        Measure::Vector | Measure::Sum => total.mean(at, series.noise),
        _ => Share::of(total.values.get(at)?.as_f64(), total.reports, total.bound(series.noise)),
    };
    Some(of(total)?.minus(of(other)?))
}

/// The change of a position, in points of percent or as a mean.
pub fn change(series: &Series, total: &Total, other: &Total, at: usize) -> Markup {
    let Some(change) = difference(series, total, other, at) else { return html! {} };
    let text = match series.measure {
        Measure::Vector | Measure::Sum => signed(change.value, brief),
        _ => signed(change.value, points),
    };
    // Without an interval nothing can be said about chance.
    let is_certain = change.high > change.low && !change.contains_zero();
    html! {
        span.change.certain[is_certain] {
            (text)
            @if is_certain { "*" }
        }
    }
}

/// What marks of changes mean.
pub fn remark() -> Markup {
    html! {
        "pp: percentage points. * marks a change that is larger than chance and noise explain with "
        "95 % confidence (Newcombe)."
    }
}

/// Two ranges side by side, for counts and sums.
pub fn section(context: &Context) -> Markup {
    let Some(other) = &context.compared else { return html! {} };
    let series = &context.series;
    let (total, compared) = (series.total(), other.total());
    if compared.is_empty() || total.is_empty() {
        return html! { div.empty { p { b { "No comparison." } " One of the two ranges has no results." } } };
    }
    if !matches!(series.measure, Measure::Count | Measure::Sum) {
        // The distribution shows the changes.
        return html! {};
    }
    let row = |label: &str, total: &Total| {
        let value = values::value(series, total, 0);
        html! {
            tr {
                th scope="row" { (label) }
                td.n.wide { (count(total.windows)) }
                td.n { (count(total.reports)) }
                td.n { @for value in &total.values { (crate::number::exact(*value)) } }
                td.n { b { (value.map_or_else(String::new, |value| values::write(series, value.value))) } }
            }
        }
    };
    let table = html! {
        table {
            thead {
                tr {
                    th scope="col" { "Range" }
                    th.n.wide.capital scope="col" { (context.nouns()) }
                    th.n scope="col" { "Reports" }
                    th.n scope="col" { @if series.measure == Measure::Sum { "Sum" } @else { "True" } }
                    th.n scope="col" { @if series.measure == Measure::Sum { "Mean" } @else { "Share" } }
                }
            }
            tbody { (row(&series.label(), &total)) (row(&other.label(), &compared)) }
        }
    };
    html! {
        section.figure #comparison aria-labelledby="h-comparison" {
            h2 #h-comparison { "Comparison" }
            p.lead {
                @if series.measure == Measure::Sum { "The mean per report" } @else { "The share of true reports" }
                " changed by " b { (change(series, &total, &compared, 0)) (series.unit()) } "."
            }
            (scroll_box("Comparison", &table))
            @if series.measure == Measure::Count {
                p.remark { (remark()) }
            }
        }
    }
}
