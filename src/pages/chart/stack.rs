//! Stacked columns of shares.

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};

use super::{
    frame::{WIDTH, coordinate},
    scale::Scale,
};
use crate::series::Column;

/// The largest number of layers. The style sheet has as many colors.
pub const MAX_LAYERS: usize = 7;

/// Layers from the bottom, each with the shares of the columns.
pub fn layers(columns: &[(&Column, Vec<f64>)], scale: &Scale) -> Markup {
    let layers = columns.iter().map(|(_, shares)| shares.len()).max().unwrap_or_default();
    let mut paths = vec![String::new(); layers];
    for (column, shares) in columns {
        let width = (column.right - column.left) * WIDTH;
        let shown = width * if columns.len() > 120 { 1.0 } else { 0.9 };
        let left = coordinate(column.center() * WIDTH - shown / 2.0);
        let mut below = 0.0;
        for (path, share) in paths.iter_mut().zip(shares).filter(|(_, share)| **share > 0.0) {
            let (bottom, top) = (scale.y(below), scale.y(below + share));
            let width = coordinate(shown);
            let _ = write!(path, "M{left} {}h{width}V{}h-{width}z", coordinate(bottom), coordinate(top));
            below += share;
        }
    }
    html! {
        @for (at, path) in paths.into_iter().enumerate() {
            path.layer.{ "l" (layer_color(at, layers)) } d=(PreEscaped(path)) {}
        }
    }
}

/// The color of a layer: few layers use distant colors.
pub fn layer_color(at: usize, layers: usize) -> usize {
    if layers <= 1 { 1 } else { 1 + at * (MAX_LAYERS - 1) / (layers - 1) }
}
