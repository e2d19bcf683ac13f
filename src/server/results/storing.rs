//! Writes of the driver: windows with their results and notifications, in one write each.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::results::{context::ResultsContext, notifications::Notification, webhooks};
use dapbox_protocol::{
    model::{CollectionJobId, TaskId, Time, secret::base64url},
    vdaf::AggregateResult,
};
use dapbox_results::{
    CollectionRequest, Window, WindowState,
    ledger::{self, Change, Event},
};
use dapbox_store::{CollectorRecord, Tx};
use dapbox_support::{Fault, Point};

/// A result that does not open, with what is needed to open it with another key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedResult {
    /// The request, to which the shares are bound.
    pub request: CollectionRequest,
    /// The response of the leader.
    #[serde(with = "base64url")]
    pub result: Vec<u8>,
    /// Path of a collection job that is yet to be deleted at the leader, so that it returns the next batch.
    pub to_release: Option<String>,
}

impl SealedResult {
    /// Encodes the result for its row.
    pub fn encode(&self) -> Result<Bytes, Fault> {
        let bytes = serde_json::to_vec(self).map_err(|error| Fault::while_doing("encoding a sealed result", error))?;
        Ok(bytes.into())
    }

    /// Decodes the row of a result.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(row).map_err(|error| Fault::while_doing("decoding a sealed result", error))
    }
}

/// What is stored together with a changed window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing else.
    None,
    /// The opened result. It replaces a sealed one.
    Result(AggregateResult),
    /// A result that does not open.
    Sealed(SealedResult),
}

/// Stores the changes of windows that are due. Returns whether there were any.
pub async fn plan(ctx: &Arc<ResultsContext>, task: TaskId) -> Result<bool, Fault> {
    let (clock, limit) = (ctx.clock.clone(), ctx.config.get().results.max_webhook_queue);
    let planned = ctx.store.write(Point::WindowPlan, move |tx| {
        let (now, mut notices) = (clock.now(), Vec::new());
        let Some(state) = tx.collector(&task) else { return Ok((false, notices)) };
        let record = state.record.clone();
        let changes = ledger::plan(&record.public, &record.settings, &state.windows, now);
        let has_changed = !changes.is_empty();
        for change in changes {
            match change {
                Change::Put(window) => notices.extend(put(tx, &record, window, now, limit)?),
                Change::Remove(number) => tx.remove_window(&task, number)?,
            }
        }
        Ok((has_changed, notices))
    });
    let (has_changed, notices) = planned.await?;
    notices.into_iter().for_each(|notice| announce(ctx, task, notice));
    Ok(has_changed)
}

/// Stores the request of a due window before it is sent. Returns false if the window is not due any more.
pub async fn begin(
    ctx: &Arc<ResultsContext>,
    task: TaskId,
    number: u64,
    request: CollectionRequest,
) -> Result<bool, Fault> {
    ctx.store
        .write(Point::WindowRequest, move |tx| {
            let due = tx.collector(&task).and_then(|state| state.windows.get(&number));
            let Some(window) = due.filter(|window| window.state == WindowState::Due) else { return Ok(false) };
            let begun = ledger::begin(window, request.clone(), request.created);
            tx.put_window(&task, begun)?;
            Ok(true)
        })
        .await
}

/// Applies an event to a window whose request has this id; `None` for a collected or unreadable window. Returns whether
/// the window changed.
pub async fn apply(
    ctx: &Arc<ResultsContext>,
    (task, number): (TaskId, u64),
    request: Option<CollectionJobId>,
    event: Event,
    content: Content,
) -> Result<bool, Fault> {
    let (clock, limit) = (ctx.clock.clone(), ctx.config.get().results.max_webhook_queue);
    let point = if content == Content::None { Point::WindowProgress } else { Point::WindowResult };
    let applied = ctx.store.write(point, move |tx| {
        let now = clock.now();
        let Some(state) = tx.collector(&task) else { return Ok((false, None)) };
        let record = state.record.clone();
        let Some(window) = state.windows.get(&number).filter(|window| request_id(window) == request) else {
            return Ok((false, None));
        };
        let changed = ledger::apply(window, event, now);
        if changed.state == window.state {
            return Ok((false, None));
        }
        match &content {
            Content::None => {}
            Content::Result(result) => {
                tx.put_window_result(&task, number, result)?;
                tx.set_sealed_result(&task, number, None)?;
            }
            Content::Sealed(sealed) => tx.set_sealed_result(&task, number, Some(&sealed.encode()?))?,
        }
        Ok((true, put(tx, &record, changed, now, limit)?))
    });
    let (has_changed, notice) = applied.await?;
    if let Some(notice) = notice {
        announce(ctx, task, notice);
    }
    Ok(has_changed)
}

/// Replaces the sealed result of an unreadable window.
pub async fn put_sealed(
    ctx: &ResultsContext,
    (task, number): (TaskId, u64),
    sealed: SealedResult,
) -> Result<(), Fault> {
    ctx.store
        .write(Point::WindowProgress, move |tx| match tx.collector(&task) {
            Some(state) if state.windows.contains_key(&number) => {
                tx.set_sealed_result(&task, number, Some(&sealed.encode()?))
            }
            _ => Ok(()),
        })
        .await
}

/// Queues a notification about a window that did not change.
pub async fn notify(ctx: &ResultsContext, task: TaskId, number: u64, what: Notification) -> Result<(), Fault> {
    let (clock, limit) = (ctx.clock.clone(), ctx.config.get().results.max_webhook_queue);
    ctx.store
        .write(Point::WebhookEvent, move |tx| {
            let Some(state) = tx.collector(&task) else { return Ok(()) };
            let body = what.body(&state.record, state.windows.get(&number), clock.now());
            webhooks::queue(tx, &task, &body, clock.now(), limit)
        })
        .await?;
    ctx.wakeups.webhooks.notify_one();
    Ok(())
}

/// A change to log.
type Notice = (Notification, Window);

/// Stores a window and queues its notification.
fn put(
    tx: &mut Tx<'_>,
    record: &CollectorRecord,
    window: Window,
    now: Time,
    limit: usize,
) -> Result<Option<Notice>, Fault> {
    let task = record.public.id;
    let before = tx.collector(&task).and_then(|state| state.windows.get(&window.number));
    let notification = Notification::of(before, &window);
    tx.put_window(&task, window.clone())?;
    let Some(notification) = notification else { return Ok(None) };
    webhooks::queue(tx, &task, &notification.body(record, Some(&window), now), now, limit)?;
    Ok(Some((notification, window)))
}

/// Logs a stored change, and wakes the driver of webhooks.
fn announce(ctx: &ResultsContext, task: TaskId, (_, Window { number, state, .. }): Notice) {
    match state {
        WindowState::Collected(collected) => {
            let report_count = collected.report_count;
            tracing::info!(task_id = %task, window = number, report_count, "window collected");
        }
        WindowState::Lost { reason, detail } => {
            tracing::error!(task_id = %task, window = number, reason = reason.text(), error = detail, "window lost");
        }
        WindowState::TooFewReports { .. } => {
            tracing::warn!(task_id = %task, window = number, "window has too few reports");
        }
        _ => {}
    }
    ctx.wakeups.webhooks.notify_one();
}

/// The id of the request that the leader may have.
fn request_id(window: &Window) -> Option<CollectionJobId> {
    match &window.state {
        WindowState::Requested { request, .. }
        | WindowState::Pending { request, .. }
        | WindowState::Refused { request, .. }
        | WindowState::TooFewReports { request: Some(request), .. } => Some(request.id),
        _ => None,
    }
}
