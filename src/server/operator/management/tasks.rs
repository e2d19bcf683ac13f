//! Tasks in the management API.

use std::{collections::BTreeMap, sync::Arc};

use warp::http::StatusCode;

use super::{REVISION, bad, json, own_url, read};
use crate::{
    operator::context::ManagementContext,
    transport::http::{Response, empty},
    upkeep::supervise::run_to_completion,
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
use dapbox_support::{Fault, Point};

/// Maximum number of tasks in one response.
const PAGE: usize = 1000;

/// Sets up a task. Idempotent.
pub async fn create(ctx: &Arc<ManagementContext>, by: String, body: &[u8]) -> Result<Response, Error> {
    let order = read(ctx, |ignored| read_task(body, ignored))?;
    let url = own_url(ctx);
    let config = ctx.config.get();
    let rules = &config.provisioning;
    let kept = rules.report_expiry_age.as_secs();
    let report_expiry_age = (kept > 0).then_some(Duration(kept));
    let (min_batch_size, seed) = (rules.min_batch_size, ctx.api.seed()?);
    let ours = ServerTerms { revision: REVISION, url: &url, min_batch_size, report_expiry_age, seed };
    let (task, token) = provision::task(order, &ours).map_err(|why| bad(why.to_string()))?;
    let id = task.public.id;
    let clock = ctx.clock.clone();
    let write = move |tx: &mut Tx<'_>| provision::add(tx, task, &by, clock.now());
    let (task, end) =
        ctx.store.try_write(Point::TaskProvision, write).await.map_err(|error| error.map_refusal(refusal))?;
    tracing::info!(task_id = %id, role = %task.role(), "task provisioned by control plane");
    respond(ctx, &task, end, token.as_ref())
}

fn refusal(why: ProvisionError) -> Error {
    let text = match why {
        ProvisionError::InvalidRequest(_)
        | ProvisionError::MinBatchSize { .. }
        | ProvisionError::Task(TaskError::Parameter(_)) => {
            return bad(why.to_string());
        }
        ProvisionError::Task(TaskError::Differs) => {
            "a task with this verification key exists with other parameters or another origin".to_owned()
        }
        ProvisionError::Task(TaskError::Removed) | ProvisionError::TokenReplaced => why.to_string(),
    };
    Problem::from_status(409).with_detail(text).into()
}

/// Shows a task, without its token.
pub fn show(ctx: &ManagementContext, id: &str) -> Result<Response, Error> {
    let (task, end) = find(ctx, id, |state| (state.task.clone(), state.end()))?;
    respond(ctx, &task, end, None)
}

fn respond(ctx: &ManagementContext, task: &Task, end: Option<Time>, token: Option<&Secret>) -> Result<Response, Error> {
    let (skew, keys) = (Duration(ctx.config.get().limits.clock_skew.as_secs()), ctx.keys.ring().configs());
    let answer = TaskResponse::of(task, &TaskMetadata { end, skew, keys: &keys, token });
    json(StatusCode::OK, &answer.ok_or_else(|| Fault::new("a task has parameters unknown to the management API"))?)
}

/// Changes the end of a task.
pub async fn change(ctx: &Arc<ManagementContext>, id: &str, body: &[u8]) -> Result<Response, Error> {
    let change = read(ctx, |ignored| read_change(body, ignored))?;
    let task = parse(id)?;
    if let Some(end) = change {
        let write = move |tx: &mut Tx<'_>| provision::set_end(tx, &task, end);
        if !ctx.store.write(Point::TaskEnd, write).await? {
            return Err(unknown());
        }
        tracing::info!(task_id = %task, end = end.map(|end| end.0), "task end changed by control plane");
    }
    show(ctx, id)
}

/// Removes a task permanently. Succeeds for a removed task.
pub async fn remove(ctx: &Arc<ManagementContext>, id: &str) -> Result<Response, Error> {
    let (task, shared, clock) = (parse(id)?, ctx.clone(), ctx.clock.clone());
    let is_ours = ctx.store.read(|view| {
        let is_there = view.task(&task).is_some_and(|state| state.provision.is_some());
        Ok(if is_there { Some(true) } else { view.is_removed(&task).then_some(false) })
    })?;
    match is_ours {
        None => return Err(unknown()),
        Some(false) => return Ok(empty(StatusCode::NO_CONTENT)),
        Some(true) => {}
    }
    // A stored removal must be applied even if the control plane disconnects.
    run_to_completion(async move {
        shared.store.write(Point::TaskRemove, move |tx| tasks::remove(tx, &task, clock.now())).await?;
        shared.tasks.forget(&task);
        shared.wakeups.sweeps.notify_one();
        Ok(())
    })
    .await?;
    tracing::info!(task_id = %task, "task removed by control plane");
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Lists the ids of the tasks that were set up here, in order, after the given one.
pub fn list(ctx: &ManagementContext, query: &str) -> Result<Response, Error> {
    let after = after(query)?;
    let task_ids: Vec<_> = ctx.store.read(|view| {
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
            after = Some(value.parse().map_err(|_| bad("invalid pagination_token"))?);
        }
    }
    Ok(after)
}

/// Shows counters of a task.
pub fn metrics(
    ctx: &ManagementContext,
    id: &str,
    name: fn(&BTreeMap<String, u64>) -> BTreeMap<&'static str, u64>,
) -> Result<Response, Error> {
    json(StatusCode::OK, &find(ctx, id, |state| name(&state.counters))?)
}

/// Reads a task that was set up here.
fn find<T>(ctx: &ManagementContext, id: &str, look: impl FnOnce(&TaskState) -> T) -> Result<T, Error> {
    let id = parse(id)?;
    let found = ctx.store.read(|view| Ok(view.task(&id).filter(|state| state.provision.is_some()).map(look)))?;
    found.ok_or_else(unknown)
}

fn parse(id: &str) -> Result<TaskId, Error> {
    id.parse().map_err(|error| bad(format!("invalid task id: {error}")))
}

fn unknown() -> Error {
    Problem::from_status(404).with_detail("unknown task").into()
}
