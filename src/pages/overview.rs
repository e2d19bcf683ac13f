//! The page of all tasks: what each measures, its latest results, and what needs attention.

mod spark;

use maud::{Markup, html};

use crate::{
    Selection, TaskView,
    document::{self, warning},
    number::{brief, percent, quantile},
    series::{Measure, Series, Total},
    summary,
};
use dapbox_results::{
    Window, WindowState,
    statistics::{self, Quantile},
};
use dapbox_support::format::{count, counted, relative};

/// Number of windows of a task that the overview shows.
const WINDOWS: usize = 60;

/// Number of notices of a task.
const MAX_NOTICES: usize = 2;

/// The latest windows.
fn latest(windows: &[Window]) -> &[Window] {
    &windows[windows.len().saturating_sub(WINDOWS)..]
}

/// The collected windows whose results the overview shows.
pub fn needed_results(windows: &[Window]) -> Vec<u64> {
    Selection::default().needed_results(latest(windows))
}

/// Renders the overview. `address` gives the path of a task's page.
pub fn render(server_name: &str, views: &[TaskView], address: &dyn Fn(&TaskView) -> String) -> String {
    let place = html! { p { "Results" @if !server_name.is_empty() { " " span.host { (server_name) } } } };
    let title = if server_name.is_empty() { "Results - dapbox".to_owned() } else { format!("Results - {server_name}") };
    document::render(&title, &place, content(views, address))
}

fn content(views: &[TaskView], address: &dyn Fn(&TaskView) -> String) -> Markup {
    let notices: Vec<_> = views.iter().map(|view| summary::attention(view, true)).collect();
    let troubled = notices.iter().filter(|notices| !notices.is_empty()).count() as u64;
    html! {
        div.head {
            h1 { "Results" }
            div.sub {
                p {
                    (counted(views.len() as u64, "task"))
                    @if troubled > 0 {
                        ", " b.bad { (count(troubled)) @if troubled == 1 { " needs" } @else { " need" } " attention" }
                    }
                }
            }
        }
        @if views.is_empty() { (no_tasks()) }
        div.tasks {
            // Tasks that need attention are first.
            @for is_troubled in [true, false] {
                @for (view, notices) in views.iter().zip(&notices) {
                    @if notices.is_empty() != is_troubled { (entry(view, notices, &address(view))) }
                }
            }
        }
    }
}

/// Instructions for a server without tasks.
fn no_tasks() -> Markup {
    html! {
        div.empty {
            p { b { "No tasks yet." } " A task defines the measurement and its leader, helper and collector." }
            ol.numbered {
                li { "Create a task, with one file for each party: " code { "dapbox task new --help" } }
                li { "Add the file of the collector: " code { "dapbox task add collector.toml" } }
            }
            p.dim { "To see pages with results first: " code { "dapbox pair --example" } }
        }
    }
}

fn entry(view: &TaskView, notices: &[String], address: &str) -> Markup {
    let first = latest(&view.windows).first().map_or(0, |window| window.number);
    let series = Series::since(view, first);
    let shown = Shown::of(&series);
    let id = format!("task-{}", view.id);
    html! {
        article.task id=(id) aria-labelledby={ "h-" (id) } {
            div.what {
                h2 id={ "h-" (id) } { a href=(address) { (view.title()) } }
                p.dim { (summary::measures(view)) }
                @if !notices.is_empty() {
                    ul.notices {
                        @for notice in notices.iter().take(MAX_NOTICES) { li { (warning()) (notice) } }
                        @if notices.len() > MAX_NOTICES { li { (count((notices.len() - MAX_NOTICES) as u64)) " more" } }
                    }
                }
            }
            (spark::spark(&series, &shown.name, |total| shown.value(&series, total)))
            div.last {
                @match summary::last_collected(view) {
                    Some(last) => {
                        p.big { (last_value(&series, &shown, last)) }
                        p.dim { (shown.name) ", " (summary::window_label(view, &series.calendar, last)) }
                    }
                    None => p.dim { "No results yet" },
                }
            }
            div.next {
                p { (states(view)) }
                p.dim {
                    "Next: " (summary::next_window_brief(view))
                    @if let Some(age) = age(view) { br; "Last: " (age) }
                }
            }
        }
    }
}

/// The number of windows in each state; states of open windows only if there are any.
fn states(view: &TaskView) -> Markup {
    let shown = ["collected", "due", "requested", "pending", "too_few_reports", "lost", "refused"];
    let number = |name: &str| view.windows.iter().filter(|window| window.state.name() == name).count() as u64;
    html! {
        @for name in shown {
            @let number = number(name);
            @if number > 0 || name == "collected" {
                span.state.{ "s-" (name) } { (count(number)) " " (name.replace('_', " ")) } " "
            }
        }
    }
}

fn age(view: &TaskView) -> Option<String> {
    match &summary::last_collected(view)?.state {
        WindowState::Collected(collected) => Some(relative(collected.collected, view.now)),
        _ => None,
    }
}

fn last_value(series: &Series, shown: &Shown, last: &Window) -> String {
    let total = Total::of([last], series.view);
    shown.value(series, &total).map_or_else(|| "–".to_owned(), |value| shown.write(series, value))
}

/// The number that stands for a task.
struct Shown {
    name: String,
    kind: Kind,
}

enum Kind {
    Share(usize),
    Mean(usize),
    Median,
    Reports,
}

impl Shown {
    fn of(series: &Series) -> Self {
        let total = series.total();
        let presentation = &series.view.settings.presentation;
        let largest = total.largest().map(|(at, _)| at);
        let (name, kind) = match (series.measure, largest) {
            (Measure::Count, _) => ("share of reports".to_owned(), Kind::Share(0)),
            (Measure::Sum, _) => ("mean per report".to_owned(), Kind::Mean(0)),
            (Measure::Histogram, _) if !presentation.edges.is_empty() => ("median".to_owned(), Kind::Median),
            (Measure::Histogram | Measure::Flags, Some(at)) => (series.value_label(at), Kind::Share(at)),
            (Measure::Vector, Some(at)) if series.length() <= 24 => {
                (format!("mean of {}", series.value_label(at)), Kind::Mean(at))
            }
            _ => ("reports".to_owned(), Kind::Reports),
        };
        Self { name, kind }
    }

    fn value(&self, series: &Series, total: &Total) -> Option<f64> {
        if total.is_empty() {
            return None;
        }
        match self.kind {
            Kind::Share(at) | Kind::Mean(at) => total.mean(at, None).map(|mean| mean.value),
            Kind::Reports => Some(total.reports as f64 / total.windows as f64),
            Kind::Median => {
                let edges = &series.view.settings.presentation.edges;
                statistics::quantile(&total.floats(), edges, 0.5).map(|median| match median {
                    Quantile::At(value) | Quantile::Below(value) | Quantile::Above(value) => value,
                })
            }
        }
    }

    fn write(&self, series: &Series, value: f64) -> String {
        match self.kind {
            Kind::Share(_) => percent(value),
            Kind::Mean(_) => brief(value) + &series.unit(),
            Kind::Median => quantile(Quantile::At(value)) + &series.unit(),
            Kind::Reports => brief(value),
        }
    }
}
