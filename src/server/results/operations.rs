//! Operations on collector tasks for the control socket and for monitoring.

use std::sync::Arc;

use crate::results::{
    addresses::{LINKS, TASKS},
    context::ResultsContext,
    load,
    notifications::Notification,
    webhooks,
};
use dapbox_aggregator::{
    collecting::{
        links::{self, LinkError},
        tasks,
    },
    views::results::{CollectorTaskStatus, LinkCreated, NewLink, WebhookOutcome},
};
use dapbox_protocol::model::{Secret, TaskId};
use dapbox_store::{Tx, WriteError};
use dapbox_support::{Fault, Point};

/// The status of all collector tasks.
pub async fn statuses(ctx: &Arc<ResultsContext>) -> Result<Vec<CollectorTaskStatus>, Fault> {
    let shared = ctx.clone();
    blocking(move || {
        let ids = load::task_ids(&shared)?;
        ids.iter().filter_map(|id| status_of(&shared, id).transpose()).collect()
    })
    .await
}

/// The status of a collector task, if it exists.
pub async fn status(ctx: &Arc<ResultsContext>, id: TaskId) -> Result<Option<CollectorTaskStatus>, Fault> {
    let shared = ctx.clone();
    blocking(move || status_of(&shared, &id)).await
}

/// The status of a collector task, if it exists. Blocks: reads wait for writes.
pub fn status_of(ctx: &ResultsContext, id: &TaskId) -> Result<Option<CollectorTaskStatus>, Fault> {
    let now = ctx.clock.now();
    let status = ctx.store.read(|view| Ok(tasks::status(view, id, now)))?;
    Ok(status.map(|status| CollectorTaskStatus { last_error: ctx.status.error(id), page: page_url(ctx, id), ..status }))
}

/// The URL of a task's page at the private listener, if there is one.
pub fn page_url(ctx: &ResultsContext, id: &TaskId) -> Option<String> {
    ctx.address.map(|address| format!("http://{address}{TASKS}{id}"))
}

/// Creates a link to the results of a task.
pub async fn create_link(ctx: &Arc<ResultsContext>, new: NewLink) -> Result<LinkCreated, WriteError<LinkError>> {
    let (token, clock) = (Secret::random_token(), ctx.clock.clone());
    let shown = token.expose_text().unwrap_or_default().to_owned();
    let write = move |tx: &mut Tx<'_>| links::add(tx, new, &token, clock.now());
    let link = ctx.store.try_write(Point::ResultLink, write).await?;
    tracing::info!(task_id = %link.task, link = link.id, "link to results created");
    let (path, config) = (format!("{LINKS}{shown}"), ctx.config.get());
    let public_url =
        Some(config.public_url.trim_end_matches('/')).filter(|url| config.results.public && !url.is_empty());
    Ok(LinkCreated {
        public_url: public_url.map(|url| format!("{url}{path}")),
        private_url: ctx.address.map(|address| format!("http://{address}{path}")),
        link,
        path,
    })
}

/// Sends a test notification to each webhook of a task. `None` if this server does not collect the task.
pub async fn test_webhooks(ctx: &Arc<ResultsContext>, task: TaskId) -> Result<Option<Vec<WebhookOutcome>>, Fault> {
    let record = ctx.store.read(|view| Ok(view.collector(&task).map(|state| state.record.clone())))?;
    let Some(record) = record else { return Ok(None) };
    let body = Notification::Test.body(&record, None, ctx.clock.now());
    let mut outcomes = Vec::new();
    for webhook in &record.settings.webhooks {
        outcomes.push(webhooks::send(ctx, webhook, &body).await);
    }
    Ok(Some(outcomes))
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(read).await;
    done.unwrap_or_else(|error| Err(Fault::while_doing("reading collector tasks", error)))
}
