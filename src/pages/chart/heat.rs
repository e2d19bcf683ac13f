//! Heat maps: many values over time, as shades.
//!
//! # Decision: shades are the mask of a shape
//!
//! A heat map has tens of thousands of cells, too many for shapes. Its shades are a small bitmap inside of the page. The
//! bitmap masks a rectangle that has the color of the style sheet, so that the map follows light, dark and print. The format
//! is BMP: browsers read it, and it needs no compression.

use base64::{Engine, prelude::BASE64_STANDARD};
use maud::{Markup, html};

use super::frame::{WIDTH, coordinate};
use crate::series::Column;

/// Number of shades, a nibble per cell.
pub const SHADES: usize = 16;

/// Size of the headers and the palette.
const DATA_START: u32 = 14 + 40 + SHADES as u32 * 4;

/// Cells per column if columns differ in width.
const OVERSAMPLING: usize = 4;

/// The largest width of an image in cells.
const MAX_WIDTH: usize = 1024;

/// Shades of values; row 0 is at the top.
pub struct Heat<'a> {
    /// Distinguishes the maps of a page.
    pub id: &'a str,
    /// The columns.
    pub columns: &'a [&'a Column],
    /// Number of rows.
    pub rows: usize,
    /// The height in pixels.
    pub height: f64,
}

/// The shade of a value: proportional to the square root, so that small values remain visible.
pub fn shade(value: f64, most: f64) -> u8 {
    if value > 0.0 && most > 0.0 {
        let shade = (value / most).min(1.0).sqrt() * (SHADES - 1) as f64;
        // Any value above zero differs from zero.
        shade.round().max(1.0) as u8
    } else {
        0
    }
}

/// The smallest value of a shade.
pub fn value_of_shade(shade: usize, most: f64) -> f64 {
    most * (shade as f64 / (SHADES - 1) as f64).powi(2)
}

impl Heat<'_> {
    /// Renders the map. `shade` gives the shade of a column and row.
    pub fn render(&self, shade: impl Fn(&Column, usize) -> u8) -> Markup {
        let (Some(first), Some(last)) = (self.columns.first(), self.columns.last()) else { return html! {} };
        let (left, right) = (first.left, last.right);
        let cells = self.cells(left, right);
        let image = bitmap(cells.len(), self.rows, |x, y| cells[x].map_or(0, |column| shade(column, y)));
        let (x, width) = (coordinate(left * WIDTH), coordinate((right - left) * WIDTH));
        html! {
            mask id={ "mask-" (self.id) } maskUnits="userSpaceOnUse" x=(x) y="0" width=(width) height=(self.height) {
                image.shades x=(x) y="0" width=(width) height=(self.height) preserveAspectRatio="none" href=(image) {}
            }
            rect.heat x=(x) y="0" width=(width) height=(self.height) mask={ "url(#mask-" (self.id) ")" } {}
        }
    }

    /// The column of each cell of a row.
    fn cells(&self, left: f64, right: f64) -> Vec<Option<&Column>> {
        let width = self.columns.iter().map(|column| column.right - column.left).fold(f64::INFINITY, f64::min);
        let exact = (right - left) / width.max(1e-9);
        let is_even = (exact - exact.round()).abs() < 0.02 && exact < MAX_WIDTH as f64;
        let cells = if is_even { exact.round() as usize } else { (exact as usize * OVERSAMPLING).clamp(1, MAX_WIDTH) };
        let mut at = 0;
        let column = |cell: usize| {
            let x = left + (cell as f64 + 0.5) / cells as f64 * (right - left);
            while at + 1 < self.columns.len() && self.columns[at].right <= x {
                at += 1;
            }
            Some(self.columns[at]).filter(|column| column.left <= x && x < column.right)
        };
        (0..cells).map(column).collect()
    }
}

/// A bitmap of 16 grays as the address of an image.
fn bitmap(width: usize, height: usize, shade: impl Fn(usize, usize) -> u8) -> String {
    let stride = width.div_ceil(8) * 4;
    let size = DATA_START + (stride * height) as u32;
    let mut bytes = Vec::with_capacity(size as usize);
    let mut words = |numbers: &[u32]| bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    words(&[size, 0, DATA_START]);
    // Header of 40 bytes, one plane of 4 bits, no compression.
    words(&[40, width as u32, height as u32, 1 | 4 << 16, 0, 0, 0, 0, SHADES as u32, 0]);
    words(&std::array::from_fn::<u32, SHADES, _>(|shade| shade as u32 * 0x0011_1111));
    // Rows begin at the bottom.
    for y in (0..height).rev() {
        let start = bytes.len();
        bytes.extend((0..width).step_by(2).map(|x| {
            let right = if x + 1 < width { shade(x + 1, y) } else { 0 };
            shade(x, y) << 4 | right & 0xf
        }));
        bytes.resize(start + stride, 0);
    }
    let mut file = b"BM".to_vec();
    file.append(&mut bytes);
    format!("data:image/bmp;base64,{}", BASE64_STANDARD.encode(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_grow_with_values() {
        assert_eq!([-1.0, 0.0, 0.0001, 0.25, 1.0, 9.0].map(|value| shade(value, 1.0)), [0, 0, 1, 8, 15, 15]);
        assert_eq!(shade(1.0, 0.0), 0);
        for number in 1..SHADES {
            assert_eq!(usize::from(shade(value_of_shade(number, 7.0), 7.0)), number);
        }
    }

    #[test]
    fn bitmap_has_the_declared_size() {
        let image = bitmap(3, 2, |x, y| (x + 3 * y) as u8);
        let bytes = BASE64_STANDARD.decode(image.strip_prefix("data:image/bmp;base64,").unwrap()).unwrap();
        assert_eq!(bytes.len(), 14 + 40 + 64 + 8);
        assert_eq!(u32::from_le_bytes(bytes[2..6].try_into().unwrap()) as usize, bytes.len());
        assert_eq!(bytes[14 + 40 + 64..], [0x34, 0x50, 0, 0, 0x01, 0x20, 0, 0]);
    }
}
