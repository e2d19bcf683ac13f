//! A template of a server's data directory that is copied for each run: every copy has the same keys and task, and no
//! reports.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    aggregator::{KeyRing, TaskContext, keys, tasks},
    cli::{control::Socket, failure::Failure},
    config::{Config, Disk, Leader, Monitor, OptionalAddress, Seconds},
    model::{HpkeConfig, ReportId, Task, TaskId},
    server::{self, Server},
    store::Store,
    support::Point,
    views::status::TaskStatus,
};
use dapbox_support::clock;

/// An aggregator's part of a task, with everything needed to process reports.
#[derive(Clone)]
pub struct PartyContext {
    /// The task.
    pub context: Arc<TaskContext>,
    /// The aggregator's keys.
    pub keys: Arc<KeyRing>,
}

impl PartyContext {
    /// Combines a task with the aggregator's keys.
    pub fn new(task: Task, keys: Arc<KeyRing>) -> Result<Self, Failure> {
        let context = TaskContext::new(Arc::new(task)).map_err(Failure::new)?;
        Ok(Self { context: Arc::new(context), keys })
    }
}

/// A template of a data directory.
pub struct ServerTemplate {
    template: PathBuf,
    /// The server's keys.
    pub keys: Arc<KeyRing>,
}

/// Whether a leader creates aggregation jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobDriver {
    /// As by default.
    Enabled,
    /// Reports wait.
    Disabled,
}

impl ServerTemplate {
    /// Creates a data directory below `dir`, with keys and no task.
    pub async fn new(dir: &Path) -> Result<Self, Failure> {
        let template = dir.join(format!("{}", ReportId::random()));
        fs::create_dir_all(&template)?;
        let store = open(&template)?;
        let (policy, now) = (keys::Policy::of(&Config::default()), clock::now());
        store.write(Point::KeysFirst, move |tx| keys::begin(tx, now, &policy)).await?;
        let keys = store.read(|view| KeyRing::load(view.keys().values()))?;
        store.close().await;
        Ok(Self { template, keys: Arc::new(keys) })
    }

    /// Adds a task to the template.
    pub async fn add(&self, task: Task) -> Result<PartyContext, Failure> {
        let party = PartyContext::new(task.clone(), self.keys.clone())?;
        let store = open(&self.template)?;
        store.try_write(Point::TaskAdd, move |tx| tasks::add(tx, task)).await?;
        store.close().await;
        Ok(party)
    }

    /// The HPKE config that clients seal to.
    pub fn public_key(&self) -> Result<HpkeConfig, Failure> {
        self.keys.configs().into_iter().next().ok_or_else(|| Failure::new("the server has no key"))
    }

    /// Starts a server on a fresh copy of the template.
    pub async fn start(&self, driving: JobDriver) -> Result<RunningServer, Failure> {
        let dir = self.template.with_extension("run");
        copy(&self.template, &dir)?;
        RunningServer::start(dir, driving).await
    }
}

/// A running server on a copy.
pub struct RunningServer {
    /// The server.
    pub server: Server,
    dir: PathBuf,
}

impl RunningServer {
    async fn start(dir: PathBuf, driving: JobDriver) -> Result<Self, Failure> {
        Ok(Self { server: Server::start(config(&dir, driving)).await?, dir })
    }

    /// Adds a task to the running server.
    pub async fn add(&self, task: &Task) -> Result<(), Failure> {
        Socket::new(config(&self.dir, JobDriver::Enabled).control_socket())?.add_task(task).await
    }

    /// The status of a task.
    pub fn status(&self, task: &TaskId) -> Result<TaskStatus, Failure> {
        self.server.task_status(task)?.ok_or_else(|| Failure::new(format!("task {task} was removed")))
    }

    /// Restarts the server on the same data.
    pub async fn restart(self, driving: JobDriver) -> Result<Self, Failure> {
        self.server.stop().await?;
        Self::start(self.dir, driving).await
    }

    /// Stops the server and removes its copy.
    pub async fn stop(self) -> Result<(), Failure> {
        self.server.stop().await?;
        Ok(fs::remove_dir_all(&self.dir)?)
    }
}

/// The configuration of a measured server: the defaults, without ballast.
fn config(dir: &Path, driving: JobDriver) -> Config {
    let defaults = Config::default();
    let leader = match driving {
        JobDriver::Enabled => Leader::default(),
        JobDriver::Disabled => {
            Leader { min_job_size: usize::MAX, max_job_delay: Seconds::new(7 * 86_400), ..Leader::default() }
        }
    };
    Config {
        data_dir: dir.to_owned(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        monitor: Monitor { listen: OptionalAddress(None) },
        disk: Disk { ballast_bytes: 0, ..Disk::default() },
        leader,
        ..defaults
    }
}

fn open(dir: &Path) -> Result<Store, Failure> {
    Ok(Store::open(dir, server::store_options(&config(dir, JobDriver::Enabled)))?)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
