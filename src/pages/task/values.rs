//! The numbers of a position, as the page shows them.

use crate::{
    number::{brief, edge, percent},
    series::{Measure, Series, Total},
};
use dapbox_results::statistics::Interval95;
use dapbox_support::format::count;

/// What is shown of a position: a share or a mean, with the error that is drawn.
pub fn value(series: &Series, total: &Total, at: usize) -> Option<Interval95> {
    match series.measure {
        Measure::Flags | Measure::Count => total.share(at, series.noise),
        // The bins of a histogram are shares of the reports. Their errors are those of the noise.
        Measure::Histogram | Measure::Vector | Measure::Sum => total.mean(at, series.noise),
    }
}

/// Writes a share or a mean.
pub fn write(series: &Series, value: f64) -> String {
    match series.measure {
        Measure::Flags | Measure::Count | Measure::Histogram => percent(value),
        Measure::Vector | Measure::Sum => brief(value),
    }
}

/// The name of a position in the head of tables.
pub fn position_name(series: &Series) -> &'static str {
    match series.measure {
        Measure::Histogram => "Bin",
        Measure::Flags => "Flag",
        _ => "Position",
    }
}

/// Labels below the columns: edges between bins, or the numbers of positions.
pub fn ticks(series: &Series, length: usize) -> Vec<(f64, String)> {
    const MOST: f64 = 10.0;
    let step = (crate::chart::scale::nice_step(length as f64 / MOST).max(1.0) as usize).max(1);
    let edges = &series.view.settings.presentation.edges;
    if edges.len() == length + 1 {
        let finite = (0..=length).step_by(step).filter(|at| edges[*at].is_finite());
        return finite.map(|at| (at as f64 / length as f64, edge(edges[at]))).collect();
    }
    (0..length).step_by(step).map(|at| ((at as f64 + 0.5) / length as f64, count(at as u64))).collect()
}
