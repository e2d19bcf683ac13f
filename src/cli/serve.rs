//! `dapbox serve`: the appliance.

use std::{net::SocketAddr, sync::Arc};

use super::{
    Failure, Outcome,
    args::{ConfigArgs, Sources},
    logging::{self, Level},
    manager,
    signals::{Hangups, Signals},
};
use crate::{
    config::{address, environment},
    server::{Controls, Server},
    support::{Fault, version},
};

/// Arguments of `dapbox serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The server is leader and helper at once: which one it is, is a matter of each task. \
    Tasks are added while it runs, with 'dapbox task add'. SIGTERM or ctrl-c stops it gracefully, a second one at \
    once; nothing that was acknowledged is lost either way. SIGHUP has it take over a changed configuration, as \
    'dapbox reload' does, which also says what came of it.\n\n\
    Examples:\n  \
    dapbox serve\n  \
    dapbox serve --config /etc/dapbox/appliance.toml\n  \
    dapbox serve --listen 127.0.0.1:8080 --data-dir /var/lib/dapbox\n\n\
    Every option of the file can be set in the environment: DAPBOX_LIMITS__WORKERS=4.")]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", value_parser = address::parse)]
    listen: Option<SocketAddr>,
}

/// Runs `dapbox serve`.
pub async fn run(args: Args) -> Outcome {
    let (config, sources) = args.config.load_with_sources(args.listen)?;
    let level = logging::start(&config.log)?;
    let service_variables = environment::service_variables(environment::read(std::env::vars_os())?);
    if !service_variables.is_empty() {
        tracing::info!(variables = service_variables.join(" "), "environment variables of Kubernetes services ignored");
    }
    let data_dir = config.data_dir.display().to_string();
    let (mut signals, mut hangups) = (Signals::new()?, Hangups::new()?);
    let server = manager::patiently("opening the data directory", Server::start(config)).await?;
    server.set_controls(controls(sources, level));
    let monitor = server.monitor_address().map(tracing::field::display);
    tracing::info!(url = server.url(), address = %server.address(), monitor, data_dir, version = version::VERSION, "serving");
    let status = format!("serving on {}", server.url());
    manager::ready(&status);
    manager::keep_alive(server.pulse());
    let fault = until_the_end(&server, &mut signals, &mut hangups, &status).await;
    manager::stopping();
    tokio::select! {
        stopped = manager::patiently("stopping", server.stop()) => stopped?,
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

/// Waits until the server is to stop, or cannot go on. Reloads meanwhile as often as it is asked to.
async fn until_the_end(server: &Server, signals: &mut Signals, hangups: &mut Hangups, status: &str) -> Option<Fault> {
    loop {
        tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "shutting down");
                return None;
            }
            fault = server.failed() => return Some(fault),
            () = hangups.next() => {
                manager::reloading();
                // What came of it is in the log.
                let _ = server.reread().await;
                manager::ready(status);
            }
        }
    }
}

/// What we can do for the server: read its configuration again, and change the log. It comes from where it came from at the
/// start: a file that is gone is an error, and not the end of all that it had said.
fn controls(sources: Sources, level: Level) -> Controls {
    let level = Arc::new(level);
    let same = level.clone();
    Controls {
        reread: Box::new(move || sources.load().map_err(|error| error.to_string())),
        log_level: Box::new(move || level.get()),
        set_log_level: Box::new(move |wanted| same.set(wanted)),
        dropped_log_lines: Box::new(logging::dropped_lines),
    }
}
