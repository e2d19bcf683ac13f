//! `dapbox serve`: runs the server.

use std::{net::SocketAddr, sync::Arc};

use super::{
    Failure, Outcome,
    args::{ConfigArgs, ConfigSources},
    logging::{self, LevelHandle},
    service_manager,
    signals::{ReloadSignals, StopSignals},
};
use crate::{
    config::{address, environment},
    server::{Controls, Server},
    support::{Fault, version},
};

/// Arguments of `dapbox serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A server has the role of leader or helper per task. Tasks are added while it runs, with 'dapbox \
    task add'. SIGTERM or Ctrl-C stops it gracefully, a second one immediately; acknowledged data is never lost. SIGHUP \
    reloads the configuration, like 'dapbox reload', which also prints the result.\n\n\
    Examples:\n  \
    dapbox serve\n  \
    dapbox serve --config /etc/dapbox/appliance.toml\n  \
    dapbox serve --listen 127.0.0.1:8080 --data-dir /var/lib/dapbox\n\n\
    Environment variables override options of the file: DAPBOX_LIMITS__WORKERS=4."
)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Listen address; overrides listen of the configuration.
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
    let (mut signals, mut reload_signals) = (StopSignals::new()?, ReloadSignals::new()?);
    let server = service_manager::extend_timeout_during("opening the data directory", Server::start(config)).await?;
    server.set_controls(controls(sources, level));
    let monitor = server.monitor_address().map(tracing::field::display);
    tracing::info!(url = server.url(), address = %server.address(), monitor, data_dir, version = version::VERSION, "serving");
    let status = format!("serving on {}", server.url());
    service_manager::ready(&status);
    service_manager::start_watchdog(server.liveness_probe());
    let fault = run_until_stopped(&server, &mut signals, &mut reload_signals, &status).await;
    service_manager::stopping();
    tokio::select! {
        stopped = service_manager::extend_timeout_during("stopping", server.stop()) => stopped?,
        name = signals.next() => return Err(Failure::new(format!("second {name}: stopped immediately"))),
    }
    match fault {
        Some(fault) => Err(Failure::new(format!("the server failed: {fault}"))),
        None => {
            tracing::info!("stopped");
            Ok(())
        }
    }
}

/// Runs until a stop signal or a fault, and handles reload signals.
async fn run_until_stopped(
    server: &Server,
    signals: &mut StopSignals,
    reload_signals: &mut ReloadSignals,
    status: &str,
) -> Option<Fault> {
    loop {
        tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "shutting down");
                return None;
            }
            fault = server.failed() => return Some(fault),
            () = reload_signals.next() => {
                service_manager::reloading();
                // The result is logged.
                let _ = server.reread().await;
                service_manager::ready(status);
            }
        }
    }
}

/// The operations of this process that the server uses. A reload reads the sources of the start: a missing file is an error
/// and does not reset its options.
fn controls(sources: ConfigSources, level: LevelHandle) -> Controls {
    let level = Arc::new(level);
    let same = level.clone();
    Controls {
        reread: Box::new(move || sources.load().map_err(|error| error.to_string())),
        log_level: Box::new(move || level.get()),
        set_log_level: Box::new(move |wanted| same.set(wanted)),
        dropped_log_lines: Box::new(logging::dropped_lines),
    }
}
