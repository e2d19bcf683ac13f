//! `dapbox serve`: the appliance.

use std::{net::SocketAddr, path::PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, Outcome, logging};
use crate::{
    config::{Config, Overrides},
    server::Server,
};

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "appliance.toml";

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigArgs {
    /// Configuration file. Without this, appliance.toml is read if it is there.
    #[arg(long, value_name = "FILE", env = "DAPBOX_CONFIG")]
    pub config: Option<PathBuf>,
    /// Directory for everything that must survive a restart.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl ConfigArgs {
    /// Reads the configuration.
    pub fn load(&self, listen: Option<SocketAddr>) -> Result<Config, Failure> {
        let default = PathBuf::from(DEFAULT_FILE);
        let file = self.config.clone().or_else(|| default.exists().then_some(default));
        let flags = Overrides { data_dir: self.data_dir.clone(), listen };
        Ok(Config::load(file.as_deref(), &flags)?)
    }
}

/// Arguments of `dapbox serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The server is leader and helper at once: which one it is, is a matter of each task. \
    Tasks are added while it runs, with 'dapbox task add'. SIGTERM or ctrl-c stops it gracefully, a second one at \
    once; nothing that was acknowledged is lost either way.\n\n\
    Examples:\n  \
    dapbox serve\n  \
    dapbox serve --config /etc/dapbox/appliance.toml\n  \
    dapbox serve --listen 0.0.0.0:8080 --data-dir /var/lib/dapbox\n\n\
    Every option of the file can be set in the environment: DAPBOX_LIMITS__WORKERS=4.")]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

/// Runs `dapbox serve`.
pub async fn run(args: Args) -> Outcome {
    let config = args.config.load(args.listen)?;
    logging::start(&config.log)?;
    let data_dir = config.data_dir.display().to_string();
    let mut signals = Signals::new()?;
    let server = Server::start(config).await?;
    tracing::info!(address = %server.address(), data_dir, version = env!("CARGO_PKG_VERSION"), "serving");
    let fault = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping; once more to stop at once");
            None
        }
        fault = server.failed() => Some(fault),
    };
    tokio::select! {
        stopped = server.stop() => stopped?,
        name = signals.next() => return Err(Failure::new(format!("{name} again: stopped at once"))),
    }
    match fault {
        Some(fault) => Err(Failure::new(format!("the server cannot go on: {fault}"))),
        None => {
            tracing::info!("stopped");
            Ok(())
        }
    }
}

/// The signals that ask us to stop.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals over from the system, which would end the process.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for one and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
