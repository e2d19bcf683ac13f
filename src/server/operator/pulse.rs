//! Whether a running server is well enough to go on, for whoever would start it again otherwise.

use std::sync::Arc;

use crate::app::App;
use dapbox_support::Fault;

/// Feels whether a server is alive.
#[derive(Clone)]
pub struct Pulse(Arc<App>);

impl Pulse {
    /// A probe of a running server.
    pub fn new(app: Arc<App>) -> Self {
        Self(app)
    }

    /// Whether the store answers. It reads a row of the database, for which it waits until the commit that goes on is
    /// done: this is never ready if that hangs.
    pub async fn beat(&self) -> Result<(), Fault> {
        let app = self.0.clone();
        let read = tokio::task::spawn_blocking(move || app.store.read(|view| view.probe())).await;
        read.unwrap_or_else(|error| Err(Fault::while_doing("reading from the store", error)))
    }
}
