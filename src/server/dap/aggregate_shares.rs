//! Aggregate shares (helper).

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    dap::{context::HelperContext, noise::sample},
    upkeep::supervise::run_to_completion,
};
use dapbox_aggregator::{Error, TaskContext, collect};
use dapbox_protocol::model::AggregateShareId;
use dapbox_store::Tx;
use dapbox_support::Point;

/// Returns the helper's aggregate share of a batch (DAP-09 section 4.6.2, DAP-18 section 4.6.4). `id` identifies the share in
/// later requests, if the revision has them.
pub async fn aggregate_share(
    ctx: &Arc<HelperContext>,
    context: &Arc<TaskContext>,
    body: Bytes,
    id: Option<AggregateShareId>,
) -> Result<Bytes, Error> {
    let request = context.wire.decode_aggregate_share_req(&context.task.public, &body)?;
    collect::check_forwarded_request(&context.task, &request)?;
    let (ctx, context) = (ctx.clone(), context.clone());
    // To completion: sampling noise may outlast the leader's timeout. The stored share then answers the next request.
    run_to_completion(async move {
        let task = context.task.public.id;
        // A repeated request waits for the first one and receives the same share.
        let _lock = ctx.share_locks.lock(task).await;
        let decided = ctx.store.read(|view| {
            let Some(state) = view.task(&task) else { return Ok(None) };
            Ok(collect::existing_answer(state, view.collected(&task, &request.batch)?, &context, &body, &request))
        })?;
        if let Some(decided) = decided {
            return Ok(decided?);
        }
        let noise = sample(&ctx.pool, &ctx.failpoints, &context).await?;
        let give = move |tx: &mut Tx<'_>| collect::helper_share(tx, &context, &body, &request, id, noise);
        Ok(ctx.store.try_write(Point::ShareGive, give).await?)
    })
    .await
}

/// An aggregate share that the helper has released.
pub enum AggregateShareAnswer {
    /// The response that contained it.
    Released(Bytes),
    /// The leader has deleted it.
    Deleted,
}

/// Finds a released aggregate share by its id.
pub fn find_share(
    ctx: &HelperContext,
    context: &TaskContext,
    id: AggregateShareId,
) -> Result<Option<AggregateShareAnswer>, Error> {
    let task = context.task.public.id;
    Ok(ctx.store.read(|view| {
        let Some(batch) = view.share(&task, &id)? else { return Ok(None) };
        let answer = view.collected(&task, &batch)?.and_then(collect::stored_answer);
        Ok(Some(answer.map_or(AggregateShareAnswer::Deleted, AggregateShareAnswer::Released)))
    })?)
}

/// Deletes an aggregate share (DAP-18 section 4.6.5). Returns `false` if it does not exist.
pub async fn delete_share(ctx: &HelperContext, context: &TaskContext, id: AggregateShareId) -> Result<bool, Error> {
    let task = context.task.public.id;
    Ok(ctx.store.write(Point::ShareDelete, move |tx| collect::delete_share(tx, &task, &id)).await?)
}
