//! Arithmetic of results: sums of windows, the effect of noise, quantiles and intervals of confidence.
