//! Columns of positions: the distribution of a histogram, or a vector.

use maud::{Markup, html};

use super::{
    frame::{AXIS_HEIGHT, Axis, WIDE, WIDTH, axis_labels, coordinate, grid, percent, times},
    scale::Scale,
};
use dapbox_results::statistics::Interval95;

/// A chart of values by position.
pub struct Columns<'a> {
    /// Distinguishes the charts of a page.
    pub id: &'a str,
    /// The value axis.
    pub scale: &'a Scale,
    /// The name of the chart.
    pub title: &'a str,
    /// What the chart shows, in a sentence.
    pub description: &'a str,
    /// The values.
    pub values: &'a [Interval95],
    /// The values of a second range, as a line of steps.
    pub compared: Option<&'a [f64]>,
    /// Labelled positions on the horizontal axis, as shares of the width.
    pub ticks: &'a [(f64, String)],
    /// Marked positions, such as quantiles.
    pub marks: &'a [(f64, String)],
    /// What a column says when it is pointed at.
    pub tip: &'a dyn Fn(usize) -> String,
}

impl Columns<'_> {
    /// Renders the chart.
    pub fn render(&self) -> Markup {
        let axis = Axis::from(self.scale);
        let (height, full) = (axis.height, axis.height + AXIS_HEIGHT);
        let width = 1.0 / self.values.len().max(1) as f64;
        html! {
            div.plane {
                (axis_labels(&axis, full))
                svg.plot width="100%" height=(full) role="img"
                    aria-labelledby={ "t-" (self.id) } aria-describedby={ "d-" (self.id) } {
                    title id={ "t-" (self.id) } { (self.title) }
                    desc id={ "d-" (self.id) } { (self.description) }
                    svg x="0" y="0" width="100%" height=(height) viewBox={ "0 0 " (WIDTH) " " (height) }
                        preserveAspectRatio="none" overflow="visible" aria-hidden="true" {
                        (grid(&axis))
                        (self.bars())
                        @if let Some(compared) = self.compared { path.compared d=(self.steps(compared)) {} }
                    }
                    @for (at, (x, label)) in self.marks.iter().enumerate() {
                        g.quantile {
                            line x1=(percent(*x)) x2=(percent(*x)) y1=(4 + 13 * at) y2=(height) {}
                            @let is_right = *x > 0.75;
                            text x=(percent(*x)) dx=(if is_right { -5 } else { 5 }) y=(14 + 13 * at)
                                text-anchor=(if is_right { "end" } else { "start" }) { (label) }
                        }
                    }
                    (times(self.ticks, height, WIDE))
                    g.targets { @for at in 0..self.values.len() {
                        rect x=(percent(at as f64 * width)) width=(percent(width)) height=(height) {
                            title { ((self.tip)(at)) }
                        }
                    } }
                }
            }
        }
    }

    fn bars(&self) -> Markup {
        use std::fmt::Write;
        let unit = WIDTH / self.values.len().max(1) as f64;
        let share = if self.values.len() > 100 { 1.0 } else { 0.88 };
        let zero = self.scale.y(0.0);
        let (mut bars, mut negative, mut errors) = (String::new(), String::new(), String::new());
        for (at, value) in self.values.iter().enumerate() {
            let left = coordinate(unit * (at as f64 + (1.0 - share) / 2.0));
            let (width, y) = (coordinate(unit * share), self.scale.y(value.value));
            let path = if value.value < 0.0 { &mut negative } else { &mut bars };
            if (y - zero).abs() > 0.005 {
                let _ = write!(path, "M{left} {}h{width}V{}h-{width}z", coordinate(zero), coordinate(y));
            }
            if value.high > value.low {
                let x = coordinate(unit * (at as f64 + 0.5));
                let (high, low) = (coordinate(self.scale.y(value.high)), coordinate(self.scale.y(value.low)));
                let _ = write!(errors, "M{x} {high}V{low}");
            }
        }
        html! {
            path.bar d=(bars) {}
            @if !negative.is_empty() { path.bar.negative d=(negative) {} }
            @if !errors.is_empty() {
                path.halo.thin[self.values.len() > 60] d=(errors) {}
                path.error.thin[self.values.len() > 60] d=(errors) {} }
        }
    }

    /// A line of steps through other values.
    fn steps(&self, values: &[f64]) -> String {
        let unit = WIDTH / values.len().max(1) as f64;
        let mut path = String::new();
        for (at, value) in values.iter().enumerate() {
            let (x, y) = (coordinate(unit * at as f64), coordinate(self.scale.y(*value)));
            path += &if at == 0 { format!("M{x} {y}") } else { format!("V{y}") };
            path += &format!("H{}", coordinate(unit * (at + 1) as f64));
        }
        path
    }
}
