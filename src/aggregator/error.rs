//! What an interaction with a peer ends in when it does not succeed.

use dapbox_protocol::wire::{Malformed, Problem};
use dapbox_store::WriteError;
use dapbox_support::Fault;

/// Why a request is not answered with success.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer is told what is wrong with its request.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// We are too busy: the peer is told to come back.
    #[error("too busy")]
    Busy,
    /// Ours: logged, and the peer learns nothing.
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
