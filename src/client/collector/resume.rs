//! Collections that outlive the process: each step is recorded in a [`Ledger`] before the next one begins.

use std::{sync::atomic::AtomicBool, time::Duration as Span};

use bytes::Bytes;

use super::{
    CollectError, Collected, Collector, Job, JobEvent, JobRequest, Ledger, LedgerError, Progress, is_gone, within,
};
use crate::peer::CallError;
use dapbox_protocol::{
    model::{CollectionJobId, FixedSizeQuery, Query, Time},
    wire::{self, ProblemType},
};

impl Collector {
    /// Records a collection of `query`. The leader does not know of it before [`run`](Self::run).
    pub fn begin(&self, ledger: &mut Ledger, query: Query, now: Time) -> Result<CollectionJobId, CollectError> {
        let request = self.encode(query)?;
        Ok(ledger.begin(query, &request, now)?)
    }

    /// Runs a recorded job until its result is recorded, for at most `patience`. After a failure the job is still in the
    /// ledger if the leader may have it; [`run`](Self::run) resumes it.
    pub async fn run(
        &self,
        ledger: &mut Ledger,
        id: &CollectionJobId,
        patience: Option<Span>,
        mut progress: impl FnMut(Progress),
    ) -> Result<Collected, CollectError> {
        let progress = |step| {
            progress(step);
            Ok(())
        };
        self.run_while(ledger, id, patience, progress).await
    }

    /// Asks how a recorded job is, for at most `patience`. `None` if the leader is not done.
    pub async fn ask_once(
        &self,
        ledger: &mut Ledger,
        id: &CollectionJobId,
        patience: Option<Span>,
    ) -> Result<Option<Collected>, CollectError> {
        let until_waiting = |step| match step {
            Progress::Accepted => Ok(()),
            Progress::Waiting(_) => Err(CollectError::NotReady),
        };
        match self.run_while(ledger, id, patience, until_waiting).await {
            Err(CollectError::NotReady) => Ok(None),
            result => result.map(Some),
        }
    }

    /// Runs a recorded job until its result is recorded or `progress` fails.
    async fn run_while(
        &self,
        ledger: &mut Ledger,
        id: &CollectionJobId,
        patience: Option<Span>,
        mut progress: impl FnMut(Progress) -> Result<(), CollectError>,
    ) -> Result<Collected, CollectError> {
        let Some(job) = ledger.job(id).cloned() else { return Err(CollectError::Deleted) };
        let request = JobRequest { id: *id, query: job.query, body: Bytes::from(job.request) };
        if let Some(body) = job.result {
            let wire = wire::of(self.task.public.revision);
            let collection = wire.decode_collection(&self.task.public, &Bytes::from(body))?;
            return self.open(&request.query, &request.body, &collection, job.place);
        }
        // A job that an earlier process has recorded may be there.
        let may_be_there = AtomicBool::new(!ledger.take_fresh(id));
        let on_event = |event: JobEvent| {
            match event {
                JobEvent::Accepted(place) => ledger.set_place(id, place)?,
                JobEvent::Result(body) => ledger.set_result(id, body)?,
                JobEvent::Waiting(_) => {}
            }
            event.progress().map_or(Ok(()), &mut progress)
        };
        let result = within(patience, self.run_job(&request, job.place, &may_be_there, on_event)).await;
        if let Err(error) = &result
            && is_over(error, may_be_there.into_inner())
        {
            self.drop_failed(ledger, id).await?;
        }
        result
    }

    /// Removes a job that has failed for good. The leader deletes it too: the same request would find it again.
    async fn drop_failed(&self, ledger: &mut Ledger, id: &CollectionJobId) -> Result<(), LedgerError> {
        if let Some(place) = ledger.job(id).and_then(|job| job.place.clone()) {
            // If this fails, a later collection of the same batch fails like this one.
            let _ = self.delete(&place).await;
        }
        ledger.forget(id)
    }

    /// Completes a job whose result was delivered: the leader releases the batch where it would give out the same one
    /// again, and the ledger has the job no more.
    pub async fn settle(
        &self,
        ledger: &mut Ledger,
        id: &CollectionJobId,
        collected: &Collected,
    ) -> Result<(), CollectError> {
        let Some(job) = ledger.job(id) else { return Ok(()) };
        // Where the leader says which batch it is, it gives out another one the next time, and this one by its id.
        let must_be_released =
            job.query == Query::FixedSize(FixedSizeQuery::CurrentBatch) && collected.batch_id.is_none();
        if must_be_released {
            ledger.set_delivered(id)?;
            return self.release_delivered(ledger).await;
        }
        Ok(ledger.finish(id)?)
    }

    /// Has the leader release all batches whose results were delivered. Before that, a request for the next batch would
    /// get one of them again.
    pub async fn release_delivered(&self, ledger: &mut Ledger) -> Result<(), CollectError> {
        let delivered: Vec<Job> = ledger.record().jobs.iter().filter(|job| job.is_delivered).cloned().collect();
        for job in delivered {
            if let Some(place) = &job.place {
                self.delete_if_there(place).await?;
            }
            ledger.finish(&job.id)?;
        }
        Ok(())
    }

    /// Gives a job up: the leader deletes it, and the ledger has it no more. A batch that the leader has closed for it
    /// stays closed.
    pub async fn cancel(&self, ledger: &mut Ledger, id: &CollectionJobId) -> Result<(), CollectError> {
        let Some(job) = ledger.job(id).cloned() else { return Ok(()) };
        let create = self.create_call(id);
        let place = match job.place.or_else(|| create.place.clone()) {
            Some(place) => Some(place),
            // Only the leader knows the path. The same request finds the job, or makes one that is deleted next.
            None => match self.ask(&create, Bytes::from(job.request), &AtomicBool::new(true)).await {
                Ok(reply) => reply.place,
                Err(CollectError::Call(CallError::Refused(problem))) if problem.status / 100 == 4 => None,
                Err(error) => return Err(error),
            },
        };
        if let Some(place) = place {
            self.delete_if_there(&place).await?;
        }
        Ok(ledger.forget(id)?)
    }

    async fn delete_if_there(&self, place: &str) -> Result<(), CollectError> {
        match self.delete(place).await {
            Err(CollectError::Call(error)) if is_gone(&error) || error.problem().is_some_and(|p| p.status == 404) => {
                Ok(())
            }
            deleted => deleted,
        }
    }
}

/// Whether a job that failed like this has no result and will have none.
fn is_over(error: &CollectError, may_be_there: bool) -> bool {
    match error {
        CollectError::Deleted | CollectError::Impossible(_) => true,
        CollectError::Call(CallError::Refused(problem)) => {
            // Such refusals are about us and not about the job.
            let is_about_us = matches!(problem.status, 401 | 403 | 404)
                || matches!(problem.kind, ProblemType::UnauthorizedRequest | ProblemType::UnrecognizedTask);
            let is_final = !crate::peer::is_retryable(problem.status);
            if may_be_there { is_final && !is_about_us } else { is_final }
        }
        CollectError::Call(_) => !may_be_there,
        _ => false,
    }
}
