//! The error of a write that may be refused.

use dapbox_support::Fault;

/// Why a write returns no value.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError<R> {
    /// The write was refused and changed nothing. The store continues.
    #[error(transparent)]
    Refused(R),
    /// The write, its group or the store failed. The store has stopped.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl<R> WriteError<R> {
    /// Converts the refusal and keeps a fault.
    pub fn map_refusal<S>(self, convert: impl FnOnce(R) -> S) -> WriteError<S> {
        match self {
            Self::Refused(refusal) => WriteError::Refused(convert(refusal)),
            Self::Fault(fault) => WriteError::Fault(fault),
        }
    }
}
