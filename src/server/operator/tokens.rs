//! What the operator asks of a task's tokens, through the control socket.

use std::sync::Arc;

use crate::{app::App, dap::flow::unhurried};
use dapbox_aggregator::{
    Error,
    tokens::{self, TokenError},
};
use dapbox_protocol::{
    model::{
        TaskId,
        tokens::{TokenChange, TokenDirection, TokenStatus},
    },
    wire::{Problem, ProblemType},
};
use dapbox_store::Tx;
use dapbox_support::{Point, clock};

/// The tokens of a task that are in force.
pub fn list(app: &App, task: TaskId) -> Result<Vec<TokenStatus>, Error> {
    let now = clock::now();
    let found = app.store.read(|view| Ok(view.task(&task).map(|state| app.peers.tokens(view, state).statuses(now))))?;
    let mut found = found.ok_or_else(|| Problem::new(ProblemType::UnrecognizedTask).with_task(task))?;
    for status in found.iter_mut().filter(|status| status.direction == TokenDirection::Accepted) {
        status.last_presented = app.token_use(&task, status.hash);
    }
    Ok(found)
}

/// Replaces a token of a task, and says which ones are in force then.
pub async fn change(app: &Arc<App>, change: TokenChange) -> Result<Vec<TokenStatus>, Error> {
    let (task, shared) = (change.task, app.clone());
    // What is stored must be in force, whether or not the operator waits for it.
    unhurried(async move {
        let write = move |tx: &mut Tx<'_>| tokens::change(tx, change, clock::now());
        let changed = shared.store.try_write(Point::TokenChange, write).await;
        changed.map_err(|error| error.map_refusal(|why| refusal(task, why)))?;
        shared.reread(&task);
        Ok(())
    })
    .await?;
    tracing::info!(task_id = %task, "token rotated");
    list(app, task)
}

fn refusal(task: TaskId, why: TokenError) -> Problem {
    match why {
        TokenError::NoTask => Problem::new(ProblemType::UnrecognizedTask).with_task(task),
        TokenError::NothingPresented | TokenError::InBand => Problem::from_status(409).with_detail(why.to_string()),
    }
}
