//! Which numbers the page shows by position: of a window, or of the range.

use super::Context;
use crate::series::{Series, Total};

/// What is shown, and what it is compared with.
pub struct Shown {
    /// The numbers.
    pub total: Total,
    /// What they cover.
    pub label: String,
    /// The numbers of the second range.
    pub compared: Option<(Total, String)>,
}

/// The total to show: of the chosen window, or of the range.
pub fn shown(context: &Context) -> Shown {
    let (series, view) = (&context.series, context.view());
    let chosen = context.selection.window.and_then(|number| {
        let column = Series::window(view, number)?;
        Some((column.total, column.label))
    });
    let (total, label) = chosen.unwrap_or_else(|| (series.total(), series.label()));
    let compared = context.compared.as_ref().map(|other| (other.total(), other.label()));
    Shown { total, label, compared: compared.filter(|(total, _)| !total.is_empty()) }
}
