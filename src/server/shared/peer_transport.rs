//! Requests to other aggregators: the only way in which a server reaches a peer.
//!
//! [`HttpPeers`] is the system's implementation. A simulator passes another one to
//! [`Server::start_in`](crate::Server::start_in).

use std::{
    future::Future,
    path::Path,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use dapbox_client::peer::{Peer, PeerOptions, Reply, RequestError, RootCertificates, TokenHeader};
use dapbox_protocol::{model::Secret, wire::RequestSpec};
use dapbox_support::{Failpoints, Fault, Point};

/// A request to a peer.
pub struct PeerRequest<'a> {
    /// The base URL of the peer.
    pub base_url: &'a str,
    /// Method, path and media types.
    pub spec: &'a RequestSpec,
    /// The token to present.
    pub token: &'a Secret,
    /// Tokens to retry with if the peer rejects `token`.
    pub fallback_tokens: Vec<Secret>,
    /// The body.
    pub body: Bytes,
    /// Timeout of the whole exchange.
    pub timeout: Duration,
    /// Maximum length of the response, in bytes.
    pub max_answer_bytes: usize,
    /// The failpoint of the request, for tests.
    pub point: Point,
}

/// The outcome of one request to a peer.
pub type PeerResult = Result<Reply, RequestError>;

/// Sends requests to peers.
pub trait PeerTransport: Send + Sync {
    /// Sends one request and receives the state of the resource. Does not retry.
    fn send<'a>(&'a self, request: PeerRequest<'a>) -> Pin<Box<dyn Future<Output = PeerResult> + Send + 'a>>;

    /// The HTTP client, for a collector's requests to leaders and for webhooks; `None` if this transport has none.
    fn client(&self) -> Option<Peer> {
        None
    }

    /// Reads the additional root certificates from `ca_file` again. Requests in progress keep the old ones.
    fn reload_roots(&self, ca_file: &Path) -> Result<(), String>;
}

/// Peers over HTTPS.
pub struct HttpPeers(Mutex<Peer>);

impl HttpPeers {
    /// Creates the HTTP client.
    pub fn new(roots: RootCertificates, failpoints: Failpoints, token_header: TokenHeader) -> Result<Self, Fault> {
        let options = PeerOptions { roots, failpoints, token_header, ..PeerOptions::default() };
        Ok(Self(Mutex::new(Peer::new(&options)?)))
    }

    fn current(&self) -> Peer {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl PeerTransport for HttpPeers {
    fn send<'a>(&'a self, request: PeerRequest<'a>) -> Pin<Box<dyn Future<Output = PeerResult> + Send + 'a>> {
        let PeerRequest { base_url, spec, token, fallback_tokens, body, timeout, max_answer_bytes, point } = request;
        let peer = self
            .current()
            .with_limits(timeout, max_answer_bytes)
            .with_failpoint(point)
            .with_fallback_tokens(fallback_tokens);
        Box::pin(async move { peer.ask(base_url, spec, Some(token), body).await })
    }

    fn client(&self) -> Option<Peer> {
        Some(self.current())
    }

    fn reload_roots(&self, ca_file: &Path) -> Result<(), String> {
        let roots = RootCertificates::read(ca_file).map_err(|error| error.to_string())?;
        if let Some(new) = self.current().with_roots(roots).map_err(|fault| fault.to_string())? {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = new;
        }
        Ok(())
    }
}
