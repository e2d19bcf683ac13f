//! `dapbox serve`: the appliance.

use std::net::SocketAddr;

use super::{Failure, Outcome, args::ConfigArgs, logging, signals::Signals};
use crate::server::Server;

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
    tracing::info!(url = server.url(), address = %server.address(), data_dir, version = env!("CARGO_PKG_VERSION"), "serving");
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
