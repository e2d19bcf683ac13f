//! Reads and writes the rows of tasks that this server collects: windows, results, links and webhook events.
//!
//! The record of a task and its windows are in memory. Results are read from their rows.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    collector::{CollectorRecord, CollectorState, ResultLink, WebhookEvent},
    engine::Engine,
    group::{self, Group},
    rows, table,
    tx::Tx,
    view::View,
};
use dapbox_protocol::{
    model::{TaskId, TokenHash},
    vdaf::AggregateResult,
};
use dapbox_results::Window;
use dapbox_support::Fault;

/// Collector tasks.
impl Tx<'_> {
    /// Returns a task that this server collects.
    pub fn collector(&self, id: &TaskId) -> Option<&CollectorState> {
        self.state.collectors.get(id)
    }

    /// All tasks that this server collects, by id.
    pub fn collectors(&self) -> &BTreeMap<TaskId, CollectorState> {
        &self.state.collectors
    }

    /// Adds a task to collect, or replaces its record and keeps its windows.
    pub fn put_collector(&mut self, record: CollectorRecord) -> Result<(), Fault> {
        let id = record.public.id;
        let value = table::COLLECTORS.value(&self.state.vault, &id, &record)?;
        self.group.set(table::COLLECTORS.key(&id), Some(value));
        match self.state.collectors.get_mut(&id) {
            Some(state) => state.record = Arc::new(record),
            None => drop(self.state.collectors.insert(id, CollectorState::new(record))),
        }
        Ok(())
    }

    /// Removes a task with its windows, results, events and links. Returns whether it existed.
    pub fn remove_collector(&mut self, id: &TaskId) -> Result<bool, Fault> {
        if self.state.collectors.remove(id).is_none() {
            return Ok(false);
        }
        for prefix in table::COLLECTOR_TABLE_PREFIXES {
            delete_rows(self.engine, self.group, &group::task_prefix(prefix, id))?;
        }
        let of_task = self.state.result_links.values().filter(|link| link.task == *id);
        for hash in of_task.map(|link| link.hash).collect::<Vec<_>>() {
            self.remove_result_link(&hash);
        }
        Ok(true)
    }

    /// Adds or replaces a window. Faults if the task does not exist.
    pub fn put_window(&mut self, task: &TaskId, window: Window) -> Result<(), Fault> {
        let key = (*task, window.number);
        let value = table::WINDOWS.value(&window)?;
        self.collector_mut(task)?.windows.insert(window.number, window);
        self.group.set(table::WINDOWS.key(&key), Some(value));
        Ok(())
    }

    /// Removes a window. Faults if the task does not exist.
    pub fn remove_window(&mut self, task: &TaskId, number: u64) -> Result<(), Fault> {
        self.collector_mut(task)?.windows.remove(&number);
        self.group.set(table::WINDOWS.key(&(*task, number)), None);
        Ok(())
    }

    /// Stores the result of a window.
    pub fn put_window_result(&mut self, task: &TaskId, number: u64, result: &AggregateResult) -> Result<(), Fault> {
        self.collector_mut(task)?;
        let value = table::WINDOW_RESULTS.value(&result.into())?;
        self.group.set(table::WINDOW_RESULTS.key(&(*task, number)), Some(value));
        Ok(())
    }

    /// Stores a result that cannot be opened, as received; `None` deletes it.
    pub fn set_sealed_result(&mut self, task: &TaskId, number: u64, body: Option<&Bytes>) -> Result<(), Fault> {
        self.collector_mut(task)?;
        let value = body.map(|body| table::SEALED_RESULTS.value(body)).transpose()?;
        self.group.set(table::SEALED_RESULTS.key(&(*task, number)), value);
        Ok(())
    }

    /// All links to results, by hash, including expired ones.
    pub fn result_links(&self) -> &BTreeMap<TokenHash, ResultLink> {
        &self.state.result_links
    }

    /// Adds a link. Faults if its task does not exist.
    pub fn put_result_link(&mut self, link: ResultLink) -> Result<(), Fault> {
        self.collector_mut(&link.task)?;
        self.group.set(table::RESULT_LINKS.key(link.hash.as_bytes()), Some(table::RESULT_LINKS.value(&link)?));
        self.state.result_links.insert(link.hash, link);
        Ok(())
    }

    /// Removes a link.
    pub fn remove_result_link(&mut self, hash: &TokenHash) {
        self.group.set(table::RESULT_LINKS.key(hash.as_bytes()), None);
        self.state.result_links.remove(hash);
    }

    /// Adds an event to deliver and returns its number. Faults if the task does not exist.
    pub fn add_webhook_event(&mut self, task: &TaskId, event: WebhookEvent) -> Result<u64, Fault> {
        let last = self.collector_mut(task)?.events.last_key_value().map(|(number, _)| *number);
        // Numbers of delivered events are not used again soon, so that a late answer does not remove another event.
        let number = last.map_or(event.created.0 << 20, |last| (last + 1).max(event.created.0 << 20));
        self.put_webhook_event(task, number, event)?;
        Ok(number)
    }

    /// Replaces an event, after an attempt to deliver it.
    pub fn put_webhook_event(&mut self, task: &TaskId, number: u64, event: WebhookEvent) -> Result<(), Fault> {
        let value = table::WEBHOOK_EVENTS.value(&event)?;
        self.collector_mut(task)?.events.insert(number, event);
        self.group.set(table::WEBHOOK_EVENTS.key(&(*task, number)), Some(value));
        Ok(())
    }

    /// Removes an event that was delivered or is given up.
    pub fn remove_webhook_event(&mut self, task: &TaskId, number: u64) -> Result<(), Fault> {
        self.collector_mut(task)?.events.remove(&number);
        self.group.set(table::WEBHOOK_EVENTS.key(&(*task, number)), None);
        Ok(())
    }

    fn collector_mut(&mut self, id: &TaskId) -> Result<&mut CollectorState, Fault> {
        let missing = || Fault::new(format!("collector task {id} does not exist"));
        self.state.collectors.get_mut(id).ok_or_else(missing)
    }
}

/// Deletes the rows below a prefix, on disk and in the group.
fn delete_rows(engine: &Engine, group: &mut Group, prefix: &[u8]) -> Result<(), Fault> {
    let mut keys = group.keys_below(prefix);
    engine.keys(prefix, |key| {
        keys.push(key.to_vec());
        Ok::<_, Fault>(())
    })?;
    keys.into_iter().for_each(|key| group.set(key, None));
    Ok(())
}

/// Collector tasks.
impl View<'_> {
    /// Returns a task that this server collects.
    pub fn collector(&self, id: &TaskId) -> Option<&CollectorState> {
        self.state.collectors.get(id)
    }

    /// All tasks that this server collects, by id.
    pub fn collectors(&self) -> &BTreeMap<TaskId, CollectorState> {
        &self.state.collectors
    }

    /// Loads the result of a collected window.
    pub fn window_result(&self, task: &TaskId, number: u64) -> Result<Option<AggregateResult>, Fault> {
        if self.collector(task).is_none() {
            return Ok(None);
        }
        Ok(rows::load(self, &table::WINDOW_RESULTS, &(*task, number))?.map(AggregateResult::from))
    }

    /// Loads a result that could not be opened.
    pub fn sealed_result(&self, task: &TaskId, number: u64) -> Result<Option<Bytes>, Fault> {
        if self.collector(task).is_none() {
            return Ok(None);
        }
        rows::load(self, &table::SEALED_RESULTS, &(*task, number))
    }

    /// All links to results, by hash, including expired ones.
    pub fn result_links(&self) -> &BTreeMap<TokenHash, ResultLink> {
        &self.state.result_links
    }
}
