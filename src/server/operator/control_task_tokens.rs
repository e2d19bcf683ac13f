//! Tokens and verification keys of tasks on the control socket.

use std::sync::Arc;

use crate::{operator::context::OperatorContext, upkeep::supervise::run_to_completion};
use dapbox_aggregator::{
    Error,
    tokens::{self, TokenError},
    verify_keys::{self, VerifyKeysError},
};
use dapbox_protocol::{
    model::{
        TaskId,
        tokens::{TokenChange, TokenDirection, TokenStatus},
        verify_keys::{VerifyKeyChange, VerifyKeyStatus},
    },
    wire::{Problem, ProblemType},
};
use dapbox_store::Tx;
use dapbox_support::Point;

/// Lists the valid tokens of a task.
pub fn list(ctx: &OperatorContext, task: TaskId) -> Result<Vec<TokenStatus>, Error> {
    let now = ctx.clock.now();
    let found = ctx.store.read(|view| Ok(view.task(&task).map(|state| ctx.peers.tokens(view, state).statuses(now))))?;
    let mut found = found.ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).with_task(task))?;
    for status in found.iter_mut().filter(|status| status.direction == TokenDirection::Accepted) {
        status.last_presented = ctx.tasks.token_use(&task, status.hash);
    }
    Ok(found)
}

/// Replaces a token of a task, and lists the valid ones.
pub async fn change(ctx: &Arc<OperatorContext>, change: TokenChange) -> Result<Vec<TokenStatus>, Error> {
    let (task, shared, clock) = (change.task, ctx.clone(), ctx.clock.clone());
    // A stored token must become valid even if the operator disconnects.
    run_to_completion(async move {
        let write = move |tx: &mut Tx<'_>| tokens::change(tx, change, clock.now());
        let changed = shared.store.try_write(Point::TokenChange, write).await;
        changed.map_err(|error| error.map_refusal(|why| refusal(task, why)))?;
        shared.tasks.invalidate(&task);
        Ok(())
    })
    .await?;
    tracing::info!(task_id = %task, "token rotated");
    list(ctx, task)
}

/// Lists the verification keys of a task.
pub fn list_verify_keys(ctx: &OperatorContext, task: TaskId) -> Result<Vec<VerifyKeyStatus>, Error> {
    let now = ctx.clock.now();
    let found = ctx.store.read(|view| Ok(view.task(&task).map(|state| state.verify_keys.statuses(now))))?;
    found.ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).with_task(task).into())
}

/// Changes the verification keys of a task, and lists them.
pub async fn change_verify_keys(
    ctx: &Arc<OperatorContext>,
    change: VerifyKeyChange,
) -> Result<Vec<VerifyKeyStatus>, Error> {
    let (task, shared) = (change.task, ctx.clone());
    let keys = run_to_completion(async move {
        let now = shared.clock.now();
        let write = move |tx: &mut Tx<'_>| verify_keys::change(tx, change, now);
        let changed = shared.store.try_write(Point::VerifyKeyChange, write).await;
        let keys = changed.map_err(|error| error.map_refusal(|why| key_refusal(task, why)))?;
        shared.tasks.invalidate(&task);
        Ok(keys)
    })
    .await?;
    tracing::info!(task_id = %task, "verification keys changed");
    ctx.wakeups.sweeps.notify_one();
    Ok(keys)
}

fn key_refusal(task: TaskId, why: VerifyKeysError) -> Problem {
    match why {
        VerifyKeysError::NoTask => Problem::new(ProblemType::UnrecognizedTask).with_task(task),
        _ => Problem::from_status(409).with_detail(why.to_string()),
    }
}

fn refusal(task: TaskId, why: TokenError) -> Problem {
    match why {
        TokenError::NoTask => Problem::new(ProblemType::UnrecognizedTask).with_task(task),
        TokenError::NothingPresented | TokenError::InBand => Problem::from_status(409).with_detail(why.to_string()),
    }
}
