//! Requests of `dapbox results` on the control socket.

use bytes::Bytes;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;

use crate::{
    cli::{
        Failure, Outcome,
        control::{Control, Socket, refusal},
    },
    model::TaskId,
    store::CollectorRecord,
    support::clock,
    views::results::{
        CollectorTaskAdded, CollectorTaskChange, CollectorTaskStatus, LinkCreated, LinkStatus, NewLink, RetryRequest,
        TestWebhook, WebhookOutcome, WindowPage, WindowStatus,
    },
};

/// The tasks that the server, or the data directory, collects.
pub async fn statuses(control: &Control) -> Result<Vec<CollectorTaskStatus>, Failure> {
    match control {
        Control::Server(socket) => tasks(socket).await,
        Control::Offline(data) => Ok(data.collector_tasks(clock::now())?),
    }
}

/// Adds or changes a task that the server collects.
pub async fn add(control: &Control, record: CollectorRecord) -> Result<CollectorTaskAdded, Failure> {
    match control {
        Control::Server(socket) => add_to_server(socket, &record).await,
        Control::Offline(data) => {
            let change: CollectorTaskChange = data.put_collector_task(record).await?;
            Ok(CollectorTaskAdded { change, page: None, listen: None })
        }
    }
}

/// Adds or changes a task that a running server collects.
pub async fn add_to_server(socket: &Socket, record: &CollectorRecord) -> Result<CollectorTaskAdded, Failure> {
    request(socket, Method::POST, "/results/tasks", Some(record)).await
}

/// Removes a task that the server collects. Returns whether it existed.
pub async fn remove(control: &Control, id: TaskId) -> Result<bool, Failure> {
    match control {
        Control::Server(socket) => match socket.request(Method::DELETE, &format!("/results/tasks/{id}"), None).await? {
            (StatusCode::NO_CONTENT, _) => Ok(true),
            (StatusCode::NOT_FOUND, _) => Ok(false),
            (status, body) => Err(refusal(status, &body)),
        },
        Control::Offline(data) => Ok(data.remove_collector_task(id).await?),
    }
}

/// The tasks that a server collects.
pub async fn tasks(socket: &Socket) -> Result<Vec<CollectorTaskStatus>, Failure> {
    request(socket, Method::GET, "/results/tasks", None::<&()>).await
}

/// All windows of a task, in order.
pub async fn windows(socket: &Socket, task: &TaskId) -> Result<Vec<WindowStatus>, Failure> {
    let (mut windows, mut path) = (Vec::new(), format!("/results/tasks/{task}/windows"));
    loop {
        let page: WindowPage = request(socket, Method::GET, &path, None::<&()>).await?;
        windows.extend(page.windows);
        match page.next {
            Some(next) => path = format!("/results/tasks/{task}/windows?after={next}"),
            None => return Ok(windows),
        }
    }
}

/// The results of a task as a file.
pub async fn file(socket: &Socket, task: &TaskId, format: &str, query: &str) -> Result<Bytes, Failure> {
    let path = format!("/results/tasks/{task}.{format}{}{query}", if query.is_empty() { "" } else { "?" });
    match socket.request(Method::GET, &path, None).await? {
        (StatusCode::OK, body) => Ok(body),
        (status, body) => Err(refusal(status, &body)),
    }
}

/// Requests a window again.
pub async fn retry(socket: &Socket, again: &RetryRequest) -> Result<WindowStatus, Failure> {
    request(socket, Method::POST, "/results/retry", Some(again)).await
}

/// Creates a link to a task's page.
pub async fn create_link(socket: &Socket, new: &NewLink) -> Result<LinkCreated, Failure> {
    request(socket, Method::POST, "/results/links", Some(new)).await
}

/// The valid links of a task, or of all tasks.
pub async fn links(socket: &Socket, task: Option<&TaskId>) -> Result<Vec<LinkStatus>, Failure> {
    let path = task.map_or_else(|| "/results/links".to_owned(), |task| format!("/results/links/{task}"));
    request(socket, Method::GET, &path, None::<&()>).await
}

/// Revokes a link.
pub async fn revoke_link(socket: &Socket, id: &str) -> Outcome {
    match socket.request(Method::DELETE, &format!("/results/links/{id}"), None).await? {
        (StatusCode::NO_CONTENT, _) => Ok(()),
        (status, body) => Err(refusal(status, &body)),
    }
}

/// Sends a test notification.
pub async fn test_webhook(socket: &Socket, task: TaskId) -> Result<Vec<WebhookOutcome>, Failure> {
    request(socket, Method::POST, "/results/test_webhook", Some(&TestWebhook { task })).await
}

async fn request<T: DeserializeOwned>(
    socket: &Socket,
    method: Method,
    path: &str,
    body: Option<&impl serde::Serialize>,
) -> Result<T, Failure> {
    let body = body.map(serde_json::to_vec).transpose()?;
    match socket.request(method, path, body).await? {
        (StatusCode::OK | StatusCode::CREATED, body) => Ok(serde_json::from_slice(&body)?),
        (status, body) => Err(refusal(status, &body)),
    }
}
