//! The control socket: what the command line asks of a running server. Whoever may open the socket may do all of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use serde::{Serialize, de::DeserializeOwned};
use warp::{Reply, http::StatusCode};

use crate::{
    app::App,
    operator::{admin_keys, admin_tokens, backup, overview, reload, tokens},
    transport::http::{Request, Response, content, empty, failure},
    upkeep::never_contacted,
};
use dapbox_aggregator::{
    Error,
    future_timestamps::future_timestamps,
    retention::{self, DataLoss},
    tasks,
    views::status::{CloseRequest, Health, RemovalOutcome, RenameRequest, TaskStatus},
};
use dapbox_client::peer::Proxies;
use dapbox_protocol::{
    model::{Task, TaskId, Time},
    wire::{Problem, ProblemType},
};
use dapbox_store::Tx;
use dapbox_support::{Point, clock, version};

const JSON: &str = "application/json";
/// The longest list of tasks that is taken at once, in bytes. It comes from the operator alone.
const MAX_TASKS: usize = 8 << 20;
/// Where the tokens of a task are.
const TOKENS: &str = "/tokens/";

/// Answers a request on the control socket.
pub async fn handle(app: Arc<App>, request: Request) -> warp::reply::Response {
    match (request.method.as_str(), request.path.as_str()) {
        (_, path) if path.starts_with(admin_keys::PATH) => {
            admin_keys::answer(&app, request).await.unwrap_or_else(failure).into_response()
        }
        (_, path) if path.starts_with(admin_tokens::PATH) => {
            admin_tokens::answer(&app, request).await.unwrap_or_else(failure).into_response()
        }
        ("GET", backup::PATH) => backup::answer(app, request.query == backup::WITH_KEY).await,
        _ => answer(&app, request).await.unwrap_or_else(failure).into_response(),
    }
}

async fn answer(app: &Arc<App>, mut request: Request) -> Result<Response, Error> {
    let path = request.path.clone();
    let id = path.strip_prefix("/tasks/").map(str::parse::<TaskId>);
    match (request.method.as_str(), path.as_str(), id) {
        ("GET", "/tasks", _) => {
            let all =
                app.store.read(|view| Ok(view.tasks().map(|(_, state)| tasks::status(state)).collect::<Vec<_>>()))?;
            let complete = all.into_iter().map(|status| never_contacted::complete(app, status));
            json(StatusCode::OK, &complete.collect::<Vec<_>>())
        }
        ("GET", "/health", _) => {
            let health = Health {
                version: version::VERSION.to_owned(),
                address: app.address.get().copied(),
                monitor: app.monitor_address.get().copied(),
                fault: overview::fault(app),
                disk: app.disk.status(),
            };
            json(StatusCode::OK, &health)
        }
        // What requests to others go through is a matter of this process's environment, and of no file.
        ("GET", "/proxies", _) => json(StatusCode::OK, &Proxies::from_env().variables().collect::<BTreeMap<_, _>>()),
        ("GET", "/future_timestamps", _) => {
            json(StatusCode::OK, &app.store.read(|view| Ok(future_timestamps(view, clock::now())))?)
        }
        ("GET", "/overview", _) => json(StatusCode::OK, &overview::take(app).await?),
        ("POST", "/tasks", _) => {
            let task: Task = read(app, &mut request).await?;
            tasks::check(&task).map_err(|why| Problem::from_status(400).with_detail(why.to_string()))?;
            let added = app.store.try_write(Point::TaskAdd, move |tx| tasks::add(tx, task)).await;
            added.map_err(|error| error.map_refusal(conflict))?;
            Ok(empty(StatusCode::CREATED))
        }
        ("POST", "/all_tasks", _) => {
            let all: Vec<Task> = read_at_most(MAX_TASKS, app, &mut request).await?;
            tasks::check_all(&all).map_err(|why| Problem::from_status(400).with_detail(why.to_string()))?;
            let added = app.store.try_write(Point::TaskAdd, move |tx| tasks::add_all(tx, all)).await;
            added.map_err(|error| error.map_refusal(conflict))?;
            Ok(empty(StatusCode::CREATED))
        }
        ("GET", _, Some(Ok(id))) => json(StatusCode::OK, &status(app, id)?),
        ("DELETE", _, Some(Ok(id))) => {
            let remains = remove(app, id).await?;
            app.sweeps.notify_one();
            Ok(empty(if remains == RemovalOutcome::Tombstone { StatusCode::NO_CONTENT } else { StatusCode::OK }))
        }
        ("POST", "/names", _) => {
            let RenameRequest { task, name } = read(app, &mut request).await?;
            if !app.store.write(Point::TaskRename, move |tx| tasks::rename(tx, &task, name)).await? {
                return Err(Problem::new(ProblemType::UnrecognizedTask).with_task(task).into());
            }
            Ok(empty(StatusCode::NO_CONTENT))
        }
        ("POST", "/untouched", _) => {
            let request = read(app, &mut request).await?;
            json(StatusCode::OK, &never_contacted::answer(app, request).await?)
        }
        (_, "/reload" | "/log", _) => reload::answer(app, request).await,
        ("POST", "/close", _) => json(StatusCode::OK, &close(app, read(app, &mut request).await?).await?),
        ("POST", "/tokens", _) => json(StatusCode::OK, &tokens::change(app, read(app, &mut request).await?).await?),
        ("GET", path, _) if path.starts_with(TOKENS) => match path[TOKENS.len()..].parse() {
            Ok(task) => json(StatusCode::OK, &tokens::list(app, task)?),
            Err(_) => Err(Problem::from_status(404).into()),
        },
        _ => Err(Problem::from_status(404).into()),
    }
}

/// Reads the status of one task, with its collected batches.
fn status(app: &App, id: TaskId) -> Result<TaskStatus, Error> {
    let stored = app
        .store
        .read(|view| Ok(view.task(&id).map(|state| tasks::status_with_collected(state, tasks::MAX_COLLECTED))))?;
    let stored = stored.ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).with_task(id))?;
    Ok(never_contacted::complete(app, stored))
}

/// Closes the past of a task, and returns its new horizon.
async fn close(app: &App, CloseRequest { task, before }: CloseRequest) -> Result<Time, Error> {
    let write = move |tx: &mut Tx<'_>| retention::close_before(tx, &task, before, DataLoss::Peer);
    let horizon = app.store.write(Point::TaskClose, write).await?;
    let horizon = horizon.ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).with_task(task))?;
    app.sweeps.notify_one();
    app.jobs.notify_one();
    Ok(horizon)
}

/// Removes a task. Returns whether a tombstone remains.
async fn remove(app: &Arc<App>, id: TaskId) -> Result<RemovalOutcome, Error> {
    // A request that has come is stored a moment later: what is known of it is asked, too.
    let context = app.context(&id)?;
    let is_unused = move || context.is_some_and(|context| context.is_never_contacted.load(Ordering::Relaxed));
    let write = move |tx: &mut Tx<'_>| tasks::remove_or_forget(tx, &id, clock::now(), is_unused);
    let remains = app.store.write(Point::TaskRemove, write).await?;
    let remains = remains.ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).with_task(id))?;
    app.forget(&id);
    tracing::info!(task_id = %id, tombstone = remains == RemovalOutcome::Tombstone, "task removed");
    Ok(remains)
}

/// What the command line has sent.
pub async fn read<T: DeserializeOwned>(app: &App, request: &mut Request) -> Result<T, Error> {
    read_at_most(app.config.limits.max_message_bytes, app, request).await
}

async fn read_at_most<T: DeserializeOwned>(limit: usize, app: &App, request: &mut Request) -> Result<T, Error> {
    let (limits, bodies) = (&app.config.limits, &app.slots.request_bodies);
    let (timeout, silence) = (*limits.request_timeout, *limits.max_body_silence);
    let body = request.read_body(limit, timeout, &app.request_memory, bodies, silence).await?;
    let read = serde_json::from_slice(&body);
    read.map_err(|error| Problem::from_status(400).with_detail(format!("the request cannot be read: {error}")).into())
}

/// An answer to the command line.
pub fn json(status: StatusCode, value: &impl Serialize) -> Result<Response, Error> {
    let body = serde_json::to_vec(value)
        .map_err(|error| dapbox_support::Fault::while_doing("writing an answer as JSON", error))?;
    Ok(content(status, JSON, body))
}

fn conflict(why: impl ToString) -> Problem {
    Problem::from_status(409).with_detail(why.to_string())
}
