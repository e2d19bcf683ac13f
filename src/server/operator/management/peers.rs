//! Peers whose tasks are set up in-band, as a control plane names them. Those that the operator has files of are none of its
//! business, and count.

use std::sync::Arc;

use warp::http::StatusCode;

use super::{bad, json, read, unhurried};
use crate::{
    app::App,
    transport::http::{Response, empty},
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

fn skew(app: &App) -> Duration {
    Duration(app.config.limits.clock_skew.as_secs())
}

/// The peers that were named here.
pub fn list(app: &App) -> Result<Response, Error> {
    let peers: Vec<PeerAggregator> = app.store.read(|view| Ok(view.peers().values().cloned().collect()))?;
    let answers: Vec<_> = peers.iter().filter_map(|peer| PeerResponse::of(peer, skew(app))).collect();
    json(StatusCode::OK, &answers)
}

/// Takes a peer's tasks from now on. The same request again is answered the same.
pub async fn add(app: &Arc<App>, body: &[u8]) -> Result<Response, Error> {
    let peer = read(app, |ignored| read_peer(body, ignored))?;
    check(&peer).map_err(bad)?;
    let conflict = |detail: &str| Error::from(Problem::from_status(409).with_detail(detail));
    if app.peers.has_file(&peer.name()) {
        return Err(conflict("this aggregator's operator has said already what holds for the peer"));
    }
    let (shared, named) = (app.clone(), peer.clone());
    let added = unhurried(async move {
        let added = shared.store.write(Point::PeerAdd, move |tx| taskprov::add_peer(tx, named)).await?;
        shared.reread_in_band();
        Ok(added)
    });
    if !added.await? {
        return Err(conflict("there is a peer of this endpoint and role, with other secrets or keys: delete it first"));
    }
    tracing::info!(peer = peer.endpoint, role = %peer.role(), "peer added by control plane");
    let answer = PeerResponse::of(&peer, skew(app));
    json(StatusCode::CREATED, &answer.ok_or_else(|| Fault::new("a peer has a key that the API has no name for"))?)
}

/// Takes a peer's tasks no more. What is not there is gone, too.
pub async fn remove(app: &Arc<App>, body: &[u8]) -> Result<Response, Error> {
    let name = read(app, |ignored| read_peer_name(body, ignored))?;
    let (shared, named) = (app.clone(), name.clone());
    // What is not trusted any more must not be, whether or not the control plane waits for it.
    unhurried(async move {
        let remove = move |tx: &mut dapbox_store::Tx<'_>| {
            taskprov::remove_peer(tx, &named);
            Ok(())
        };
        shared.store.write(Point::PeerRemove, remove).await?;
        shared.reread_in_band();
        Ok(())
    })
    .await?;
    tracing::info!(peer = name.endpoint, role = %name.role, "peer removed by control plane");
    Ok(empty(StatusCode::NO_CONTENT))
}
