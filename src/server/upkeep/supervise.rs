//! Supervision of what works in the background: no part ends unnoticed.
//!
//! A driver that panics, or fails while the store works, is started again after a pause, and the server is not ready until
//! it has run for as long as that pause. A job of a task is repeated alone, and its task shows why. A listener that panics
//! takes the server down, and so does the store: only a restart helps there.

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

use crate::app::App;
use dapbox_protocol::model::TaskId;
use dapbox_support::{Fault, Part, fault::panic_text};

/// The first pause before a part is started again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause before a part is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A part that runs.
type Running = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;
/// What `catch_unwind` makes of a part's end.
type Caught = Result<Result<(), Fault>, Box<dyn Any + Send>>;

/// How the parts of a server are.
pub struct Parts {
    /// Why drivers do not work now.
    broken: Mutex<BTreeMap<Part, String>>,
    /// Why the server goes down.
    fatal: watch::Sender<Option<Fault>>,
    /// How often each part has failed since the start.
    failures: [AtomicU64; Part::ALL.len()],
    /// How many instances of each part there are.
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
    /// What does not work now, for the operator.
    pub fn broken(&self) -> Vec<String> {
        let reason = |(part, why): (&Part, &String)| format!("background part {part} failed and is restarted: {why}");
        self.broken_map().iter().map(reason).collect()
    }

    /// How often a part has failed since the start.
    pub fn failures(&self, part: Part) -> u64 {
        self.failures[part as usize].load(Ordering::Relaxed)
    }

    /// Why the server goes down, if it does.
    pub fn fatal(&self) -> Option<Fault> {
        self.fatal.borrow().clone()
    }

    /// Resolves when the server must go down, with the reason.
    pub fn goes_down(&self) -> impl Future<Output = Fault> + use<> {
        let mut fatal = self.fatal.subscribe();
        async move {
            match fatal.wait_for(Option::is_some).await.map(|fault| fault.clone()) {
                Ok(Some(fault)) => fault,
                // The server is gone, for no fault.
                _ => std::future::pending().await,
            }
        }
    }

    /// The server must go down. The first reason counts.
    fn take_down(&self, fault: Fault) {
        tracing::error!(error = %fault, "fatal error, shutting down");
        self.fatal.send_if_modified(|first| first.is_none() && first.replace(fault).is_none());
    }

    fn count(&self, part: Part) {
        self.failures[part as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn broken_map(&self) -> MutexGuard<'_, BTreeMap<Part, String>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when no instance of a part is left.
    async fn are_gone(&self, part: Part) {
        // The sender lives as long as this: waiting cannot fail.
        let _ = self.instances[part as usize].subscribe().wait_for(|count| *count == 0).await;
    }
}

/// Counts an instance of a part, until it is dropped.
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

/// Pauses that double.
struct Pauses(Duration);

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// How a run ended.
enum End {
    /// As it should.
    Over,
    /// With a failure that a restart of the part may mend.
    Failed(String),
    /// With the store, or because of it.
    Fatal(Fault),
}

impl End {
    fn of(app: &App, caught: Caught) -> Self {
        let fault = match caught {
            Ok(Ok(())) => return Self::Over,
            Ok(Err(fault)) => fault,
            Err(panic) => Fault::new(format!("panicked: {}", panic_text(&*panic))),
        };
        match app.store.read(|_| Ok(())) {
            Ok(()) => Self::Failed(fault.to_string()),
            Err(stopped) => Self::Fatal(stopped),
        }
    }
}

/// Runs a driver until the server stops, and again each time that it fails. `make` is called at once, and again for each
/// restart.
pub fn drive<F>(app: Arc<App>, part: Part, make: impl Fn() -> F + Send) -> impl Future<Output = ()> + Send
where
    F: Future<Output = Result<(), Fault>> + Send + 'static,
{
    let first: Running = Box::pin(make());
    async move {
        let (mut running, mut pauses, mut last_pause) = (first, Pauses(FIRST_PAUSE), None);
        loop {
            let caught = run(&app, part, running, last_pause, &mut pauses).await;
            let why = match End::of(&app, caught) {
                End::Over => return,
                End::Fatal(fault) => return app.parts.take_down(fault),
                End::Failed(why) => why,
            };
            app.parts.count(part);
            app.parts.broken_map().insert(part, why.clone());
            let pause = pauses.next();
            tracing::error!(%part, error = why, delay = ?pause, "background part failed");
            last_pause = Some(pause);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = app.stopped() => return,
            }
            // What the driver had started was aborted with it. Its successor begins with it again.
            if let Some(instances) = part.instances() {
                app.parts.are_gone(instances).await;
            }
            running = match catch_unwind(AssertUnwindSafe(&make)) {
                Ok(running) => Box::pin(running),
                Err(panic) => Box::pin(std::future::ready(Err(Fault::new(panic_text(&*panic))))),
            };
        }
    }
}

/// Runs a part to its end. One that had failed before works again once it has run for as long as it had paused.
async fn run(app: &App, part: Part, running: Running, last_pause: Option<Duration>, pauses: &mut Pauses) -> Caught {
    // Nothing is seen of a part that panicked but its fault.
    let mut running = pin!(AssertUnwindSafe(running).catch_unwind());
    if let Some(pause) = last_pause {
        tokio::select! {
            caught = &mut running => return caught,
            () = tokio::time::sleep(pause) => {}
        }
        app.parts.broken_map().remove(&part);
        *pauses = Pauses(FIRST_PAUSE);
        tracing::info!(%part, "background part recovered");
    }
    running.await
}

/// Runs a task's job to its end, and again after a pause each time that it fails. Its task shows why.
pub async fn see_through<F>(app: Arc<App>, part: Part, task: TaskId, make: impl Fn() -> F) -> Result<(), Fault>
where
    F: Future<Output = Result<(), Fault>>,
{
    let _instance = Instance::new(&app.parts, part);
    let (mut pauses, mut has_failed) = (Pauses(FIRST_PAUSE), false);
    loop {
        let attempt = async {
            app.failpoints.turn(part);
            make().await
        };
        match End::of(&app, AssertUnwindSafe(attempt).catch_unwind().await) {
            End::Over => break,
            End::Fatal(fault) => return Err(fault),
            End::Failed(why) => {
                let pause = pauses.next();
                app.parts.count(part);
                tracing::error!(task_id = %task, %part, error = why, delay = ?pause, "background job failed");
                let trouble = format!("{part} failed through a fault of this server and is repeated: {why}");
                app.set_trouble(&task, Some(trouble));
                has_failed = true;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = app.stopped() => break,
                }
            }
        }
    }
    if has_failed {
        app.set_trouble(&task, None);
    }
    Ok(())
}

/// Runs what the server cannot be without, and cannot start again by itself. If it panics, or fails, or ends before the
/// server stops, the server goes down.
pub async fn vital(app: Arc<App>, part: Part, work: impl Future<Output = ()>) {
    let caught = AssertUnwindSafe(work).catch_unwind().await;
    let why = match caught {
        Ok(()) if *app.stopping.borrow() => return,
        Ok(()) => "it ended".to_owned(),
        Err(panic) => format!("panicked: {}", panic_text(&*panic)),
    };
    app.parts.count(part);
    app.parts.take_down(Fault::while_doing(&format!("background part {part} failed"), why));
}

/// Takes the server down when its store stops.
pub async fn watch_store(app: Arc<App>) {
    tokio::select! {
        fault = app.store.poisoned() => app.parts.take_down(fault),
        () = app.stopped() => {}
    }
}
