//! Collection jobs that collectors create and poll (leader).

use std::sync::Arc;

use bytes::Bytes;

use crate::dap::context::CollectionContext;
use dapbox_aggregator::{
    Error, TaskContext,
    collect::{self, NewCollectionJob},
    resource_id::{IdSource, ResourceKey},
    results,
};
use dapbox_protocol::{
    model::{CollectionJobId, Duration},
    wire::{Problem, ResourceKind},
};
use dapbox_store::{CollectionState, Tx, WriteError};
use dapbox_support::{Fault, Point};

/// How long a poll of an active collection job waits for its result.
const POLL_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(500);

/// Creates a collection job, or finds the existing one (DAP-09 section 4.6.1, DAP-18 section 4.6.1).
pub async fn create(
    ctx: &CollectionContext,
    context: &Arc<TaskContext>,
    id_source: IdSource,
    body: Bytes,
) -> Result<CollectionJobId, Error> {
    let request = context.wire.decode_collection_req(&context.task.public, &body)?;
    collect::check_request(&context.task, &request)?;
    let content = ResourceKey::new(context.task.public.id, ResourceKind::CollectionJob, &body);
    let (now, context) = (ctx.clock.now(), context.clone());
    let (config, wakeups) = (ctx.config.clone(), ctx.wakeups.clone());
    // Only a new job needs space: a repeated request finds its job even if the disk is full.
    let (room, admission) = match ctx.disk.admit(body.len()) {
        Ok(admission) => (Ok(()), Some(admission)),
        Err(problem) => (Err(problem), None),
    };
    let write = move |tx: &mut Tx<'_>| {
        let limits = &config.get().leader;
        let (task, found) = (&context.task.public.id, CollectionJobId::new(content.current_id(tx, id_source)?));
        let pause = Duration(limits.next_batch_after.as_secs());
        let is_over = id_source == IdSource::Derived && results::is_superseded(tx, task, &found, now, pause)?;
        let id = if is_over { CollectionJobId::new(content.next_id(tx)?) } else { found };
        collect::create(tx, now, &context, limits, NewCollectionJob { id, bytes: body, query: request.query, room })?;
        if is_over {
            // The old job keeps its result and its URL.
            content.invalidate(tx, found.as_bytes())?;
        }
        // Within the write, because the job is stored even if the collector disconnects.
        wakeups.collections.notify_one();
        wakeups.jobs.notify_one();
        Ok::<_, WriteError<Problem>>((id, admission))
    };
    let (id, _admission) = ctx.store.try_write(Point::CollectionCreate, write).await?;
    Ok(id)
}

/// Reads the state of a collection job, and whether the collector has not fetched its outcome yet.
fn read(
    ctx: &CollectionContext,
    context: &TaskContext,
    job: CollectionJobId,
) -> Result<Option<(CollectionState, bool)>, Fault> {
    let task = context.task.public.id;
    ctx.store.read(|view| {
        let record = view.collection(&task, &job)?;
        let has_unreported_outcome =
            |record: &_| view.task(&task).is_some_and(|state| results::has_unreported_outcome(state, record));
        Ok(record
            .map(|record| (has_unreported_outcome(&record), record.state))
            .map(|(has_unreported_outcome, state)| (state, has_unreported_outcome)))
    })
}

/// Reads the state of a collection job for the collector. Stores that its outcome was fetched before it is sent.
pub async fn poll(
    ctx: &CollectionContext,
    context: &TaskContext,
    job: CollectionJobId,
) -> Result<Option<CollectionState>, Error> {
    let Some((state, has_unreported_outcome)) = wait(ctx, context, job).await? else { return Ok(None) };
    if has_unreported_outcome {
        let (task, now) = (context.task.public.id, ctx.clock.now());
        ctx.store.write(Point::CollectionFetch, move |tx| results::record_reported(tx, &task, job, now)).await?;
    }
    Ok(Some(state))
}

/// Reads the state of a collection job, without recording a fetch. Waits briefly for an active job, so that a poll receives
/// the result as soon as it exists.
pub async fn wait(
    ctx: &CollectionContext,
    context: &TaskContext,
    job: CollectionJobId,
) -> Result<Option<(CollectionState, bool)>, Error> {
    let mut deadline = ctx.clock.sleep(POLL_TIMEOUT);
    loop {
        // Registered before the read, so that a result in between is not missed.
        let ended = ctx.wakeups.results.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        let state = read(ctx, context, job)?;
        if !state.as_ref().is_some_and(|(state, _)| state.is_active()) {
            return Ok(state);
        }
        tokio::select! {
            () = ended => {}
            () = &mut deadline => return Ok(state),
            () = ctx.stop.stopped() => return Ok(state),
        }
    }
}

/// Deletes a collection job. Returns `false` if it does not exist.
pub async fn delete(ctx: &CollectionContext, context: &TaskContext, job: CollectionJobId) -> Result<bool, Error> {
    let task = context.task.public.id;
    let write = move |tx: &mut Tx<'_>| {
        let Some(request) = collect::delete(tx, &task, job)? else { return Ok(false) };
        ResourceKey::new(task, ResourceKind::CollectionJob, &request).invalidate(tx, job.as_bytes())?;
        Ok(true)
    };
    let deleted = ctx.store.write(Point::CollectionDelete, write).await?;
    ctx.wakeups.collections.notify_one();
    ctx.wakeups.results.notify_waiters();
    Ok(deleted)
}
