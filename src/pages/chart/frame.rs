//! The frame of a chart over time: axes, gaps, notes and links of columns.
//!
//! # Decision: charts stretch, texts do not
//!
//! A chart fills the width of the page without a script. Shapes are drawn in an inner coordinate system that stretches with
//! the width ([`WIDTH`] units). Texts, patterns and links have positions in percent and keep their size and shape.

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};

use super::scale::Scale;
use crate::series::{Column, Gap, Series};

/// Width of the inner coordinate system.
pub const WIDTH: f64 = 1000.0;

/// Height of the labels below a chart.
pub const AXIS_HEIGHT: f64 = 22.0;

/// Width of the labels of the value axis.
const LABEL_WIDTH: u32 = 52;

/// Least width of a chart on the smallest phones, and of small charts, in pixels.
pub const NARROW: f64 = 210.0;

/// Least width of a chart on wider screens, in pixels.
pub const WIDE: f64 = 440.0;

/// Approximate width of a character of a label, in pixels.
const CHAR_WIDTH: f64 = 6.8;

/// Least distance of two labels, in pixels.
const LABEL_GAP: f64 = 6.0;

/// A chart over time.
pub struct Frame<'a> {
    /// Distinguishes the charts of a page.
    pub id: &'a str,
    /// The windows.
    pub series: &'a Series<'a>,
    /// The vertical axis.
    pub axis: &'a Axis,
    /// The name of the chart.
    pub title: &'a str,
    /// What the chart shows, in a sentence.
    pub description: &'a str,
    /// What a column says when it is pointed at, without its time.
    pub tip: &'a dyn Fn(&Column) -> String,
    /// The number of a window that is shown alone.
    pub chosen: Option<u64>,
    /// The address of a column.
    pub address: &'a dyn Fn(&Column) -> Option<String>,
}

/// The vertical axis of a chart.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    /// The height of the chart in pixels.
    pub height: f64,
    /// Labels with their vertical positions.
    pub labels: Vec<(f64, String)>,
    /// Positions of grid lines.
    pub lines: Vec<f64>,
    /// Position of the base line.
    pub base: Option<f64>,
}

impl From<&Scale> for Axis {
    fn from(scale: &Scale) -> Self {
        let base = scale.y(if scale.low <= 0.0 && scale.high >= 0.0 { 0.0 } else { scale.low });
        let labels: Vec<_> = scale.ticks().into_iter().map(|(at, label)| (scale.y(at), label)).collect();
        let lines = labels.iter().map(|(y, _)| *y).filter(|y| (y - base).abs() > 0.5).collect();
        Self { height: scale.height(), labels, lines, base: Some(base) }
    }
}

impl Frame<'_> {
    /// Renders the chart with its shapes.
    pub fn render(&self, shapes: &Markup) -> Markup {
        let height = self.axis.height;
        let full = height + AXIS_HEIGHT;
        html! {
            div.plane {
                (axis_labels(self.axis, full))
                svg.plot width="100%" height=(full) role="img"
                    aria-labelledby={ "t-" (self.id) } aria-describedby={ "d-" (self.id) } {
                    title id={ "t-" (self.id) } { (self.title) }
                    desc id={ "d-" (self.id) } { (self.description) }
                    svg x="0" y="0" width="100%" height=(height) viewBox={ "0 0 " (WIDTH) " " (height) }
                        preserveAspectRatio="none" overflow="visible" aria-hidden="true" {
                        (grid(self.axis))
                        (shapes)
                    }
                    (self.gaps(height))
                    (times(&self.series.ticks(9), height, WIDE))
                    (self.chosen(height))
                    (self.targets(height))
                    (self.notes(height))
                }
            }
        }
    }

    fn gaps(&self, height: f64) -> Markup {
        let runs = gap_runs(self.series);
        html! {
            @for (left, right, gap) in runs {
                rect.(gap.class()) x=(percent(left)) width=(percent(right - left)) y="0" height=(height) {}
                @if right - left > 0.18 {
                    text.why.tight[right - left < 0.42] x=(percent(f64::midpoint(left, right))) y=(height / 2.0) { (gap.text()) }
                }
            }
        }
    }

    /// A frame around the window that is shown alone.
    fn chosen(&self, height: f64) -> Markup {
        let is_chosen = |column: &&Column| column.windows == 1 && Some(column.first) == self.chosen;
        html! {
            @for column in self.series.columns.iter().filter(is_chosen) {
                rect.chosen x=(percent(column.left)) width=(percent(column.right - column.left)) y="0" height=(height) {}
            }
        }
    }

    fn notes(&self, height: f64) -> Markup {
        let notes = &self.series.view.settings.presentation.notes;
        html! {
            @for (number, note) in notes.iter().enumerate() {
                @if let Some(x) = self.series.position(note.at) {
                    g.note {
                        title { (self.series.calendar.day(note.at)) ": " (note.text) }
                        line x1=(percent(x)) x2=(percent(x)) y1="0" y2=(height) {}
                        circle cx=(percent(x)) cy="8" r="8" {}
                        text x=(percent(x)) y="12.2" { (number + 1) }
                    }
                }
            }
        }
    }

    /// Invisible shapes that name the column under the pointer and lead to it.
    fn targets(&self, height: f64) -> Markup {
        html! {
            g.targets aria-hidden="true" {
                @for column in &self.series.columns {
                    @let text = self.text(column);
                    @let shape = html! {
                        rect x=(percent(column.left)) width=(percent(column.right - column.left)) height=(height) {
                            title { (text) }
                        }
                    };
                    @match (self.address)(column) {
                        // The table has the same links for the keyboard.
                        Some(address) => a href=(address) tabindex="-1" { (shape) },
                        None => (shape),
                    }
                }
            }
        }
    }

    fn text(&self, column: &Column) -> String {
        let mut text = column.label.clone();
        if !column.total.is_empty() {
            let _ = write!(text, "\n{}", (self.tip)(column));
        }
        if let Some(gap) = column.gap {
            let _ = match column.windows {
                1 => write!(text, "\n{}", gap.text()),
                all => write!(text, "\n{} of {all} windows have no result", column.missing),
            };
        }
        text
    }
}

/// Columns without a result, by reason: left and right end. Neighbors with the same reason are one shape.
fn gap_runs(series: &Series) -> Vec<(f64, f64, Gap)> {
    let mut runs: Vec<(f64, f64, Gap)> = Vec::new();
    for column in series.columns.iter().filter(|column| column.total.is_empty()) {
        let Some(gap) = column.gap else { continue };
        match runs.last_mut() {
            Some((_, right, reason)) if *reason == gap && (*right - column.left).abs() < 1e-9 => *right = column.right,
            _ => runs.push((column.left, column.right, gap)),
        }
    }
    runs
}

/// A small chart over time, without links.
pub struct Multiple<'a> {
    /// Distinguishes the charts of a page.
    pub id: &'a str,
    /// The windows.
    pub series: &'a Series<'a>,
    /// The vertical axis.
    pub axis: &'a Axis,
    /// The name of the chart.
    pub title: &'a str,
    /// What the chart shows, in a sentence.
    pub description: &'a str,
}

impl Multiple<'_> {
    /// Renders the chart with its shapes.
    pub fn render(&self, shapes: &Markup) -> Markup {
        let height = self.axis.height;
        let full = height + AXIS_HEIGHT;
        html! {
            div.plane {
                (axis_labels(self.axis, full))
                svg.plot width="100%" height=(full) role="img" aria-labelledby={ "t-" (self.id) } aria-describedby={ "d-" (self.id) } {
                    title id={ "t-" (self.id) } { (self.title) }
                    desc id={ "d-" (self.id) } { (self.description) }
                    svg x="0" y="0" width="100%" height=(height) viewBox={ "0 0 " (WIDTH) " " (height) }
                        preserveAspectRatio="none" overflow="visible" aria-hidden="true" {
                        (grid(self.axis))
                        (shapes)
                    }
                    @for (left, right, gap) in gap_runs(self.series) {
                        rect.(gap.class()) x=(percent(left)) width=(percent(right - left)) y="0" height=(height) {}
                    }
                    (times(&self.series.ticks(3), height, NARROW))
                }
            }
        }
    }
}

/// Labelled positions below a chart. `width` is the least width of the chart where the screen is not [`NARROW`].
pub fn times(ticks: &[(f64, String)], height: f64, width: f64) -> Markup {
    let all = label_step(ticks, 1, width);
    let few = label_step(ticks, all, NARROW);
    html! {
        @for (at, (x, label)) in ticks.iter().enumerate() {
            g.minor[at % few != 0] {
                line.tick x1=(percent(*x)) x2=(percent(*x)) y1=(height) y2=(height + 4.0) {}
                @if at % all == 0 {
                    text x=(percent(*x)) y=(height + 17.0) text-anchor=(Anchor::of(*x).name()) { (label) }
                }
            }
        }
    }
}

/// The smallest multiple of `unit` so that labels at this distance do not touch each other in a chart of `width` pixels.
fn label_step(ticks: &[(f64, String)], unit: usize, width: f64) -> usize {
    let fits = |step: &usize| {
        let ends: Vec<_> = ticks.iter().step_by(*step).map(|(x, label)| label_ends(*x, label, width)).collect();
        ends.windows(2).all(|pair| pair[0].1 + LABEL_GAP <= pair[1].0)
    };
    (unit..=ticks.len()).step_by(unit).find(fits).unwrap_or(unit.max(ticks.len()))
}

/// The left and right end of a label in a chart of `width` pixels.
fn label_ends(x: f64, label: &str, width: f64) -> (f64, f64) {
    let length = label.chars().count() as f64 * CHAR_WIDTH;
    let left = x * width
        - match Anchor::of(x) {
            Anchor::Start => 0.0,
            Anchor::Middle => length / 2.0,
            Anchor::End => length,
        };
    (left, left + length)
}

/// Which part of a label is at its position. Labels at the ends of a chart stay inside of it.
enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn of(x: f64) -> Self {
        if x < 0.03 {
            Self::Start
        } else if x > 0.96 {
            Self::End
        } else {
            Self::Middle
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

/// The labels of the vertical axis.
pub fn axis_labels(axis: &Axis, full: f64) -> Markup {
    html! {
        svg.values width=(LABEL_WIDTH) height=(full) aria-hidden="true" focusable="false" {
            @for (y, label) in &axis.labels {
                text x=(LABEL_WIDTH - 6) y=(coordinate(y + 4.0)) text-anchor="end" { (label) }
            }
        }
    }
}

/// Lines of the vertical axis.
pub fn grid(axis: &Axis) -> Markup {
    let mut lines = String::new();
    for y in &axis.lines {
        let _ = write!(lines, "M0 {}H{WIDTH}", coordinate(*y));
    }
    html! {
        @if !lines.is_empty() { path.grid d=(PreEscaped(lines)) {} }
        @if let Some(base) = axis.base { path.base d={ "M0 " (coordinate(base)) "H" (WIDTH) } {} }
    }
}

/// A position in percent.
pub fn percent(share: f64) -> String {
    coordinate(share * 100.0) + "%"
}

/// A coordinate with at most two digits.
pub fn coordinate(number: f64) -> String {
    let text = format!("{number:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}
