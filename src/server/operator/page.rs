//! The status page: one HTML document with all that `dapbox status` tells, for a browser.
//!
//! It is made by a pure function of an [`Overview`] and needs nothing beside itself: style and script are inside, and the
//! [`policy`] of its response allows these two by their hashes and nothing else. So whatever a task's text may say, nothing of
//! it can run. Without scripts the page says everything and is loaded again now and then; with them it looks every two
//! seconds and changes only what is different, so that focus, scrolling and what was unfolded stay.
//!
//! Widths that come from numbers are attributes of SVG shapes: the policy forbids styles on elements too.

mod alerts;
mod batch;
mod chart;
mod icon;
pub mod landing;
mod server;
mod task;
mod text;

use base64::{Engine, prelude::BASE64_STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

pub use self::alerts::needs_attention;
use self::{icon::Icon, text::instant};
use dapbox_aggregator::views::overview::Overview;
use dapbox_support::format::{count, counted};

/// How the page looks.
const STYLE: &str = include_str!("page/style.css");

/// What keeps the page up to date.
const SCRIPT: &str = include_str!("page/live.js");

/// The page's media type.
pub const MEDIA_TYPE: &str = "text/html; charset=utf-8";

/// With so many tasks or fewer, all are unfolded.
const FEW: usize = 3;

/// The content security policy that the response with the page must have: nothing may run or load but what is in the
/// page, and nobody may show it as a part of theirs.
pub fn policy() -> String {
    format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

/// A hash as a content security policy has it (CSP level 3, section 2.3.1).
fn hash(source: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(source)))
}

/// Draws the page.
pub fn render(overview: &Overview) -> String {
    let name = if overview.server.is_empty() { String::new() } else { format!("{} - ", overview.server) };
    let title =
        format!("{}, {} - {name}dapbox", Standing::of(overview).word(), counted(overview.tasks.len() as u64, "task"));
    // A page that is open for long must not keep the script of an older release.
    let build = hash(&format!("{STYLE}{SCRIPT}"));
    let page = html! {
        (DOCTYPE)
        html lang="en" data-build=(build) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) }
                // In the page, or the browser would ask for one.
                link rel="icon" href=(icon::FAVICON);
                noscript { meta http-equiv="refresh" content="30"; }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#tasks" { "Skip to the tasks" }
                (banner(&overview.server))
                main #main tabindex="-1" { (content(overview)) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// What does not change while the page is open; the script writes into it.
fn banner(server: &str) -> Markup {
    html! {
        header.banner {
            h1 { (icon::mark()) "dapbox" @if !server.is_empty() { " " span.host { (server) } } }
            div.live {
                p #link role="status" {
                    noscript { "Loaded again every 30 s" }
                }
                button #pause type="button" hidden { "Pause" }
            }
        }
        (icon::patterns())
    }
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
                (task::entry(view, overview.now, overview.tasks.len() <= FEW))
            }
        }
        footer #end .end {
            p { "dapbox " (overview.version) }
        }
    }
}

/// How the server is as a whole. It is never good above something that needs attention.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    NeedsAttention,
    NotReady,
}

impl Standing {
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

/// The one thing to know first.
fn readiness(overview: &Overview) -> Markup {
    let standing = Standing::of(overview);
    let (is_bad, is_doubtful) = (standing == Standing::NotReady, standing == Standing::NeedsAttention);
    html! {
        section #of-readiness .readiness.bad[is_bad].doubtful[is_doubtful] aria-labelledby="readiness" {
            h2 #readiness { (standing.icon().draw()) (standing.word()) }
            @match standing {
                Standing::Good => p { "The server takes requests and does its work." },
                Standing::NeedsAttention => p { "The server takes requests. Not everything works, see below." },
                Standing::NotReady => ul.reasons { @for reason in &overview.not_ready { li { (reason) } } },
            }
            p.asof { "As of " (instant(overview.now, overview.now)) }
        }
    }
}

/// A page without tasks says how to get one.
fn no_tasks() -> Markup {
    html! {
        div.empty {
            p { strong { "No tasks yet." } " A task says what is measured, and who its leader, helper and collector are." }
            ol {
                li { "Make one, a file for each party: " code { "dapbox task new --help" } }
                li { "Add this server's file: " code { "dapbox task add FILE" } }
                li { "Give the other files to the helper, the collector and the clients." }
            }
            p.dim { "To see all of it work first: " code { "dapbox demo" } }
        }
    }
}
