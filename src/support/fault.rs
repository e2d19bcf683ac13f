//! A failure of ours: logged once, answered 500 without detail.

use std::any::Any;

/// Something went wrong on our side. The text is for the log, never for a peer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Fault(String);

impl Fault {
    /// Describes what went wrong, for the operator.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// Says what was being done when `cause` happened.
    pub fn while_doing(what: &str, cause: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {cause}"))
    }
}

/// What a panic said, given what `catch_unwind` has caught.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("no message")
}
