//! A leader and a helper in this process, for `pair` and `demo`: two servers with separate data directories, as two
//! organisations would run them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{Failure, control::Socket, results, taskfile::TaskFiles};
use crate::{
    config::{Config, Disk, Leader, Monitor, OptionalAddress, Seconds},
    model::{ReportId, Revision, Secret, Task, TaskId},
    server::Server,
    store::CollectorRecord,
    support::Fault,
    views::{results::CollectorTaskStatus, status::TaskStatus},
    wire,
};

/// A leader and a helper on this machine.
pub struct Pair {
    /// The leader.
    pub leader: Node,
    /// The helper.
    pub helper: Node,
}

/// A server in this process.
pub struct Node {
    /// Its URL without the path of a revision.
    origin: String,
    /// Its data directory.
    pub data_dir: PathBuf,
    server: Server,
    control: Socket,
}

impl Pair {
    /// Starts both with data directories in `dir` on the given ports (0: any free port). With `has_monitor` they have private
    /// listeners on free ports, and the leader has one for results, too.
    pub async fn start(dir: &Path, ports: [u16; 2], has_monitor: bool) -> Result<Self, Failure> {
        let mut config = Node::config(dir.join("leader"), loopback(ports[0]), has_monitor.then(|| loopback(0)));
        config.results.listen = OptionalAddress(has_monitor.then(|| loopback(0)));
        let leader = Node::start_with(config).await?;
        match Node::start(dir.join("helper"), ports[1], has_monitor).await {
            Ok(helper) => Ok(Self { leader, helper }),
            Err(failure) => {
                leader.server.stop().await?;
                Err(failure)
            }
        }
    }

    /// Adds a task to both. `sabotage` gives the helper a wrong verification key, so that it rejects all reports.
    pub async fn add(&self, files: &TaskFiles, sabotage: bool) -> Result<(), Failure> {
        let wrong_file = || Failure::new("the task files are not those of a leader and a helper");
        let leader = files.leader.aggregator_task().ok_or_else(wrong_file)?;
        let mut helper: Task = files.helper.aggregator_task().ok_or_else(wrong_file)?;
        if sabotage {
            helper.verify_key = Secret::random(helper.verify_key.expose().len());
        }
        self.leader.control.add_task(&leader).await?;
        self.helper.control.add_task(&helper).await
    }

    /// Waits until one of them fails.
    pub async fn failed(&self) -> Failure {
        let (name, fault) = tokio::select! {
            fault = self.leader.server.failed() => ("leader", fault),
            fault = self.helper.server.failed() => ("helper", fault),
        };
        Failure::new(format!("the {name} failed: {fault}"))
    }

    /// Stops both.
    pub async fn stop(self) -> Result<(), Failure> {
        let (leader, helper) = tokio::join!(self.leader.server.stop(), self.helper.server.stop());
        Ok(leader.and(helper)?)
    }
}

impl Node {
    async fn start(data_dir: PathBuf, port: u16, has_monitor: bool) -> Result<Self, Failure> {
        Self::start_with(Self::config(data_dir, loopback(port), has_monitor.then(|| loopback(0)))).await
    }

    /// The configuration of a server for testing.
    pub fn config(data_dir: PathBuf, listen: SocketAddr, monitor: Option<SocketAddr>) -> Config {
        Config {
            data_dir,
            listen,
            monitor: Monitor { listen: OptionalAddress(monitor) },
            // Do not wait for more reports.
            leader: Leader {
                max_job_delay: Seconds::millis(100),
                retry_initial: Seconds::millis(100),
                retry_max: Seconds::new(5),
                ..Leader::default()
            },
            // Use little disk space.
            disk: Disk { reserve_bytes: 32 << 20, ballast_bytes: 0, ..Disk::default() },
            ..Config::default()
        }
    }

    /// Starts a server with a configuration.
    pub async fn start_with(config: Config) -> Result<Self, Failure> {
        let data_dir = config.data_dir.clone();
        let control = Socket::new(config.control_socket())?;
        let server = Server::start(config).await?;
        let origin = format!("http://{}", server.address());
        Ok(Self { origin, data_dir, server, control })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Adds a task.
    pub async fn add(&self, task: &Task) -> Result<(), Failure> {
        self.control.add_task(task).await
    }

    /// Makes it the collector of a task. Returns the address of the results.
    pub async fn collect(&self, record: &CollectorRecord) -> Result<Option<String>, Failure> {
        Ok(results::add_to_server(&self.control, record).await?.page)
    }

    /// The tasks that it collects.
    pub async fn collected(&self) -> Result<Vec<CollectorTaskStatus>, Failure> {
        results::tasks(&self.control).await
    }

    /// Waits until it fails.
    pub async fn failed(&self) -> Fault {
        self.server.failed().await
    }

    /// Stops it.
    pub async fn stop(self) -> Result<(), Failure> {
        Ok(self.server.stop().await?)
    }

    /// Its base URL of a revision, for task files.
    pub fn url(&self, revision: Revision) -> String {
        format!("{}/{}/", self.origin, wire::for_revision(revision).path_prefix())
    }

    /// The URL of its status page, if it has a private listener.
    pub fn monitor(&self) -> Option<String> {
        self.server.monitor_address().map(|address| format!("http://{address}/"))
    }

    /// The status of a task.
    pub async fn status(&self, id: &TaskId) -> Result<TaskStatus, Failure> {
        self.control.task(id).await?.ok_or_else(|| Failure::new(format!("unknown task {id}")))
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A working directory: an existing one, or a temporary one that is removed on drop.
pub struct WorkDir {
    path: PathBuf,
    temporary: bool,
}

impl WorkDir {
    /// Creates the given directory, or a private temporary one.
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

    /// Creates a temporary directory in `parent`, by default in the system's temporary directory.
    pub fn within(parent: Option<&Path>) -> Result<Self, Failure> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let mut directory = Self::new(Some(&parent.join(format!("dapbox-{}", ReportId::random()))))?;
        directory.temporary = true;
        Ok(directory)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is removed on drop.
    pub fn is_temporary(&self) -> bool {
        self.temporary
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if self.temporary {
            // The system cleans up what cannot be removed.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
