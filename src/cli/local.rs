//! A leader and a helper in this process, for `pair` and `demo`: two servers with separate data, as two organisations
//! would run them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{Failure, control::Socket, taskfile::TaskFiles};
use crate::{
    config::{Config, Disk, Leader, Monitor, OptionalAddress, Seconds},
    model::{ReportId, Revision, Secret, Task, TaskId},
    server::Server,
    support::Fault,
    views::status::TaskStatus,
    wire,
};

/// A leader and a helper on this machine.
pub struct Pair {
    /// The leader.
    pub leader: Node,
    /// The helper.
    pub helper: Node,
}

/// One of them.
pub struct Node {
    /// Where it serves, without the path of a revision.
    origin: String,
    /// Its data directory.
    pub data_dir: PathBuf,
    server: Server,
    control: Socket,
}

impl Pair {
    /// Starts both, with data directories in `dir`, on the given ports (0: any that is free). `watched` says whether they
    /// have private listeners, on any ports.
    pub async fn start(dir: &Path, ports: [u16; 2], watched: bool) -> Result<Self, Failure> {
        let leader = Node::start(dir.join("leader"), ports[0], watched).await?;
        match Node::start(dir.join("helper"), ports[1], watched).await {
            Ok(helper) => Ok(Self { leader, helper }),
            Err(failure) => {
                leader.server.stop().await?;
                Err(failure)
            }
        }
    }

    /// Adds a task to both, each with its own file. `sabotage` gives the helper another verification key, so that it
    /// takes no report for valid.
    pub async fn add(&self, files: &TaskFiles, sabotage: bool) -> Result<(), Failure> {
        let wrong_file = || Failure::new("the task files do not belong to a leader and a helper");
        let leader = files.leader.aggregator_task().ok_or_else(wrong_file)?;
        let mut helper: Task = files.helper.aggregator_task().ok_or_else(wrong_file)?;
        if sabotage {
            helper.verify_key = Secret::random(helper.verify_key.expose().len());
        }
        self.leader.control.add_task(&leader).await?;
        self.helper.control.add_task(&helper).await
    }

    /// Resolves when one of them cannot go on.
    pub async fn failed(&self) -> Failure {
        let (name, fault) = tokio::select! {
            fault = self.leader.server.failed() => ("leader", fault),
            fault = self.helper.server.failed() => ("helper", fault),
        };
        Failure::new(format!("the {name} cannot go on: {fault}"))
    }

    /// Stops both.
    pub async fn stop(self) -> Result<(), Failure> {
        let (leader, helper) = tokio::join!(self.leader.server.stop(), self.helper.server.stop());
        Ok(leader.and(helper)?)
    }
}

impl Node {
    async fn start(data_dir: PathBuf, port: u16, watched: bool) -> Result<Self, Failure> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let monitor = watched.then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Self::start_with(Self::config(data_dir, listen, monitor)).await
    }

    /// How one is configured with which things are tried out.
    pub fn config(data_dir: PathBuf, listen: SocketAddr, monitor: Option<SocketAddr>) -> Config {
        Config {
            data_dir,
            listen,
            monitor: Monitor { listen: OptionalAddress(monitor) },
            // Whoever tries things out does not want to wait for more reports.
            leader: Leader {
                max_job_delay: Seconds::millis(100),
                retry_initial: Seconds::millis(100),
                retry_max: Seconds::new(5),
                ..Leader::default()
            },
            // Nor to have much room for it.
            disk: Disk { reserve_bytes: 32 << 20, ballast_bytes: 0, ..Disk::default() },
            ..Config::default()
        }
    }

    /// Starts one that is configured in this way.
    pub async fn start_with(config: Config) -> Result<Self, Failure> {
        let data_dir = config.data_dir.clone();
        let control = Socket::new(config.control_socket())?;
        let server = Server::start(config).await?;
        let origin = format!("http://{}", server.address());
        Ok(Self { origin, data_dir, server, control })
    }

    /// The address that it serves on.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Adds a task.
    pub async fn add(&self, task: &Task) -> Result<(), Failure> {
        self.control.add_task(task).await
    }

    /// Resolves when it cannot go on.
    pub async fn failed(&self) -> Fault {
        self.server.failed().await
    }

    /// Stops it.
    pub async fn stop(self) -> Result<(), Failure> {
        Ok(self.server.stop().await?)
    }

    /// Its base URL for task files, where it speaks a revision.
    pub fn url(&self, revision: Revision) -> String {
        format!("{}/{}/", self.origin, wire::for_revision(revision).path_prefix())
    }

    /// Where to watch it, if it can be watched.
    pub fn monitor(&self) -> Option<String> {
        self.server.monitor_address().map(|address| format!("http://{address}/"))
    }

    /// How far a task is.
    pub async fn status(&self, id: &TaskId) -> Result<TaskStatus, Failure> {
        self.control.task(id).await?.ok_or_else(|| Failure::new(format!("the task {id} is gone")))
    }
}

/// A directory: one that was asked for and stays, or one of our own that is removed with this.
pub struct Directory {
    path: PathBuf,
    temporary: bool,
}

impl Directory {
    /// The directory that was asked for, or a temporary one that only we can read.
    pub fn new(wanted: Option<&Path>) -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let (path, temporary) = match wanted {
            Some(path) => (path.to_owned(), false),
            None => (std::env::temp_dir().join(format!("dapbox-{}", ReportId::random())), true),
        };
        let made = std::fs::DirBuilder::new().recursive(!temporary).mode(0o700).create(&path);
        made.map_err(|e| Failure::new(e).context(path.display()))?;
        Ok(Self { path, temporary })
    }

    /// A temporary one in a directory that is there, by default in the system's for such things.
    pub fn within(parent: Option<&Path>) -> Result<Self, Failure> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let mut directory = Self::new(Some(&parent.join(format!("dapbox-{}", ReportId::random()))))?;
        directory.temporary = true;
        Ok(directory)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is removed in the end.
    pub fn is_temporary(&self) -> bool {
        self.temporary
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed is left for the system to clean up.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
