//! Icons. Each state has its own shape and name, so that colors are not required.
//!
//! SVG shapes are not void elements in HTML: each must be closed.

use maud::{Markup, PreEscaped, html};

/// The icon of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icon {
    /// A disc with a check mark.
    Good,
    /// A triangle.
    Bad,
    /// A diamond.
    Attention,
    /// A half-filled disc.
    Half,
    /// A dashed ring.
    Empty,
    /// Two bars.
    Still,
    /// A clock.
    Later,
}

impl Icon {
    /// Renders the icon. Screen readers read the text beside it.
    pub fn draw(self) -> Markup {
        let (class, shape) = match self {
            Self::Good => ("i-good", r#"<circle cx="8" cy="8" r="7"/><path class="cut" d="M4.6 8.3l2.4 2.4 4.5-5"/>"#),
            Self::Bad => ("i-bad", r#"<path d="M8 .8L15.7 15H.3z"/><path class="cut" d="M8 5.6v4.6M8 11.8v1.6"/>"#),
            Self::Attention => {
                ("i-doubt", r#"<path d="M8 .3L15.7 8 8 15.7.3 8z"/><path class="cut" d="M8 4.4v4.2M8 10.4v1.2"/>"#)
            }
            Self::Half => {
                ("i-half", r#"<circle class="line" cx="8" cy="8" r="6.2"/><path d="M8 1.8a6.2 6.2 0 0 1 0 12.4z"/>"#)
            }
            Self::Empty => ("i-empty", r#"<circle class="line dash" cx="8" cy="8" r="6.2"/>"#),
            Self::Still => ("i-still", r#"<path d="M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z"/>"#),
            Self::Later => {
                ("i-later", r#"<circle class="line" cx="8" cy="8" r="6.2"/><path class="line" d="M8 4.2V8l2.6 1.8"/>"#)
            }
        };
        html! {
            svg.icon.(class) viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" focusable="false" {
                (PreEscaped(shape))
            }
        }
    }
}

/// The hatching of waiting reports.
pub fn patterns() -> Markup {
    html! {
        svg.patterns width="0" height="0" aria-hidden="true" focusable="false" {
            defs {
                pattern #hatch width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    rect.hatch width="2.6" height="6" {}
                }
            }
        }
    }
}
