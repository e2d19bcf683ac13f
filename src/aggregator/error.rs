//! The error of an interaction with a peer.

use dapbox_protocol::wire::{Malformed, Problem};
use dapbox_store::WriteError;
use dapbox_support::Fault;

/// Why a request fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error that is sent to the peer.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The server is overloaded: the peer should retry.
    #[error("too busy")]
    Busy,
    /// An internal error: logged, without details for the peer.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl<R: Into<Error>> From<WriteError<R>> for Error {
    fn from(error: WriteError<R>) -> Self {
        match error {
            WriteError::Refused(refusal) => refusal.into(),
            WriteError::Fault(fault) => fault.into(),
        }
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::Problem(malformed.into())
    }
}
