//! The document of a page of results.

use maud::{Markup, html};

use crate::shell::{Page, Shell, mark};

/// What all pages of results have in common.
const SHELL: Shell = Shell { style: include_str!("style.css"), interval: 60_000, reload: None, has_forms: true };

/// The content security policy of the pages.
pub fn policy() -> String {
    SHELL.policy()
}

/// Renders a page: `place` says where it is.
pub fn render(title: &str, place: &Markup, content: Markup) -> String {
    let place = html! { div.place { (mark(20)) (place) } };
    SHELL.render(&Page { title, skip: ("main", "Skip to the content"), place, patterns: patterns(), content })
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
