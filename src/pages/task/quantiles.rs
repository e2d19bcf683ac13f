//! Quantiles of histograms with edges.

use maud::{Markup, html};

use super::{Context, shown::Shown};
use crate::{
    number,
    series::{Measure, Total},
};
use dapbox_results::statistics::{Quantile, quantile};

/// The quantiles that are shown.
const SHOWN: [(f64, &str); 5] = [(0.05, "5 %"), (0.25, "25 %"), (0.5, "Median"), (0.75, "75 %"), (0.95, "95 %")];

/// A quantile of a total; `None` unless the task is a histogram with edges.
pub fn of(context: &Context, total: &Total, p: f64) -> Option<Quantile> {
    let series = &context.series;
    let edges = &series.view.settings.presentation.edges;
    (series.measure == Measure::Histogram).then(|| quantile(&total.floats(), edges, p)).flatten()
}

/// The quantiles as figures.
pub fn figures(context: &Context, shown: &Shown) -> Markup {
    let unit = context.series.unit();
    let all: Vec<_> = SHOWN.iter().filter_map(|(p, name)| Some((name, *p, of(context, &shown.total, *p)?))).collect();
    html! {
        @if !all.is_empty() {
            dl.quantiles {
                @for (name, p, value) in all {
                    div.median[p == 0.5] {
                        dt { @if p == 0.5 { (name) } @else { (name) " below" } }
                        dd {
                            (number::quantile(value)) (unit)
                            @if let Some((total, _)) = &shown.compared {
                                @if let Some(other) = of(context, total, p) { span.other { " " (number::quantile(other)) (unit) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The median and quartiles on the axis of the bins.
pub fn marks(context: &Context, total: &Total) -> Vec<(f64, String)> {
    let position = |p| Some((position(context, of(context, total, p)?)?, p));
    let found = [0.5].into_iter().filter_map(position);
    found.map(|(x, _)| (x, "Median".to_owned())).collect()
}

/// The position of a quantile on the axis of the bins, as a share of its length.
pub fn position(context: &Context, quantile: Quantile) -> Option<f64> {
    let edges = &context.series.view.settings.presentation.edges;
    let Quantile::At(value) = quantile else { return None };
    let bin = edges.windows(2).position(|pair| pair[0] <= value && value <= pair[1])?;
    let inside = (value - edges[bin]) / (edges[bin + 1] - edges[bin]);
    inside.is_finite().then_some((bin as f64 + inside) / (edges.len() - 1) as f64)
}

/// How quantiles are computed.
pub fn remark(context: &Context) -> Option<Markup> {
    let edges = &context.series.view.settings.presentation.edges;
    let widths = edges.windows(2).map(|pair| pair[1] - pair[0]).filter(|width| width.is_finite());
    let (least, most) =
        widths.fold((f64::INFINITY, 0.0_f64), |(least, most), width| (least.min(width), most.max(width)));
    (!edges.is_empty()).then(|| {
        html! {
            "Quantiles assume that the measurements of a bin are evenly spread between its edges."
            @if most > least * 1.001 { " All bins are drawn with the same width, although they cover different spans." }
        }
    })
}
