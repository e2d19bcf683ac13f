//! The document around the content of a page, also of the operator's status page.
//!
//! # Decision: pages are self-contained documents
//!
//! Style and script are inline, and the policy of the response allows only these, by their hashes, so that texts of tasks
//! never run as scripts. Pages are complete without scripts. With scripts, a page fetches itself periodically and changes
//! only what differs.

use base64::{Engine, prelude::BASE64_STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

/// The style of all pages.
const BASE: &str = include_str!("shell/base.css");

/// The script that updates a page.
const SCRIPT: &str = include_str!("shell/live.js");

/// The media type of pages.
pub const MEDIA_TYPE: &str = "text/html; charset=utf-8";

/// The inline icon of the pages.
const FAVICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath \
    fill='%230b6e66' d='M1 3a2 2 0 0 1 2-2h4v14H3a2 2 0 0 1-2-2zm8-2h4a2 2 0 0 1 2 2v4H9zm0 8h6v4a2 2 0 0 1-2 2H9z'/%3E%3C/svg%3E";

/// A source hash of a content security policy (CSP level 3, section 2.3.1).
pub fn hash(source: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(source)))
}

/// What the pages of a kind have in common.
pub struct Shell {
    /// The style sheet after the common one.
    pub style: &'static str,
    /// How often a page fetches itself, in milliseconds.
    pub interval: u32,
    /// How often a page reloads without scripts, in seconds.
    pub reload: Option<u32>,
    /// Whether pages have forms.
    pub has_forms: bool,
}

/// The parts of a page.
pub struct Page<'a> {
    /// The title in the browser.
    pub title: &'a str,
    /// The link that skips the banner: the name of its target, and its text.
    pub skip: (&'a str, &'a str),
    /// The banner: where the page is.
    pub place: Markup,
    /// The patterns of the drawings.
    pub patterns: Markup,
    /// The content.
    pub content: Markup,
}

impl Shell {
    /// The content security policy of pages: only their inline styles and script, images and forms of their own, and no
    /// embedding in other pages.
    pub fn policy(&self) -> String {
        format!(
            "default-src 'none'; style-src '{}' '{}'; script-src '{}'; img-src data:; connect-src 'self'; \
             base-uri 'none'; form-action '{}'; frame-ancestors 'none'",
            hash(BASE),
            hash(self.style),
            hash(SCRIPT),
            if self.has_forms { "self" } else { "none" }
        )
    }

    /// Renders a document.
    pub fn render(&self, page: &Page) -> String {
        // Forces a reload after an update of the server, whose script may differ.
        let build = hash(&[BASE, self.style, SCRIPT].concat());
        let page = html! {
            (DOCTYPE)
            html lang="en" data-build=(build) data-interval=(self.interval) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="robots" content="noindex";
                    meta name="referrer" content="no-referrer";
                    title { (page.title) }
                    // Inline, because browsers request a missing icon.
                    link rel="icon" href=(FAVICON);
                    @if let Some(reload) = self.reload {
                        noscript { meta http-equiv="refresh" content=(reload); }
                    }
                    style { (PreEscaped(BASE)) }
                    style { (PreEscaped(self.style)) }
                }
                body {
                    a.skip href={ "#" (page.skip.0) } { (page.skip.1) }
                    (self.banner(page))
                    (page.patterns)
                    main #main tabindex="-1" { (page.content) }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        };
        page.into_string()
    }

    /// The constant part of a page. The script writes into it.
    fn banner(&self, page: &Page) -> Markup {
        html! {
            header.banner {
                (page.place)
                div.live {
                    p #link role="status" {
                        @if let Some(reload) = self.reload { noscript { "Reloads every " (reload) " s" } }
                    }
                    button #pause type="button" hidden { "Pause" }
                }
            }
        }
    }
}

/// The logo: two shares in a box, with a size in pixels.
pub fn mark(size: u32) -> Markup {
    html! {
        svg.mark viewBox="0 0 16 16" width=(size) height=(size) aria-hidden="true" focusable="false" {
            path d="M1 3a2 2 0 0 1 2-2h4v14H3a2 2 0 0 1-2-2zm8-2h4a2 2 0 0 1 2 2v4H9zm0 8h6v4a2 2 0 0 1-2 2H9z" {}
        }
    }
}
