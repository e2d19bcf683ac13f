//! The tasks that a server collects: status, windows, links, and requests of operators on the control socket.
//!
//! | request | body | response |
//! |---|---|---|
//! | `GET /results/tasks` | | list of [`CollectorTaskStatus`] |
//! | `POST /results/tasks` | the store's record of a collector task | 201 or 200 with [`CollectorTaskAdded`]; 409 if the parameters differ |
//! | `GET /results/tasks/ID` | | [`CollectorTaskStatus`] |
//! | `DELETE /results/tasks/ID` | | 204 |
//! | `GET /results/tasks/ID/windows?after=NUMBER&limit=COUNT` or `?last=COUNT` | | [`WindowPage`] |
//! | `GET /results/tasks/ID.csv`, `.ndjson`, `.json`, with the query of a page | | the file |
//! | `POST /results/retry` | [`RetryRequest`] | [`WindowStatus`] |
//! | `GET /results/links`, `GET /results/links/TASK` | | list of [`LinkStatus`] |
//! | `POST /results/links` | [`NewLink`] | 201 with [`LinkCreated`] |
//! | `DELETE /results/links/ID` | | 204 |
//! | `POST /results/test_webhook` | [`TestWebhook`] | list of [`WebhookOutcome`] |

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use dapbox_protocol::model::{BatchId, Duration, Interval, TaskId, TaskParameters, Time};
use dapbox_results::{Presentation, Schedule};
use dapbox_store::name::TaskName;

/// The status of a task that this server collects. Contains no secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CollectorTaskStatus {
    /// The task's id.
    pub id: TaskId,
    /// Its name, if it has one.
    pub name: Option<TaskName>,
    /// The title of its pages.
    pub title: String,
    /// The public parameters.
    pub parameters: TaskParameters,
    /// Start of the first window of a time-interval task.
    pub start: Time,
    /// Age at which the aggregators delete reports, if known.
    pub retention: Option<Duration>,
    /// When windows end and when they are requested.
    pub schedule: Schedule,
    /// How the task is shown.
    pub presentation: Presentation,
    /// Addresses of the webhooks.
    pub webhooks: Vec<String>,
    /// Number of windows in each state, by name. States without windows are absent.
    pub windows: BTreeMap<String, u64>,
    /// When a result was last stored.
    pub last_collected: Option<Time>,
    /// When the next window can be requested, if that is known.
    pub next_due: Option<Time>,
    /// The earliest time at which the aggregators delete reports of a window that is not collected, if known.
    pub next_deadline: Option<Time>,
    /// What an operator should look at, at most [`MAX_ATTENTION`] items; the latest windows first.
    pub attention: Vec<WindowAttention>,
    /// The last failure of a request to the leader, until a request succeeds.
    pub last_error: Option<String>,
    /// Notifications that wait for their webhooks.
    pub webhook_queue: u64,
    /// Number of links that have not expired.
    pub links: u64,
    /// The address of the task's page, if the server has a private listener of results.
    pub page: Option<String>,
}

/// Maximum number of items in [`CollectorTaskStatus::attention`].
pub const MAX_ATTENTION: usize = 20;

/// A window that an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowAttention {
    /// Number of the window.
    pub window: u64,
    /// Its span of time.
    pub interval: Option<Interval>,
    /// What is wrong.
    pub text: String,
}

/// The result of adding a collector task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CollectorTaskChange {
    /// The task is new.
    Added,
    /// The task exists with the same record.
    Unchanged,
    /// The task exists with the same parameters. Its key, token or settings were replaced.
    Replaced,
}

/// The response to a new or changed collector task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorTaskAdded {
    /// What changed.
    pub change: CollectorTaskChange,
    /// The address of the task's page, if the server has a private listener of results.
    pub page: Option<String>,
    /// The address of the private listener of results, if there is one.
    pub listen: Option<SocketAddr>,
}

/// A window of a collector task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowStatus {
    /// Its number.
    pub number: u64,
    /// Its span of time: of the schedule, or of the reports of a collected batch.
    pub interval: Option<Interval>,
    /// The name of its state.
    pub state: String,
    /// Whether nothing more happens unless the operator asks for it.
    pub is_final: bool,
    /// Whether the window was joined with later ones, because it had too few reports.
    #[serde(default)]
    pub is_joined: bool,
    /// When the state last changed.
    pub changed: Time,
    /// Number of reports, if it is collected.
    pub report_count: Option<u64>,
    /// The batch, if the leader reports one.
    pub batch_id: Option<BatchId>,
    /// The reason of a loss or refusal, or the last failure of a request.
    pub detail: Option<String>,
    /// Whether a lost result may still be had: `dapbox results retry`.
    pub is_recoverable: bool,
    /// When the aggregators delete the first reports of a window that is not collected, if known.
    pub deadline: Option<Time>,
}

/// A part of the windows of a task, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowPage {
    /// The windows.
    pub windows: Vec<WindowStatus>,
    /// Number of the last window of this page, if there are more: the `after` of the next page.
    pub next: Option<u64>,
}

/// Maximum number of windows in a [`WindowPage`].
pub const MAX_WINDOW_PAGE: usize = 1000;

/// A request to collect a window again that was lost, refused or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryRequest {
    /// The task.
    pub task: TaskId,
    /// Number of the window.
    pub window: u64,
    /// Whether to request a window whose reports the aggregators are not expected to have.
    #[serde(default)]
    pub force: bool,
}

/// A request for a link to the results of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewLink {
    /// The task.
    pub task: TaskId,
    /// For whom or what the link is, for the list of links.
    pub label: String,
    /// How long the link is valid; `None` for no limit.
    pub valid_for: Option<Duration>,
}

/// A link to the results of a task, without its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Identifies the link in lists. It does not grant access.
    pub id: String,
    /// The task.
    pub task: TaskId,
    /// For whom or what the link is.
    pub label: String,
    /// When it was created.
    pub created: Time,
    /// When it expires; `None` for never.
    pub expires: Option<Time>,
}

/// A new link. Only this response contains its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCreated {
    /// The link.
    pub link: LinkStatus,
    /// Its path, `/results/` and the token, which grants access.
    pub path: String,
    /// Its URL at the public address, if `results.public` and `public_url` are set.
    pub public_url: Option<String>,
    /// Its URL on this machine, if the server has a private listener of results.
    pub private_url: Option<String>,
}

/// A request to send a test notification to the webhooks of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestWebhook {
    /// The task.
    pub task: TaskId,
}

/// The outcome of a test notification to one webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookOutcome {
    /// Its address.
    pub url: String,
    /// The status of its response, if it responded.
    pub status: Option<u16>,
    /// Why the notification failed; `None` if it was accepted.
    pub error: Option<String>,
}
