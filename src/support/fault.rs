//! Internal errors: logged once, answered with 500 and no detail.

use std::any::Any;

/// An internal error. The text is for the log, never for a peer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Fault(String);

impl Fault {
    /// Creates an error with a description for the operator.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// Creates an error from the failed activity and its cause.
    pub fn while_doing(what: &str, cause: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {cause}"))
    }
}

/// The message of a panic caught by `catch_unwind`.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("no message")
}
