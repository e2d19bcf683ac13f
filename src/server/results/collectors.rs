//! The HTTP side of collector tasks.

use std::time::Duration;

use crate::results::context::ResultsContext;
use dapbox_client::{
    collector::{CollectError, Collector, CollectorTask},
    peer::{Peer, PeerOptions, RetryPolicy},
};
use dapbox_protocol::hpke::Keypair;
use dapbox_store::CollectorRecord;
use dapbox_support::{Fault, Point};

/// The drivers schedule retries, so a request is sent once.
const NO_RETRIES: RetryPolicy =
    RetryPolicy { initial: Duration::ZERO, max: Duration::ZERO, give_up_after: Duration::ZERO };

/// Why there is no collector for a task.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// There is no HTTP client.
    #[error(transparent)]
    Client(#[from] Fault),
    /// The key pair is invalid.
    #[error("the collector's key is invalid: {0} (hint: add the task again with its key)")]
    Key(String),
    /// The task is invalid.
    #[error(transparent)]
    Task(#[from] CollectError),
}

/// The HTTP client of the collector and of webhooks.
pub fn client(ctx: &ResultsContext) -> Result<Peer, Fault> {
    ctx.peers.client().map_or_else(|| Peer::new(&PeerOptions::default()), Ok)
}

/// Creates the collector of a task. Its requests have the failpoint `point`.
pub fn collector(ctx: &ResultsContext, record: &CollectorRecord, point: Point) -> Result<Collector, CollectorError> {
    let config = ctx.config.get();
    let (timeout, max_answer) = (*config.results.leader_timeout, config.limits.max_answer_bytes);
    let peer = client(ctx)?.with_limits(timeout, max_answer).with_failpoint(point);
    let task = CollectorTask {
        public: record.public.clone(),
        token: record.token.clone(),
        previous_token: record.previous_token.clone(),
    };
    let keypair = Keypair::from_parts(record.key.clone(), record.private_key.clone())
        .map_err(|error| CollectorError::Key(error.to_string()))?;
    let collector = Collector::new(task, keypair, peer, NO_RETRIES)?;
    Ok(match &record.advertisement {
        Some(configuration) => collector.with_advertisement(configuration),
        None => collector,
    })
}
