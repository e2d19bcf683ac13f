//! Routes requests at the public address.

use std::sync::Arc;

use crate::{
    dap::{context::DapContext, current, dap09},
    operator::{context::ManagementContext, landing, management},
    results::{context::ResultsContext, listener},
    shared::{clock::Clock, config_handle::ConfigHandle},
    transport::http::{self, Request, Response},
    upkeep::recorder::Recorder,
};
use dapbox_protocol::{
    model::Revision,
    wire::{self, Problem},
};

/// What answers requests at the public address.
pub struct PublicContext {
    /// Measures the duration of requests.
    pub clock: Arc<dyn Clock>,
    /// The configuration.
    pub config: ConfigHandle,
    /// Records the duration of requests.
    pub recorder: Arc<Recorder>,
    /// The DAP resources.
    pub dap: DapContext,
    /// The management API.
    pub management: Arc<ManagementContext>,
    /// The pages of results, for holders of links.
    pub results: Arc<ResultsContext>,
}

/// Answers a request, and records its duration.
pub async fn answer(ctx: Arc<PublicContext>, request: Request) -> Response {
    let (begin, path) = (ctx.clock.instant(), request.path.clone());
    let response = route(&ctx, request).await;
    let time = ctx.clock.instant().saturating_duration_since(begin);
    ctx.recorder.answered(&path, response.status().as_u16(), time);
    response
}

/// Routes a request by the revision in its path.
async fn route(ctx: &PublicContext, request: Request) -> Response {
    let path = request.path.clone();
    let (method, origin) = (request.method.clone(), request.origin);
    let below = |revision| {
        let rest = path.trim_start_matches('/').strip_prefix(wire::for_revision(revision).path_prefix())?;
        // Some clients join a base URL that ends in a slash with a path that begins with one.
        rest.starts_with('/').then(|| rest.trim_start_matches('/'))
    };
    let config = ctx.config.get();
    if landing::is_requested(&request) && management::below(&config, &path).is_none() {
        return landing::answer(&config.public_url).unwrap_or_else(http::failure);
    }
    let response = match Revision::ALL.into_iter().find_map(|revision| Some((revision, below(revision)?))) {
        Some((Revision::Dap09, path)) => dap09::handle(&ctx.dap, path, request).await,
        Some((revision, path)) => current::handle(revision, &ctx.dap, path, request).await,
        None => match management::below(&config, &path) {
            Some(path) => management::handle(&ctx.management, path, request).await,
            None if listener::is_public(&config, &path) => {
                return listener::answer_publicly(&ctx.results, request).await;
            }
            None => http::failure(Problem::from_status(404).into()),
        },
    };
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let (client, https) = (origin.client.map(|client| client.to_string()), origin.https);
        tracing::debug!(client, https, %method, path, status = status.as_u16(), "request rejected");
    }
    response
}
