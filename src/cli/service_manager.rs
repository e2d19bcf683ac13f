//! Notifications to the service manager (systemd) through `NOTIFY_SOCKET`, see sd_notify(3). Without the variable, they have
//! no effect.

use std::time::Duration;

use sd_notify::NotifyState as State;

use crate::{server::LivenessProbe, support::Fault};

/// Interval between extensions of the manager's timeout.
const EXTENSION_INTERVAL: Duration = Duration::from_secs(10);
/// Length of one extension.
const EXTENSION: Duration = Duration::from_secs(30);

/// Sends states to the manager.
fn notify(states: &[State<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify service manager");
    }
}

/// Notifies that the server is ready.
pub fn ready(status: &str) {
    notify(&[State::Ready, State::Status(status)]);
}

/// Notifies that a reload started; [`ready`] ends it.
pub fn reloading() {
    match State::monotonic_usec_now() {
        Ok(now) => notify(&[State::Reloading, now, State::Status("reloading")]),
        Err(error) => tracing::warn!(%error, "cannot read monotonic clock"),
    }
}

/// Notifies that the server is stopping.
pub fn stopping() {
    notify(&[State::Stopping, State::Status("stopping")]);
}

/// Extends the manager's timeout while `work` runs. The duration of a start depends on the amount of stored data.
pub async fn extend_timeout_during<T>(status: &str, work: impl Future<Output = T>) -> T {
    let micros = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
    notify(&[State::ExtendTimeoutUsec(micros), State::Status(status)]);
    let extend = async {
        loop {
            tokio::time::sleep(EXTENSION_INTERVAL).await;
            notify(&[State::ExtendTimeoutUsec(micros), State::Status(status)]);
        }
    };
    tokio::select! {
        done = work => done,
        () = extend => unreachable!("the loop has no end"),
    }
}

/// Starts to send watchdog notifications, two per watchdog timeout. They stop if the store does not respond, and the manager
/// restarts the server.
pub fn start_watchdog(probe: LivenessProbe) {
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(notify_watchdog(limit / 2, move || {
            let probe = probe.clone();
            async move { probe.check().await }
        }));
    }
}

async fn notify_watchdog<F: Future<Output = Result<(), Fault>>>(pause: Duration, is_alive: impl Fn() -> F) {
    let mut ticks = tokio::time::interval(pause.max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        match is_alive().await {
            Ok(()) => notify(&[State::Watchdog]),
            Err(fault) => {
                tracing::error!(error = %fault, "watchdog notification withheld");
            }
        }
    }
}
