//! Reloads the configuration of a running server, and changes the log filter.

use std::sync::Arc;

use warp::http::StatusCode;

use crate::{
    operator::context::{OperatorContext, ReloadContext},
    operator::control_http::{json, read},
    transport::{
        http::{Request, Response},
        tls::CertificateError,
    },
};
use dapbox_aggregator::{
    Error,
    config::{
        Config,
        changes::{LogLevel, ReloadResult},
    },
};
use dapbox_protocol::{model::Duration, wire::Problem};
use dapbox_store::Store;
use dapbox_support::{Fault, Point};

/// Stores the accepted clock skew of reports, so that a restore of any later backup closes that much.
pub async fn note_clock_skew(store: &Store, config: &Config) -> Result<(), Fault> {
    let skew = Duration(config.limits.clock_skew.as_secs());
    store.write(Point::ClockSkew, move |tx| tx.raise_clock_skew(skew)).await
}

pub async fn reread(ctx: &Arc<ReloadContext>) -> Result<ReloadResult, String> {
    let shared = ctx.clone();
    let read = tokio::task::spawn_blocking(move || match shared.controls.get() {
        Some(controls) => (controls.reread)(),
        None => Err("this server has no configuration file".to_owned()),
    });
    let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
    let done = match read {
        Ok(new) => reload(ctx, new).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &done {
        tracing::error!(%error, "configuration reload failed");
    }
    done
}

pub async fn reload(ctx: &Arc<ReloadContext>, new: Config) -> Result<ReloadResult, String> {
    let _guard = ctx.lock.lock().await;
    let old = ctx.config.get();
    let mixed = old.with_reloadable(&new).map_err(|error| error.to_string())?;
    let changed = old.changes(&mixed).map_err(|error| error.to_string())?;
    let needs_restart = mixed.changes(&new).map_err(|error| error.to_string())?;
    // A reload resets the log filter, even if it was changed at run time only.
    if let Some(controls) = ctx.controls.get() {
        (controls.set_log_level)(&mixed.log.level)?;
    }
    // Stored before a report is accepted with the new skew.
    note_clock_skew(&ctx.store, &mixed).await.map_err(|fault| fault.to_string())?;
    ctx.disk.adopt(&mixed.disk);
    if !changed.is_empty() {
        ctx.config.replace(mixed);
    }
    let errors = recheck(ctx).await;
    let reloaded = ReloadResult { changed, needs_restart, errors };
    log_result(&reloaded);
    // Delays of jobs and the required keys may have changed.
    ctx.wakeups.jobs.notify_one();
    ctx.keys.changed.notify_one();
    Ok(reloaded)
}

/// Checks again what is otherwise checked periodically or at the start: free space, certificate, root certificates for
/// helpers, and the files of peers. Returns the errors.
async fn recheck(ctx: &Arc<ReloadContext>) -> Vec<String> {
    let shared = ctx.clone();
    let looked = tokio::task::spawn_blocking(move || {
        shared.disk.check_and_fill_ballast();
        let renewed = recheck_certificate(&shared);
        let renewed = renewed.map_err(|error| error.to_string());
        [renewed, shared.peers.reload_roots(&shared.config.get().peer.ca_file), reload_taskprov_peers(&shared)]
            .into_iter()
            .filter_map(Result::err)
            .collect()
    });
    looked.await.unwrap_or_else(|error| vec![error.to_string()])
}

/// Reads the files of the certificate again. If they are invalid, the current certificate stays in use.
pub fn recheck_certificate(ctx: &ReloadContext) -> Result<(), CertificateError> {
    let files = ctx.certificate_files.as_ref();
    files.map_or(Ok(()), |files| files.look(&ctx.certificates, ctx.clock.now()))
}

fn reload_taskprov_peers(ctx: &ReloadContext) -> Result<(), String> {
    ctx.taskprov_peers.reload(&ctx.config.get().taskprov.peers)?;
    ctx.tasks.invalidate_in_band();
    Ok(())
}

fn log_result(ReloadResult { changed, needs_restart, errors }: &ReloadResult) {
    for change in changed {
        tracing::info!(option = change.key, from = change.from, to = change.to, "configuration option changed");
    }
    for change in needs_restart {
        tracing::warn!(option = change.key, from = change.from, to = change.to, "configuration option needs restart");
    }
    for trouble in errors {
        tracing::error!(error = trouble, "cannot reload file");
    }
    tracing::info!(changed_count = changed.len(), restart_count = needs_restart.len(), "configuration reloaded");
}

/// Answers requests of the control socket about reloads and the log.
pub async fn answer(ctx: &Arc<OperatorContext>, mut request: Request) -> Result<Response, Error> {
    let refused = |why: String| Problem::from_status(400).with_detail(why);
    let controls = ctx.reload.controls.get();
    match (request.method.as_str(), request.path.as_str(), controls) {
        ("POST", "/reload", _) => json(StatusCode::OK, &reread(&ctx.reload).await.map_err(refused)?),
        ("GET", "/log", Some(controls)) => json(StatusCode::OK, &LogLevel { level: (controls.log_level)() }),
        ("POST", "/log", Some(controls)) => {
            let LogLevel { level } = read(ctx, &mut request).await?;
            (controls.set_log_level)(&level).map_err(refused)?;
            let level = LogLevel { level: (controls.log_level)() };
            tracing::info!(level = level.level, "log level changed");
            json(StatusCode::OK, &level)
        }
        _ => Err(Problem::from_status(404).into()),
    }
}
