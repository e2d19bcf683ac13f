//! The driver of windows: plans the windows of all collector tasks, and performs their steps.
//!
//! The stored windows say what to do ([`dapbox_results::ledger`]). Delays and failures are in memory only, so a restart
//! continues each window from its stored state. Requests of one window follow each other; windows run concurrently within
//! `results.max_requests` and `results.max_task_requests`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration as Span, Instant},
};

use tokio::task::{JoinError, JoinSet};

use crate::results::{
    context::ResultsContext,
    notifications::Notification,
    pace::Pace,
    steps::{Outcome, Performed, StepJob},
    storing,
};
use dapbox_protocol::model::{TaskId, Time};
use dapbox_results::{
    CollectorSettings, OnTooFew, Window,
    ledger::{self, Action, Attention},
};
use dapbox_store::CollectorRecord;
use dapbox_support::{Fault, Part};

/// Longest interval of checking all tasks. A clock that is set forward is noticed in this time.
const CHECK_INTERVAL: Span = Span::from_secs(30);
/// Maximum number of times that a task is planned in one step: each creates some windows of a task that was added late.
const MAX_PLANS: usize = 100;

type Key = (TaskId, u64);

/// Drives the windows of all collector tasks until the server stops.
pub async fn drive(ctx: Arc<ResultsContext>) -> Result<(), Fault> {
    let mut driver = Driver::new(ctx.clone());
    loop {
        ctx.failpoints.turn(Part::Results);
        let wait = driver.step().await?;
        tokio::select! {
            // Steps are repeated after the next start.
            () = ctx.stop.stopped() => return Ok(()),
            () = ctx.wakeups.windows.notified() => driver.woken(),
            Some(ended) = driver.running.join_next() => driver.ended(ended)?,
            () = ctx.clock.sleep(wait) => {}
        }
    }
}

/// What to do with the windows of a task.
struct TaskPlan {
    record: Arc<CollectorRecord>,
    /// Windows with a step to perform, in order.
    actions: BTreeMap<u64, (Window, Action)>,
    /// When the task is planned again, by the clock.
    next: Option<Time>,
}

/// The state of the driver.
struct Driver {
    ctx: Arc<ResultsContext>,
    plans: HashMap<TaskId, TaskPlan>,
    /// Tasks whose windows may have changed.
    changed: HashSet<TaskId>,
    /// Whether all tasks may have changed.
    is_stale: bool,
    running: JoinSet<(Key, Result<Performed, Fault>)>,
    in_progress: HashSet<Key>,
    pace: Pace<Key>,
    /// Windows without anything left to do, for this record of their task.
    done: HashMap<Key, Arc<CollectorRecord>>,
    /// Windows that were reported as overdue or close to their deadline.
    reported: HashSet<(TaskId, u64, &'static str)>,
    last_check: Instant,
}

impl Driver {
    fn new(ctx: Arc<ResultsContext>) -> Self {
        Self {
            last_check: ctx.clock.instant(),
            ctx,
            plans: HashMap::new(),
            changed: HashSet::new(),
            is_stale: true,
            running: JoinSet::new(),
            in_progress: HashSet::new(),
            pace: Pace::default(),
            done: HashMap::new(),
            reported: HashSet::new(),
        }
    }

    /// Plans what is due and starts steps. Returns the time until the next step.
    async fn step(&mut self) -> Result<Span, Fault> {
        let (now, instant) = (self.ctx.clock.now(), self.ctx.clock.instant());
        if std::mem::take(&mut self.is_stale) || instant.saturating_duration_since(self.last_check) >= CHECK_INTERVAL {
            self.last_check = instant;
            self.check_all().await?;
        } else {
            let is_due = |plan: &TaskPlan| plan.next.is_some_and(|next| next <= now);
            self.changed.extend(self.plans.iter().filter(|(_, plan)| is_due(plan)).map(|(task, _)| *task));
            for task in std::mem::take(&mut self.changed) {
                self.refresh(task).await?;
            }
        }
        Ok(self.start(instant))
    }

    /// Plans all tasks, and forgets removed ones.
    async fn check_all(&mut self) -> Result<(), Fault> {
        self.changed.clear();
        let ids: Vec<TaskId> = self.ctx.store.read(|view| Ok(view.collectors().keys().copied().collect()))?;
        self.plans.retain(|task, _| ids.contains(task));
        let plans = &self.plans;
        self.pace.retain(|(task, _)| plans.contains_key(task) || ids.contains(task));
        self.done.retain(|(task, _), _| ids.contains(task));
        self.reported.retain(|(task, ..)| ids.contains(task));
        for task in ids {
            self.refresh(task).await?;
        }
        Ok(())
    }

    /// Plans the windows of a task.
    async fn refresh(&mut self, task: TaskId) -> Result<(), Fault> {
        for _ in 0..MAX_PLANS {
            let now = self.ctx.clock.now();
            let is_due = self.ctx.store.read(|view| {
                let Some(state) = view.collector(&task) else { return Ok(false) };
                let record = &state.record;
                Ok(!ledger::plan(&record.public, &record.settings, &state.windows, now).is_empty())
            })?;
            if !is_due || !storing::plan(&self.ctx, task).await? {
                break;
            }
        }
        let now = self.ctx.clock.now();
        let found = self.ctx.store.read(|view| {
            Ok(view.collector(&task).map(|state| {
                let (settings, windows) = (&state.record.settings, &state.windows);
                let plan = TaskPlan {
                    record: state.record.clone(),
                    actions: actions(windows, settings, now),
                    next: ledger::next_time(windows, settings).filter(|next| *next > now),
                };
                (plan, ledger::attention(windows, settings, now))
            }))
        })?;
        let Some((plan, attention)) = found else {
            self.plans.remove(&task);
            return Ok(());
        };
        self.plans.insert(task, plan);
        self.report(task, &attention).await
    }

    /// Reports windows that are overdue or close to their deadline, once each.
    async fn report(&mut self, task: TaskId, attention: &[Attention]) -> Result<(), Fault> {
        for item in attention {
            let kind = match item {
                Attention::Overdue { .. } => "overdue",
                Attention::DeadlineNear { .. } => "deadline",
                Attention::Lost { .. } | Attention::Refused { .. } | Attention::TooFewReports { .. } => continue,
            };
            if !self.reported.insert((task, item.window(), kind)) {
                continue;
            }
            match item {
                Attention::Overdue { number, last_error, .. } => {
                    let error = last_error.clone();
                    tracing::warn!(task_id = %task, window = number, error, "window overdue");
                    storing::notify(&self.ctx, task, *number, Notification::Overdue).await?;
                }
                Attention::DeadlineNear { number, deadline } => {
                    let deadline = deadline.0;
                    tracing::error!(task_id = %task, window = number, deadline, "window close to deadline");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Starts the steps that are possible. Returns the time until the next one.
    fn start(&mut self, now: Instant) -> Span {
        let (config, clock_now) = (self.ctx.config.get(), self.ctx.clock.now());
        let mut wait = CHECK_INTERVAL;
        for (task, plan) in &self.plans {
            if let Some(next) = plan.next {
                wait = wait.min(Span::from_secs(next.0.saturating_sub(clock_now.0).max(1)));
            }
            let mut of_task = self.in_progress.iter().filter(|(of, _)| of == task).count();
            let is_batch = plan.record.public.batch_mode != dapbox_protocol::model::BatchMode::TimeInterval;
            for (number, (window, action)) in &plan.actions {
                let key = (*task, *number);
                if self.done.get(&key).is_some_and(|record| Arc::ptr_eq(record, &plan.record)) {
                    continue;
                }
                if of_task >= config.results.max_task_requests || self.running.len() >= config.results.max_requests {
                    break;
                }
                let is_waiting = self.pace.next(&key).is_some_and(|next| next > now);
                if let Some(next) = self.pace.next(&key).filter(|next| *next > now) {
                    wait = wait.min(next - now);
                }
                if !is_waiting && self.in_progress.insert(key) {
                    of_task += 1;
                    let job = StepJob { task: plan.record.clone(), window: window.clone(), action: *action };
                    let ctx = self.ctx.clone();
                    self.running.spawn(async move { (key, job.perform(&ctx).await) });
                }
                // The leader returns one batch after another.
                if is_batch {
                    break;
                }
            }
        }
        wait
    }

    /// Notes the outcome of a step.
    fn ended(&mut self, ended: Result<(Key, Result<Performed, Fault>), JoinError>) -> Result<(), Fault> {
        let (key, performed) = ended.map_err(|error| Fault::while_doing("collecting a window", error))?;
        let (now, max) = (self.ctx.clock.instant(), *self.ctx.config.get().results.retry_max);
        let Performed { outcome, exchange } = performed?;
        self.in_progress.remove(&key);
        self.changed.insert(key.0);
        let delay = match outcome {
            Outcome::Changed => {
                self.pace.reset(&key);
                Span::ZERO
            }
            Outcome::Again(at_least) => self.pace.delay(key, now, at_least, max),
            Outcome::Postponed(delay) => {
                self.pace.postpone(key, now, delay);
                delay
            }
            Outcome::Done => {
                if let Some(plan) = self.plans.get(&key.0) {
                    self.done.insert(key, plan.record.clone());
                }
                Span::ZERO
            }
        };
        match exchange {
            Some(Ok(())) if self.ctx.status.clear(&key.0) => {
                tracing::info!(task_id = %key.0, "leader answers again");
            }
            Some(Err(error)) if self.ctx.status.set_error(key.0, error.clone()) => {
                tracing::warn!(task_id = %key.0, window = key.1, error, ?delay, "window request failed");
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// Tasks were added, changed or removed, or the operator repeats a window.
    fn woken(&mut self) {
        self.is_stale = true;
        for (task, window) in self.ctx.status.take_requested() {
            self.pace.retain(|(of, number)| *of != task || window.is_some_and(|window| window != *number));
            self.reported.retain(|(of, number, _)| *of != task || window.is_some_and(|window| window != *number));
        }
    }
}

/// The windows with something to do.
fn actions(
    windows: &BTreeMap<u64, Window>,
    settings: &CollectorSettings,
    now: Time,
) -> BTreeMap<u64, (Window, Action)> {
    let mut found = BTreeMap::new();
    let (mut previous, mut rest): (Option<&Window>, _) = (None, windows.values().peekable());
    while let Some(window) = rest.next() {
        let action = ledger::next_action(window, rest.peek().copied(), settings, now);
        // A window that may be joined with the one before it is not requested before that has an outcome.
        let must_wait = action == Action::Begin
            && settings.schedule.on_too_few == OnTooFew::Extend
            && previous.is_some_and(|previous| previous.interval.is_some() && !previous.state.is_final());
        if action != Action::None && !must_wait {
            found.insert(window.number, (window.clone(), action));
        }
        previous = Some(window);
    }
    found
}
