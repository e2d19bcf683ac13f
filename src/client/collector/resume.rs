//! Resumable collections: every step is stored in a [`CollectionJournal`] before the next one begins.

use std::{sync::atomic::AtomicBool, time::Duration as Span};

use bytes::Bytes;

use super::{
    CollectError, CollectedAggregate, CollectionJob, CollectionJournal, CollectionJournalError, Collector, JobEvent,
    JobRequest, Progress, with_timeout,
};
use crate::peer::RequestError;
use dapbox_protocol::model::{CollectionJobId, FixedSizeQuery, Query, Time};

impl Collector {
    /// Stores a new collection job. [`run`](Self::run) sends it to the leader.
    pub fn begin(
        &self,
        journal: &mut CollectionJournal,
        query: Query,
        now: Time,
    ) -> Result<CollectionJobId, CollectError> {
        let request = self.encode(query)?;
        Ok(journal.begin(query, &request, now)?)
    }

    /// Runs a stored job until its result is stored, for at most `timeout`. After a failure the job stays in the
    /// journal if the leader may have it; spec [`run`](Self::run) again to resume it.
    pub async fn run(
        &self,
        journal: &mut CollectionJournal,
        id: &CollectionJobId,
        timeout: Option<Span>,
        mut progress: impl FnMut(Progress),
    ) -> Result<CollectedAggregate, CollectError> {
        let progress = |step| {
            progress(step);
            Ok(())
        };
        self.run_while(journal, id, timeout, progress).await
    }

    /// Polls a stored job, for at most `timeout`. Returns `None` if the result is not ready.
    pub async fn poll_once(
        &self,
        journal: &mut CollectionJournal,
        id: &CollectionJobId,
        timeout: Option<Span>,
    ) -> Result<Option<CollectedAggregate>, CollectError> {
        let until_waiting = |step| match step {
            Progress::Accepted => Ok(()),
            Progress::Waiting(_) => Err(CollectError::NotReady),
        };
        match self.run_while(journal, id, timeout, until_waiting).await {
            Err(CollectError::NotReady) => Ok(None),
            result => result.map(Some),
        }
    }

    /// Runs a stored job until its result is stored or `progress` fails.
    async fn run_while(
        &self,
        journal: &mut CollectionJournal,
        id: &CollectionJobId,
        timeout: Option<Span>,
        mut progress: impl FnMut(Progress) -> Result<(), CollectError>,
    ) -> Result<CollectedAggregate, CollectError> {
        let Some(job) = journal.job(id).cloned() else { return Err(CollectError::Deleted) };
        let request = JobRequest { id: *id, query: job.query, body: Bytes::from(job.request) };
        if let Some(body) = job.result {
            let collected = self.open_result(&request.query, &request.body, &Bytes::from(body))?;
            return Ok(CollectedAggregate { location: job.location, ..collected });
        }
        // An earlier process may have sent the job.
        let may_exist = AtomicBool::new(!journal.take_unsent(id));
        let on_event = |event: JobEvent| {
            match event {
                JobEvent::Accepted(location) => journal.set_location(id, location)?,
                JobEvent::Result(body) => journal.set_result(id, body)?,
                JobEvent::Waiting(_) => {}
            }
            event.progress().map_or(Ok(()), &mut progress)
        };
        let result = with_timeout(timeout, self.run_job(&request, job.location, &may_exist, on_event)).await;
        if let Err(error) = &result
            && error.is_final(may_exist.into_inner())
        {
            self.remove_failed(journal, id).await?;
        }
        result
    }

    /// Removes a job that failed permanently, here and at the leader. Otherwise the same request would find the failed
    /// job.
    async fn remove_failed(
        &self,
        journal: &mut CollectionJournal,
        id: &CollectionJobId,
    ) -> Result<(), CollectionJournalError> {
        if let Some(location) = journal.job(id).and_then(|job| job.location.clone()) {
            // If this fails, a later collection of the same batch fails in the same way.
            let _ = self.delete_existing(&location).await;
        }
        journal.forget(id)
    }

    /// Completes a job whose result was delivered. Removes it from the journal, and releases its batch at the leader if
    /// the leader would return the same batch again.
    pub async fn complete(
        &self,
        journal: &mut CollectionJournal,
        id: &CollectionJobId,
        collected: &CollectedAggregate,
    ) -> Result<(), CollectError> {
        let Some(job) = journal.job(id) else { return Ok(()) };
        // A leader that reports batch ids returns the next batch next time, and this one by its id.
        let must_be_released =
            job.query == Query::FixedSize(FixedSizeQuery::CurrentBatch) && collected.batch_id.is_none();
        if must_be_released {
            journal.set_delivered(id)?;
            return self.release_delivered(journal).await;
        }
        Ok(journal.finish(id)?)
    }

    /// Releases all delivered batches at the leader. Until then, a query for the current batch may return one of them
    /// again.
    pub async fn release_delivered(&self, journal: &mut CollectionJournal) -> Result<(), CollectError> {
        let delivered: Vec<CollectionJob> =
            journal.record().jobs.iter().filter(|job| job.is_delivered).cloned().collect();
        for job in delivered {
            if let Some(location) = &job.location {
                self.delete(location).await?;
            }
            journal.finish(&job.id)?;
        }
        Ok(())
    }

    /// Cancels a job: deletes it at the leader and in the journal. A batch that the leader has closed for it stays
    /// closed.
    pub async fn cancel(&self, journal: &mut CollectionJournal, id: &CollectionJobId) -> Result<(), CollectError> {
        let Some(job) = journal.job(id).cloned() else { return Ok(()) };
        let location = match job.location.or_else(|| self.chosen_location(id)) {
            Some(location) => Some(location),
            // Only the leader knows the path. Repeating the request finds the job, or creates one that is deleted next.
            None => match self.request(id, Bytes::from(job.request), &AtomicBool::new(true)).await {
                Ok(step) => step.location,
                Err(CollectError::Request(RequestError::Refused(problem))) if problem.status / 100 == 4 => None,
                Err(error) => return Err(error),
            },
        };
        if let Some(location) = location {
            self.delete(&location).await?;
        }
        Ok(journal.forget(id)?)
    }
}
