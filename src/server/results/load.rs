//! Reads tasks with their windows and results for pages and files.

use std::collections::BTreeMap;

use crate::results::context::ResultsContext;
use dapbox_aggregator::Error;
use dapbox_pages::TaskView;
use dapbox_protocol::model::TaskId;
use dapbox_results::Window;
use dapbox_store::{CollectorRecord, CollectorState};
use dapbox_support::Fault;

/// Number of results in one read. Reads block writes.
const RESULTS_PER_READ: usize = 64;

/// The ids of all collector tasks.
pub fn task_ids(ctx: &ResultsContext) -> Result<Vec<TaskId>, Fault> {
    ctx.store.read(|view| Ok(view.collectors().keys().copied().collect()))
}

/// A task with all its windows, and the results of those that `wanted` selects. `None` if this server does not collect
/// the task. Blocks.
pub fn task(
    ctx: &ResultsContext,
    id: &TaskId,
    wanted: impl Fn(&CollectorRecord, &[Window]) -> Result<Vec<u64>, Error>,
) -> Result<Option<TaskView>, Error> {
    let now = ctx.clock.now();
    let read = |state: &CollectorState| (state.record.clone(), state.windows.values().cloned().collect::<Vec<_>>());
    let Some((record, windows)) = ctx.store.read(|view| Ok(view.collector(id).map(read)))? else { return Ok(None) };
    let mut results = BTreeMap::new();
    for numbers in wanted(&record, &windows)?.chunks(RESULTS_PER_READ) {
        ctx.store.read(|view| {
            for number in numbers {
                // The window may have been removed in between.
                if let Some(result) = view.window_result(id, *number)? {
                    results.insert(*number, result);
                }
            }
            Ok(())
        })?;
    }
    Ok(Some(TaskView {
        id: *id,
        name: record.name.as_ref().map(ToString::to_string),
        parameters: record.public.clone(),
        settings: record.settings.clone(),
        windows,
        results,
        now,
    }))
}
