//! Errors of a server that does not start.

use std::{io, net::SocketAddr, path::PathBuf};

use crate::transport::tls::CertificateError;
use dapbox_client::peer::RootCertificatesError;
use dapbox_store::OpenError;
use dapbox_support::Fault;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be opened.
    #[error("{}: {error}", dir.display())]
    Open {
        /// The data directory.
        dir: PathBuf,
        /// The cause.
        error: OpenError,
    },
    /// The public address cannot be bound.
    #[error(
        "cannot listen on {address}: {error} (hint: stop the server that uses it, or set listen to a free address)"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The monitoring address cannot be bound.
    #[error(
        "cannot listen on {address} for monitoring: {error} (hint: set monitor.listen to a free address, or to \"\" for \
         none)"
    )]
    Monitor {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The address of the pages of results cannot be bound.
    #[error(
        "cannot listen on {address} for results: {error} (hint: set results.listen to a free address, or to \"\" for \
         none)"
    )]
    Results {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The address of the management API cannot be bound.
    #[error(
        "cannot listen on {address} for the management API: {error} (hint: set management.listen to a free address, or to \
         \"\" for none)"
    )]
    Management {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The control socket cannot be created.
    #[error("cannot create the control socket {path}: {error}")]
    Control {
        /// The socket's path.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// There is no valid certificate for HTTPS.
    #[error("{0}; or set tls.mode to \"off\" behind a proxy that terminates HTTPS")]
    Certificate(#[from] CertificateError),
    /// The root certificates in `peer.ca_file` are invalid.
    #[error(transparent)]
    RootCertificates(#[from] RootCertificatesError),
    /// A file of a taskprov peer is invalid.
    #[error("{0} (hint: correct the file, or remove it from taskprov.peers)")]
    Peers(String),
    /// An internal error.
    #[error(transparent)]
    Fault(#[from] Fault),
}
