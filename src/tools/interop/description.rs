//! Tasks as the interop test API describes them.

use super::{
    api::{SharedTaskParams, TASK_INFO},
    number::JsonNumber,
    vdaf::VdafObject,
};
use crate::{
    model::{BaseUrl, Duration, Interval, Revision, TaskId, TaskParameters, Time, base_url::BaseUrlError},
    wire,
};

/// The description of a task, independent of the party that receives it.
pub struct TaskDescription<'a> {
    /// The task.
    pub id: TaskId,
    /// The leader's DAP URL.
    pub leader: &'a str,
    /// The helper's DAP URL.
    pub helper: &'a str,
    /// The VDAF.
    pub vdaf: &'a VdafObject,
    /// Time precision, in seconds.
    pub time_precision: Option<JsonNumber>,
    /// Parameters common to all parties.
    pub bound: &'a SharedTaskParams,
    /// Maximum number of reports per batch.
    pub max_batch_size: Option<JsonNumber>,
    /// Start of the task.
    pub start: Option<Time>,
    /// End of the task.
    pub end: Option<Time>,
}

fn url(name: &str, text: &str) -> Result<String, String> {
    text.parse().map(BaseUrl::into_string).map_err(|why: BaseUrlError| format!("{name}: {why}"))
}

impl TaskDescription<'_> {
    /// Converts to task parameters. Values that the revision lacks are ignored.
    pub fn parameters(&self, revision: Revision) -> Result<TaskParameters, String> {
        let (info, max_batch_size, task_expiration, task_interval) = match revision {
            Revision::Dap09 => ("", self.max_batch_size, self.end, None),
            Revision::Dap18 | Revision::Dap19 => (TASK_INFO, None, None, self.interval()?),
        };
        let task = TaskParameters {
            id: self.id,
            revision,
            info: info.to_owned(),
            leader_url: url("leader", self.leader)?,
            helper_url: url("helper", self.helper)?,
            batch_mode: self.bound.mode(max_batch_size)?,
            vdaf: self.vdaf.configure()?,
            min_batch_size: self.bound.min_batch_size.map_or(1, |min| min.0),
            time_precision: Duration(self.time_precision.map_or(1, |precision| precision.0)),
            task_expiration,
            task_interval,
            // The API has no member for it.
            noise: None,
        };
        if task.time_precision.0 == 0 {
            return Err("time_precision must be at least 1".to_owned());
        }
        wire::for_revision(revision).check_task(&task)?;
        Ok(task)
    }

    /// The interval that all reports lie in, if both ends are given.
    fn interval(&self) -> Result<Option<Interval>, String> {
        let (Some(start), Some(end)) = (self.start, self.end) else { return Ok(None) };
        let length = end.0.checked_sub(start.0).ok_or("the task ends before it starts")?;
        Ok(Interval::new(start, Duration(length)))
    }
}
