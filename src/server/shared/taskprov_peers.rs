//! The peers whose tasks are set up in-band.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use dapbox_aggregator::config::taskprov::read_peers;
use dapbox_protocol::model::{
    Role, Tokens,
    taskprov::{PeerAggregator, PeerName},
};
use dapbox_store::{TaskState, View};

/// The peers of the operator's files. The store has those that a control plane has added.
pub struct TaskprovPeers(RwLock<Arc<[PeerAggregator]>>);

impl TaskprovPeers {
    /// Starts with the peers of the configuration.
    pub fn new(peers: Vec<PeerAggregator>) -> Self {
        Self(RwLock::new(peers.into()))
    }

    fn file_peers(&self) -> Arc<[PeerAggregator]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again. If one is invalid, the peers stay as they are.
    pub fn reload(&self, files: &[PathBuf]) -> Result<(), String> {
        let peers = read_peers(files)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = peers.into();
        Ok(())
    }

    /// Whether there is any peer. Without one, no task is set up in-band.
    pub fn has_peers(&self, view: &View<'_>) -> bool {
        !self.file_peers().is_empty() || !view.peers().is_empty()
    }

    /// Whether the operator has a file of the peer.
    pub fn has_file(&self, name: &PeerName) -> bool {
        self.file_peers().iter().any(|peer| name.matches(peer))
    }

    /// Finds a peer. The operator's files take precedence.
    pub fn find(&self, view: &View<'_>, name: &PeerName) -> Option<PeerAggregator> {
        let files = self.file_peers();
        files.iter().chain(view.peers().values()).find(|peer| name.matches(peer)).cloned()
    }

    /// The tokens of a task: its own, or those of its peer if it was set up in-band.
    pub fn tokens(&self, view: &View<'_>, state: &TaskState) -> Tokens {
        let Some(in_band) = &state.in_band else { return state.tokens.clone() };
        let role = if state.task.role() == Role::Leader { Role::Helper } else { Role::Leader };
        let name = PeerName { endpoint: in_band.peer.clone(), role };
        self.find(view, &name).map(|peer| peer.tokens()).unwrap_or_default()
    }
}
