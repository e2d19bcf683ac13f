//! Supervision of background components: none stops unnoticed.
//!
//! # Decision: restart drivers, shut down for listeners and the store
//!
//! A driver that panics or fails is restarted with growing delays, because it continues from the store as after a
//! start. The server is not ready until the driver has run for the length of the last delay. A job is retried alone,
//! and its task shows the error. A panic in a listener or a failure of the store shuts down the server, because only a
//! restart helps.

use std::{
    any::Any,
    collections::BTreeMap,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::watch;

use crate::shared::{clock::Clock, stop::StopSignal, task_cache::TaskCache};
use dapbox_aggregator::Error;
use dapbox_protocol::model::TaskId;
use dapbox_store::Store;
use dapbox_support::{Failpoints, Fault, Part, fault::panic_text};

/// Delay of the first restart; it doubles with each further one.
const MIN_RESTART_DELAY: Duration = Duration::from_secs(1);
/// Maximum delay of a restart.
const MAX_RESTART_DELAY: Duration = Duration::from_secs(60);

/// What supervision needs. Clones share it.
#[derive(Clone)]
pub struct Supervisor {
    /// Delays restarts.
    pub clock: Arc<dyn Clock>,
    /// The state of the components.
    pub parts: Arc<Parts>,
    /// Shows whether a failure is one of the store.
    pub store: Store,
    /// Ends the components.
    pub stop: StopSignal,
    /// Injected failures, for tests.
    pub failpoints: Failpoints,
    /// Where the errors of jobs are shown.
    pub tasks: Arc<TaskCache>,
}

/// A running component.
type Running = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;
/// The result of `catch_unwind` for a component.
type CaughtResult = Result<Result<(), Fault>, Box<dyn Any + Send>>;

/// The state of the components.
pub struct Parts {
    /// Components that are being restarted, with the error.
    broken: Mutex<BTreeMap<Part, String>>,
    /// The reason for shutting down.
    fatal: watch::Sender<Option<Fault>>,
    /// Number of failures of each component since the start.
    failures: [AtomicU64; Part::ALL.len()],
    /// Number of running instances of each component.
    instances: [watch::Sender<usize>; Part::ALL.len()],
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            broken: Mutex::default(),
            fatal: watch::Sender::new(None),
            failures: Part::ALL.map(|_| AtomicU64::new(0)),
            instances: Part::ALL.map(|_| watch::Sender::new(0)),
        }
    }
}

impl Parts {
    /// Describes the components that are being restarted, for the operator.
    pub fn broken(&self) -> Vec<String> {
        let reason =
            |(part, why): (&Part, &String)| format!("background component {part} failed and is restarted: {why}");
        self.lock_broken().iter().map(reason).collect()
    }

    /// Number of failures of a component since the start.
    pub fn failures(&self, part: Part) -> u64 {
        self.failures[part as usize].load(Ordering::Relaxed)
    }

    /// The reason for shutting down, if any.
    pub fn fatal(&self) -> Option<Fault> {
        self.fatal.borrow().clone()
    }

    /// Resolves when the server must shut down, with the reason.
    pub fn fatal_fault(&self) -> impl Future<Output = Fault> + use<> {
        let mut fatal = self.fatal.subscribe();
        async move {
            match fatal.wait_for(Option::is_some).await.map(|fault| fault.clone()) {
                Ok(Some(fault)) => fault,
                // The server has stopped without a fault.
                _ => std::future::pending().await,
            }
        }
    }

    /// Shuts down the server. Keeps the first reason.
    fn shut_down(&self, fault: Fault) {
        tracing::error!(error = %fault, "fatal error, shutting down");
        self.fatal.send_if_modified(|first| first.is_none() && first.replace(fault).is_none());
    }

    fn count(&self, part: Part) {
        self.failures[part as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn lock_broken(&self) -> MutexGuard<'_, BTreeMap<Part, String>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when no instance of a component is left.
    async fn no_instances(&self, part: Part) {
        // `self` keeps the sender alive, so waiting cannot fail.
        let _ = self.instances[part as usize].subscribe().wait_for(|count| *count == 0).await;
    }
}

/// Counts an instance of a component until it is dropped.
struct Instance<'a>(&'a watch::Sender<usize>);

impl<'a> Instance<'a> {
    fn new(parts: &'a Parts, part: Part) -> Self {
        let count = &parts.instances[part as usize];
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Instance<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Delays that double.
struct RestartBackoff(Duration);

impl RestartBackoff {
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(MAX_RESTART_DELAY);
        pause
    }
}

/// The end of a run.
enum RunEnd {
    /// Finished.
    Over,
    /// Failed, and a restart may help.
    Failed(String),
    /// Failed because of the store.
    Fatal(Fault),
}

impl RunEnd {
    fn of(ctx: &Supervisor, caught: CaughtResult) -> Self {
        let fault = match caught {
            Ok(Ok(())) => return Self::Over,
            Ok(Err(fault)) => fault,
            Err(panic) => Fault::new(format!("panicked: {}", panic_text(&*panic))),
        };
        match ctx.store.read(|_| Ok(())) {
            Ok(()) => Self::Failed(fault.to_string()),
            Err(stopped) => Self::Fatal(stopped),
        }
    }
}

/// Runs a driver until the server stops, and restarts it after each failure. Calls `make` immediately and for each
/// restart.
pub fn drive<F>(ctx: Supervisor, part: Part, make: impl Fn() -> F + Send) -> impl Future<Output = ()> + Send
where
    F: Future<Output = Result<(), Fault>> + Send + 'static,
{
    let first: Running = Box::pin(make());
    async move {
        let (mut running, mut pauses, mut last_pause) = (first, RestartBackoff(MIN_RESTART_DELAY), None);
        loop {
            let caught = run(&ctx, part, running, last_pause, &mut pauses).await;
            let why = match RunEnd::of(&ctx, caught) {
                RunEnd::Over => return,
                RunEnd::Fatal(fault) => return ctx.parts.shut_down(fault),
                RunEnd::Failed(why) => why,
            };
            ctx.parts.count(part);
            ctx.parts.lock_broken().insert(part, why.clone());
            let pause = pauses.next();
            tracing::error!(%part, error = why, delay = ?pause, "background part failed");
            last_pause = Some(pause);
            tokio::select! {
                () = ctx.clock.sleep(pause) => {}
                () = ctx.stop.stopped() => return,
            }
            // The jobs of the old driver were aborted with it. Its successor starts them again, so they must be gone.
            if let Some(instances) = part.instances() {
                ctx.parts.no_instances(instances).await;
            }
            running = match catch_unwind(AssertUnwindSafe(&make)) {
                Ok(running) => Box::pin(running),
                Err(panic) => Box::pin(std::future::ready(Err(Fault::new(panic_text(&*panic))))),
            };
        }
    }
}

/// Runs a component to its end. It counts as recovered once it has run for the length of the last delay.
async fn run(
    ctx: &Supervisor,
    part: Part,
    running: Running,
    last_pause: Option<Duration>,
    pauses: &mut RestartBackoff,
) -> CaughtResult {
    // Nothing but the fault of a component is observed after a panic.
    let mut running = pin!(AssertUnwindSafe(running).catch_unwind());
    if let Some(pause) = last_pause {
        tokio::select! {
            caught = &mut running => return caught,
            () = ctx.clock.sleep(pause) => {}
        }
        ctx.parts.lock_broken().remove(&part);
        *pauses = RestartBackoff(MIN_RESTART_DELAY);
        tracing::info!(%part, "background part recovered");
    }
    running.await
}

/// Runs the job of a task to its end, and retries it after each failure. The task shows the error.
pub async fn run_job<F>(ctx: Supervisor, part: Part, task: TaskId, make: impl Fn() -> F) -> Result<(), Fault>
where
    F: Future<Output = Result<(), Fault>>,
{
    let _instance = Instance::new(&ctx.parts, part);
    let (mut pauses, mut has_failed) = (RestartBackoff(MIN_RESTART_DELAY), false);
    loop {
        let attempt = async {
            ctx.failpoints.turn(part);
            make().await
        };
        match RunEnd::of(&ctx, AssertUnwindSafe(attempt).catch_unwind().await) {
            RunEnd::Over => break,
            RunEnd::Fatal(fault) => return Err(fault),
            RunEnd::Failed(why) => {
                let pause = pauses.next();
                ctx.parts.count(part);
                tracing::error!(task_id = %task, %part, error = why, delay = ?pause, "background job failed");
                let shown = format!("{part} failed and is retried: {why}");
                ctx.tasks.set_error(&task, Some(shown));
                has_failed = true;
                tokio::select! {
                    () = ctx.clock.sleep(pause) => {}
                    () = ctx.stop.stopped() => break,
                }
            }
        }
    }
    if has_failed {
        ctx.tasks.set_error(&task, None);
    }
    Ok(())
}

/// Runs a component that cannot be restarted. Shuts down the server if it panics, or ends before the server stops.
pub async fn vital(ctx: Supervisor, part: Part, work: impl Future<Output = ()>) {
    let caught = AssertUnwindSafe(work).catch_unwind().await;
    let why = match caught {
        Ok(()) if ctx.stop.is_sent() => return,
        Ok(()) => "it ended".to_owned(),
        Err(panic) => format!("panicked: {}", panic_text(&*panic)),
    };
    ctx.parts.count(part);
    ctx.parts.shut_down(Fault::while_doing(&format!("background component {part} failed"), why));
}

/// Shuts down the server when its store stops.
pub async fn watch_store(ctx: Supervisor) {
    tokio::select! {
        fault = ctx.store.poisoned() => ctx.parts.shut_down(fault),
        () = ctx.stop.stopped() => {}
    }
}

/// Runs work to completion even if its caller is dropped, for example because a client disconnects.
pub async fn run_to_completion<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(Fault::while_doing("running a request", error).into()))
}
