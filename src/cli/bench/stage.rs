//! A server's data directory that is made once and copied for each run, so that what was prepared for it can be used
//! again: each copy has the same keys and the same task, and has seen nothing yet.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    aggregator::{KeyRing, TaskContext, keys, tasks},
    cli::Failure,
    config::{Config, Disk},
    model::{HpkeConfig, Point, Task, Time},
    server::{self, Server},
    store::Store,
};

/// A data directory to copy, and what is in it.
pub struct Stage {
    template: PathBuf,
    /// The task.
    pub context: Arc<TaskContext>,
    /// The server's keys.
    pub keys: Arc<KeyRing>,
}

impl Stage {
    /// Makes the directory `template` of a server that has one task.
    pub async fn new(template: PathBuf, task: Task) -> Result<Self, Failure> {
        fs::create_dir_all(&template)?;
        let config = config(&template);
        let store = Store::open(&template, server::store_options(&config))?;
        let (suite, now) = (config.hpke.suite(), Time::now());
        store.write(Point::KeysFirst, move |tx| keys::ensure_first(tx, suite, now)).await?;
        let keys = store.read(|view| KeyRing::load(view.keys().values()))?;
        let context = TaskContext::new(Arc::new(task.clone())).map_err(Failure::new)?;
        store.write(Point::TaskAdd, move |tx| tasks::add(tx, task)).await??;
        store.close().await;
        Ok(Self { template, context: Arc::new(context), keys: Arc::new(keys) })
    }

    /// The key that clients seal to.
    pub fn public_key(&self) -> Result<HpkeConfig, Failure> {
        self.keys.configs().into_iter().next().ok_or_else(|| Failure::new("the server has no key"))
    }

    /// Starts a server on a fresh copy, beside the template.
    pub async fn start(&self) -> Result<Running, Failure> {
        let dir = self.template.with_extension("run");
        copy(&self.template, &dir)?;
        let server = Server::start(config(&dir)).await?;
        Ok(Running { server, dir })
    }
}

/// A server on a copy.
pub struct Running {
    /// The server.
    pub server: Server,
    dir: PathBuf,
}

impl Running {
    /// Stops the server and removes the copy.
    pub async fn stop(self) -> Result<(), Failure> {
        self.server.stop().await?;
        Ok(fs::remove_dir_all(&self.dir)?)
    }
}

/// What servers are measured with: the defaults, and no room held back beside the reserve.
fn config(dir: &Path) -> Config {
    Config {
        data_dir: dir.to_owned(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        disk: Disk { ballast_bytes: 0, ..Disk::default() },
        ..Config::default()
    }
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
