//! The page of one task: its key figures, the chart that fits its measurement, and the ledger of its windows.

mod amount;
mod comparison;
mod controls;
mod development;
mod distribution;
mod figure;
mod header;
mod ledger;
mod multiples;
mod over_time;
mod quantiles;
mod shown;
mod values;

use maud::{Markup, html};

use crate::{
    Addresses, Selection, TaskView, address, document,
    series::{Column, MAX_COLUMNS, Measure, Series},
    summary,
};
use dapbox_protocol::model::Time;
use dapbox_results::Window;

/// What the sections of the page share.
struct Context<'a> {
    series: Series<'a>,
    /// The windows of the second range.
    compared: Option<Series<'a>>,
    range: (Option<Time>, Option<Time>),
    selection: &'a Selection,
    addresses: &'a Addresses,
}

impl Context<'_> {
    fn view(&self) -> &TaskView {
        self.series.view
    }

    /// What several windows are called.
    fn nouns(&self) -> &'static str {
        if summary::noun(self.view()) == "batch" { "batches" } else { "windows" }
    }

    /// The address of this page with another selection.
    fn page(&self, selection: &Selection) -> String {
        format!("{}{}", self.addresses.task, address::query(self.view(), selection))
    }

    /// The address that shows a column, relative to this page: its window, or the range of its windows.
    fn column_address(&self, column: &Column) -> Option<String> {
        let selection = self.selection;
        if column.windows == 1 {
            // Counts and sums have one number per window, which the chart shows.
            let has_details = !matches!(self.series.measure, Measure::Count | Measure::Sum);
            let window = Some(column.first).filter(|_| has_details && !column.total.is_empty())?;
            let is_chosen = selection.window == Some(window);
            return Some(self.query(&Selection { window: (!is_chosen).then_some(window), ..*selection }));
        }
        let interval = column.interval?;
        let (from, to) = (Some(interval.start()), Some(interval.end()));
        Some(self.query(&Selection { from, to, window: None, ..*selection }))
    }

    /// The name of a column, with a link if it leads to a window or a range.
    fn column_link(&self, column: &Column) -> Markup {
        html! {
            @match self.column_address(column) {
                Some(address) => a href=(address) { (column.label) },
                None => (column.label),
            }
        }
    }

    /// The address of a selection, relative to this page.
    fn query(&self, selection: &Selection) -> String {
        match address::query(self.view(), selection) {
            query if query.is_empty() => self.addresses.task.clone(),
            query => query,
        }
    }
}

/// The collected windows whose results the page of a selection shows. With a window alone, it also shows the range around it.
pub fn needed_results(selection: &Selection, windows: &[Window]) -> Vec<u64> {
    let mut numbers = Selection { window: None, ..*selection }.needed_results(windows);
    let chosen =
        windows.iter().filter(|window| selection.window == Some(window.number) && window.collected().is_some());
    numbers.extend(chosen.map(|window| window.number));
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Renders the page of a task.
pub fn render(view: &TaskView, selection: &Selection, addresses: &Addresses) -> String {
    let range = (selection.from, selection.to);
    let series = Series::of_range(view, range, MAX_COLUMNS);
    let compared = selection.compare.map(|(from, to)| Series::of_range(view, (Some(from), Some(to)), MAX_COLUMNS));
    let context = Context { series, compared, range, selection, addresses };
    let title = view.title();
    let place = html! {
        @match &addresses.overview {
            Some(overview) => nav aria-label="Place" {
                a href=(overview) { "Results" } span.slash aria-hidden="true" { "/" } span { (title) }
            },
            None => p { (title) },
        }
    };
    document::render(&format!("{title} - results"), &place, content(&context))
}

fn content(context: &Context) -> Markup {
    html! {
        (header::header(context))
        (header::attention(context))
        (controls::controls(context))
        @if context.series.collected().next().is_none() {
            (header::no_results(context))
        } @else {
            (header::key_figures(context))
            (charts(context))
        }
        (ledger::section(context))
        (header::facts(context))
    }
}

fn charts(context: &Context) -> Markup {
    let is_amount = matches!(context.series.measure, Measure::Count | Measure::Sum);
    html! {
        (comparison::section(context))
        @if !is_amount { (distribution::section(context)) }
        // A sum of windows has no development, and neither has a single one.
        @if context.selection.sum {
            @if is_amount { (amount::total(context)) }
        } @else {
            @if is_amount { (amount::section(context)) }
            @else if context.series.collected().nth(1).is_some() { (development::section(context)) }
            (amount::reports(context))
        }
    }
}
