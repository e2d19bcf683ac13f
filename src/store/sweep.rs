//! Closing and forgetting what is over.
//!
//! A task has a *horizon*, a time that only rises: everything before it is closed
//! ([`Replay::horizon`](super::Replay::horizon)). It is stored before anything is forgotten on its account, so that what
//! is not known any more is refused.

use super::{table, tx::Tx};
use crate::model::{BatchId, Bucket, Fault, PartialBatch, TaskId, Time};

/// Closing.
impl Tx<'_> {
    /// Everything before the given time is closed from now on. The horizon only rises.
    pub fn raise_horizon(&mut self, task: &TaskId, horizon: Time) -> Result<(), Fault> {
        let replay = &mut self.owner(task)?.replay;
        let days = replay.forget_before(horizon);
        let horizon = replay.horizon();
        for day in days {
            self.group.forget_day(task, day);
        }
        let value = horizon.map(|time| table::HORIZONS.value(&time)).transpose()?;
        self.group.set(table::HORIZONS.key(task), value);
        Ok(())
    }

    /// Closes a batch that was not collected, for good. False if it is closed already.
    pub fn give_up_batch(&mut self, task: &TaskId, batch: BatchId) -> Result<bool, Fault> {
        if !self.owner(task)?.collected.give_up(batch) {
            return Ok(false);
        }
        self.group.set(table::GIVEN_UP.key(&(*task, batch)), Some(table::GIVEN_UP.value(&())?));
        Ok(true)
    }

    /// Closes everything before the given time, and every batch id that there is, whatever the times of its reports.
    pub fn close_before(&mut self, task: &TaskId, horizon: Time) -> Result<(), Fault> {
        self.raise_horizon(task, horizon)?;
        let state = self.owner(task)?;
        let of_bucket = |bucket: &Bucket| match bucket {
            Bucket::Batch(id) => Some(*id),
            Bucket::Time(_) => None,
        };
        let mut batches: Vec<BatchId> = state.buckets.keys().filter_map(of_bucket).collect();
        batches.extend(state.leader_jobs.values().filter_map(|job| match job.batch {
            PartialBatch::FixedSize(id) => Some(id),
            PartialBatch::TimeInterval => None,
        }));
        for batch in batches {
            self.give_up_batch(task, batch)?;
        }
        Ok(())
    }
}
