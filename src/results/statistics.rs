//! Arithmetic of results: sums of windows, the effect of noise, quantiles and intervals of confidence.
//!
//! # Decision: which intervals are shown
//!
//! Noise is a known distribution, so its effect is stated for every number. The bound of one window is exact; the
//! bound of several windows uses the normal distribution with the sum of the variances. A share of reports also has the
//! interval of Wilson's score, which treats the reports as a sample of all that could have been made. Sums and means have no
//! such interval: no party learns the variance between the measurements.

mod interval;
mod noise;
mod quantile;
mod sum;

pub use interval::{Interval95, Share, Z95};
pub use noise::NoiseModel;
pub use quantile::{Quantile, quantile};
pub use sum::{Exact, SumError, add, total, values};
