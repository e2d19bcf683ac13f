//! The records of tasks that this server collects, of their links and of their webhook events.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::name::TaskName;
use dapbox_protocol::{
    model::{HpkeConfig, Secret, TaskId, TaskParameters, Time, TokenHash},
    vdaf::AggregateResult,
};
use dapbox_results::{CollectorSettings, Window};

/// A task as its collector stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectorRecord {
    /// The operator's name of the task.
    pub name: Option<TaskName>,
    /// Public parameters. They never change.
    pub public: TaskParameters,
    /// The token to present to the leader.
    pub token: Secret,
    /// The previous token, presented if the leader rejects the new one.
    pub previous_token: Option<Secret>,
    /// The key that aggregate shares are sealed to.
    pub key: HpkeConfig,
    /// Its private key.
    pub private_key: Secret,
    /// The encoded configuration of an in-band task, sent with every request.
    pub advertisement: Option<Vec<u8>>,
    /// Schedule, presentation and webhooks.
    pub settings: CollectorSettings,
    /// When the task was added.
    pub created: Time,
}

/// A link to the results of one task. Only the hash of its token is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultLink {
    /// The task.
    pub task: TaskId,
    /// SHA-256 of the token. It is not secret, because tokens are random.
    pub hash: TokenHash,
    /// What the operator calls it.
    pub label: String,
    /// When it was created.
    pub created: Time,
    /// When it expires; `None` for never.
    pub expires: Option<Time>,
}

/// An event that a webhook is yet to receive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookEvent {
    /// The address.
    pub url: String,
    /// When the event happened.
    pub created: Time,
    /// The JSON text to send.
    pub body: String,
    /// How often it was sent.
    pub attempts: u32,
    /// When to send it next.
    pub next_attempt: Time,
}

/// A task that this server collects, in memory. [`Tx`](super::Tx) has a method for each change.
#[derive(Debug)]
pub struct CollectorState {
    /// The task and its settings.
    pub record: Arc<CollectorRecord>,
    /// Its windows, by number.
    pub windows: BTreeMap<u64, Window>,
    /// Webhook events to deliver, by sequence number.
    pub events: BTreeMap<u64, WebhookEvent>,
}

/// A result as a row: numbers as CBOR integers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WindowResultRow {
    Number(u128),
    Vector(Vec<u128>),
    Noisy(Vec<i128>),
    NoisyNumber(i128),
}

impl From<&AggregateResult> for WindowResultRow {
    fn from(result: &AggregateResult) -> Self {
        match result {
            AggregateResult::Number(number) => Self::Number(*number),
            AggregateResult::Vector(numbers) => Self::Vector(numbers.clone()),
            AggregateResult::Noisy(numbers) => Self::Noisy(numbers.clone()),
            AggregateResult::NoisyNumber(number) => Self::NoisyNumber(*number),
        }
    }
}

impl From<WindowResultRow> for AggregateResult {
    fn from(row: WindowResultRow) -> Self {
        match row {
            WindowResultRow::Number(number) => Self::Number(number),
            WindowResultRow::Vector(numbers) => Self::Vector(numbers),
            WindowResultRow::Noisy(numbers) => Self::Noisy(numbers),
            WindowResultRow::NoisyNumber(number) => Self::NoisyNumber(number),
        }
    }
}

impl CollectorState {
    pub(super) fn new(record: CollectorRecord) -> Self {
        Self { record: Arc::new(record), windows: BTreeMap::new(), events: BTreeMap::new() }
    }
}

impl ResultLink {
    /// Whether the link is valid.
    pub fn is_active(&self, now: Time) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}
