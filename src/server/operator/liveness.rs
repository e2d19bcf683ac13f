//! A probe for service managers.

use dapbox_store::Store;
use dapbox_support::Fault;

/// Probes whether a running server still works. Clones probe the same server.
#[derive(Clone)]
pub struct LivenessProbe(Store);

impl LivenessProbe {
    /// A probe of the server with this store.
    pub fn new(store: Store) -> Self {
        Self(store)
    }

    /// Reads a row of the database. Waits for the commit in progress, and therefore never resolves if that hangs.
    pub async fn check(&self) -> Result<(), Fault> {
        let store = self.0.clone();
        let read = tokio::task::spawn_blocking(move || store.read(|view| view.probe())).await;
        read.unwrap_or_else(|error| Err(Fault::while_doing("reading from the store", error)))
    }
}
