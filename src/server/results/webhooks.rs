//! Delivers notifications to webhooks.
//!
//! A notification is stored with the change that it describes, and removed when its webhook has accepted it. Each is
//! repeated with backoff for `results.webhook_retry_age`. A webhook gets one notification at a time.

use std::{collections::HashSet, sync::Arc, time::Duration as Span};

use bytes::Bytes;
use tokio::task::{JoinError, JoinSet};
use url::Url;
use warp::http::{HeaderName, HeaderValue};

use crate::results::{collectors, context::ResultsContext, signature};
use dapbox_aggregator::{collecting::tasks::check_webhook_url, views::results::WebhookOutcome};
use dapbox_protocol::model::{Duration, TaskId, Time};
use dapbox_results::Webhook;
use dapbox_store::{CollectorState, Tx, WebhookEvent};
use dapbox_support::{Fault, Part, Point};

/// Maximum number of concurrent deliveries.
const MAX_DELIVERIES: usize = 8;
/// The first delay of a repetition, in seconds. Each further one is twice as long.
const FIRST_DELAY: u64 = 2;
/// The longest delay of a repetition, in seconds.
const MAX_DELAY: u64 = 3600;
/// Interval of checking the queue without a wakeup.
const CHECK_INTERVAL: Span = Span::from_secs(30);
/// The header of the signature.
const SIGNATURE: HeaderName = HeaderName::from_static("dapbox-signature");

/// A webhook of a task.
type Key = (TaskId, String);

/// A notification to deliver.
struct Delivery {
    task: TaskId,
    number: u64,
    event: WebhookEvent,
    /// The webhook; `None` if it was removed from the task.
    webhook: Option<Webhook>,
}

/// Delivers notifications until the server stops.
pub async fn drive(ctx: Arc<ResultsContext>) -> Result<(), Fault> {
    let (mut running, mut busy) = (JoinSet::new(), HashSet::new());
    loop {
        ctx.failpoints.turn(Part::Webhooks);
        let now = ctx.clock.now();
        for delivery in due(&ctx, now, &busy)? {
            if running.len() >= MAX_DELIVERIES {
                break;
            }
            busy.insert((delivery.task, delivery.event.url.clone()));
            running.spawn(deliver(ctx.clone(), delivery));
        }
        let wait = next_attempt(&ctx, now, &busy)?;
        tokio::select! {
            () = ctx.stop.stopped() => return Ok(()),
            () = ctx.wakeups.webhooks.notified() => {}
            Some(ended) = running.join_next() => {
                busy.remove(&settle(ended)?);
            }
            () = ctx.clock.sleep(wait) => {}
        }
    }
}

fn settle(ended: Result<Result<Key, Fault>, JoinError>) -> Result<Key, Fault> {
    ended.unwrap_or_else(|error| Err(Fault::while_doing("delivering a notification", error)))
}

/// Whether an event may be sent. A clock that was set back does not delay it for long.
fn is_due(event: &WebhookEvent, now: Time) -> bool {
    event.next_attempt <= now || event.next_attempt > now.saturating_add(Duration(MAX_DELAY))
}

/// The first due notification of each webhook that is not busy.
fn due(ctx: &ResultsContext, now: Time, busy: &HashSet<Key>) -> Result<Vec<Delivery>, Fault> {
    ctx.store.read(|view| {
        let (mut found, mut taken) = (Vec::new(), HashSet::new());
        for (task, state) in view.collectors() {
            for (number, event) in state.events.iter().filter(|(_, event)| is_due(event, now)) {
                let key = (*task, event.url.clone());
                if !busy.contains(&key) && taken.insert(key) {
                    found.push(Delivery {
                        task: *task,
                        number: *number,
                        event: event.clone(),
                        webhook: webhook_of(state, &event.url),
                    });
                }
            }
        }
        Ok(found)
    })
}

fn webhook_of(state: &CollectorState, url: &str) -> Option<Webhook> {
    state.record.settings.webhooks.iter().find(|webhook| webhook.url == url).cloned()
}

/// Time until the next notification of a webhook that is not busy.
fn next_attempt(ctx: &ResultsContext, now: Time, busy: &HashSet<Key>) -> Result<Span, Fault> {
    let next = ctx.store.read(|view| {
        let events = view.collectors().iter().flat_map(|(task, state)| state.events.values().map(move |e| (*task, e)));
        let waiting = events.filter(|(task, event)| !busy.contains(&(*task, event.url.clone())));
        Ok(waiting.map(|(_, event)| event.next_attempt).min())
    })?;
    let wait = next.map_or(CHECK_INTERVAL, |next| Span::from_secs(next.0.saturating_sub(now.0).max(1)));
    Ok(wait.min(CHECK_INTERVAL))
}

/// Sends a notification once, and stores the outcome.
async fn deliver(ctx: Arc<ResultsContext>, delivery: Delivery) -> Result<Key, Fault> {
    let Delivery { task, number, mut event, webhook } = delivery;
    let key = (task, event.url.clone());
    let outcome = match &webhook {
        Some(webhook) => {
            let sent = tokio::select! {
                sent = send(&ctx, webhook, &event.body) => sent,
                () = ctx.stop.stopped() => return Ok(key),
            };
            Some(sent)
        }
        // The operator has removed the webhook.
        None => None,
    };
    let now = ctx.clock.now();
    let retry_age = Duration(ctx.config.get().results.webhook_retry_age.as_secs());
    event.attempts = event.attempts.saturating_add(1);
    let host = host(&event.url);
    let repeat = match outcome.map(|outcome| outcome.error) {
        None => false,
        Some(None) => {
            tracing::info!(task_id = %task, webhook = host, attempt = event.attempts, "webhook notified");
            false
        }
        Some(Some(error)) if event.created.saturating_add(retry_age) <= now => {
            let attempt = event.attempts;
            tracing::error!(task_id = %task, webhook = host, attempt, error, "webhook notification given up");
            false
        }
        Some(Some(error)) => {
            let delay = FIRST_DELAY.saturating_mul(1 << event.attempts.saturating_sub(1).min(16)).min(MAX_DELAY);
            event.next_attempt = now.saturating_add(Duration(delay));
            let (attempt, delay) = (event.attempts, Span::from_secs(delay));
            tracing::warn!(task_id = %task, webhook = host, attempt, error, ?delay, "webhook notification failed");
            true
        }
    };
    let store = move |tx: &mut Tx<'_>| match tx.collector(&task).is_some_and(|state| state.events.contains_key(&number))
    {
        true if repeat => tx.put_webhook_event(&task, number, event),
        true => tx.remove_webhook_event(&task, number),
        // Removed meanwhile, with its task or for newer events.
        false => Ok(()),
    };
    ctx.store.write(Point::WebhookEvent, store).await?;
    Ok(key)
}

/// Sends the body to a webhook once.
pub async fn send(ctx: &ResultsContext, webhook: &Webhook, body: &str) -> WebhookOutcome {
    let failed = |error: String| WebhookOutcome { url: webhook.url.clone(), status: None, error: Some(error) };
    let url: Url = match check_webhook_url(&webhook.url) {
        Ok(url) => url,
        Err(why) => return failed(why),
    };
    let client = match collectors::client(ctx) {
        Ok(client) => client.with_failpoint(Point::SendWebhook),
        Err(fault) => return failed(fault.to_string()),
    };
    let client = client.with_limits(*ctx.config.get().results.webhook_timeout, 0);
    let signature = signature::header(&webhook.secret, ctx.clock.now(), body.as_bytes());
    let Ok(signature) = HeaderValue::try_from(signature) else { return failed("invalid signature".to_owned()) };
    match client.post_json(&url, &[(SIGNATURE, signature)], Bytes::copy_from_slice(body.as_bytes())).await {
        Ok(status) => {
            let error = match status {
                200..=299 => None,
                300..=399 => Some(format!("status {status} (hint: redirects are not followed; use the final address)")),
                _ => Some(format!("status {status}")),
            };
            WebhookOutcome { url: webhook.url.clone(), status: Some(status), error }
        }
        Err(error) => failed(error.to_string()),
    }
}

/// Stores a notification for each webhook of a task, in the write of the change that it describes. Drops the oldest ones
/// above the limit of the queue.
pub fn queue(tx: &mut Tx<'_>, task: &TaskId, body: &str, now: Time, limit: usize) -> Result<(), Fault> {
    let Some(state) = tx.collector(task) else { return Ok(()) };
    let urls: Vec<String> = state.record.settings.webhooks.iter().map(|webhook| webhook.url.clone()).collect();
    for url in urls {
        let oldest = tx.collector(task).filter(|state| state.events.len() >= limit);
        if let Some(oldest) = oldest.and_then(|state| state.events.first_key_value().map(|(number, _)| *number)) {
            tx.remove_webhook_event(task, oldest)?;
            tracing::warn!(task_id = %task, webhook = host(&url), "webhook queue full");
        }
        let event = WebhookEvent { url, created: now, body: body.to_owned(), attempts: 0, next_attempt: now };
        tx.add_webhook_event(task, event)?;
    }
    Ok(())
}

/// The host of a webhook, for logs: its path and query are often secret.
fn host(url: &str) -> String {
    Url::parse(url).map(|url| url.origin().ascii_serialization()).unwrap_or_default()
}
