//! Horizontal bars inside of the rows of a table.

use maud::{Markup, html};

use super::frame::percent;
use dapbox_results::statistics::Interval95;

/// The range of values of all rows. It includes zero.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    low: f64,
    high: f64,
}

impl Range {
    /// The range of some values with their intervals.
    pub fn of(values: impl IntoIterator<Item = Interval95>) -> Self {
        let (mut low, mut high) = (0.0_f64, 0.0_f64);
        for value in values {
            low = low.min(value.low).min(value.value);
            high = high.max(value.high).max(value.value);
        }
        Self { low, high: if high > low { high } else { low + 1.0 } }
    }

    fn x(self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// The bar of a value with its interval, and a thin bar of the value of a second range.
pub fn bar(range: Range, value: Interval95, compared: Option<Interval95>) -> Markup {
    let rect = |value: f64, class: &str, y: u32, height: u32| {
        let (zero, end) = (range.x(0.0), range.x(value));
        html! {
            rect class=(class) x=(percent(zero.min(end))) width=(percent((end - zero).abs())) y=(y) height=(height) {}
        }
    };
    let class = if value.value < 0.0 { "bar negative" } else { "bar" };
    html! {
        svg.row width="100%" height="20" aria-hidden="true" focusable="false" {
            (rect(value.value, class, 3, if compared.is_some() { 9 } else { 14 }))
            @if let Some(compared) = compared { (rect(compared.value, "bar other", 13, 4)) }
            @if value.high > value.low {
                @let y = if compared.is_some() { 7.5 } else { 10.0 };
                line.halo x1=(percent(range.x(value.low))) x2=(percent(range.x(value.high))) y1=(y) y2=(y) {}
                line.error x1=(percent(range.x(value.low))) x2=(percent(range.x(value.high))) y1=(y) y2=(y) {}
            }
            line.zero x1=(percent(range.x(0.0))) x2=(percent(range.x(0.0))) y1="0" y2="20" {}
        }
    }
}
