//! Taskprov peers in the management API. Peers with a file of the operator are not visible here, and take precedence.

use std::sync::Arc;

use warp::http::StatusCode;

use super::{bad, json, read};
use crate::{
    operator::context::ManagementContext,
    transport::http::{Response, empty},
    upkeep::supervise::run_to_completion,
};
use dapbox_aggregator::{Error, config::taskprov::check, taskprov};
use dapbox_protocol::{
    model::{Duration, taskprov::PeerAggregator},
    wire::{
        Problem,
        management::{PeerResponse, read_peer, read_peer_name},
    },
};
use dapbox_support::{Fault, Point};

fn skew(ctx: &ManagementContext) -> Duration {
    Duration(ctx.config.get().limits.clock_skew.as_secs())
}

/// Lists the peers that were added here.
pub fn list(ctx: &ManagementContext) -> Result<Response, Error> {
    let peers: Vec<PeerAggregator> = ctx.store.read(|view| Ok(view.peers().values().cloned().collect()))?;
    let answers: Vec<_> = peers.iter().filter_map(|peer| PeerResponse::of(peer, skew(ctx))).collect();
    json(StatusCode::OK, &answers)
}

/// Adds a peer. Idempotent.
pub async fn add(ctx: &Arc<ManagementContext>, body: &[u8]) -> Result<Response, Error> {
    let peer = read(ctx, |ignored| read_peer(body, ignored))?;
    check(&peer).map_err(bad)?;
    let conflict = |detail: &str| Error::from(Problem::from_status(409).with_detail(detail));
    if ctx.peers.has_file(&peer.name()) {
        return Err(conflict("the operator of this aggregator has configured the peer"));
    }
    let (shared, named) = (ctx.clone(), peer.clone());
    let added = run_to_completion(async move {
        let added = shared.store.write(Point::PeerAdd, move |tx| taskprov::add_peer(tx, named)).await?;
        shared.tasks.invalidate_in_band();
        Ok(added)
    });
    if !added.await? {
        return Err(conflict("a peer with this endpoint and role exists with other secrets or keys; delete it first"));
    }
    tracing::info!(peer = peer.endpoint, role = %peer.role(), "peer added by control plane");
    let answer = PeerResponse::of(&peer, skew(ctx));
    json(
        StatusCode::CREATED,
        &answer.ok_or_else(|| Fault::new("a peer has a key with an algorithm unknown to the API"))?,
    )
}

/// Removes a peer. Succeeds for an unknown peer.
pub async fn remove(ctx: &Arc<ManagementContext>, body: &[u8]) -> Result<Response, Error> {
    let name = read(ctx, |ignored| read_peer_name(body, ignored))?;
    let (shared, named) = (ctx.clone(), name.clone());
    // A stored removal must be applied even if the control plane disconnects.
    run_to_completion(async move {
        let remove = move |tx: &mut dapbox_store::Tx<'_>| {
            taskprov::remove_peer(tx, &named);
            Ok(())
        };
        shared.store.write(Point::PeerRemove, remove).await?;
        shared.tasks.invalidate_in_band();
        Ok(())
    })
    .await?;
    tracing::info!(peer = name.endpoint, role = %name.role, "peer removed by control plane");
    Ok(empty(StatusCode::NO_CONTENT))
}
