//! The server of an aggregator: listens, answers requests, drives jobs, and shuts down in order.
//!
//! [`Server::start`] brings up everything that `dapbox serve` runs. The rooms depend on each other in one direction:
//!
//! | room | contents |
//! |---|---|
//! | `shared` | the clock, the transport to peers, the configuration handle, the cache of tasks |
//! | `transport` | listeners, HTTP, TLS, memory budgets, limits of connections and requests |
//! | `upkeep` | HPKE key rotation, retention, disk space, supervision of background components |
//! | `dap` | the resources of all revisions: routes, uploads, helper jobs, collection jobs |
//! | `leader` | drivers of aggregation jobs and collection jobs, requests to helpers |
//! | `results` | the collector: drivers of windows and webhooks, pages of results, links |
//! | `operator` | control socket, management API, metrics, status page, reload, backup |
//!
//! A request enters through `transport/listen.rs` and `public.rs`, which routes it by its path to `dap/dap09.rs` or
//! `dap/current.rs`. What both share is in `dap/routes.rs`.
//!
//! # Decision: contexts instead of one shared state
//!
//! Each driver and handler receives a context that contains only what it needs, such as `leader::context` or
//! `dap::context`. Only `start.rs` knows all of them. Time comes from the [`Clock`] of the context, and requests to
//! other aggregators go through its [`PeerTransport`]. If [`Server::start_in`] receives another
//! [`Environment`], drivers run on its clock and outgoing requests on its network. Incoming requests still arrive at a listener.

mod contexts;
mod dap;
mod leader;
mod operator;
pub mod pool;
mod public;
mod results;
mod server;
mod shared;
mod start;
mod start_error;
mod transport;
mod upkeep;

use rustls::pki_types::CertificateDer;

use dapbox_aggregator::config::Tls;

pub use operator::backup::{PATH as BACKUP_PATH, WITH_KEY};
pub use operator::controls::Controls;
pub use operator::liveness::LivenessProbe;
pub use operator::metrics::{Kind as MetricKind, METRICS, Metric};
pub use operator::page::{needs_attention, render as status_page};
pub use server::Server;
pub use shared::clock::{Clock, SystemClock};
pub use shared::peer_transport::{HttpPeers, PeerRequest, PeerResult, PeerTransport};
pub use start::Environment;
pub use start_error::StartError;
pub use transport::tls::{CertificateError, describe as describe_certificate};
pub use transport::{json_server, short_path::ShortPath};
pub use upkeep::disk::needed_bytes;
pub use upkeep::store_options::store_options;

/// Reads the certificate chain from the configured files, with the checks of a server that starts.
pub fn certificate_in_files(tls: &Tls) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    transport::tls::CertificateFiles::open(tls, SystemClock.now()).map(|(_, first)| first.cert)
}
