//! Our HPKE keys in the management API. They are replaced by themselves; what a control plane asks for is done by the same
//! rules as what an operator does with `dapbox keys`:
//!
//! - A new key has the algorithms of the configuration, and is pending first. If one is pending, that is it.
//! - A pending key may be handed out at once, and takes the place of the one before.
//! - A key that is to expire or to be deleted has a successor at once.

use std::sync::Arc;

use warp::http::StatusCode;

use super::{bad, json, read, unhurried};
use crate::{
    app::App,
    transport::http::{Response, empty},
    upkeep::keys,
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

/// All keys that were not deleted, if the API has names for their algorithms.
pub fn list(app: &App) -> Result<Response, Error> {
    json(StatusCode::OK, &app.store.read(|view| Ok(view.keys().values().filter_map(tell).collect::<Vec<_>>()))?)
}

/// One of them.
pub fn show(app: &App, id: &str) -> Result<Response, Error> {
    answer(app, StatusCode::OK, parse(id)?)
}

fn answer(app: &App, status: StatusCode, id: u8) -> Result<Response, Error> {
    let found = app.store.read(|view| Ok(view.keys().get(&id).and_then(tell)))?;
    json(status, &found.ok_or_else(unknown)?)
}

fn tell(key: &KeyRecord) -> Option<KeyResponse> {
    let state = match key.stage {
        KeyStage::Pending { .. } => KeyState::Pending,
        KeyStage::Active { .. } => KeyState::Active,
        KeyStage::Expired { .. } => KeyState::Expired,
        KeyStage::Deleted { .. } => return None,
    };
    KeyResponse::of(&key.config, state)
}

/// Makes a new key, unless one is pending.
pub async fn make(app: &Arc<App>, body: &[u8]) -> Result<Response, Error> {
    let (wanted, ours) = (read(app, |ignored| read_new_key(body, ignored))?, app.config.hpke.suite());
    if !is_ours(wanted, ours) {
        let text =
            format!("new keys are {ours} here: the algorithms are the configuration's ([hpke] kem, kdf and aead)");
        return Err(bad(text));
    }
    let changes = order(app, Request::Rotate { now: false }).await?;
    let made = changes.iter().filter(|change| change.before.is_none() && change.suite == ours.to_string());
    match made.map(|change| change.id).next_back() {
        Some(id) => answer(app, StatusCode::CREATED, id),
        None => {
            let pending = app.store.read(|view| Ok(pending(view, ours)))?;
            answer(app, StatusCode::OK, pending.ok_or_else(|| Fault::new("a new HPKE key is neither made nor there"))?)
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

/// Makes a key what it is asked to be.
pub async fn change(app: &Arc<App>, id: &str, body: &[u8]) -> Result<Response, Error> {
    let (id, wanted) = (parse(id)?, read(app, |ignored| read_key_change(body, ignored))?);
    let found = app.store.read(|view| Ok(view.keys().get(&id).map(|key| key.stage)))?;
    match (wanted, found) {
        (_, None | Some(KeyStage::Deleted { .. })) => return Err(unknown()),
        (KeyState::Pending, Some(KeyStage::Pending { .. })) => {}
        (KeyState::Pending, _) => {
            let text = "a key that was handed out does not become pending again";
            return Err(Problem::from_status(409).with_detail(text).into());
        }
        (KeyState::Active, _) => drop(order(app, Request::Activate(id)).await?),
        (KeyState::Expired, _) => drop(order(app, Request::Disable(id)).await?),
    }
    answer(app, StatusCode::OK, id)
}

/// Lets a key open nothing any more. One that was deleted before does not, either.
pub async fn delete(app: &Arc<App>, id: &str) -> Result<Response, Error> {
    let id = parse(id)?;
    let found = app.store.read(|view| Ok(view.keys().get(&id).map(|key| key.stage)))?;
    match found {
        None => return Err(unknown()),
        Some(KeyStage::Deleted { .. }) => {}
        Some(_) => drop(order(app, Request::Delete(id)).await?),
    }
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn order(app: &Arc<App>, request: Request) -> Result<Vec<KeyChange>, Error> {
    let shared = app.clone();
    // What is stored must be handed out, whether or not the control plane waits for it.
    let changes = unhurried(async move {
        let changed = keys::change(&shared, request).await;
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
    id.parse().map_err(|_| bad("the id of an HPKE key is a number from 0 to 255"))
}

fn unknown() -> Error {
    Problem::from_status(404).with_detail("there is no such HPKE key").into()
}
