//! Signals that stop the process or reload its configuration.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that stop the process: SIGINT and SIGTERM.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Installs the handlers, which replace the default of ending the process.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for a signal and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// The signal that reloads the configuration: SIGHUP.
pub struct ReloadSignals(Signal);

impl ReloadSignals {
    /// Installs the handler, which replaces the default of ending the process.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for a signal.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}
