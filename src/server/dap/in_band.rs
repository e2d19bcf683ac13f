//! Sets up tasks that requests advertise in-band (taskprov).

use bytes::Bytes;
use warp::http::HeaderMap;

use crate::dap::{auth, context::RequestContext, routes::Routes};
use dapbox_aggregator::{
    Error,
    config::Config,
    taskprov::{self, InBandTerms, OptOut},
    upload,
};
use dapbox_client::peer;
use dapbox_protocol::{
    model::{Duration, ReportError, ReportId, Role, Task, TaskId, taskprov::InBandOrigin},
    wire::{
        self, Problem, ProblemType,
        taskprov::{self as messages, HEADER, UnsupportedTaskConfig},
    },
};
use dapbox_store::Tx;
use dapbox_support::Point;

/// The sender of a request that may advertise a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestSender {
    /// A client, without a token.
    Client,
    /// The collector.
    Collector,
    /// The leader.
    Leader,
}

impl RequestSender {
    /// Our role in the task.
    fn ours(self) -> Role {
        if self == Self::Leader { Role::Helper } else { Role::Leader }
    }
}

/// A task that a request advertises: checked, but not set up yet.
pub struct AdvertisedTask {
    /// The task.
    pub task: Task,
    in_band: InBandOrigin,
    terms: InBandTerms,
    role: Role,
}

impl Routes {
    /// Sets up the task that the request advertises, unless it exists (draft-wang-ppm-dap-taskprov-06 sections 5.1 and 6,
    /// draft-ietf-ppm-dap-taskprov-04 sections 3.5 to 3.9). Does nothing for a request without an advertisement.
    ///
    /// The error for a sender that is not a known peer does not reveal more than that.
    pub async fn opt_in(
        &self,
        ctx: &RequestContext,
        id: TaskId,
        sender: RequestSender,
        headers: &HeaderMap,
    ) -> Result<(), Error> {
        match self.advertised_task(ctx, id, sender, headers)? {
            Some(advertised) => add_task(ctx, advertised).await,
            None => Ok(()),
        }
    }

    /// Checks and returns the advertised task, if there is one and it does not exist yet.
    pub fn advertised_task(
        &self,
        ctx: &RequestContext,
        id: TaskId,
        sender: RequestSender,
        headers: &HeaderMap,
    ) -> Result<Option<AdvertisedTask>, Error> {
        let Some(value) = headers.get(HEADER) else { return Ok(None) };
        let Some(taskprov) = messages::for_revision(self.revision) else { return Ok(None) };
        if !ctx.store.read(|view| Ok(ctx.peers.has_peers(view)))? {
            return Ok(None);
        }
        let Some(bytes) = taskprov.decode_header(value.as_bytes())? else { return Ok(None) };
        if taskprov.task_id(&bytes) != id {
            let detail = "the task id does not match the configuration in the dap-taskprov header";
            return Err(Problem::new(ProblemType::UnrecognizedTask).with_detail(detail).into());
        }
        if ctx.tasks.get(&id)?.is_some() {
            return Ok(None);
        }
        let task_config = match taskprov.decode(&bytes) {
            Ok(task_config) => task_config,
            Err(UnsupportedTaskConfig::Malformed(_)) if taskprov.ignores_malformed() => return Ok(None),
            Err(UnsupportedTaskConfig::Malformed(malformed)) => return Err(malformed.into()),
            Err(why @ UnsupportedTaskConfig::Unsupported(_)) => return Err(invalid(&why)),
        };
        let (role, now) = (sender.ours(), ctx.clock.now());
        let name = taskprov::peer_of(&task_config, role);
        let peer = ctx.store.read(|view| Ok(ctx.peers.find(view, &name)))?;
        let peer = peer.ok_or_else(|| invalid(&OptOut::UnknownPeer(name.role)))?;
        if sender != RequestSender::Client {
            auth::check(headers, id, &peer.tokens(), now)?;
        }
        let config = ctx.config.get();
        let own_url = peer::dap_url(&config.public_url, self.revision);
        taskprov::check_own_url(&task_config, role, &own_url).map_err(|why| invalid(&why))?;
        let terms = terms(&config);
        let task = taskprov::task(&task_config, &peer, &terms, now).map_err(|why| invalid(&why))?;
        Ok(Some(AdvertisedTask { task, in_band: InBandOrigin { at: now, bytes, peer: peer.endpoint }, terms, role }))
    }

    /// Sets up the task of an upload if the body decodes and one of its reports is acceptable. Otherwise returns the error
    /// of each report. The check matters, because uploads carry no token.
    pub async fn opt_in_for_upload(
        &self,
        ctx: &RequestContext,
        advertised: AdvertisedTask,
        body: &Bytes,
    ) -> Result<Vec<(ReportId, ReportError)>, Error> {
        let (config, ring, now) = (ctx.config.get(), ctx.keys.ring(), ctx.clock.now());
        let mut refused = Vec::new();
        for report in wire::for_revision(self.revision).decode_upload(&advertised.task.public, body)? {
            match upload::check_before_setup(&advertised.task, now, &config.limits, &ring, &report) {
                Ok(()) => return add_task(ctx, advertised).await.map(|()| Vec::new()),
                Err(error) => refused.push((report.metadata.id, error)),
            }
        }
        Ok(refused)
    }
}

/// Adds an advertised task to the store.
async fn add_task(ctx: &RequestContext, advertised: AdvertisedTask) -> Result<(), Error> {
    let AdvertisedTask { task, in_band, terms, role } = advertised;
    ctx.disk.check()?;
    let (id, endpoint) = (task.public.id, in_band.peer.clone());
    let write = move |tx: &mut Tx<'_>| taskprov::add(tx, task, in_band, terms.max_tasks);
    let replaced =
        ctx.store.try_write(Point::TaskOptIn, write).await.map_err(|error| error.map_refusal(|why| invalid(&why)))?;
    for old in &replaced {
        ctx.tasks.forget(old);
        tracing::info!(task_id = %old, replaced_by = %id, "unused in-band task replaced");
    }
    ctx.wakeups.sweeps.notify_one();
    tracing::info!(task_id = %id, %role, peer = endpoint, "in-band task added");
    Ok(())
}

fn invalid(why: &impl ToString) -> Error {
    Problem::new(ProblemType::InvalidTask).with_detail(why.to_string()).into()
}

/// The parameters of in-band tasks that the operator configures.
fn terms(config: &Config) -> InBandTerms {
    let kept = config.provisioning.report_expiry_age.as_secs();
    InBandTerms {
        min_batch_size: config.provisioning.min_batch_size,
        report_expiry_age: (kept > 0).then_some(Duration(kept)),
        max_tasks: config.taskprov.max_tasks,
    }
}
