//! What the service manager is told, if there is one that asked to be: systemd, or whoever else sets `NOTIFY_SOCKET`
//! (sd_notify(3)). Where there is none, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState as State;

use crate::{server::LivenessProbe, support::Fault};

/// How often a manager is told that something goes on that takes long, and how much longer it should wait each time.
const REMINDER: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells the manager.
fn tell(states: &[State<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify service manager");
    }
}

/// We serve.
pub fn ready(status: &str) {
    tell(&[State::Ready, State::Status(status)]);
}

/// The configuration is being read again; [`ready`] ends it.
pub fn reloading() {
    match State::monotonic_usec_now() {
        Ok(now) => tell(&[State::Reloading, now, State::Status("reloading")]),
        Err(error) => tracing::warn!(%error, "cannot read monotonic clock"),
    }
}

/// We stop.
pub fn stopping() {
    tell(&[State::Stopping, State::Status("stopping")]);
}

/// Does something that may take longer than the manager waits by itself, and lets it wait. How long a start takes depends
/// on how much is stored.
pub async fn patiently<T>(status: &str, work: impl Future<Output = T>) -> T {
    let micros = u32::try_from(PATIENCE.as_micros()).unwrap_or(u32::MAX);
    tell(&[State::ExtendTimeoutUsec(micros), State::Status(status)]);
    let remind = async {
        loop {
            tokio::time::sleep(REMINDER).await;
            tell(&[State::ExtendTimeoutUsec(micros), State::Status(status)]);
        }
    };
    tokio::select! {
        done = work => done,
        () = remind => unreachable!("it reminds for ever"),
    }
}

/// Says again and again that we are alive, twice in the time after which the manager takes us for dead. A server whose
/// store does not answer is: then nothing is said, and the manager ends us and starts us again.
pub fn keep_alive(pulse: LivenessProbe) {
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(beat(limit / 2, move || {
            let pulse = pulse.clone();
            async move { pulse.check().await }
        }));
    }
}

async fn beat<F: Future<Output = Result<(), Fault>>>(pause: Duration, is_alive: impl Fn() -> F) {
    let mut beats = tokio::time::interval(pause.max(Duration::from_millis(1)));
    loop {
        beats.tick().await;
        match is_alive().await {
            Ok(()) => tell(&[State::Watchdog]),
            Err(fault) => {
                tracing::error!(error = %fault, "watchdog notification withheld");
            }
        }
    }
}
