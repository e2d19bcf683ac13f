//! The request to stop a server.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::shared::clock::Clock;

/// Grace period for the response of a helper while the server stops.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Tells all components that the server stops. Clones share the state.
#[derive(Clone)]
pub struct StopSignal {
    sender: watch::Sender<bool>,
    clock: Arc<dyn Clock>,
}

impl StopSignal {
    /// A signal that is not sent yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { sender: watch::Sender::new(false), clock }
    }

    /// Asks all components to stop.
    pub fn send(&self) {
        self.sender.send_replace(true);
    }

    /// Whether the server stops.
    pub fn is_sent(&self) -> bool {
        *self.sender.borrow()
    }

    /// Resolves when the server stops.
    pub async fn stopped(&self) {
        // `self` keeps the sender alive, so waiting cannot fail.
        let _ = self.sender.subscribe().wait_for(|stop| *stop).await;
    }

    /// Waits for the response of a helper. `None` if the server stops and the response does not arrive within a grace
    /// period. The helper may have processed the request; it is sent again after the next start.
    pub async fn unless_stopped<T>(&self, response: impl Future<Output = T>) -> Option<T> {
        let out_of_time = async {
            self.stopped().await;
            self.clock.sleep(STOP_GRACE).await;
        };
        tokio::select! {
            response = response => Some(response),
            () = out_of_time => None,
        }
    }
}
