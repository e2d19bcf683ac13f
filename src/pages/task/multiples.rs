//! Small multiples: one small chart over time for each flag or position.

use maud::{Markup, html};

use super::{
    Context,
    figure::legend,
    over_time::figure,
    shown::shown,
    values::{value, write},
};
use crate::{
    chart::{
        frame::{Axis, Multiple},
        marks,
        scale::{Format, Scale},
    },
    series::{Column, Measure, Series},
};
use dapbox_results::statistics::Interval95;

/// Maximum number of small charts.
pub const MAX_PANELS: usize = 24;

/// Maximum number of points of all charts together.
const MAX_POINTS: usize = 2_400;

/// Height of a chart.
const HEIGHT: f64 = 84.0;

/// The small charts.
pub fn section(context: &Context) -> Markup {
    let length = context.series.length();
    // Small charts need fewer columns.
    let most = (MAX_POINTS / length.max(1)).min(crate::series::MAX_COLUMNS);
    let series = Series::of_range(context.view(), context.range, most);
    let points: Vec<_> = (0..length).map(|at| points(&series, at)).collect();
    let is_vector = series.measure == Measure::Vector;
    let shared = scale(points.iter().flatten(), is_vector);
    let is_similar = points.iter().all(|points| scale(points, is_vector).high * 3.0 >= shared.high);
    let own = if is_similar { "" } else { " Each chart has its own scale." };
    let chart = html! {
        div.multiples {
            @for (at, points) in points.iter().enumerate() {
                @let scale = if is_similar { shared.clone() } else { scale(points, is_vector) };
                (panel(context, &series, at, points, &scale))
            }
        }
        (legend(context))
    };
    let lead = match series.measure {
        Measure::Vector => html! { "Mean per report at each position." (own) },
        Measure::Histogram => html! { "Share of each bin in the reports." (own) },
        _ => html! { "Share of reports with each flag, with the interval of 95 % confidence." (own) },
    };
    let remarks = (series.group > context.series.group).then(|| {
        html! { "Each point is the value of " (series.group) " successive windows." }
    });
    figure(context, false, lead, chart, remarks.into_iter().collect())
}

fn points<'a>(series: &'a Series, at: usize) -> Vec<(&'a Column, Interval95)> {
    series.collected().filter_map(|column| Some((column, value(series, &column.total, at)?))).collect()
}

fn scale<'a, 'b: 'a>(points: impl IntoIterator<Item = &'a (&'b Column, Interval95)>, is_vector: bool) -> Scale {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (_, value) in points {
        (low, high) = (low.min(value.low), high.max(value.high));
    }
    match is_vector {
        true => Scale::fitting(low, high, HEIGHT, Format::Number),
        false => Scale::from_zero(low, high, HEIGHT, Format::Percent),
    }
}

fn panel(context: &Context, series: &Series, at: usize, points: &[(&Column, Interval95)], scale: &Scale) -> Markup {
    let total = value(series, &shown(context).total, at);
    let id = format!("m{at}");
    let last = points.last().map(|(_, value)| write(series, value.value)).unwrap_or_default();
    let description = format!("A line over time that ends at {last}.");
    let chart = Multiple {
        id: &id,
        series,
        axis: &Axis::from(scale),
        title: &series.value_label(at),
        description: &description,
    };
    html! {
        figure.panel {
            figcaption {
                span.name { (series.value_label(at)) }
                b { (total.map_or_else(String::new, |value| write(series, value.value))) }
            }
            (chart.render(&marks::thin_line(points, scale)))
        }
    }
}
