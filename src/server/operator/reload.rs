//! Taking over a changed configuration while the server runs, and changing what is logged.

use std::sync::Arc;

use warp::http::StatusCode;

use crate::{
    Server,
    app::App,
    operator::admin::{json, read},
    transport::http::{Request, Response},
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

/// Changes what is logged. The error is for the operator.
pub type SetLogLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What whoever runs a server can do for it: where its configuration comes from and where its log goes is not for the
/// server to know.
pub struct Controls {
    /// Reads the configuration anew, from where it was read at the start. The error is for the operator.
    pub reread: Box<dyn Fn() -> Result<Config, String> + Send + Sync>,
    /// What is logged now.
    pub log_level: Box<dyn Fn() -> String + Send + Sync>,
    /// Changes what is logged. The error is for the operator.
    pub set_log_level: SetLogLevel,
    /// How many lines of the log were dropped since the start, because nothing took them.
    pub dropped_log_lines: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Server {
    /// Lets the server reload and change its log by itself, when it is asked through its control socket. Once is enough.
    pub fn set_controls(&self, controls: Controls) {
        // The first ones stay: there is one process, one file and one log.
        let _ = self.app.controls.set(controls);
    }

    /// Reads the configuration anew and takes over what can be. One that is broken changes nothing.
    pub async fn reread(&self) -> Result<ReloadResult, String> {
        reread(&self.app).await
    }

    /// Takes over what can be of a configuration. One that makes no sense changes nothing.
    pub async fn reload(&self, new: Config) -> Result<ReloadResult, String> {
        reload(&self.app, new).await
    }
}

/// Stores how far ahead of the clock reports are taken, so that a restore of any later backup closes that much.
pub async fn note_clock_skew(store: &Store, config: &Config) -> Result<(), Fault> {
    let skew = Duration(config.limits.clock_skew.as_secs());
    store.write(Point::ClockSkew, move |tx| tx.raise_clock_skew(skew)).await
}

async fn reread(app: &Arc<App>) -> Result<ReloadResult, String> {
    let shared = app.clone();
    let read = tokio::task::spawn_blocking(move || match shared.controls.get() {
        Some(controls) => (controls.reread)(),
        None => Err("this server has no configuration file to read".to_owned()),
    });
    let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
    let done = match read {
        Ok(new) => reload(app, new).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &done {
        tracing::error!(%error, "configuration reload failed");
    }
    done
}

async fn reload(app: &Arc<App>, new: Config) -> Result<ReloadResult, String> {
    let _turn = app.reloading.lock().await;
    let old: &Config = &app.config;
    let mixed = old.with_reloadable(&new).map_err(|error| error.to_string())?;
    let changed = old.changes(&mixed).map_err(|error| error.to_string())?;
    let needs_restart = mixed.changes(&new).map_err(|error| error.to_string())?;
    // What is logged is as the configuration says from now on, even if only the running server was told otherwise.
    if let Some(controls) = app.controls.get() {
        (controls.set_log_level)(&mixed.log.level)?;
    }
    // Before a report is taken that relies on it.
    note_clock_skew(&app.store, &mixed).await.map_err(|fault| fault.to_string())?;
    app.disk.adopt(&mixed.disk);
    if !changed.is_empty() {
        app.config.replace(mixed);
    }
    let errors = look_around(app).await;
    let reloaded = ReloadResult { changed, needs_restart, errors };
    tell(&reloaded);
    // Jobs may have less to wait for, and keys may have to be others.
    app.jobs.notify_one();
    app.keys.changed.notify_one();
    Ok(reloaded)
}

/// Looks at once at what is otherwise looked at now and then, or once: whether there is enough room, as that is understood
/// now, whether a certificate was renewed, who vouches for helpers, and what the peers' files say. Says what cannot be used.
async fn look_around(app: &Arc<App>) -> Vec<String> {
    let shared = app.clone();
    let looked = tokio::task::spawn_blocking(move || {
        shared.disk.tend();
        let renewed = shared.certificate_files.get().map_or(Ok(()), |files| files.look(&shared.certificates));
        let renewed = renewed.map_err(|error| error.to_string());
        [renewed, shared.reread_roots(), shared.reread_peers()].into_iter().filter_map(Result::err).collect()
    });
    looked.await.unwrap_or_else(|error| vec![error.to_string()])
}

fn tell(ReloadResult { changed, needs_restart, errors }: &ReloadResult) {
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

/// Answers what the control socket is asked about reloading and the log.
pub async fn answer(app: &Arc<App>, mut request: Request) -> Result<Response, Error> {
    let refused = |why: String| Problem::from_status(400).with_detail(why);
    let controls = app.controls.get();
    match (request.method.as_str(), request.path.as_str(), controls) {
        ("POST", "/reload", _) => json(StatusCode::OK, &reread(app).await.map_err(refused)?),
        ("GET", "/log", Some(controls)) => json(StatusCode::OK, &LogLevel { level: (controls.log_level)() }),
        ("POST", "/log", Some(controls)) => {
            let LogLevel { level } = read(app, &mut request).await?;
            (controls.set_log_level)(&level).map_err(refused)?;
            let level = LogLevel { level: (controls.log_level)() };
            tracing::info!(level = level.level, "log level changed");
            json(StatusCode::OK, &level)
        }
        _ => Err(Problem::from_status(404).into()),
    }
}
