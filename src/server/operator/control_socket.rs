//! The control socket, through which the command line controls a running server. Access to the socket grants all
//! operations.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use warp::{Reply, http::StatusCode};

use crate::{
    operator::{
        backup,
        context::OperatorContext,
        control_api_tokens,
        control_http::{json, read, read_at_most},
        control_keys, control_results, control_task_tokens, overview, reload,
    },
    transport::http::{Request, Response, empty, failure},
    upkeep::never_contacted,
};
use dapbox_aggregator::{
    Error,
    future_timestamps::future_timestamps,
    privacy,
    retention::{self, DataLoss},
    tasks,
    views::{
        privacy::{PrivacyAccount, PrivacyChange},
        status::{CloseRequest, Health, RemovalOutcome, RenameRequest, TaskStatus},
    },
};
use dapbox_client::peer::Proxies;
use dapbox_protocol::{
    model::{Task, TaskId, Time, verify_keys::VerifyKeyChange},
    wire::{Problem, ProblemType},
};
use dapbox_store::Tx;
use dapbox_support::{Point, version};

/// Maximum length of a list of tasks, in bytes. Only the operator sends it.
const MAX_TASKS: usize = 8 << 20;
/// The path prefix of a task's tokens.
const TOKENS: &str = "/tokens/";
/// The path prefix of a task's verification keys.
const VERIFY_KEYS: &str = "/verify_keys/";

/// Answers a request on the control socket.
pub async fn handle(ctx: Arc<OperatorContext>, request: Request) -> warp::reply::Response {
    match (request.method.as_str(), request.path.as_str()) {
        (_, path) if path.starts_with(control_keys::PATH) => {
            control_keys::answer(&ctx, request).await.unwrap_or_else(failure).into_response()
        }
        (_, path) if path.starts_with(control_api_tokens::PATH) => {
            control_api_tokens::answer(&ctx, request).await.unwrap_or_else(failure).into_response()
        }
        (_, path) if path.starts_with(VERIFY_KEYS) => {
            verify_keys(&ctx, request).await.unwrap_or_else(failure).into_response()
        }
        (_, path) if path.starts_with(control_results::PATH) => {
            control_results::answer(&ctx, request).await.unwrap_or_else(failure).into_response()
        }
        ("GET", backup::PATH) => backup::answer(ctx, request.query == backup::WITH_KEY).await,
        _ => answer(&ctx, request).await.unwrap_or_else(failure).into_response(),
    }
}

async fn answer(ctx: &Arc<OperatorContext>, mut request: Request) -> Result<Response, Error> {
    let path = request.path.clone();
    let id = path.strip_prefix("/tasks/").map(str::parse::<TaskId>);
    match (request.method.as_str(), path.as_str(), id) {
        ("GET", "/tasks", _) => {
            let all =
                ctx.store.read(|view| Ok(view.tasks().map(|(_, state)| tasks::status(state)).collect::<Vec<_>>()))?;
            let complete = all.into_iter().map(|status| never_contacted::complete(&ctx.upkeep, status));
            json(StatusCode::OK, &complete.collect::<Vec<_>>())
        }
        ("GET", "/health", _) => {
            let health = Health {
                version: version::VERSION.to_owned(),
                address: Some(ctx.address),
                monitor: ctx.monitor_address,
                fault: overview::fault(&ctx.monitor),
                disk: ctx.upkeep.disk.status(),
            };
            json(StatusCode::OK, &health)
        }
        // Proxies are part of the environment of this process, not of a file.
        ("GET", "/proxies", _) => json(StatusCode::OK, &Proxies::from_env().variables().collect::<BTreeMap<_, _>>()),
        ("GET", "/future_timestamps", _) => {
            json(StatusCode::OK, &ctx.store.read(|view| Ok(future_timestamps(view, ctx.clock.now())))?)
        }
        ("GET", "/overview", _) => json(StatusCode::OK, &overview::take(&ctx.monitor).await?),
        ("POST", "/tasks", _) => {
            let task: Task = read(ctx, &mut request).await?;
            tasks::check(&task).map_err(|why| Problem::from_status(400).with_detail(why.to_string()))?;
            let added = ctx.store.try_write(Point::TaskAdd, move |tx| tasks::add(tx, task)).await;
            added.map_err(|error| error.map_refusal(conflict))?;
            Ok(empty(StatusCode::CREATED))
        }
        ("POST", "/all_tasks", _) => {
            let all: Vec<Task> = read_at_most(MAX_TASKS, ctx, &mut request).await?;
            tasks::check_all(&all).map_err(|why| Problem::from_status(400).with_detail(why.to_string()))?;
            let added = ctx.store.try_write(Point::TaskAdd, move |tx| tasks::add_all(tx, all)).await;
            added.map_err(|error| error.map_refusal(conflict))?;
            Ok(empty(StatusCode::CREATED))
        }
        ("GET", _, Some(Ok(id))) => json(StatusCode::OK, &status(ctx, id)?),
        ("DELETE", _, Some(Ok(id))) => {
            let remains = remove(ctx, id).await?;
            ctx.wakeups.sweeps.notify_one();
            Ok(empty(if remains == RemovalOutcome::Tombstone { StatusCode::NO_CONTENT } else { StatusCode::OK }))
        }
        ("POST", "/names", _) => {
            let RenameRequest { task, name } = read(ctx, &mut request).await?;
            if !ctx.store.write(Point::TaskRename, move |tx| tasks::rename(tx, &task, name)).await? {
                return Err(Problem::new(ProblemType::UnrecognizedTask).with_task(task).into());
            }
            Ok(empty(StatusCode::NO_CONTENT))
        }
        ("POST", "/privacy", _) => json(StatusCode::OK, &change_privacy(ctx, read(ctx, &mut request).await?).await?),
        ("POST", "/never_contacted", _) => {
            let request = read(ctx, &mut request).await?;
            json(StatusCode::OK, &never_contacted::answer(&ctx.upkeep, request).await?)
        }
        (_, "/reload" | "/log", _) => reload::answer(ctx, request).await,
        ("POST", "/close", _) => json(StatusCode::OK, &close(ctx, read(ctx, &mut request).await?).await?),
        ("POST", "/tokens", _) => {
            json(StatusCode::OK, &control_task_tokens::change(ctx, read(ctx, &mut request).await?).await?)
        }
        ("GET", path, _) if path.starts_with(TOKENS) => match path[TOKENS.len()..].parse() {
            Ok(task) => json(StatusCode::OK, &control_task_tokens::list(ctx, task)?),
            Err(_) => Err(Problem::from_status(404).into()),
        },
        _ => Err(Problem::from_status(404).into()),
    }
}

/// Answers a request about the verification keys of a task.
async fn verify_keys(ctx: &Arc<OperatorContext>, mut request: Request) -> Result<Response, Error> {
    let keys = match (request.method.as_str(), request.path[VERIFY_KEYS.len()..].parse()) {
        ("GET", Ok(task)) => control_task_tokens::list_verify_keys(ctx, task)?,
        ("POST", Ok(task)) => {
            let change = read(ctx, &mut request).await?;
            control_task_tokens::change_verify_keys(ctx, VerifyKeyChange { task, change }).await?
        }
        _ => return Err(Problem::from_status(404).into()),
    };
    json(StatusCode::OK, &keys)
}

async fn change_privacy(ctx: &OperatorContext, change: PrivacyChange) -> Result<PrivacyAccount, Error> {
    let account = ctx.store.try_write(Point::TaskPrivacy, move |tx| privacy::change(tx, &change)).await?;
    // A larger budget may allow batches that wait.
    ctx.wakeups.collections.notify_one();
    Ok(account)
}

/// Reads the status of one task, with its collected batches.
fn status(ctx: &OperatorContext, id: TaskId) -> Result<TaskStatus, Error> {
    let stored = ctx
        .store
        .read(|view| Ok(view.task(&id).map(|state| tasks::status_with_collected(state, tasks::MAX_COLLECTED))))?;
    let stored = stored.ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).with_task(id))?;
    Ok(never_contacted::complete(&ctx.upkeep, stored))
}

/// Closes a task for reports before a time, and returns its new horizon.
async fn close(ctx: &OperatorContext, CloseRequest { task, before }: CloseRequest) -> Result<Time, Error> {
    let write = move |tx: &mut Tx<'_>| retention::close_before(tx, &task, before, DataLoss::Peer);
    let horizon = ctx.store.write(Point::TaskClose, write).await?;
    let horizon = horizon.ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).with_task(task))?;
    ctx.wakeups.sweeps.notify_one();
    ctx.wakeups.jobs.notify_one();
    Ok(horizon)
}

/// Removes a task. Returns whether a tombstone remains.
async fn remove(ctx: &Arc<OperatorContext>, id: TaskId) -> Result<RemovalOutcome, Error> {
    // The first contact is stored asynchronously, so the task in memory is checked, too.
    let context = ctx.tasks.get(&id)?;
    let is_unused = move || context.is_some_and(|context| context.is_never_contacted.load(Ordering::Relaxed));
    let clock = ctx.clock.clone();
    let write = move |tx: &mut Tx<'_>| tasks::remove_or_forget(tx, &id, clock.now(), is_unused);
    let remains = ctx.store.write(Point::TaskRemove, write).await?;
    let remains = remains.ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).with_task(id))?;
    ctx.tasks.forget(&id);
    tracing::info!(task_id = %id, tombstone = remains == RemovalOutcome::Tombstone, "task removed");
    Ok(remains)
}

fn conflict(why: impl ToString) -> Problem {
    Problem::from_status(409).with_detail(why.to_string())
}
