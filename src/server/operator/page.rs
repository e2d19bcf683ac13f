//! The status page: the content of `dapbox status` as one HTML document.
//!
//! # Decision: the page is one self-contained document
//!
//! [`render`] is a pure function of an [`Overview`]. Style and script are inline, and the [`policy`] of the response
//! allows only these two, by their hashes. Text of tasks can therefore never run as a script. Without scripts the page
//! is complete and reloads periodically. With scripts it fetches the page every two seconds and updates only what
//! differs, so that focus, scroll position and open sections remain.
//!
//! Widths that depend on data are attributes of SVG shapes, because the policy also forbids style attributes.

mod alerts;
mod batch;
mod chart;
mod icon;
pub mod landing;
mod server;
mod task;
mod text;

use maud::{Markup, html};

pub use self::alerts::needs_attention;
use self::{icon::Icon, text::instant};
use dapbox_aggregator::views::overview::Overview;
pub use dapbox_pages::MEDIA_TYPE;
use dapbox_pages::shell::{Page, Shell, mark};
use dapbox_support::format::{count, counted};

/// The style, and how often the page changes.
const SHELL: Shell =
    Shell { style: include_str!("page/style.css"), interval: 2_000, reload: Some(30), has_forms: false };

/// With at most this many tasks, all of them are open.
const MAX_OPEN_TASKS: usize = 3;

/// The content security policy of the response.
pub fn policy() -> String {
    SHELL.policy()
}

/// Renders the page.
pub fn render(overview: &Overview) -> String {
    let server = &overview.server;
    let name = if server.is_empty() { String::new() } else { format!("{server} - ") };
    let title =
        format!("{}, {} - {name}dapbox", Readiness::of(overview).word(), counted(overview.tasks.len() as u64, "task"));
    let place = html! { h1 { (mark(22)) "dapbox" @if !server.is_empty() { " " span.host { (server) } } } };
    let skip = ("tasks", "Skip to the tasks");
    SHELL.render(&Page { title: &title, skip, place, patterns: icon::patterns(), content: content(overview) })
}

fn content(overview: &Overview) -> Markup {
    html! {
        (readiness(overview))
        (alerts::section(overview))
        (server::section(overview))
        section #of-tasks aria-labelledby="tasks" {
            h2 #tasks tabindex="-1" { "Tasks " span.count { (count(overview.tasks.len() as u64)) } }
            @if overview.tasks.is_empty() { (no_tasks()) }
            @for view in &overview.tasks {
                (task::entry(view, overview.now, overview.tasks.len() <= MAX_OPEN_TASKS))
            }
        }
        footer #end .end {
            p { "dapbox " (overview.version) }
        }
    }
}

/// The overall readiness. It is never `Good` if something needs attention.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readiness {
    Good,
    NeedsAttention,
    NotReady,
}

impl Readiness {
    fn of(overview: &Overview) -> Self {
        match needs_attention(overview) {
            _ if !overview.not_ready.is_empty() => Self::NotReady,
            true => Self::NeedsAttention,
            false => Self::Good,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Good => "Ready",
            Self::NeedsAttention => "Ready, needs attention",
            Self::NotReady => "Not ready",
        }
    }

    fn icon(self) -> Icon {
        match self {
            Self::Good => Icon::Good,
            Self::NeedsAttention => Icon::Attention,
            Self::NotReady => Icon::Bad,
        }
    }
}

/// The headline.
fn readiness(overview: &Overview) -> Markup {
    let standing = Readiness::of(overview);
    let (is_bad, is_doubtful) = (standing == Readiness::NotReady, standing == Readiness::NeedsAttention);
    html! {
        section #of-readiness .readiness.bad[is_bad].doubtful[is_doubtful] aria-labelledby="readiness" {
            h2 #readiness { (standing.icon().draw()) (standing.word()) }
            @match standing {
                Readiness::Good => p { "The server processes requests." },
                Readiness::NeedsAttention => p { "The server processes requests, with errors. See below." },
                Readiness::NotReady => ul.reasons { @for reason in &overview.not_ready { li { (reason) } } },
            }
            p.asof { "As of " (instant(overview.now, overview.now)) }
        }
    }
}

/// Instructions for a server without tasks.
fn no_tasks() -> Markup {
    html! {
        div.empty {
            p { strong { "No tasks yet." } " A task defines the measurement and its leader, helper and collector." }
            ol {
                li { "Create a task, with one file for each party: " code { "dapbox task new --help" } }
                li { "Add the file of this server: " code { "dapbox task add FILE" } }
                li { "Pass the other files to the helper, the collector and the clients." }
            }
            p.dim { "To try everything first: " code { "dapbox demo" } }
        }
    }
}
