//! An aggregator's tasks, seen from the command line: through the control socket of the running server, or in its data
//! directory when none runs.

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
    },
    peer::Proxies,
    server::{self, ShortPath},
    store::name::TaskName,
    views::{
        overview::{FutureTimestamp, Overview},
        status::{CloseRequest, Health, NeverContactedRequest, RemovalOutcome, RenameRequest, TaskStatus},
    },
    wire::Problem,
};

/// An aggregator's tasks.
pub enum Control {
    /// A server runs and does what we ask.
    Server(Socket),
    /// No server runs; we have the data directory for ourselves.
    Offline(Offline),
}

/// The control socket of a running server.
#[derive(Clone)]
pub struct Socket {
    http: reqwest::Client,
    path: PathBuf,
    /// The path to connect to.
    short: Arc<ShortPath>,
}

impl Control {
    /// Finds the running server, or opens the data directory.
    pub async fn open(config: &Config) -> Result<Self, Failure> {
        let socket = Socket::new(config.control_socket())?;
        if socket.is_alive().await? {
            return Ok(Self::Server(socket));
        }
        if !config.data_dir.is_dir() {
            let text = "no server is running, and there is no data directory {}; is --config or --data-dir missing?";
            return Err(Failure::new(text.replace("{}", &config.data_dir.display().to_string())));
        }
        let (dir, options) = (config.data_dir.clone(), server::store_options(config));
        let opened = tokio::task::spawn_blocking(move || Offline::open(&dir, options)).await?;
        Ok(Self::Offline(opened.map_err(|e| Failure::new(e).context(config.data_dir.display()))?))
    }

    /// What the operator should know of the server, whatever else was asked.
    pub async fn advice(&self) -> Option<String> {
        match self {
            Self::Server(socket) => socket.health().await.ok()?.disk.advice(),
            Self::Offline(_) => None,
        }
    }

    /// All tasks.
    pub async fn tasks(&self) -> Result<Vec<TaskStatus>, Failure> {
        match self {
            Self::Server(socket) => socket.tasks().await,
            Self::Offline(data) => Ok(data.tasks()?),
        }
    }

    /// One task, if it is there.
    pub async fn task(&self, id: &TaskId) -> Result<Option<TaskStatus>, Failure> {
        match self {
            Self::Server(socket) => socket.task(id).await,
            Self::Offline(data) => Ok(data.task(id)?),
        }
    }

    /// Adds a task. The same one again is fine.
    pub async fn add_task(&self, task: Task) -> Result<(), Failure> {
        match self {
            Self::Server(socket) => socket.add_task(&task).await,
            Self::Offline(data) => Ok(data.add_task(task).await?),
        }
    }

    /// Adds several tasks of different ids: all of them, or none.
    pub async fn add_tasks(&self, tasks: Vec<Task>) -> Result<(), Failure> {
        match self {
            Self::Server(socket) => socket.add_tasks(&tasks).await,
            Self::Offline(data) => Ok(data.add_tasks(tasks).await?),
        }
    }

    /// Gives a task another name, or none. False if it is not there.
    pub async fn rename_task(&self, id: TaskId, name: Option<TaskName>) -> Result<bool, Failure> {
        match self {
            Self::Server(socket) => socket.rename_task(&RenameRequest { task: id, name }).await,
            Self::Offline(data) => Ok(data.rename_task(id, name).await?),
        }
    }

    /// Removes a task. `None` if it is not there.
    pub async fn remove_task(&self, id: TaskId) -> Result<Option<RemovalOutcome>, Failure> {
        match self {
            Self::Server(socket) => socket.remove_task(&id).await,
            Self::Offline(data) => Ok(data.remove_task(id).await?),
        }
    }

    /// The tasks that others set up and that nobody has contacted, or removes them.
    pub async fn never_contacted(&self, request: NeverContactedRequest) -> Result<Vec<TaskId>, Failure> {
        match self {
            Self::Server(socket) => socket.get(Method::POST, "/untouched", Some(serde_json::to_vec(&request)?)).await,
            Self::Offline(data) => Ok(data.never_contacted(request).await?),
        }
    }

    /// Closes everything of a task before a time, since the other aggregator has lost something. Says where the horizon is
    /// now; `None` if the task is not there.
    pub async fn close_before(&self, task: TaskId, before: Time) -> Result<Option<Time>, Failure> {
        match self {
            Self::Server(socket) => socket.close_before(&CloseRequest { task, before }).await,
            Self::Offline(data) => Ok(data.close_before(task, before, DataLoss::Peer).await?),
        }
    }

    /// The tokens of a task that are in force; `None` if the task is not there.
    pub async fn tokens(&self, task: TaskId) -> Result<Option<Vec<TokenStatus>>, Failure> {
        match self {
            Self::Server(socket) => socket.tokens(task).await,
            Self::Offline(data) => Ok(data.tokens(&task)?),
        }
    }

    /// Replaces a token of a task, and says which ones are in force then.
    pub async fn change_token(&self, change: TokenChange) -> Result<Vec<TokenStatus>, Failure> {
        match self {
            Self::Server(socket) => socket.change_token(&change).await,
            Self::Offline(data) => Ok(data.change_token(change).await?),
        }
    }

    /// Closes the data directory, if it is we who have it open.
    pub async fn close(self) {
        if let Self::Offline(data) = self {
            data.close().await;
        }
    }
}

impl Socket {
    /// The control socket at `path`, which need not exist.
    pub fn new(path: PathBuf) -> Result<Self, Failure> {
        // A socket needs no certificates, and where there are none of the system a client that wants them cannot be made.
        let short = match ShortPath::of(&path) {
            Ok(short) => short,
            // Without a directory there is no server.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => ShortPath::itself(&path),
            Err(error) => return Err(Failure::new(error).context(path.display())),
        };
        let builder = reqwest::Client::builder().tls_certs_only([]).no_proxy();
        let http = builder.unix_socket(short.path().to_owned()).build()?;
        Ok(Self { http, path, short: Arc::new(short) })
    }

    /// Whether a server listens.
    pub async fn is_alive(&self) -> Result<bool, Failure> {
        match tokio::net::UnixStream::connect(self.short.path()).await {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
                Ok(false)
            }
            Err(e) => Err(Failure::new(format!("{}: {e}", self.path.display()))),
        }
    }

    /// How the server is.
    pub async fn health(&self) -> Result<Health, Failure> {
        let (status, body) = self.ask(Method::GET, "/health", None).await?;
        if status == StatusCode::OK { Ok(serde_json::from_slice(&body)?) } else { Err(refused(status, &body)) }
    }

    /// The proxies that the server's requests go through.
    pub async fn proxies(&self) -> Result<Proxies, Failure> {
        let variables: BTreeMap<String, String> = self.get(Method::GET, "/proxies", None).await?;
        Ok(Proxies::from_vars(variables))
    }

    /// All that is to be seen of the server.
    pub async fn overview(&self) -> Result<Overview, Failure> {
        let (status, body) = self.ask(Method::GET, "/overview", None).await?;
        if status == StatusCode::OK { Ok(serde_json::from_slice(&body)?) } else { Err(refused(status, &body)) }
    }

    /// The stored times that are ahead of the clock.
    pub async fn future_timestamps(&self) -> Result<Vec<FutureTimestamp>, Failure> {
        self.get(Method::GET, "/future_timestamps", None).await
    }

    /// The process that listens, if the system tells.
    pub async fn process(&self) -> Option<i32> {
        tokio::net::UnixStream::connect(self.short.path()).await.ok()?.peer_cred().ok()?.pid()
    }

    /// All tasks.
    pub async fn tasks(&self) -> Result<Vec<TaskStatus>, Failure> {
        let (status, body) = self.ask(Method::GET, "/tasks", None).await?;
        if status == StatusCode::OK { Ok(serde_json::from_slice(&body)?) } else { Err(refused(status, &body)) }
    }

    /// One task, if it is there.
    pub async fn task(&self, id: &TaskId) -> Result<Option<TaskStatus>, Failure> {
        match self.ask(Method::GET, &format!("/tasks/{id}"), None).await? {
            (StatusCode::OK, body) => Ok(Some(serde_json::from_slice(&body)?)),
            (status, body) if is_unknown(status, &body) => Ok(None),
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// Adds a task.
    pub async fn add_task(&self, task: &Task) -> Result<(), Failure> {
        let (status, body) = self.ask(Method::POST, "/tasks", Some(serde_json::to_vec(task)?)).await?;
        if status.is_success() { Ok(()) } else { Err(refused(status, &body)) }
    }

    /// Adds several tasks.
    pub async fn add_tasks(&self, tasks: &[Task]) -> Result<(), Failure> {
        let (status, body) = self.ask(Method::POST, "/all_tasks", Some(serde_json::to_vec(tasks)?)).await?;
        if status.is_success() { Ok(()) } else { Err(refused(status, &body)) }
    }

    /// Gives a task another name. False if it is not there.
    pub async fn rename_task(&self, request: &RenameRequest) -> Result<bool, Failure> {
        match self.ask(Method::POST, "/names", Some(serde_json::to_vec(request)?)).await? {
            (status, _) if status.is_success() => Ok(true),
            (status, body) if is_unknown(status, &body) => Ok(false),
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// Removes a task. `None` if it is not there.
    pub async fn remove_task(&self, id: &TaskId) -> Result<Option<RemovalOutcome>, Failure> {
        match self.ask(Method::DELETE, &format!("/tasks/{id}"), None).await? {
            (StatusCode::OK, _) => Ok(Some(RemovalOutcome::Forgotten)),
            (status, _) if status.is_success() => Ok(Some(RemovalOutcome::Tombstone)),
            (status, body) if is_unknown(status, &body) => Ok(None),
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// Closes everything of a task before a time. None if the task is not there.
    pub async fn close_before(&self, request: &CloseRequest) -> Result<Option<Time>, Failure> {
        match self.ask(Method::POST, "/close", Some(serde_json::to_vec(request)?)).await? {
            (StatusCode::OK, body) => Ok(Some(serde_json::from_slice(&body)?)),
            (status, body) if is_unknown(status, &body) => Ok(None),
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// The tokens of a task that are in force; `None` if the task is not there.
    pub async fn tokens(&self, task: TaskId) -> Result<Option<Vec<TokenStatus>>, Failure> {
        match self.ask(Method::GET, &format!("/tokens/{task}"), None).await? {
            (StatusCode::OK, body) => Ok(Some(serde_json::from_slice(&body)?)),
            (status, body) if is_unknown(status, &body) => Ok(None),
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// Replaces a token of a task, and says which ones are in force then.
    pub async fn change_token(&self, change: &TokenChange) -> Result<Vec<TokenStatus>, Failure> {
        match self.ask(Method::POST, "/tokens", Some(serde_json::to_vec(change)?)).await? {
            (StatusCode::OK, body) => Ok(serde_json::from_slice(&body)?),
            (status, body) => Err(refused(status, &body)),
        }
    }

    /// Has the server take over a changed configuration.
    pub async fn reload(&self) -> Result<ReloadResult, Failure> {
        self.get(Method::POST, "/reload", None).await
    }

    /// What the server logs.
    pub async fn log_level(&self) -> Result<LogLevel, Failure> {
        self.get(Method::GET, "/log", None).await
    }

    /// Has the server log something else.
    pub async fn set_log_level(&self, level: &LogLevel) -> Result<LogLevel, Failure> {
        self.get(Method::POST, "/log", Some(serde_json::to_vec(level)?)).await
    }

    async fn get<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<T, Failure> {
        let (status, body) = self.ask(method, path, body).await?;
        if status == StatusCode::OK { Ok(serde_json::from_slice(&body)?) } else { Err(refused(status, &body)) }
    }

    /// Asks for something long, whose body is still to be read.
    pub async fn stream(&self, path: &str) -> Result<reqwest::Response, Failure> {
        let response = self.http.get(format!("http://control{path}")).send().await;
        let response = response.map_err(|e| Failure::new(e).context(self.path.display()))?;
        let status = response.status();
        if status.is_success() { Ok(response) } else { Err(refused(status, &response.bytes().await?)) }
    }

    /// Asks for something short.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        // The host is not looked up: the socket is what is connected to.
        let request = self.http.request(method, format!("http://control{path}"));
        let response = request.body(body.unwrap_or_default()).send().await;
        let response = response.map_err(|e| Failure::new(e).context(self.path.display()))?;
        Ok((response.status(), response.bytes().await?))
    }
}

fn is_unknown(status: StatusCode, body: &[u8]) -> bool {
    let problem = Problem::from_json(status.as_u16(), body);
    status == StatusCode::NOT_FOUND || problem.kind == crate::wire::ProblemType::UnrecognizedTask
}

/// What the server has said why it does not do something.
pub(super) fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let problem = Problem::from_json(status.as_u16(), body);
    if problem.detail.is_empty() { Failure::new(problem) } else { Failure::new(problem.detail) }
}
