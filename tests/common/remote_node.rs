//! Operator requests to an aggregator that may be down. They are retried until they are answered.

use std::{
    path::PathBuf,
    time::{Duration as Span, Instant},
};

use dapbox::{
    model::{Revision, Task},
    views::status::TaskStatus,
    wire,
};

use super::{
    TEST_TIMEOUT,
    chaos::{ChaosError, lost},
    process::Process,
};

/// An aggregator's addresses.
#[derive(Clone)]
pub struct RemoteNode {
    origin: String,
    socket: PathBuf,
}

impl RemoteNode {
    pub fn of(process: &Process) -> Self {
        Self { origin: format!("http://{}", process.address), socket: process.data_dir.join("control.sock") }
    }

    pub fn url(&self, revision: Revision) -> String {
        format!("{}/{}/", self.origin, wire::for_revision(revision).path_prefix())
    }

    /// Sends a request to the control socket until it is answered. Returns status, body, and whether it was repeated.
    async fn ask(&self, method: &str, path: &str, body: Option<&Task>) -> Result<(u16, String, bool), ChaosError> {
        let ask = async || {
            let client =
                reqwest::Client::builder().unix_socket(self.socket.clone()).timeout(Span::from_secs(20)).build()?;
            let request = client.request(method.parse().unwrap(), format!("http://control/{path}"));
            let request = body.iter().fold(request, |request, body| request.json(body));
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.text().await?))
        };
        let start = Instant::now();
        let mut is_repeated = false;
        loop {
            match ask().await {
                Ok((status, text)) if status < 500 => return Ok((status, text, is_repeated)),
                other if start.elapsed() > TEST_TIMEOUT => {
                    return Err(ChaosError::Stuck(format!("{method} {path}: {other:?}")));
                }
                _ => is_repeated = true,
            }
            tokio::time::sleep(Span::from_millis(10)).await;
        }
    }

    pub async fn add(&self, task: &Task) -> Result<(), ChaosError> {
        match self.ask("POST", "tasks", Some(task)).await? {
            (201, ..) => Ok(()),
            answer => lost(format!("adding a task: {answer:?}")),
        }
    }

    pub async fn remove(&self, task: &Task) -> Result<(), ChaosError> {
        match self.ask("DELETE", &format!("tasks/{}", task.public.id), None).await? {
            (204, ..) => Ok(()),
            // Removed by an earlier request whose answer was lost.
            (_, text, true) if is_unknown(&text) => Ok(()),
            answer => lost(format!("removing a task: {answer:?}")),
        }
    }

    pub async fn status(&self, task: &Task) -> Result<TaskStatus, ChaosError> {
        match self.ask("GET", &format!("tasks/{}", task.public.id), None).await? {
            (200, text, _) => Ok(serde_json::from_str(&text).unwrap()),
            answer => lost(format!("a task at {}: {answer:?}", self.origin)),
        }
    }

    /// Checks that a removed task is still gone.
    pub async fn check_removed(&self, task: &Task) -> Result<(), ChaosError> {
        let (_, gone, _) = self.ask("GET", &format!("tasks/{}", task.public.id), None).await?;
        let (refused, ..) = self.ask("POST", "tasks", Some(task)).await?;
        match (is_unknown(&gone), refused) {
            (true, 409) => Ok(()),
            answers => lost(format!("a removed task: {answers:?}")),
        }
    }
}

/// Whether an answer means that the task does not exist.
fn is_unknown(text: &str) -> bool {
    text.contains("unrecognizedTask")
}
