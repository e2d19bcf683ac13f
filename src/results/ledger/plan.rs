//! Creates, activates, joins and gives up windows as time passes.

use std::collections::BTreeMap;

use super::{due_time, patience, task_end};
use crate::{
    schedule::OnTooFew,
    settings::CollectorSettings,
    window::{Window, WindowState},
};
use dapbox_protocol::model::{BatchMode, Duration, Interval, TaskParameters, Time};

/// Maximum number of windows that one call of [`plan`] creates. The next call creates more.
pub const MAX_NEW_WINDOWS: usize = 1_000;

/// A change of the stored windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds or replaces a window.
    Put(Window),
    /// Removes the window with this number.
    Remove(u64),
}

/// The changes that are due. Call it again until it returns none.
pub fn plan(
    task: &TaskParameters,
    settings: &CollectorSettings,
    windows: &BTreeMap<u64, Window>,
    now: Time,
) -> Vec<Change> {
    let mut plan = Plan { task, settings, windows: windows.clone(), changes: BTreeMap::new(), now };
    match task.batch_mode {
        BatchMode::TimeInterval => {
            plan.reschedule();
            plan.deactivate();
            plan.add_windows();
            plan.activate();
            plan.notice_too_few();
            plan.join();
        }
        BatchMode::FixedSize { .. } => {
            plan.notice_too_few();
            plan.add_batch();
        }
    }
    let unchanged = |number: &u64, window: &Window| windows.get(number) == Some(window);
    let changes = plan.changes.into_iter().filter_map(|(number, window)| match window {
        Some(window) if unchanged(&number, &window) => None,
        Some(window) => Some(Change::Put(window)),
        None => windows.contains_key(&number).then_some(Change::Remove(number)),
    });
    changes.collect()
}

struct Plan<'a> {
    task: &'a TaskParameters,
    settings: &'a CollectorSettings,
    windows: BTreeMap<u64, Window>,
    changes: BTreeMap<u64, Option<Window>>,
    now: Time,
}

impl Plan<'_> {
    fn put(&mut self, window: Window) {
        self.changes.insert(window.number, Some(window.clone()));
        self.windows.insert(window.number, window);
    }

    fn remove(&mut self, number: u64) {
        self.changes.insert(number, None);
        self.windows.remove(&number);
    }

    fn set_state(&mut self, number: u64, state: WindowState) {
        if let Some(window) = self.windows.get(&number).cloned() {
            self.put(Window { state, changed: self.now, ..window });
        }
    }

    /// Removes the windows at the end that were never requested and whose length differs from the schedule. They are added
    /// again with the new length.
    fn reschedule(&mut self) {
        let unrequested: Vec<(u64, Interval)> = self
            .windows
            .values()
            .rev()
            .map_while(|window| match window.state {
                WindowState::Upcoming | WindowState::Due if !window.is_joined => {
                    Some((window.number, window.interval?))
                }
                _ => None,
            })
            .collect();
        let is_wrong = |interval: &Interval| self.end_of(interval.start()) != Some(interval.end());
        let Some(first_wrong) = unrequested.iter().rposition(|(_, interval)| is_wrong(interval)) else { return };
        for (number, _) in &unrequested[..=first_wrong] {
            self.remove(*number);
        }
    }

    /// The end of a window that starts at this time; `None` if the task has ended by then.
    fn end_of(&self, start: Time) -> Option<Time> {
        let end = self.settings.schedule.window_end(start, self.task.time_precision);
        match task_end(self.task) {
            Some(last) if start >= last => None,
            Some(last) => Some(end.min(last)),
            None => Some(end),
        }
    }

    /// Makes windows upcoming that are no longer due, because the clock was set back or the grace period is longer.
    fn deactivate(&mut self) {
        let is_early = |window: &&Window| {
            window.state == WindowState::Due
                && window.interval.is_some_and(|interval| due_time(&interval, self.settings) > self.now)
        };
        let early: Vec<u64> = self.windows.values().filter(is_early).map(|window| window.number).collect();
        early.into_iter().for_each(|number| self.set_state(number, WindowState::Upcoming));
    }

    /// Adds windows up to the first one that has not ended.
    fn add_windows(&mut self) {
        for _ in 0..MAX_NEW_WINDOWS {
            let (number, start) = match self.windows.values().next_back() {
                Some(last) => match last.interval {
                    Some(interval) if last.state != WindowState::Upcoming || interval.end() <= self.now => {
                        (last.number + 1, interval.end())
                    }
                    _ => return,
                },
                None => (0, self.settings.start.truncate(self.task.time_precision)),
            };
            let Some(end) = self.end_of(start).filter(|end| *end > start) else { return };
            let interval = Interval::new(start, Duration(end.0 - start.0));
            if interval.is_none() {
                return;
            }
            self.put(self.new_window(number, interval, WindowState::Upcoming));
        }
    }

    /// Makes windows due whose grace period is over.
    fn activate(&mut self) {
        let is_due = |window: &&Window| {
            window.state == WindowState::Upcoming
                && window.interval.is_some_and(|interval| due_time(&interval, self.settings) <= self.now)
        };
        let due: Vec<u64> = self.windows.values().filter(is_due).map(|window| window.number).collect();
        due.into_iter().for_each(|number| self.set_state(number, WindowState::Due));
    }

    /// Handles windows without a result for longer than the patience of the schedule.
    fn notice_too_few(&mut self) {
        let (patience, policy) = (patience(self.settings), self.settings.schedule.on_too_few);
        let is_batch = self.task.batch_mode != BatchMode::TimeInterval;
        let is_over = |since: Time| since.saturating_add(patience) <= self.now;
        let mut changed = Vec::new();
        for window in self.windows.values() {
            let state = match &window.state {
                // A batch that is not full is no reason for concern.
                WindowState::Pending { request, location, since, .. } if is_over(*since) && !is_batch => {
                    let (request, location) = (Some(request.clone()), Some(location.clone()));
                    WindowState::TooFewReports { request, location, since: self.now, is_final: false }
                }
                WindowState::TooFewReports { request: None, is_final: false, since, .. } => match policy {
                    _ if is_batch && is_over(*since) => WindowState::Due,
                    OnTooFew::Wait if is_over(*since) => WindowState::Due,
                    OnTooFew::Skip if !is_batch => {
                        WindowState::TooFewReports { request: None, location: None, since: *since, is_final: true }
                    }
                    _ => continue,
                },
                _ => continue,
            };
            changed.push((window.number, state));
        }
        changed.into_iter().for_each(|(number, state)| self.set_state(number, state));
    }

    /// Joins windows with too few reports and no request with the next one, once that is due.
    fn join(&mut self) {
        if self.settings.schedule.on_too_few != OnTooFew::Extend {
            return;
        }
        let numbers: Vec<u64> = self.windows.keys().copied().collect();
        for pair in numbers.windows(2) {
            let (Some(first), Some(second)) = (self.windows.get(&pair[0]), self.windows.get(&pair[1])) else {
                continue;
            };
            let is_short = matches!(first.state, WindowState::TooFewReports { request: None, is_final: false, .. });
            let (Some(from), Some(to)) = (first.interval, second.interval) else { continue };
            if !is_short || second.state != WindowState::Due {
                continue;
            }
            let interval = Interval::new(from.start(), Duration(to.end().0 - from.start().0));
            let joined = Window { is_joined: true, ..self.new_window(first.number, interval, WindowState::Due) };
            let removed = second.number;
            self.put(joined);
            self.remove(removed);
        }
    }

    /// Adds the next batch of a fixed-size task when the last one is over.
    fn add_batch(&mut self) {
        let is_over = |since: Time| since.saturating_add(patience(self.settings)) <= self.now;
        let number = match self.windows.last_key_value() {
            // The leader returns the same batch until it is released.
            Some((_, window)) if window.collected().is_some_and(|collected| collected.to_release.is_some()) => return,
            // A leader that refuses every request is asked for the next batch after a while.
            Some((_, window)) if window.collected().is_none() && !is_over(window.changed) => return,
            Some((number, window)) if window.state.is_final() => number + 1,
            Some(_) => return,
            None => 0,
        };
        self.put(self.new_window(number, None, WindowState::Due));
    }

    fn new_window(&self, number: u64, interval: Option<Interval>, state: WindowState) -> Window {
        Window { number, interval, is_joined: false, state, changed: self.now }
    }
}
