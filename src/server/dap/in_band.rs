//! Tasks that are set up in-band: the peers whose tasks are taken, and what becomes of a request that sets one up.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use warp::http::HeaderMap;

use crate::{
    app::App,
    dap::{auth, routes::Routes},
};
use dapbox_aggregator::{
    Error,
    config::{Config, taskprov::read_peers},
    taskprov::{self, InBandTerms, OptOut},
    upload,
};
use dapbox_client::peer;
use dapbox_protocol::{
    model::{
        Duration, ReportError, Role, Task, TaskId, Tokens,
        taskprov::{InBandOrigin, PeerAggregator, PeerName},
    },
    wire::{
        self, Problem, ProblemType,
        taskprov::{self as messages, HEADER, UnsupportedTaskConfig},
    },
};
use dapbox_store::{TaskState, Tx, View};
use dapbox_support::{Point, clock};

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
        self.of_files().iter().any(|peer| name.matches(peer))
    }

    /// A peer as it is known now. What the operator says of it counts.
    pub fn find(&self, view: &View<'_>, name: &PeerName) -> Option<PeerAggregator> {
        let files = self.of_files();
        files.iter().chain(view.peers().values()).find(|peer| name.matches(peer)).cloned()
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

/// A task that a request advertises and that is not known yet: checked, and not set up.
pub struct Offer {
    /// The task.
    pub task: Task,
    in_band: InBandOrigin,
    terms: InBandTerms,
    role: Role,
}

impl Routes {
    /// Sets a task up if the request advertises it and it is not known yet (draft-wang-ppm-dap-taskprov-06 sections 5.1 and
    /// 6). Else it is for the rest of the request's way to find out whether the task is known.
    ///
    /// Whoever is not a known peer's learns no more than that.
    pub async fn opt_in(&self, app: &Arc<App>, id: TaskId, sender: Sender, headers: &HeaderMap) -> Result<(), Error> {
        match self.offer(app, id, sender, headers)? {
            Some(offer) => take_up(app, offer).await,
            None => Ok(()),
        }
    }

    /// The task that a request advertises, if it is not known yet and everything about it is right.
    pub fn offer(
        &self,
        app: &Arc<App>,
        id: TaskId,
        sender: Sender,
        headers: &HeaderMap,
    ) -> Result<Option<Offer>, Error> {
        let Some(value) = headers.get(HEADER) else { return Ok(None) };
        let Some(taskprov) = messages::for_revision(self.revision) else { return Ok(None) };
        if !app.store.read(|view| Ok(app.peers.are_any(view)))? {
            return Ok(None);
        }
        let bytes = taskprov.decode_header(value.as_bytes())?;
        if taskprov.task_id(&bytes) != id {
            let detail = "the task's id is not that of the configuration in the header dap-taskprov";
            return Err(Problem::new(ProblemType::UnrecognizedTask).with_detail(detail).into());
        }
        if app.context(&id)?.is_some() {
            return Ok(None);
        }
        let says = taskprov.decode(&bytes).map_err(|why| match why {
            UnsupportedTaskConfig::Malformed(malformed) => Error::from(malformed),
            UnsupportedTaskConfig::Unsupported(_) => invalid(&why),
        })?;
        let (role, now) = (sender.ours(), clock::now());
        let name = taskprov::peer_of(&says, role);
        let peer = app.store.read(|view| Ok(app.peers.find(view, &name)))?;
        let peer = peer.ok_or_else(|| invalid(&OptOut::UnknownPeer(name.role)))?;
        if sender != Sender::Client {
            auth::check(headers, id, &peer.tokens(), now)?;
        }
        let own_url = peer::dap_url(&app.config.public_url, self.revision);
        taskprov::check_own_url(&says, role, &own_url).map_err(|why| invalid(&why))?;
        let terms = terms(&app.config);
        let task = taskprov::task(&says, &peer, &terms, now).map_err(|why| invalid(&why))?;
        Ok(Some(Offer { task, in_band: InBandOrigin { at: now, bytes, peer: peer.endpoint }, terms, role }))
    }

    /// Sets the task of an upload up, which anybody may send, if the upload decodes and its reports can be taken. Returns
    /// why the first one cannot.
    pub async fn opt_in_with_reports(
        &self,
        app: &Arc<App>,
        offer: Offer,
        body: &Bytes,
    ) -> Result<Result<(), ReportError>, Error> {
        let (limits, ring, now) = (&app.config.limits, app.keys.ring(), clock::now());
        for report in wire::for_revision(self.revision).decode_upload(&offer.task.public, body)? {
            if let Err(refused) = upload::check_before_setup(&offer.task, now, limits, &ring, &report) {
                return Ok(Err(refused));
            }
        }
        take_up(app, offer).await.map(Ok)
    }
}

/// Adds a task that was advertised.
async fn take_up(app: &Arc<App>, offer: Offer) -> Result<(), Error> {
    let Offer { task, in_band, terms, role } = offer;
    app.disk.check()?;
    let (id, endpoint) = (task.public.id, in_band.peer.clone());
    let write = move |tx: &mut Tx<'_>| taskprov::add(tx, task, in_band, terms.max_tasks);
    let replaced =
        app.store.try_write(Point::TaskOptIn, write).await.map_err(|error| error.map_refusal(|why| invalid(&why)))?;
    for old in &replaced {
        app.forget(old);
        tracing::info!(task_id = %old, replaced_by = %id, "unused in-band task replaced");
    }
    app.sweeps.notify_one();
    tracing::info!(task_id = %id, %role, peer = endpoint, "in-band task added");
    Ok(())
}

fn invalid(why: &impl ToString) -> Error {
    Problem::new(ProblemType::InvalidTask).with_detail(why.to_string()).into()
}

/// What the operator says of all such tasks.
fn terms(config: &Config) -> InBandTerms {
    let kept = config.provisioning.report_expiry_age.as_secs();
    InBandTerms {
        min_batch_size: config.provisioning.min_batch_size,
        report_expiry_age: (kept > 0).then_some(Duration(kept)),
        max_tasks: config.taskprov.max_tasks,
    }
}
