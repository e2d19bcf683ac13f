//! The tables of all commands: a header row and aligned columns without borders.

use std::fmt::{self, Display};

use comfy_table::{Attribute, CellAlignment, Color, Row, presets::NOTHING};

use super::style::Style;

/// Columns between two cells.
const GAP: u16 = 2;

/// A cell with its emphasis.
pub struct Cell(comfy_table::Cell);

impl Cell {
    /// A cell without emphasis.
    pub fn new(text: impl Display) -> Self {
        Self(comfy_table::Cell::new(text))
    }

    /// A cell that identifies its row.
    pub fn bold(text: impl Display) -> Self {
        Self(comfy_table::Cell::new(text).add_attribute(Attribute::Bold))
    }

    /// A cell of minor importance.
    pub fn dim(text: impl Display) -> Self {
        Self(comfy_table::Cell::new(text).add_attribute(Attribute::Dim))
    }

    /// A cell with a good state.
    pub fn good(text: impl Display) -> Self {
        Self(comfy_table::Cell::new(text).fg(Color::DarkGreen))
    }

    /// A cell with a bad state.
    pub fn bad(text: impl Display) -> Self {
        Self(comfy_table::Cell::new(text).fg(Color::DarkRed).add_attribute(Attribute::Bold))
    }
}

impl<T: Display> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// A table. Its rows are never wrapped, so that scripts can split them into lines.
pub struct Table(comfy_table::Table);

impl Table {
    /// Creates a table with a header.
    pub fn new<const N: usize>(style: Style, header: [&str; N]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING).set_header(header.map(|name| Cell::bold(name).0));
        if style.has_colour() {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, GAP));
        });
        Self(table)
    }

    /// Aligns columns to the right, as for numbers.
    #[must_use]
    pub fn right(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        for index in columns {
            if let Some(column) = self.0.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.0.add_row(Row::from(cells.map(|cell| cell.0)));
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_columns_without_trailing_blanks() {
        let mut table = Table::new(Style::plain(), ["name", "reports", "state"]).right([1]);
        table.row(["a".into(), 7.into(), Cell::good("ready")]);
        table.row(["longer".into(), "1,234".into(), Cell::dim("")]);
        assert_eq!(table.to_string(), "name    reports  state\na             7  ready\nlonger    1,234");
    }

    #[test]
    fn styles_cells_only_in_colour() {
        let mut table = Table::new(Style::coloured(), ["name"]);
        table.row([Cell::bad("broken")]);
        assert!(table.to_string().contains("\x1b["), "{table}");
        let mut table = Table::new(Style::plain(), ["name"]);
        table.row([Cell::bad("broken")]);
        assert_eq!(table.to_string(), "name\nbroken");
    }
}
