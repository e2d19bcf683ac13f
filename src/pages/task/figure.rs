//! A chart with its heading, its legend and the table of its numbers.

use maud::{Markup, html};

use super::Context;

/// A chart and what belongs to it.
pub struct Figure<'a> {
    /// Distinguishes the figures of a page.
    pub id: &'a str,
    /// The heading.
    pub title: &'a str,
    /// What is shown, in a sentence below the heading.
    pub lead: Markup,
    /// The charts.
    pub chart: Markup,
    /// Remarks below the chart.
    pub remarks: Vec<Markup>,
    /// The table behind the chart.
    pub table: Option<Markup>,
}

impl Figure<'_> {
    /// Renders the figure.
    pub fn render(&self) -> Markup {
        html! {
            section.figure id=(self.id) aria-labelledby={ "h-" (self.id) } {
                h2 id={ "h-" (self.id) } { (self.title) }
                p.lead { (self.lead) }
                (self.chart)
                @for remark in &self.remarks { p.remark { (remark) } }
                @if let Some(table) = &self.table {
                    details.data id={ "table-" (self.id) } {
                        summary { "Table" }
                        (scroll_box(&format!("Table: {}", self.title), table))
                    }
                }
            }
        }
    }
}

/// A table that scrolls by itself, also with the keyboard.
pub fn scroll_box(name: &str, table: &Markup) -> Markup {
    html! { div.scroll tabindex="0" role="region" aria-label=(name) { (table) } }
}

/// The gaps and notes of the charts over time, as a legend.
pub fn legend(context: &Context) -> Markup {
    let series = &context.series;
    let gaps = series.gaps();
    let notes = &series.view.settings.presentation.notes;
    let shown: Vec<_> = notes.iter().enumerate().filter(|(_, note)| series.position(note.at).is_some()).collect();
    html! {
        @if !gaps.is_empty() {
            ul.legend aria-label="Windows without a result" {
                @for gap in gaps {
                    li {
                        svg.key width="22" height="12" aria-hidden="true" focusable="false" {
                            rect.(gap.class()) width="22" height="12" {}
                        }
                        (gap.text())
                    }
                }
            }
        }
        @if !shown.is_empty() {
            ol.notes aria-label="Notes" {
                @for (number, note) in shown {
                    li { b.number { (number + 1) } time { (series.calendar.day(note.at)) } " " (note.text) }
                }
            }
        }
    }
}

/// How windows are grouped in columns, if they are.
pub fn grouping(context: &Context) -> Option<Markup> {
    let group = context.series.group;
    let all = context.series.windows.len() as u64;
    (group > 1).then(|| {
        html! {
            "Each column is the mean of " (group) " successive windows, because the range has "
            (dapbox_support::format::count(all)) ". Select a column to see its windows."
        }
    })
}

/// What wide columns are, if windows were joined.
pub fn joined(context: &Context) -> Option<Markup> {
    let count = context.series.windows.iter().filter(|window| window.is_joined).count() as u64;
    (count > 0).then(|| {
        html! {
            "Wider columns are windows that were joined, because they had too few reports alone: "
            (dapbox_support::format::count(count)) " in this range."
        }
    })
}

/// The sentence about noise, if there is any.
pub fn noise(context: &Context) -> Option<Markup> {
    context.series.noise.map(|noise| {
        html! {
            "The aggregators add random noise to every number, so that no person can be recognized. "
            "The true number is within the error bars with 95 % confidence (for one window: ±"
            (crate::number::brief(noise.bound(1))) "; sums of several windows use the normal approximation). "
            "Small true numbers can therefore appear as negative ones."
        }
    })
}
