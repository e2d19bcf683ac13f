//! Adds, removes and describes tasks.

use std::collections::HashSet;

use super::{counters, never_contacted, privacy, results};
use crate::views::status::{Provisioned, RemovalOutcome, SetUpInBand, TaskStatus};
use dapbox_protocol::{
    hpke,
    model::{BaseUrl, Duration, Role, Task, TaskId, TaskParameters, Time},
    vdaf, wire,
};
use dapbox_store::{Counters, TaskState, Tx, WriteError, name::TaskName};
use dapbox_support::Fault;

/// Why a task is not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// A parameter is out of range.
    #[error("the task's {0}")]
    Parameter(String),
    /// The id belongs to another task.
    #[error("a task with the same id and other parameters exists; tasks cannot change, create a new one")]
    Differs,
    /// The id belonged to a removed task.
    #[error("a task with the same id was removed, and its id cannot be used again; create a new task")]
    Removed,
}

/// Why a list of tasks is not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskListError {
    /// One of the tasks cannot be added.
    #[error("task {0}: {1}")]
    Refused(TaskId, TaskError),
    /// Two of the tasks have the same id.
    #[error("task {0} occurs more than once")]
    Repeated(TaskId),
}

/// Validates the parameters of a task, so that later code can rely on them.
pub fn check(task: &Task) -> Result<(), TaskError> {
    let refuse = |what: &str| Err(TaskError::Parameter(what.to_owned()));
    let preparer = vdaf::preparer_for_task(&task.public).map_err(|why| TaskError::Parameter(format!("VDAF: {why}")))?;
    let (expected, given) = (preparer.verify_key_length(), task.verify_key.expose().len());
    if expected != given {
        return refuse(&format!("verification key has {given} bytes and must have {expected}"));
    }
    if task.public.min_batch_size == 0 {
        return refuse("minimum batch size must be at least 1");
    }
    if task.public.max_batch_size().is_some_and(|max| max < task.public.min_batch_size) {
        return refuse("maximum batch size must not be below the minimum");
    }
    if task.max_batch_query_count == 0 {
        return refuse("maximum batch query count must be at least 1");
    }
    if task.public.time_precision.0 == 0 {
        return refuse("time precision must be at least a second");
    }
    let is_whole = |window: Duration| window.0 > 0 && window.0.is_multiple_of(task.public.time_precision.0);
    if !task.public.batch_window_size().is_none_or(is_whole) {
        return refuse("batch time window must be a multiple of the time precision");
    }
    // A key that nothing can be sealed to must not be discovered at collection.
    if !hpke::is_supported(&task.collector_hpke_config) {
        return refuse("collector HPKE configuration has an unsupported algorithm or an invalid key");
    }
    check_urls(&task.public).map_err(TaskError::Parameter)?;
    wire::for_revision(task.public.revision).check_task(&task.public).map_err(TaskError::Parameter)
}

/// Checks that leader and helper have valid, different URLs.
///
/// # Errors
///
/// Names the invalid URL and the reason. Surrounding blanks are invalid, because the stored text must equal the parsed
/// one.
pub fn check_urls(task: &TaskParameters) -> Result<(), String> {
    let parse = |name: &str, given: &str| match given.parse::<BaseUrl>() {
        Ok(url) if url.as_str() == given => Ok(url),
        Ok(_) => Err(format!("{name} URL {given:?} must not have surrounding blanks")),
        Err(why) => Err(format!("{name} URL: {why}")),
    };
    let (leader, helper) = (parse("leader", &task.leader_url)?, parse("helper", &task.helper_url)?);
    if leader.is_equivalent_to(&helper) {
        return Err(format!("leader and helper must have different URLs; both have {}", leader.as_str()));
    }
    Ok(())
}

/// Validates a list of tasks and checks that their ids differ. An error names the task.
pub fn check_all(tasks: &[Task]) -> Result<(), TaskListError> {
    let mut ids = HashSet::new();
    tasks.iter().try_for_each(|task| {
        let id = task.public.id;
        if ids.insert(id) {
            check(task).map_err(|why| TaskListError::Refused(id, why))
        } else {
            Err(TaskListError::Repeated(id))
        }
    })
}

/// Adds a validated task. Adding the same task again succeeds.
pub fn add(tx: &mut Tx<'_>, task: Task) -> Result<(), WriteError<TaskError>> {
    check_addable(tx, &task).map_err(WriteError::Refused)?;
    Ok(put(tx, task)?)
}

/// Adds a validated list of tasks, all or none. Existing equal tasks are skipped.
pub fn add_all(tx: &mut Tx<'_>, tasks: Vec<Task>) -> Result<(), WriteError<TaskListError>> {
    let may = |task: &Task| check_addable(tx, task).map_err(|why| TaskListError::Refused(task.public.id, why));
    tasks.iter().try_for_each(may).map_err(WriteError::Refused)?;
    for task in tasks {
        put(tx, task)?;
    }
    Ok(())
}

fn check_addable(tx: &Tx<'_>, task: &Task) -> Result<(), TaskError> {
    if tx.is_removed(&task.public.id) {
        return Err(TaskError::Removed);
    }
    match tx.task(&task.public.id) {
        Some(state) if *state.task != *task => Err(TaskError::Differs),
        _ => Ok(()),
    }
}

fn put(tx: &mut Tx<'_>, task: Task) -> Result<(), Fault> {
    if tx.task(&task.public.id).is_some() { Ok(()) } else { tx.add_task(task) }
}

/// Removes a task on behalf of an operator. Leaves a tombstone unless no request ever named the task; `is_unused` adds
/// what is not stored. Returns `None` if the task does not exist.
pub fn remove_or_forget(
    tx: &mut Tx<'_>,
    id: &TaskId,
    now: Time,
    is_unused: impl FnOnce() -> bool,
) -> Result<Option<RemovalOutcome>, Fault> {
    let Some(state) = tx.task(id) else { return Ok(None) };
    if never_contacted::needs_no_tombstone(tx, state, now) && is_unused() && tx.forget_task(id)? {
        return Ok(Some(RemovalOutcome::Forgotten));
    }
    tx.remove_task(id, now)?;
    Ok(Some(RemovalOutcome::Tombstone))
}

/// Sets or clears the name of a task. Returns false if the task does not exist.
pub fn rename(tx: &mut Tx<'_>, id: &TaskId, name: Option<TaskName>) -> Result<bool, Fault> {
    let Some(state) = tx.task(id) else { return Ok(false) };
    if state.name != name {
        tx.put_task_name(id, name)?;
    }
    Ok(true)
}

/// Removes a task and leaves a tombstone. Returns false if the task does not exist.
pub fn remove(tx: &mut Tx<'_>, id: &TaskId, now: Time) -> Result<bool, Fault> {
    if tx.task(id).is_none() {
        return Ok(false);
    }
    tx.remove_task(id, now)?;
    Ok(true)
}

/// Describes the status of a task, with at most `most` of its collected batches (leader).
pub fn status_with_collected(state: &TaskState, most: usize) -> TaskStatus {
    let status = status(state);
    if status.role != Role::Leader {
        return status;
    }
    let (collected, results_not_fetched, collected_unlisted) = results::list(state, most);
    TaskStatus { collected, results_not_fetched, collected_unlisted, ..status }
}

/// The most collected batches in the status of a single task.
pub const MAX_COLLECTED: usize = 1000;

/// The counters of reports, without the one of contacts.
fn report_counters(state: &TaskState) -> Counters {
    let counters = state.counters.iter().filter(|(name, _)| *name != counters::CONTACTED);
    counters.map(|(name, count)| (name.clone(), *count)).collect()
}

/// Describes the status of a task.
pub fn status(state: &TaskState) -> TaskStatus {
    let task = &state.task;
    let open = state.buckets.iter().filter(|(bucket, _)| !state.is_closed(bucket));
    TaskStatus {
        id: task.public.id,
        name: state.name.clone(),
        revision: task.public.revision,
        info: task.public.info.clone(),
        role: task.role(),
        leader_url: task.public.leader_url.clone(),
        helper_url: task.public.helper_url.clone(),
        vdaf: task.public.vdaf.clone(),
        batch_mode: task.public.batch_mode,
        min_batch_size: task.public.min_batch_size,
        noise: task.public.noise,
        privacy: privacy::account(state),
        time_precision: task.public.time_precision,
        task_expiration: state.end(),
        task_interval: task.public.task_interval,
        horizon: state.replay.horizon(),
        counters: report_counters(state),
        waiting: state.waiting.len() as u64,
        jobs: (state.leader_jobs.len() + state.deferred.len()) as u64,
        aggregated: open.map(|(_, record)| record.count).sum(),
        batches_collected: privacy::collected_batches(state),
        collections_waiting: state.collections.len() as u64,
        collected: Vec::new(),
        results_not_fetched: 0,
        collected_unlisted: 0,
        last_error: None,
        provisioned: state.provision.as_ref().map(|provision| Provisioned {
            at: provision.at,
            by: provision.by.clone(),
            is_never_contacted: never_contacted::is_never_contacted(state),
            removed_from: None,
        }),
        in_band: state.in_band.as_ref().map(|in_band| SetUpInBand { at: in_band.at, peer: in_band.peer.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use dapbox_protocol::model::{
        BatchMode, Duration, Epsilon, Interval, MaxMeasurement, Revision, Secret, VdafConfig,
    };

    fn windows(task: &mut Task, seconds: u64) {
        let batch_time_window_size = Some(Duration(seconds));
        task.public.batch_mode = BatchMode::FixedSize { max_batch_size: None, batch_time_window_size };
    }

    fn task(revision: Revision, spoil: impl Fn(&mut Task)) -> Task {
        let mut task = testing::task(revision);
        task.public.vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(8) };
        spoil(&mut task);
        task
    }

    fn refusal(task: &Task) -> String {
        check(task).unwrap_err().to_string()
    }

    #[test]
    fn rejects_invalid_tasks_with_a_reason() {
        type Spoil = fn(&mut Task);
        let cases: [(&str, Spoil); 13] = [
            ("VDAF", |task| task.public.vdaf = VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(0) }),
            ("verification key", |task| task.verify_key = Secret::random(7)),
            ("minimum batch size", |task| task.public.min_batch_size = 0),
            ("query count", |task| task.max_batch_query_count = 0),
            ("time precision", |task| task.public.time_precision = Duration(0)),
            ("leader URL", |task| task.public.leader_url = "leader.example".to_owned()),
            ("helper URL", |task| task.public.helper_url = "file:///helper".to_owned()),
            ("helper URL", |task| task.public.helper_url.push(' ')),
            ("helper URL", |task| task.public.helper_url.insert(10, '\n')),
            ("query", |task| task.public.leader_url.push('?')),
            ("different URLs", |task| task.public.helper_url = task.public.leader_url.trim_end_matches('/').to_owned()),
            ("collector HPKE", |task| task.collector_hpke_config.aead_id = 0xffff),
            // The point of order one: nothing can be sealed to it.
            ("collector HPKE", |task| task.collector_hpke_config.public_key = vec![0; 32]),
        ];
        for revision in Revision::ALL {
            assert_eq!(check(&task(revision, |_| {})), Ok(()));
            for (what, spoil) in cases {
                let error = refusal(&task(revision, spoil));
                assert!(error.contains(what), "{what}: {error}");
            }
        }
        let of_size = |task: &mut Task, max| task.public.batch_mode = BatchMode::fixed_size(Some(max));
        for window in [0, 1800, 5400] {
            let error = refusal(&task(Revision::Dap09, |task| windows(task, window)));
            assert!(error.contains("batch time window"), "{window}: {error}");
        }
        for revision in Revision::ALL {
            assert_eq!(check(&task(revision, |task| windows(task, 7200))), Ok(()));
            let least = |task: &mut Task| task.public.noise = Epsilon::new(1, u128::MAX);
            assert!(refusal(&task(revision, least)).contains("too small"));
        }
        let mut task = task(Revision::Dap09, |_| {});
        of_size(&mut task, 10);
        assert_eq!(check(&task), Ok(()));
        of_size(&mut task, 9);
        assert!(refusal(&task).contains("maximum batch size"));
    }

    #[test]
    fn names_the_invalid_task_of_a_list() {
        let mut tasks = vec![testing::task(Revision::Dap09), testing::task(Revision::Dap18)];
        tasks[1].public.id = TaskId::random();
        assert_eq!(check_all(&tasks), Ok(()));
        let id = tasks[1].public.id;
        tasks[1].max_batch_query_count = 0;
        let error = check_all(&tasks).unwrap_err().to_string();
        assert!(error.contains(&id.to_string()) && error.contains("query count"), "{error}");
        tasks[1] = tasks[0].clone();
        assert_eq!(check_all(&tasks), Err(TaskListError::Repeated(tasks[0].public.id)));
    }

    #[test]
    fn rejects_parameters_the_revision_cannot_express() {
        type Spoil = fn(&mut Task);
        let interval = |task: &mut Task| task.public.task_interval = Interval::new(Time(7200), Duration(3600));
        let cases: [(&str, Revision, Spoil); 4] = [
            ("start", Revision::Dap09, interval),
            ("info", Revision::Dap18, |task| task.public.info.clear()),
            ("end", Revision::Dap18, |task| task.public.task_expiration = Some(Time(7200))),
            ("maximum batch size", Revision::Dap18, |task| {
                task.public.batch_mode = BatchMode::fixed_size(Some(20));
            }),
        ];
        for (what, revision, spoil) in cases {
            let error = refusal(&task(revision, spoil));
            assert!(error.contains(what), "{what}: {error}");
        }
        assert_eq!(check(&task(Revision::Dap18, interval)), Ok(()));
    }
}
