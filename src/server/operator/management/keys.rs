//! HPKE keys in the management API. Keys rotate automatically; requests follow the same rules as `dapbox keys`:
//!
//! - A new key uses the algorithms of the configuration and is pending first. There is at most one pending key.
//! - A pending key may be activated immediately, and replaces the active one.
//! - A key that expires or is deleted is succeeded immediately.

use std::sync::Arc;

use warp::http::StatusCode;

use super::{bad, json, read};
use crate::{
    operator::context::ManagementContext,
    transport::http::{Response, empty},
    upkeep::supervise::run_to_completion,
};
use dapbox_aggregator::{
    Error,
    keys::{KeyError, Request},
    views::keys::KeyChange,
};
use dapbox_protocol::{
    hpke::Suite,
    model::KeyState,
    wire::{
        Problem,
        management::{KeyResponse, RequestedAlgorithms, read_key_change, read_new_key},
    },
};
use dapbox_store::{KeyRecord, KeyStage, View};
use dapbox_support::Fault;

/// Lists the keys that are not deleted, if the API has names for their algorithms.
pub fn list(ctx: &ManagementContext) -> Result<Response, Error> {
    json(StatusCode::OK, &ctx.store.read(|view| Ok(view.keys().values().filter_map(describe).collect::<Vec<_>>()))?)
}

/// Shows one key.
pub fn show(ctx: &ManagementContext, id: &str) -> Result<Response, Error> {
    answer(ctx, StatusCode::OK, parse(id)?)
}

fn answer(ctx: &ManagementContext, status: StatusCode, id: u8) -> Result<Response, Error> {
    let found = ctx.store.read(|view| Ok(view.keys().get(&id).and_then(describe)))?;
    json(status, &found.ok_or_else(unknown)?)
}

fn describe(key: &KeyRecord) -> Option<KeyResponse> {
    let state = match key.stage {
        KeyStage::Pending { .. } => KeyState::Pending,
        KeyStage::Active { .. } => KeyState::Active,
        KeyStage::Expired { .. } => KeyState::Expired,
        KeyStage::Deleted { .. } => return None,
    };
    KeyResponse::of(&key.config, state)
}

/// Creates a key, unless one is pending.
pub async fn make(ctx: &Arc<ManagementContext>, body: &[u8]) -> Result<Response, Error> {
    let (wanted, ours) = (read(ctx, |ignored| read_new_key(body, ignored))?, ctx.config.get().hpke.suite());
    if !is_ours(wanted, ours) {
        let text = format!("new keys must be {ours}, as configured ([hpke] kem, kdf and aead)");
        return Err(bad(text));
    }
    let changes = order(ctx, Request::Rotate { now: false }).await?;
    let made = changes.iter().filter(|change| change.before.is_none() && change.suite == ours.to_string());
    match made.map(|change| change.id).next_back() {
        Some(id) => answer(ctx, StatusCode::CREATED, id),
        None => {
            let pending = ctx.store.read(|view| Ok(pending(view, ours)))?;
            answer(ctx, StatusCode::OK, pending.ok_or_else(|| Fault::new("the new HPKE key does not exist"))?)
        }
    }
}

fn is_ours(wanted: RequestedAlgorithms, ours: Suite) -> bool {
    let fits = |wanted: Option<u16>, ours| wanted.is_none_or(|wanted| wanted == ours);
    fits(wanted.kem_id, ours.kem_id) && fits(wanted.kdf_id, ours.kdf_id) && fits(wanted.aead_id, ours.aead_id)
}

fn pending(view: &View<'_>, suite: Suite) -> Option<u8> {
    let is_it = |key: &&KeyRecord| matches!(key.stage, KeyStage::Pending { .. }) && Suite::of(&key.config) == suite;
    view.keys().values().find(is_it).map(|key| key.config.id)
}

/// Changes the state of a key.
pub async fn change(ctx: &Arc<ManagementContext>, id: &str, body: &[u8]) -> Result<Response, Error> {
    let (id, wanted) = (parse(id)?, read(ctx, |ignored| read_key_change(body, ignored))?);
    let found = ctx.store.read(|view| Ok(view.keys().get(&id).map(|key| key.stage)))?;
    match (wanted, found) {
        (_, None | Some(KeyStage::Deleted { .. })) => return Err(unknown()),
        (KeyState::Pending, Some(KeyStage::Pending { .. })) => {}
        (KeyState::Pending, _) => {
            let text = "an activated key cannot become pending";
            return Err(Problem::from_status(409).with_detail(text).into());
        }
        (KeyState::Active, _) => drop(order(ctx, Request::Activate(id)).await?),
        (KeyState::Expired, _) => drop(order(ctx, Request::Disable(id)).await?),
    }
    answer(ctx, StatusCode::OK, id)
}

/// Deletes a key. Succeeds for a deleted key.
pub async fn delete(ctx: &Arc<ManagementContext>, id: &str) -> Result<Response, Error> {
    let id = parse(id)?;
    let found = ctx.store.read(|view| Ok(view.keys().get(&id).map(|key| key.stage)))?;
    match found {
        None => return Err(unknown()),
        Some(KeyStage::Deleted { .. }) => {}
        Some(_) => drop(order(ctx, Request::Delete(id)).await?),
    }
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn order(ctx: &Arc<ManagementContext>, request: Request) -> Result<Vec<KeyChange>, Error> {
    let keys = ctx.keys.clone();
    // A stored change must be applied even if the control plane disconnects.
    let changes = run_to_completion(async move {
        let changed = keys.change(request).await;
        Ok(changed.map_err(|error| error.map_refusal(refusal))?)
    });
    changes.await
}

fn refusal(why: KeyError) -> Error {
    match why {
        KeyError::Unknown(_) => unknown(),
        why => Problem::from_status(409).with_detail(why.to_string()).into(),
    }
}

fn parse(id: &str) -> Result<u8, Error> {
    id.parse().map_err(|_| bad("invalid HPKE key id; expected a number from 0 to 255"))
}

fn unknown() -> Error {
    Problem::from_status(404).with_detail("unknown HPKE key").into()
}
