//! The document around the content of a page.
//!
//! # Decision: pages are self-contained documents
//!
//! As on the status page, style and script are inline and the [`policy`] of the response allows only these two, by their
//! hashes, so that texts of tasks never run as scripts. Pages are complete without scripts. With scripts, a page fetches
//! itself once a minute and changes only what differs.

use base64::{Engine, prelude::BASE64_STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

/// The style sheet.
const STYLE: &str = include_str!("style.css");

/// The script that updates a page.
const SCRIPT: &str = include_str!("live.js");

/// The media type of pages.
pub const MEDIA_TYPE: &str = "text/html; charset=utf-8";

/// The inline icon of the pages.
const FAVICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath \
    fill='%230b6e66' d='M1 3a2 2 0 0 1 2-2h4v14H3a2 2 0 0 1-2-2zm8-2h4a2 2 0 0 1 2 2v4H9zm0 8h6v4a2 2 0 0 1-2 2H9z'/%3E%3C/svg%3E";

/// The content security policy of pages: only their inline style and script, images and forms of their own.
pub fn policy() -> String {
    format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

/// A source hash of a content security policy (CSP level 3, section 2.3.1).
fn hash(source: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(source)))
}

/// The parts of a page.
pub struct Page<'a> {
    /// The title in the browser.
    pub title: &'a str,
    /// The banner: where the page is.
    pub place: Markup,
    /// The content.
    pub content: Markup,
}

impl Page<'_> {
    /// Renders the document.
    pub fn render(&self) -> String {
        // Forces a reload after an update of the server, whose script may differ.
        let build = hash(&format!("{STYLE}{SCRIPT}"));
        let page = html! {
            (DOCTYPE)
            html lang="en" data-build=(build) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="robots" content="noindex";
                    meta name="referrer" content="no-referrer";
                    title { (self.title) }
                    // Inline, because browsers request a missing icon.
                    link rel="icon" href=(FAVICON);
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    a.skip href="#main" { "Skip to the content" }
                    header.banner {
                        div.place { (mark()) (self.place) }
                        div.live {
                            p #link role="status" {}
                            button #pause type="button" hidden { "Pause" }
                        }
                    }
                    (patterns())
                    main #main tabindex="-1" { (self.content) }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        };
        page.into_string()
    }
}

/// The logo: two shares in a box.
fn mark() -> Markup {
    html! {
        svg.mark viewBox="0 0 16 16" width="20" height="20" aria-hidden="true" focusable="false" {
            path d="M1 3a2 2 0 0 1 2-2h4v14H3a2 2 0 0 1-2-2zm8-2h4a2 2 0 0 1 2 2v4H9zm0 8h6v4a2 2 0 0 1-2 2H9z" {}
        }
    }
}

/// The patterns of gaps. Each reason has its own, so that colors are not required.
fn patterns() -> Markup {
    html! {
        svg.patterns width="0" height="0" aria-hidden="true" focusable="false" {
            defs {
                pattern #p-upcoming width="8" height="8" patternUnits="userSpaceOnUse" {
                    circle.mark-dim cx="4" cy="4" r="1" {}
                }
                pattern #p-pending width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    rect.mark-wait width="1.6" height="7" {}
                }
                pattern #p-few width="7" height="7" patternUnits="userSpaceOnUse" {
                    rect.mark-doubt width="7" height="1.6" {}
                }
                pattern #p-refused width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(-45)" {
                    rect.mark-bad width="1.6" height="7" {}
                }
                pattern #p-lost width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    path.cross-bad d="M0 4H8M4 0V8" {}
                }
            }
        }
    }
}

/// An icon of a warning: a triangle.
pub fn warning() -> Markup {
    html! {
        svg.icon viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" focusable="false" {
            path d="M8 .8L15.7 15H.3z" {}
            path.cut d="M8 5.6v4.6M8 11.8v1.6" {}
        }
    }
}
