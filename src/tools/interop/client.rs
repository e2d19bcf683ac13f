//! The client behind the interop test API: uploads measurements.

use std::time::Duration as Span;

use super::{
    api::{Reply, Status, Upload},
    description::TaskDescription,
    response::{ApiResponse, bad_request, ok_response},
};
use crate::{
    client::{Client, ClientError},
    model::{Revision, TaskParameters, Time},
    peer::{Peer, RetryPolicy},
};

/// Short, because the runner waits for the reply.
const RETRIES: RetryPolicy =
    RetryPolicy { initial: Span::from_millis(100), max: Span::from_secs(2), give_up_after: Span::from_secs(10) };

/// A client of any task.
pub struct Party {
    /// The protocol revision.
    pub revision: Revision,
    /// The HTTP client.
    pub peer: Peer,
}

impl Party {
    /// Answers `upload`. An unknown VDAF is a bad request.
    pub async fn upload(&self, request: Upload) -> ApiResponse {
        match description(&request).parameters(self.revision) {
            Err(why) if !request.vdaf.is_known() => bad_request(why),
            Err(why) => ok_response(Reply::error(why)),
            Ok(task) => ok_response(match self.send(task, request).await {
                Ok(()) => Reply::of(Status::Success),
                Err(error) => Reply::error(error),
            }),
        }
    }

    async fn send(&self, task: TaskParameters, request: Upload) -> Result<(), ClientError> {
        let client = Client::new(task, self.peer.clone(), RETRIES)?;
        client.upload(request.measurement.into(), request.time.map(|time| Time(time.0))).await.map(drop)
    }
}

fn description(request: &Upload) -> TaskDescription<'_> {
    TaskDescription {
        id: request.task_id,
        leader: &request.leader,
        helper: &request.helper,
        vdaf: &request.vdaf,
        time_precision: Some(request.time_precision),
        bound: &request.bound,
        max_batch_size: None,
        start: request.bound.start(),
        end: request.bound.end(),
    }
}
