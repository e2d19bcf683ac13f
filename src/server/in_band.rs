//! Tasks that are set up in-band: the peers whose tasks are taken, and what becomes of a request that sets one up.

use std::sync::{Arc, PoisonError, RwLock};

use warp::http::HeaderMap;

use super::{app::App, auth, routes::Routes};
use crate::{
    aggregator::{
        Error,
        taskprov::{self, OptOut, Terms},
    },
    config::{Config, taskprov::read_peers},
    model::{
        Duration, Point, Role, TaskId, Time, Tokens,
        taskprov::{InBand, PeerAggregator, PeerName},
    },
    store::{TaskState, Tx, View},
    wire::{
        Problem, ProblemType,
        taskprov::{self as messages, HEADER, Unfit},
    },
};

/// The peers that the operator has files of. Those that a control plane has named are in the store.
pub struct Peers(RwLock<Arc<[PeerAggregator]>>);

impl Peers {
    /// Those of the configuration.
    pub fn new(peers: Vec<PeerAggregator>) -> Self {
        Self(RwLock::new(peers.into()))
    }

    fn of_files(&self) -> Arc<[PeerAggregator]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there are any: else nothing is ever set up in-band.
    pub fn are_any(&self, view: &View<'_>) -> bool {
        !self.of_files().is_empty() || !view.peers().is_empty()
    }

    /// Whether the operator has a file of this peer.
    pub fn has_file(&self, name: &PeerName) -> bool {
        self.of_files().iter().any(|peer| name.is_of(peer))
    }

    /// A peer as it is known now. What the operator says of it counts.
    pub fn find(&self, view: &View<'_>, name: &PeerName) -> Option<PeerAggregator> {
        let files = self.of_files();
        files.iter().chain(view.peers().values()).find(|peer| name.is_of(peer)).cloned()
    }

    /// The tokens that are in force for a task.
    pub fn tokens(&self, view: &View<'_>, state: &TaskState) -> Tokens {
        let Some(in_band) = &state.in_band else { return state.tokens.clone() };
        let role = if state.task.role() == Role::Leader { Role::Helper } else { Role::Leader };
        let name = PeerName { endpoint: in_band.peer.clone(), role };
        self.find(view, &name).map(|peer| peer.tokens()).unwrap_or_default()
    }
}

impl App {
    /// Reads the peers' files again. If one cannot be used, the peers stay as they are.
    pub fn reread_peers(&self) -> Result<(), String> {
        let peers = read_peers(&self.config.taskprov.peers)?;
        *self.peers.0.write().unwrap_or_else(PoisonError::into_inner) = peers.into();
        self.reread_in_band();
        Ok(())
    }
}

/// Who sends a request that may set a task up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A client: it has no token.
    Client,
    /// The collector.
    Collector,
    /// The leader.
    Leader,
}

impl Sender {
    /// Our role in the task.
    fn ours(self) -> Role {
        if self == Self::Leader { Role::Helper } else { Role::Leader }
    }
}

impl Routes {
    /// Sets a task up if the request advertises it and it is not known yet (draft-wang-ppm-dap-taskprov-06 sections 5.1 and
    /// 6). Else it is for the rest of the request's way to find out whether the task is known.
    ///
    /// Whoever is not a known peer's learns no more than that.
    pub async fn opt_in(&self, app: &Arc<App>, id: TaskId, sender: Sender, headers: &HeaderMap) -> Result<(), Error> {
        let Some(value) = headers.get(HEADER) else { return Ok(()) };
        let Some(taskprov) = messages::of(self.revision) else { return Ok(()) };
        if !app.store.read(|view| Ok(app.peers.are_any(view)))? {
            return Ok(());
        }
        let bytes = taskprov.decode_header(value.as_bytes())?;
        if taskprov.task_id(&bytes) != id {
            let detail = "the task's id is not that of the configuration in the header dap-taskprov";
            return Err(Problem::new(ProblemType::UnrecognizedTask).with_detail(detail).into());
        }
        if app.context(&id)?.is_some() {
            return Ok(());
        }
        let says = taskprov.decode(&bytes).map_err(|why| match why {
            Unfit::Malformed(malformed) => Error::from(malformed),
            Unfit::Unsupported(_) => invalid(&why),
        })?;
        let name = taskprov::peer_of(&says, sender.ours());
        let peer = app.store.read(|view| Ok(app.peers.find(view, &name)))?;
        let peer = peer.ok_or_else(|| invalid(&OptOut::NoPeer(name.role)))?;
        let now = Time::now();
        if sender != Sender::Client {
            auth::check(headers, id, &peer.tokens(), now)?;
        }
        let terms = terms(&app.config);
        let task = taskprov::task(&says, &peer, &terms, now).map_err(|why| invalid(&why))?;
        app.disk.check()?;
        let in_band = InBand { at: now, bytes, peer: peer.endpoint.clone() };
        let write = move |tx: &mut Tx<'_>| taskprov::add(tx, task, in_band, terms.max_tasks);
        app.store.write(Point::TaskOptIn, write).await?.map_err(|why| invalid(&why))?;
        tracing::info!(task = %id, role = %sender.ours(), peer = peer.endpoint, "a task was set up in-band");
        Ok(())
    }
}

fn invalid(why: &impl ToString) -> Error {
    Problem::new(ProblemType::InvalidTask).with_detail(why.to_string()).into()
}

/// What the operator says of all such tasks.
fn terms(config: &Config) -> Terms {
    let kept = config.provisioning.report_expiry_age.as_secs();
    Terms {
        min_batch_size: config.provisioning.min_batch_size,
        report_expiry_age: (kept > 0).then_some(Duration(kept)),
        max_tasks: config.taskprov.max_tasks,
    }
}
