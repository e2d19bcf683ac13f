//! Value axes with round ticks.

use crate::number;

/// A linear scale from values to the height of a chart.
#[derive(Clone, Debug)]
pub struct Scale {
    /// The value at the bottom.
    pub low: f64,
    /// The value at the top.
    pub high: f64,
    step: f64,
    height: f64,
    format: Format,
}

/// How a scale writes its ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As numbers.
    Number,
    /// As percentages.
    Percent,
}

/// Height of charts below which the ends of the scale are not rounded.
const SMALL: f64 = 100.0;

/// Space above the highest tick, in pixels.
const MARGIN: f64 = 8.0;

/// The smallest of 1, 2 and 5 times a power of ten that is at least `size`.
pub fn nice_step(size: f64) -> f64 {
    if !(size.is_finite() && size > 0.0) {
        return 1.0;
    }
    let power = 10_f64.powf(size.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= size * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

impl Scale {
    /// A scale for values between `low` and `high`, with about one tick in 36 pixels. It includes zero.
    pub fn from_zero(low: f64, high: f64, height: f64, format: Format) -> Self {
        Self::of(low.min(0.0), high.max(0.0), height, format)
    }

    /// A scale for values between `low` and `high`. It includes zero unless all values are far from it.
    pub fn fitting(low: f64, high: f64, height: f64, format: Format) -> Self {
        if low > 0.6 * high { Self::of(low, high, height, format) } else { Self::from_zero(low, high, height, format) }
    }

    fn of(low: f64, high: f64, height: f64, format: Format) -> Self {
        let (low, high) = if low.is_finite() && high.is_finite() { (low, high) } else { (0.0, 1.0) };
        let (low, high) = match (high > low, low == 0.0, format) {
            (true, _, _) => (low, high),
            (false, true, Format::Percent) => (0.0, 0.01),
            (false, true, Format::Number) => (0.0, 1.0),
            // A line of equal values is in the middle.
            (false, false, _) => (low - low.abs() * 0.1, low + low.abs() * 0.1),
        };
        let ticks = (height / if height < SMALL { 24.0 } else { 36.0 }).clamp(2.0, 8.0);
        let step = nice_step((high - low) / ticks);
        // Small charts would waste too much of their height on round ends.
        let (low, high) = match height < SMALL {
            true => (low, high + (high - low) * 0.04),
            false => ((low / step).floor() * step, (high / step - 1e-9).ceil() * step),
        };
        Self { low, high, step, height, format }
    }

    /// The vertical position of a value in pixels from the top.
    pub fn y(&self, value: f64) -> f64 {
        let share = (value.clamp(self.low, self.high) - self.low) / (self.high - self.low);
        MARGIN + (1.0 - share) * (self.height - MARGIN)
    }

    /// The height of the chart.
    pub fn height(&self) -> f64 {
        self.height
    }

    /// The ticks with their labels, from the bottom.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        let first = (self.low / self.step - 1e-9).ceil();
        let count = ((self.high / self.step + 1e-9).floor() - first).clamp(0.0, 20.0) as usize;
        (0..=count).map(|at| (first + at as f64) * self.step).map(|at| (at, self.label(at))).collect()
    }

    fn label(&self, at: f64) -> String {
        // Rounding leaves a rest at zero.
        let at = if at.abs() < self.step * 1e-6 { 0.0 } else { at };
        match self.format {
            Format::Number => number::compact(at, self.high.abs().max(self.low.abs())),
            Format::Percent => {
                let digits = (-(self.step * 100.0).log10().floor()).clamp(0.0, 6.0) as usize;
                format!("{}{:.digits$} %", if at < 0.0 { number::MINUS } else { "" }, at.abs() * 100.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64, format: Format) -> String {
        let scale = Scale::from_zero(low, high, 200.0, format);
        scale.ticks().into_iter().map(|(_, label)| label).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(3.0, 97.0, Format::Number), "0 20 40 60 80 100");
        assert_eq!(labels(0.0, 0.0, Format::Number), "0 0.2 0.4 0.6 0.8 1");
        assert_eq!(labels(-13.0, 30.0, Format::Number), "−20 −10 0 10 20 30");
        assert_eq!(labels(0.0, 0.43, Format::Percent), "0 % 10 % 20 % 30 % 40 % 50 %");
        assert_eq!(labels(0.0, 1e38, Format::Number), "0 2×10³⁷ 4×10³⁷ 6×10³⁷ 8×10³⁷ 1×10³⁸");
        assert_eq!([0.3, 1.0, 1.1, 3.0, 0.0, f64::NAN].map(nice_step), [0.5, 1.0, 2.0, 5.0, 1.0, 1.0]);
    }

    #[test]
    fn positions_stay_inside() {
        let scale = Scale::from_zero(0.0, 100.0, 208.0, Format::Number);
        assert_eq!([0.0, 50.0, 100.0, 500.0].map(|value| scale.y(value)), [208.0, 108.0, 8.0, 8.0]);
        let flat = Scale::fitting(5.0, 5.0, 100.0, Format::Number);
        assert!(flat.y(5.0).is_finite());
    }
}
