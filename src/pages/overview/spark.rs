//! Small charts of the latest windows, without axes.

use std::fmt::Write;

use maud::{Markup, html};

use crate::{
    chart::frame::{WIDTH, coordinate, percent},
    series::{Series, Total},
};

/// Height of a chart.
const HEIGHT: f64 = 44.0;

/// Space above and below the line.
const MARGIN: f64 = 4.0;

/// A line of the values of the latest windows, with gaps. Texts beside it say the same.
pub fn spark(series: &Series, name: &str, value: impl Fn(&Total) -> Option<f64>) -> Markup {
    let points: Vec<_> = series.columns.iter().filter_map(|column| Some((column, value(&column.total)?))).collect();
    let (low, high) = points
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, value)| (low.min(*value), high.max(*value)));
    let y = |value: f64| {
        // Equal values are in the middle.
        let share = if high > low { (value - low) / (high - low) } else { 0.5 };
        MARGIN + (1.0 - share) * (HEIGHT - 2.0 * MARGIN)
    };
    let (mut line, mut dots, mut right) = (String::new(), String::new(), f64::NAN);
    for (at, (column, value)) in points.iter().enumerate() {
        let (x, y) = (coordinate(column.center() * WIDTH), coordinate(y(*value)));
        let is_joined = (column.left - right).abs() < 1e-9;
        let _ = write!(line, "{}{x} {y}", if is_joined { 'L' } else { 'M' });
        if at + 1 == points.len() {
            let _ = write!(dots, "M{x} {y}h0");
        }
        right = column.right;
    }
    html! {
        svg.spark width="100%" height=(HEIGHT) role="img" aria-label={ "The latest windows: " (name) } {
            @for column in series.columns.iter().filter(|column| column.total.is_empty()) {
                @if let Some(gap) = column.gap {
                    rect.(gap.class()) x=(percent(column.left)) width=(percent(column.right - column.left)) y="0" height=(HEIGHT) {}
                }
            }
            svg x="0" y="0" width="100%" height=(HEIGHT) viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none"
                overflow="visible" aria-hidden="true" {
                path.base d={ "M0 " (HEIGHT - 0.5) "H" (WIDTH) } {}
                path.line d=(line) {}
                path.dots d=(dots) {}
            }
        }
    }
}
