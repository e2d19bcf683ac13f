//! Tasks in the management API.

use std::{collections::BTreeMap, sync::Arc};

use warp::http::StatusCode;

use super::{REVISION, bad, json, own_url, read, unhurried};
use crate::{
    app::App,
    transport::http::{Response, empty},
};
use dapbox_aggregator::{
    Error,
    provision::{self, ProvisionError, ServerTerms},
    tasks::{self, TaskError},
};
use dapbox_protocol::{
    model::{Duration, Secret, Task, TaskId, Time},
    wire::{
        Problem,
        management::{TaskIds, TaskMetadata, TaskResponse, read_change, read_task},
    },
};
use dapbox_store::{TaskState, Tx};
use dapbox_support::{Fault, Point, clock};

/// As many tasks are listed at once.
const PAGE: usize = 1000;

/// Sets a task up. The same request again is answered the same.
pub async fn create(app: &Arc<App>, by: String, body: &[u8]) -> Result<Response, Error> {
    let order = read(app, |ignored| read_task(body, ignored))?;
    let url = own_url(app);
    let rules = &app.config.provisioning;
    let kept = rules.report_expiry_age.as_secs();
    let report_expiry_age = (kept > 0).then_some(Duration(kept));
    let (min_batch_size, seed) = (rules.min_batch_size, app.management.seed()?);
    let ours = ServerTerms { revision: REVISION, url: &url, min_batch_size, report_expiry_age, seed };
    let (task, token) = provision::task(order, &ours).map_err(|why| bad(why.to_string()))?;
    let id = task.public.id;
    let write = move |tx: &mut Tx<'_>| provision::add(tx, task, &by, clock::now());
    let (task, end) =
        app.store.try_write(Point::TaskProvision, write).await.map_err(|error| error.map_refusal(refusal))?;
    tracing::info!(task_id = %id, role = %task.role(), "task provisioned by control plane");
    tell(app, &task, end, token.as_ref())
}

fn refusal(why: ProvisionError) -> Error {
    let text = match why {
        ProvisionError::InvalidRequest(_)
        | ProvisionError::MinBatchSize { .. }
        | ProvisionError::Task(TaskError::Parameter(_)) => {
            return bad(why.to_string());
        }
        ProvisionError::Task(TaskError::Differs) => {
            "there is a task with the same verification key, and with other parameters or not from here".to_owned()
        }
        ProvisionError::Task(TaskError::Removed) | ProvisionError::TokenReplaced => why.to_string(),
    };
    Problem::from_status(409).with_detail(text).into()
}

/// Shows a task, without its token.
pub fn show(app: &App, id: &str) -> Result<Response, Error> {
    let (task, end) = find(app, id, |state| (state.task.clone(), state.end()))?;
    tell(app, &task, end, None)
}

fn tell(app: &App, task: &Task, end: Option<Time>, token: Option<&Secret>) -> Result<Response, Error> {
    let (skew, keys) = (Duration(app.config.limits.clock_skew.as_secs()), app.keys.ring().configs());
    let answer = TaskResponse::of(task, &TaskMetadata { end, skew, keys: &keys, token });
    json(StatusCode::OK, &answer.ok_or_else(|| Fault::new("a task was set up that the management API cannot name"))?)
}

/// Changes the end of a task.
pub async fn change(app: &Arc<App>, id: &str, body: &[u8]) -> Result<Response, Error> {
    let change = read(app, |ignored| read_change(body, ignored))?;
    let task = parse(id)?;
    if let Some(end) = change {
        let write = move |tx: &mut Tx<'_>| provision::set_end(tx, &task, end);
        if !app.store.write(Point::TaskEnd, write).await? {
            return Err(unknown());
        }
        tracing::info!(task_id = %task, end = end.map(|end| end.0), "task end changed by control plane");
    }
    show(app, id)
}

/// Removes a task for ever. One that was removed before is gone, too.
pub async fn remove(app: &Arc<App>, id: &str) -> Result<Response, Error> {
    let (task, shared) = (parse(id)?, app.clone());
    let is_ours = app.store.read(|view| {
        let is_there = view.task(&task).is_some_and(|state| state.provision.is_some());
        Ok(if is_there { Some(true) } else { view.is_removed(&task).then_some(false) })
    })?;
    match is_ours {
        None => return Err(unknown()),
        Some(false) => return Ok(empty(StatusCode::NO_CONTENT)),
        Some(true) => {}
    }
    // What is removed must be gone, whether or not the control plane waits for it.
    unhurried(async move {
        shared.store.write(Point::TaskRemove, move |tx| tasks::remove(tx, &task, clock::now())).await?;
        shared.forget(&task);
        shared.sweeps.notify_one();
        Ok(())
    })
    .await?;
    tracing::info!(task_id = %task, "task removed by control plane");
    Ok(empty(StatusCode::NO_CONTENT))
}

/// The ids of the tasks that were set up here, in order; those after the one that is named.
pub fn list(app: &App, query: &str) -> Result<Response, Error> {
    let after = after(query)?;
    let task_ids: Vec<_> = app.store.read(|view| {
        let ours = view.tasks().filter(|(id, state)| state.provision.is_some() && Some(**id) > after);
        Ok(ours.map(|(id, _)| *id).take(PAGE).collect())
    })?;
    let pagination_token = task_ids.last().copied();
    json(StatusCode::OK, &TaskIds { task_ids, pagination_token })
}

fn after(query: &str) -> Result<Option<TaskId>, Error> {
    let mut after = None;
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if name == "pagination_token" {
            after = Some(value.parse().map_err(|_| bad("pagination_token is not one that was answered"))?);
        }
    }
    Ok(after)
}

/// What was counted of a task.
pub fn metrics(
    app: &App,
    id: &str,
    name: fn(&BTreeMap<String, u64>) -> BTreeMap<&'static str, u64>,
) -> Result<Response, Error> {
    json(StatusCode::OK, &find(app, id, |state| name(&state.counters))?)
}

/// Looks at a task that was set up here.
fn find<T>(app: &App, id: &str, look: impl FnOnce(&TaskState) -> T) -> Result<T, Error> {
    let id = parse(id)?;
    let found = app.store.read(|view| Ok(view.task(&id).filter(|state| state.provision.is_some()).map(look)))?;
    found.ok_or_else(unknown)
}

fn parse(id: &str) -> Result<TaskId, Error> {
    id.parse().map_err(|error| bad(format!("the task's id: {error}")))
}

fn unknown() -> Error {
    Problem::from_status(404).with_detail("no task with this id was set up here").into()
}
