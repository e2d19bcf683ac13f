//! Collector tasks, windows, links and webhooks on the control socket (`dapbox results`). The table of requests is in
//! [`dapbox_aggregator::views::results`].

use std::sync::Arc;

use warp::http::StatusCode;

use crate::{
    operator::{
        context::OperatorContext,
        control_http::{json, read, read_at_most},
    },
    results::{
        addresses::{Format, private_addresses},
        operations, render,
    },
    transport::http::{Request, Response, empty},
    upkeep::supervise::run_to_completion,
};
use dapbox_aggregator::{
    Error,
    collecting::{
        links::{self, LinkError},
        tasks::{self, CollectorTaskError},
        windows::{self, RetryError},
    },
    views::results::{CollectorTaskAdded, CollectorTaskChange, NewLink, RetryRequest, TestWebhook},
};
use dapbox_protocol::{
    model::TaskId,
    wire::{Problem, ProblemType},
};
use dapbox_store::{CollectorRecord, Tx};
use dapbox_support::Point;

/// The path of the collector.
pub const PATH: &str = "/results/";

/// Maximum length of a collector task, in bytes: labels of thousands of bins take space.
const MAX_TASK: usize = 4 << 20;

/// Answers a request with a path that begins with [`PATH`].
pub async fn answer(ctx: &Arc<OperatorContext>, mut request: Request) -> Result<Response, Error> {
    let (method, path) = (request.method.as_str().to_owned(), request.path.clone());
    let parts: Vec<&str> = path.strip_prefix(PATH).unwrap_or_default().split('/').collect();
    match (method.as_str(), &parts[..]) {
        ("GET", ["tasks"]) => json(StatusCode::OK, &operations::statuses(&ctx.results).await?),
        ("POST", ["tasks"]) => {
            let record: CollectorRecord = read_at_most(MAX_TASK, ctx, &mut request).await?;
            add(ctx, record).await
        }
        ("GET", ["tasks", name]) => match Format::split(name) {
            (id, Format::Html) => {
                let id = task_id(id)?;
                let status = operations::status(&ctx.results, id).await?;
                json(StatusCode::OK, &status.ok_or_else(|| unknown(id))?)
            }
            (id, format) => {
                let id = task_id(id)?;
                render::task(&ctx.results, id, private_addresses(&id), format, &request.query).await
            }
        },
        ("DELETE", ["tasks", id]) => remove(ctx, task_id(id)?).await,
        ("GET", ["tasks", id, "windows"]) => {
            let id = task_id(id)?;
            let query =
                windows::PageQuery::parse(&request.query).map_err(|why| Problem::from_status(400).with_detail(why))?;
            let page = ctx.store.read(|view| Ok(view.collector(&id).map(|state| windows::page(state, &query))))?;
            json(StatusCode::OK, &page.ok_or_else(|| unknown(id))?)
        }
        ("POST", ["retry"]) => retry(ctx, read(ctx, &mut request).await?).await,
        ("GET", ["links"]) => {
            json(StatusCode::OK, &ctx.store.read(|view| Ok(links::list(view, None, ctx.clock.now())))?)
        }
        ("GET", ["links", id]) => {
            let id = task_id(id)?;
            json(StatusCode::OK, &ctx.store.read(|view| Ok(links::list(view, Some(&id), ctx.clock.now())))?)
        }
        ("POST", ["links"]) => {
            let new: NewLink = read(ctx, &mut request).await?;
            let created = operations::create_link(&ctx.results, new).await;
            json(StatusCode::CREATED, &created.map_err(|error| error.map_refusal(link_refusal))?)
        }
        ("DELETE", ["links", id]) => {
            let id = (*id).to_owned();
            let revoked = ctx.store.try_write(Point::ResultLink, move |tx| links::revoke(tx, &id)).await;
            let revoked = revoked.map_err(|error| error.map_refusal(link_refusal))?;
            tracing::info!(task_id = %revoked.task, link = revoked.id, "link to results revoked");
            Ok(empty(StatusCode::NO_CONTENT))
        }
        ("POST", ["test_webhook"]) => {
            let TestWebhook { task } = read(ctx, &mut request).await?;
            let outcomes = operations::test_webhooks(&ctx.results, task).await?;
            json(StatusCode::OK, &outcomes.ok_or_else(|| unknown(task))?)
        }
        _ => Err(Problem::from_status(404).into()),
    }
}

/// Adds or changes a collector task.
async fn add(ctx: &Arc<OperatorContext>, record: CollectorRecord) -> Result<Response, Error> {
    tasks::check(&record).map_err(task_refusal)?;
    let (id, shared, clock) = (record.public.id, ctx.clone(), ctx.clock.clone());
    // The driver must learn of a stored task even if the operator disconnects.
    let change = run_to_completion(async move {
        let write = move |tx: &mut Tx<'_>| tasks::put(tx, CollectorRecord { created: clock.now(), ..record });
        let change = shared.store.try_write(Point::CollectorPut, write).await;
        let change = change.map_err(|error| error.map_refusal(|why| Error::from(task_refusal(why))))?;
        shared.results.status.clear(&id);
        shared.results.status.request_now(id, None);
        shared.wakeups.windows.notify_one();
        Ok(change)
    })
    .await?;
    match change {
        CollectorTaskChange::Added => tracing::info!(task_id = %id, "collector task added"),
        CollectorTaskChange::Replaced => tracing::info!(task_id = %id, "collector task changed"),
        CollectorTaskChange::Unchanged => {}
    }
    let added =
        CollectorTaskAdded { change, page: operations::page_url(&ctx.results, &id), listen: ctx.results.address };
    json(if change == CollectorTaskChange::Added { StatusCode::CREATED } else { StatusCode::OK }, &added)
}

async fn remove(ctx: &Arc<OperatorContext>, id: TaskId) -> Result<Response, Error> {
    if !ctx.store.write(Point::CollectorRemove, move |tx| tasks::remove(tx, &id)).await? {
        return Err(unknown(id).into());
    }
    ctx.results.status.clear(&id);
    ctx.wakeups.windows.notify_one();
    tracing::info!(task_id = %id, "collector task removed");
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn retry(ctx: &Arc<OperatorContext>, request: RetryRequest) -> Result<Response, Error> {
    let (RetryRequest { task, window, force }, clock) = (request, ctx.clock.clone());
    let write = move |tx: &mut Tx<'_>| windows::retry(tx, &task, window, force, clock.now());
    let status = ctx.store.try_write(Point::WindowProgress, write).await;
    let status = status.map_err(|error| error.map_refusal(|why| retry_refusal(task, why)))?;
    ctx.results.status.request_now(task, Some(window));
    ctx.wakeups.windows.notify_one();
    tracing::info!(task_id = %task, window, "window requested again by the operator");
    json(StatusCode::OK, &status)
}

fn task_id(text: &str) -> Result<TaskId, Problem> {
    text.parse().map_err(|_| Problem::from_status(404).with_detail(format!("{text:?} is not the id of a task")))
}

fn unknown(id: TaskId) -> Problem {
    Problem::new(ProblemType::UnrecognizedTask).with_task(id)
}

fn task_refusal(why: CollectorTaskError) -> Problem {
    let status = match why {
        CollectorTaskError::Invalid(_) => 400,
        CollectorTaskError::Differs | CollectorTaskError::Start(_) => 409,
    };
    Problem::from_status(status).with_detail(why.to_string())
}

fn retry_refusal(task: TaskId, why: RetryError) -> Problem {
    match why {
        RetryError::NoTask => unknown(task),
        RetryError::NoWindow(_) => Problem::from_status(404).with_detail(why.to_string()),
        RetryError::NotPossible(_) => Problem::from_status(409).with_detail(why.to_string()),
    }
}

fn link_refusal(why: LinkError) -> Problem {
    let status = match why {
        LinkError::Label => 400,
        LinkError::NoTask(_) | LinkError::Unknown(_) => 404,
        LinkError::TooMany(_) => 409,
    };
    Problem::from_status(status).with_detail(why.to_string())
}
