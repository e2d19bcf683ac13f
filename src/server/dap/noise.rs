//! Noise of aggregate shares.

use std::sync::Arc;

use crate::pool::{Permit, Pool};
use dapbox_aggregator::TaskContext;
use dapbox_protocol::vdaf::AggregateShare;
use dapbox_support::{Act, Failpoints, Fault, Phase, Point};

/// Samples the initial value of an aggregate share: noise, or zero if the task has none. Called before the write that closes
/// the batch, because sampling takes long for long vectors. Noise that the write does not need is discarded.
pub async fn sample(pool: &Pool, failpoints: &Failpoints, context: &Arc<TaskContext>) -> Result<AggregateShare, Fault> {
    let permit = match context.preparer.has_noise() {
        true => Some(pool.admit(&context.task.public.id).await),
        false => None,
    };
    pass(pool, failpoints, permit.as_ref(), Phase::Before).await?;
    let share = match &permit {
        Some(permit) => {
            let shared = context.clone();
            let sampled = pool.run(permit, move || shared.preparer.sample_noise()).await?;
            sampled.map_err(|error| Fault::while_doing("sampling noise", error))?
        }
        None => context.preparer.zero(),
    };
    pass(pool, failpoints, permit.as_ref(), Phase::After).await?;
    Ok(share)
}

/// Passes the failpoint of noise: on a worker if there is a permit, because a test may block there.
async fn pass(pool: &Pool, failpoints: &Failpoints, permit: Option<&Permit>, phase: Phase) -> Result<(), Fault> {
    let failpoints = failpoints.clone();
    let look = move || failpoints.at(Point::NoiseSample, phase);
    let act = match permit {
        Some(permit) => pool.run(permit, look).await?,
        None => look(),
    };
    match act {
        Act::Go => Ok(()),
        Act::Fail => Err(Fault::new("injected failure of noise sampling")),
        Act::Wait(pause) => {
            tokio::time::sleep(pause).await;
            Ok(())
        }
        Act::Panic => panic!("injected panic at {:?}", Point::NoiseSample),
    }
}
