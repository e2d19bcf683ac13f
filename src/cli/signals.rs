//! The signals that ask us to stop, and the one that asks us to reload.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask us to stop.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals over from the system, which would end the process.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for one and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// The signal that asks us to reload: SIGHUP. Whoever does not take it over is ended by it.
pub struct Hangups(Signal);

impl Hangups {
    /// Takes the signal over from the system.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for one.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}
