//! A running server.

use std::{net::SocketAddr, sync::Arc};

use tokio::task::JoinSet;

use crate::{
    operator::{context::ReloadContext, controls::Controls, liveness::LivenessProbe, reload},
    shared::{clock::Clock, config_handle::ConfigHandle, stop::StopSignal},
    transport::tls::CertificateError,
    upkeep::supervise::Parts,
};
use dapbox_aggregator::{
    config::{Config, TlsMode, changes::ReloadResult},
    tasks,
    views::status::TaskStatus,
};
use dapbox_protocol::{model::TaskId, vdaf::AggregateResult};
use dapbox_store::Store;
use dapbox_support::Fault;

/// A running server. Dropping it does not stop it: call [`Server::stop`].
pub struct Server {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: ConfigHandle,
    pub(crate) store: Store,
    pub(crate) stop: StopSignal,
    pub(crate) state: Arc<Parts>,
    pub(crate) reload: Arc<ReloadContext>,
    /// The listeners and drivers.
    pub(crate) parts: JoinSet<()>,
    /// The monitoring listener, which answers until all other components have stopped.
    pub(crate) monitor: JoinSet<()>,
    pub(crate) address: SocketAddr,
    pub(crate) monitor_address: Option<SocketAddr>,
    pub(crate) results_address: Option<SocketAddr>,
    pub(crate) management_address: Option<SocketAddr>,
}

impl Server {
    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A probe for service managers.
    pub fn liveness_probe(&self) -> LivenessProbe {
        LivenessProbe::new(self.store.clone())
    }

    /// The base URL of the server on this machine.
    pub fn url(&self) -> String {
        let scheme = if self.config.get().tls.mode == TlsMode::Off { "http" } else { "https" };
        format!("{scheme}://{}/", self.address)
    }

    /// Reads the certificate files again. If they are invalid, the current certificate stays in use.
    pub fn reload_certificates(&self) -> Result<(), CertificateError> {
        reload::recheck_certificate(&self.reload)
    }

    /// The monitoring address, if there is one.
    pub fn monitor_address(&self) -> Option<SocketAddr> {
        self.monitor_address
    }

    /// The address of the pages of results, if there is one.
    pub fn results_address(&self) -> Option<SocketAddr> {
        self.results_address
    }

    /// The address of the management API, if it has its own.
    pub fn management_address(&self) -> Option<SocketAddr> {
        self.management_address
    }

    /// Number of durable commits since the start.
    pub fn commits(&self) -> u64 {
        self.store.commits()
    }

    /// The status of a task, if it exists.
    pub fn task_status(&self, id: &TaskId) -> Result<Option<TaskStatus>, Fault> {
        self.store.read(|view| Ok(view.task(id).map(tasks::status)))
    }

    /// The ids of all tasks, in order.
    pub fn task_ids(&self) -> Result<Vec<TaskId>, Fault> {
        self.store.read(|view| Ok(view.tasks().map(|(id, _)| *id).collect()))
    }

    /// The stored result of a window that this server collected.
    pub fn window_result(&self, task: &TaskId, number: u64) -> Result<Option<AggregateResult>, Fault> {
        self.store.read(|view| view.window_result(task, number))
    }

    /// Sets what the process provides to the server, once: later calls have no effect.
    pub fn set_controls(&self, controls: Controls) {
        let _ = self.reload.controls.set(controls);
    }

    /// Reads the configuration again and applies the options that can change. An invalid configuration changes nothing.
    pub async fn reread(&self) -> Result<ReloadResult, String> {
        reload::reread(&self.reload).await
    }

    /// Applies the options of `new` that can change. An invalid configuration changes nothing.
    pub async fn reload(&self, new: Config) -> Result<ReloadResult, String> {
        reload::reload(&self.reload, new).await
    }

    /// Resolves with the reason when the server cannot continue and must be restarted.
    pub async fn failed(&self) -> Fault {
        self.state.fatal_fault().await
    }

    /// Shuts down: refuses new requests, finishes requests in progress, stores what was accepted and closes the data
    /// directory. Aborts what exceeds `limits.stop_timeout`; acknowledged data is never lost.
    pub async fn stop(mut self) -> Result<(), Fault> {
        self.stop.send();
        let config = self.config.get();
        let ended = async { while self.parts.join_next().await.is_some() {} };
        let in_time = tokio::select! {
            () = ended => true,
            () = self.clock.sleep(*config.limits.stop_timeout) => false,
        };
        if !in_time {
            tracing::warn!("shutdown timed out");
            self.parts.shutdown().await;
        }
        let _ = std::fs::remove_file(config.control_socket());
        self.monitor.shutdown().await;
        self.store.close().await;
        Ok(())
    }
}
