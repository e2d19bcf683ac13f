//! Bars, lines and error bars of charts over time.

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};

use super::{
    frame::{WIDTH, coordinate},
    scale::Scale,
};
use crate::series::Column;
use dapbox_results::statistics::Interval95;

/// A value of a column.
pub type Point<'a> = (&'a Column, Interval95);

/// The number of columns up to which lines have dots.
const MAX_DOTS: usize = 70;

/// Bars from zero.
pub fn bars(points: &[Point], scale: &Scale) -> Markup {
    let zero = scale.y(0.0);
    let (mut above, mut below) = (String::new(), String::new());
    for (column, value) in points {
        let width = (column.right - column.left) * WIDTH;
        // Few bars have gaps between them, and no bar is very wide.
        let shown = (width * if points.len() > 120 { 1.0 } else { 0.78 }).min(160.0);
        let left = coordinate(column.center() * WIDTH - shown / 2.0);
        let height = coordinate((scale.y(value.value) - zero).abs());
        let (path, top) = if value.value < 0.0 { (&mut below, zero) } else { (&mut above, scale.y(value.value)) };
        let _ = write!(path, "M{left} {}h{shown}v{height}h-{shown}z", coordinate(top), shown = coordinate(shown));
    }
    html! {
        @if !above.is_empty() { path.bar d=(PreEscaped(above)) {} }
        @if !below.is_empty() { path.bar.negative d=(PreEscaped(below)) {} }
    }
}

/// Vertical lines between the ends of intervals.
pub fn error_bars(points: &[Point], scale: &Scale) -> Markup {
    let mut path = String::new();
    for (column, value) in points {
        let x = coordinate(column.center() * WIDTH);
        let _ = write!(path, "M{x} {}V{}", coordinate(scale.y(value.high)), coordinate(scale.y(value.low)));
    }
    html! { path.halo d=(PreEscaped(&path)) {} path.error d=(PreEscaped(&path)) {} }
}

/// A line through the values, interrupted at columns without a value, with a band of their intervals. A few values have dots.
pub fn line(points: &[Point], scale: &Scale) -> Markup {
    lines(points, scale, if points.len() <= MAX_DOTS { usize::MAX } else { 1 })
}

/// A line for small charts, with dots only for values without neighbors.
pub fn thin_line(points: &[Point], scale: &Scale) -> Markup {
    html! { g.thin { (lines(points, scale, 1)) } }
}

/// A line with dots in runs of at most `dotted` values.
fn lines(points: &[Point], scale: &Scale, dotted: usize) -> Markup {
    let (mut line, mut band, mut dots) = (String::new(), String::new(), String::new());
    for run in runs(points) {
        for (at, (column, value)) in run.iter().enumerate() {
            let (x, y) = (coordinate(column.center() * WIDTH), coordinate(scale.y(value.value)));
            let _ = write!(line, "{}{x} {y}", if at == 0 { 'M' } else { 'L' });
            if run.len() <= dotted {
                let _ = write!(dots, "M{x} {y}h0");
            }
        }
        band.push_str(&outline(run, scale));
    }
    let has_band = points.iter().any(|(_, value)| value.high > value.low);
    html! {
        @if has_band { path.band d=(PreEscaped(band)) {} }
        path.line d=(PreEscaped(line)) {}
        @if !dots.is_empty() { path.dots d=(PreEscaped(dots)) {} }
    }
}

/// The outline of the intervals of successive columns. A single column gets its own width.
fn outline(run: &[Point], scale: &Scale) -> String {
    if let [(column, value)] = run {
        let (left, right) = (column.left * WIDTH, column.right * WIDTH);
        let inset = ((right - left) / 2.0 - 3.0).max(0.0);
        let (left, right) = (coordinate(left + inset), coordinate(right - inset));
        let (top, bottom) = (coordinate(scale.y(value.high)), coordinate(scale.y(value.low)));
        return format!("M{left} {top}H{right}V{bottom}H{left}z");
    }
    let x = |column: &Column| coordinate(column.center() * WIDTH);
    let mut path = String::new();
    for (at, (column, value)) in run.iter().enumerate() {
        let _ = write!(path, "{}{} {}", if at == 0 { 'M' } else { 'L' }, x(column), coordinate(scale.y(value.high)));
    }
    for (column, value) in run.iter().rev() {
        let _ = write!(path, "L{} {}", x(column), coordinate(scale.y(value.low)));
    }
    path + "z"
}

/// The points in groups of neighbors.
fn runs<'a, 'b>(points: &'b [Point<'a>]) -> impl Iterator<Item = &'b [Point<'a>]> {
    points.chunk_by(|(a, _), (b, _)| (a.right - b.left).abs() < 1e-9)
}
