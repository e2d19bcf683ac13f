//! Access to an aggregator from the command line: through the control socket of the running server, or to its data directory
//! if no server is running.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bytes::Bytes;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::Failure;
use crate::{
    aggregator::{offline::Offline, retention::DataLoss},
    config::{
        Config,
        changes::{LogLevel, ReloadResult},
    },
    model::{
        Task, TaskId, Time,
        tokens::{TokenChange, TokenStatus},
        verify_keys::{VerifyKeyChange, VerifyKeyStatus},
    },
    peer::Proxies,
    server::{self, ShortPath},
    store::{WriteError, name::TaskName},
    views::{
        overview::{FutureTimestamp, Overview},
        privacy::{PrivacyAccount, PrivacyChange},
        status::{CloseRequest, Health, NeverContactedRequest, RemovalOutcome, RenameRequest, TaskStatus},
    },
    wire::Problem,
};

/// Access to an aggregator.
pub enum Control {
    /// A server is running.
    Server(Socket),
    /// No server is running: the data directory is open exclusively.
    Offline(Offline),
}

/// The control socket of a running server.
#[derive(Clone)]
pub struct Socket {
    http: reqwest::Client,
    path: PathBuf,
    /// A short path of the same socket, since socket addresses are limited to 108 bytes.
    short: Arc<ShortPath>,
}

impl Control {
    /// Connects to the running server, or opens the data directory.
    pub async fn open(config: &Config) -> Result<Self, Failure> {
        let socket = Socket::new(config.control_socket())?;
        if socket.is_alive().await? {
            return Ok(Self::Server(socket));
        }
        if !config.data_dir.is_dir() {
            return Err(Failure::new(format!(
                "no server is running, and the data directory {} does not exist (hint: set --config or --data-dir)",
                config.data_dir.display()
            )));
        }
        let (dir, options) = (config.data_dir.clone(), server::store_options(config));
        let opened = tokio::task::spawn_blocking(move || Offline::open(&dir, options)).await?;
        Ok(Self::Offline(opened.map_err(|e| Failure::new(e).context(config.data_dir.display()))?))
    }

    /// Returns a warning of the server for the operator.
    pub async fn advice(&self) -> Option<String> {
        match self {
            Self::Server(socket) => socket.health().await.ok()?.disk.advice(),
            Self::Offline(_) => None,
        }
    }

    /// Lists all tasks.
    pub async fn tasks(&self) -> Result<Vec<TaskStatus>, Failure> {
        match self {
            Self::Server(socket) => socket.tasks().await,
            Self::Offline(data) => Ok(data.tasks()?),
        }
    }

    /// Returns a task, if it exists.
    pub async fn task(&self, id: &TaskId) -> Result<Option<TaskStatus>, Failure> {
        match self {
            Self::Server(socket) => socket.task(id).await,
            Self::Offline(data) => Ok(data.task(id)?),
        }
    }

    /// Adds a task. Adding the same task again has no effect.
    pub async fn add_task(&self, task: Task) -> Result<(), Failure> {
        match self {
            Self::Server(socket) => socket.add_task(&task).await,
            Self::Offline(data) => Ok(data.add_task(task).await?),
        }
    }

    /// Adds tasks with different ids: all of them, or none.
    pub async fn add_tasks(&self, tasks: Vec<Task>) -> Result<(), Failure> {
        match self {
            Self::Server(socket) => socket.add_tasks(&tasks).await,
            Self::Offline(data) => Ok(data.add_tasks(tasks).await?),
        }
    }

    /// Sets or removes the name of a task. Returns false if the task does not exist.
    pub async fn rename_task(&self, id: TaskId, name: Option<TaskName>) -> Result<bool, Failure> {
        match self {
            Self::Server(socket) => socket.rename_task(&RenameRequest { task: id, name }).await,
            Self::Offline(data) => Ok(data.rename_task(id, name).await?),
        }
    }

    /// Changes the privacy budget of a task. Returns its account.
    pub async fn change_privacy(&self, change: &PrivacyChange) -> Result<PrivacyAccount, Failure> {
        match self {
            Self::Server(socket) => socket.change_privacy(change).await,
            Self::Offline(data) => Ok(data.change_privacy(*change).await.map_err(|error| match error {
                WriteError::Refused(problem) => Failure::new(problem.detail),
                WriteError::Fault(fault) => fault.into(),
            })?),
        }
    }

    /// Removes a task. Returns `None` if it does not exist.
    pub async fn remove_task(&self, id: TaskId) -> Result<Option<RemovalOutcome>, Failure> {
        match self {
            Self::Server(socket) => socket.remove_task(&id).await,
            Self::Offline(data) => Ok(data.remove_task(id).await?),
        }
    }

    /// Lists provisioned and in-band tasks that no party has contacted, or removes them.
    pub async fn never_contacted(&self, request: NeverContactedRequest) -> Result<Vec<TaskId>, Failure> {
        match self {
            Self::Server(socket) => {
                socket.request_json(Method::POST, "/never_contacted", Some(serde_json::to_vec(&request)?)).await
            }
            Self::Offline(data) => Ok(data.never_contacted(request).await?),
        }
    }

    /// Closes a task for reports before a time, because the other aggregator lost data. Returns the new horizon; `None` if
    /// the task does not exist.
    pub async fn close_before(&self, task: TaskId, before: Time) -> Result<Option<Time>, Failure> {
        match self {
            Self::Server(socket) => socket.close_before(&CloseRequest { task, before }).await,
            Self::Offline(data) => Ok(data.close_before(task, before, DataLoss::Peer).await?),
        }
    }

    /// Lists the valid tokens of a task; `None` if it does not exist.
    pub async fn tokens(&self, task: TaskId) -> Result<Option<Vec<TokenStatus>>, Failure> {
        match self {
            Self::Server(socket) => socket.tokens(task).await,
            Self::Offline(data) => Ok(data.tokens(&task)?),
        }
    }

    /// Rotates a token of a task, and returns the valid ones.
    pub async fn change_token(&self, change: TokenChange) -> Result<Vec<TokenStatus>, Failure> {
        match self {
            Self::Server(socket) => socket.change_token(&change).await,
            Self::Offline(data) => Ok(data.change_token(change).await?),
        }
    }

    /// Lists the verification keys of a task; `None` if it does not exist.
    pub async fn verify_keys(&self, task: TaskId) -> Result<Option<Vec<VerifyKeyStatus>>, Failure> {
        match self {
            Self::Server(socket) => socket.verify_keys(task).await,
            Self::Offline(data) => Ok(data.verify_keys(&task)?),
        }
    }

    /// Changes the verification keys of a task, and returns all of them.
    pub async fn change_verify_keys(&self, change: VerifyKeyChange) -> Result<Vec<VerifyKeyStatus>, Failure> {
        match self {
            Self::Server(socket) => {
                let VerifyKeyChange { task, change } = change;
                let body = serde_json::to_vec(&change)?;
                socket.request_json(Method::POST, &format!("/verify_keys/{task}"), Some(body)).await
            }
            Self::Offline(data) => Ok(data.change_verify_keys(change).await?),
        }
    }

    /// Closes the data directory, if it is open.
    pub async fn close(self) {
        if let Self::Offline(data) = self {
            data.close().await;
        }
    }
}

impl Socket {
    /// Creates a client of the control socket at `path`, which need not exist.
    pub fn new(path: PathBuf) -> Result<Self, Failure> {
        // Without certificates: a client with certificates cannot be created where the system has none.
        let short = match ShortPath::of(&path) {
            Ok(short) => short,
            // Without the directory, no server is running.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => ShortPath::itself(&path),
            Err(error) => return Err(Failure::new(error).context(path.display())),
        };
        let builder = reqwest::Client::builder().tls_certs_only([]).no_proxy();
        let http = builder.unix_socket(short.path().to_owned()).build()?;
        Ok(Self { http, path, short: Arc::new(short) })
    }

    /// Returns whether a server listens.
    pub async fn is_alive(&self) -> Result<bool, Failure> {
        match tokio::net::UnixStream::connect(self.short.path()).await {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
                Ok(false)
            }
            Err(e) => Err(Failure::new(format!("{}: {e}", self.path.display()))),
        }
    }

    /// Returns the health of the server.
    pub async fn health(&self) -> Result<Health, Failure> {
        let (status, body) = self.request(Method::GET, "/health", None).await?;
        if status == StatusCode::OK { Ok(serde_json::from_slice(&body)?) } else { Err(refusal(status, &body)) }
    }

    /// Returns the proxies of the server's requests.
    pub async fn proxies(&self) -> Result<Proxies, Failure> {
        let variables: BTreeMap<String, String> = self.request_json(Method::GET, "/proxies", None).await?;
        Ok(Proxies::from_vars(variables))
    }

    /// Returns the overview of the server.
    pub async fn overview(&self) -> Result<Overview, Failure> {
        let (status, body) = self.request(Method::GET, "/overview", None).await?;
        if status == StatusCode::OK { Ok(serde_json::from_slice(&body)?) } else { Err(refusal(status, &body)) }
    }

    /// Lists stored times that are ahead of the clock.
    pub async fn future_timestamps(&self) -> Result<Vec<FutureTimestamp>, Failure> {
        self.request_json(Method::GET, "/future_timestamps", None).await
    }

    /// Returns the id of the process that listens, if known.
    pub async fn process(&self) -> Option<i32> {
        tokio::net::UnixStream::connect(self.short.path()).await.ok()?.peer_cred().ok()?.pid()
    }

    /// Lists all tasks.
    pub async fn tasks(&self) -> Result<Vec<TaskStatus>, Failure> {
        let (status, body) = self.request(Method::GET, "/tasks", None).await?;
        if status == StatusCode::OK { Ok(serde_json::from_slice(&body)?) } else { Err(refusal(status, &body)) }
    }

    /// Returns a task, if it exists.
    pub async fn task(&self, id: &TaskId) -> Result<Option<TaskStatus>, Failure> {
        match self.request(Method::GET, &format!("/tasks/{id}"), None).await? {
            (StatusCode::OK, body) => Ok(Some(serde_json::from_slice(&body)?)),
            (status, body) if is_unknown_task(status, &body) => Ok(None),
            (status, body) => Err(refusal(status, &body)),
        }
    }

    /// Adds a task.
    pub async fn add_task(&self, task: &Task) -> Result<(), Failure> {
        let (status, body) = self.request(Method::POST, "/tasks", Some(serde_json::to_vec(task)?)).await?;
        if status.is_success() { Ok(()) } else { Err(refusal(status, &body)) }
    }

    /// Adds several tasks.
    pub async fn add_tasks(&self, tasks: &[Task]) -> Result<(), Failure> {
        let (status, body) = self.request(Method::POST, "/all_tasks", Some(serde_json::to_vec(tasks)?)).await?;
        if status.is_success() { Ok(()) } else { Err(refusal(status, &body)) }
    }

    /// Gives a task another name. False if it is not there.
    pub async fn rename_task(&self, request: &RenameRequest) -> Result<bool, Failure> {
        match self.request(Method::POST, "/names", Some(serde_json::to_vec(request)?)).await? {
            (status, _) if status.is_success() => Ok(true),
            (status, body) if is_unknown_task(status, &body) => Ok(false),
            (status, body) => Err(refusal(status, &body)),
        }
    }

    /// Changes the privacy budget of a task. Returns its account.
    pub async fn change_privacy(&self, change: &PrivacyChange) -> Result<PrivacyAccount, Failure> {
        match self.request(Method::POST, "/privacy", Some(serde_json::to_vec(change)?)).await? {
            (status, body) if status.is_success() => Ok(serde_json::from_slice(&body)?),
            (status, body) => Err(refusal(status, &body)),
        }
    }

    /// Removes a task. Returns `None` if it does not exist.
    pub async fn remove_task(&self, id: &TaskId) -> Result<Option<RemovalOutcome>, Failure> {
        match self.request(Method::DELETE, &format!("/tasks/{id}"), None).await? {
            (StatusCode::OK, _) => Ok(Some(RemovalOutcome::Forgotten)),
            (status, _) if status.is_success() => Ok(Some(RemovalOutcome::Tombstone)),
            (status, body) if is_unknown_task(status, &body) => Ok(None),
            (status, body) => Err(refusal(status, &body)),
        }
    }

    /// Closes a task for reports before a time. Returns `None` if the task does not exist.
    pub async fn close_before(&self, request: &CloseRequest) -> Result<Option<Time>, Failure> {
        match self.request(Method::POST, "/close", Some(serde_json::to_vec(request)?)).await? {
            (StatusCode::OK, body) => Ok(Some(serde_json::from_slice(&body)?)),
            (status, body) if is_unknown_task(status, &body) => Ok(None),
            (status, body) => Err(refusal(status, &body)),
        }
    }

    /// Lists the valid tokens of a task; `None` if it does not exist.
    pub async fn tokens(&self, task: TaskId) -> Result<Option<Vec<TokenStatus>>, Failure> {
        match self.request(Method::GET, &format!("/tokens/{task}"), None).await? {
            (StatusCode::OK, body) => Ok(Some(serde_json::from_slice(&body)?)),
            (status, body) if is_unknown_task(status, &body) => Ok(None),
            (status, body) => Err(refusal(status, &body)),
        }
    }

    /// Rotates a token of a task, and returns the valid ones.
    pub async fn change_token(&self, change: &TokenChange) -> Result<Vec<TokenStatus>, Failure> {
        match self.request(Method::POST, "/tokens", Some(serde_json::to_vec(change)?)).await? {
            (StatusCode::OK, body) => Ok(serde_json::from_slice(&body)?),
            (status, body) => Err(refusal(status, &body)),
        }
    }

    /// Lists the verification keys of a task; `None` if it does not exist.
    async fn verify_keys(&self, task: TaskId) -> Result<Option<Vec<VerifyKeyStatus>>, Failure> {
        match self.request(Method::GET, &format!("/verify_keys/{task}"), None).await? {
            (StatusCode::OK, body) => Ok(Some(serde_json::from_slice(&body)?)),
            (status, body) if is_unknown_task(status, &body) => Ok(None),
            (status, body) => Err(refusal(status, &body)),
        }
    }

    /// Reloads the configuration.
    pub async fn reload(&self) -> Result<ReloadResult, Failure> {
        self.request_json(Method::POST, "/reload", None).await
    }

    /// Returns the log level.
    pub async fn log_level(&self) -> Result<LogLevel, Failure> {
        self.request_json(Method::GET, "/log", None).await
    }

    /// Changes the log level.
    pub async fn set_log_level(&self, level: &LogLevel) -> Result<LogLevel, Failure> {
        self.request_json(Method::POST, "/log", Some(serde_json::to_vec(level)?)).await
    }

    async fn request_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, Failure> {
        let (status, body) = self.request(method, path, body).await?;
        if status == StatusCode::OK { Ok(serde_json::from_slice(&body)?) } else { Err(refusal(status, &body)) }
    }

    /// Sends a request and returns the response with its body as a stream.
    pub async fn stream(&self, path: &str) -> Result<reqwest::Response, Failure> {
        let response = self.http.get(format!("http://control{path}")).send().await;
        let response = response.map_err(|e| Failure::new(e).context(self.path.display()))?;
        let status = response.status();
        if status.is_success() { Ok(response) } else { Err(refusal(status, &response.bytes().await?)) }
    }

    /// Sends a request and reads the whole response.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        // The host is not resolved: the client connects to the socket.
        let request = self.http.request(method, format!("http://control{path}"));
        let response = request.body(body.unwrap_or_default()).send().await;
        let response = response.map_err(|e| Failure::new(e).context(self.path.display()))?;
        Ok((response.status(), response.bytes().await?))
    }
}

fn is_unknown_task(status: StatusCode, body: &[u8]) -> bool {
    let problem = Problem::from_json(status.as_u16(), body);
    status == StatusCode::NOT_FOUND || problem.kind == crate::wire::ProblemType::UnrecognizedTask
}

/// The error of a refused request.
pub(super) fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let problem = Problem::from_json(status.as_u16(), body);
    if problem.detail.is_empty() { Failure::new(problem) } else { Failure::new(problem.detail) }
}
