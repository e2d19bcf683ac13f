//! Adds, changes, removes and describes the tasks that a server collects.

use std::net::IpAddr;

use dapbox_protocol::{
    hpke::Keypair,
    model::{TaskId, Time},
    vdaf, wire,
};
use dapbox_results::{Window, WindowState, ledger, settings::MAX_WEBHOOKS};
use dapbox_store::{CollectorRecord, ResultLink, Tx, View, WriteError};
use dapbox_support::Fault;
use url::{Host, Url};

use crate::{
    tasks::check_urls,
    views::results::{CollectorTaskChange, CollectorTaskStatus, MAX_ATTENTION, WindowAttention},
};

/// Why a task is not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectorTaskError {
    /// A parameter, the key or a setting is invalid.
    #[error("the task's {0}")]
    Invalid(String),
    /// The id belongs to a task with other parameters.
    #[error("this server collects a task with the same id and other parameters; tasks cannot change")]
    Differs,
    /// Windows exist that begin at another time.
    #[error(
        "the first window starts at {0:?} and exists already; the start cannot change (hint: remove the task first)"
    )]
    Start(Time),
}

/// Validates a task, so that later code can rely on it.
pub fn check(record: &CollectorRecord) -> Result<(), CollectorTaskError> {
    let refuse = |why: String| CollectorTaskError::Invalid(why);
    vdaf::preparer_for_task(&record.public).map_err(|why| refuse(format!("VDAF: {why}")))?;
    if record.public.min_batch_size == 0 {
        return Err(refuse("minimum batch size must be at least 1".to_owned()));
    }
    if record.public.time_precision.0 == 0 {
        return Err(refuse("time precision must be at least a second".to_owned()));
    }
    check_urls(&record.public).map_err(refuse)?;
    wire::for_revision(record.public.revision).check_task(&record.public).map_err(refuse)?;
    Keypair::from_parts(record.key.clone(), record.private_key.clone())
        .map_err(|why| refuse(format!("key pair is invalid: {why}")))?;
    record.settings.schedule.check(&record.public).map_err(|why| refuse(format!("schedule is invalid: {why}")))?;
    let webhooks = &record.settings.webhooks;
    if webhooks.len() > MAX_WEBHOOKS {
        return Err(refuse(format!("{} webhooks are more than {MAX_WEBHOOKS}", webhooks.len())));
    }
    webhooks.iter().try_for_each(|webhook| check_webhook_url(&webhook.url).map(drop)).map_err(refuse)
}

/// Parses the address of a webhook: `https`, or `http` on a loopback address.
///
/// # Errors
///
/// Says what to change. The message does not contain the path, which is often secret.
pub fn check_webhook_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|why| format!("address of a webhook is invalid: {why}"))?;
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    };
    let origin = url.origin().ascii_serialization();
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => {
            Err(format!("webhook at {origin} has a password in its address (hint: put it into the path or query)"))
        }
        "https" => Ok(url),
        "http" if is_loopback => Ok(url),
        scheme => Err(format!(
            "webhook at {origin} uses {scheme} (hint: use https; http is accepted on loopback addresses only)"
        )),
    }
}

/// Adds a validated task, or replaces the key, token, name and settings of one with the same parameters.
///
/// The replaced token is presented if the leader rejects the new one, so that either side may rotate first.
pub fn put(
    tx: &mut Tx<'_>,
    mut record: CollectorRecord,
) -> Result<CollectorTaskChange, WriteError<CollectorTaskError>> {
    let Some(state) = tx.collector(&record.public.id) else {
        tx.put_collector(record)?;
        return Ok(CollectorTaskChange::Added);
    };
    let old = state.record.clone();
    if old.public != record.public {
        return Err(WriteError::Refused(CollectorTaskError::Differs));
    }
    if old.settings.start != record.settings.start && !state.windows.is_empty() {
        return Err(WriteError::Refused(CollectorTaskError::Start(old.settings.start)));
    }
    record.created = old.created;
    if record.previous_token.is_none() {
        let is_rotated = record.token != old.token;
        record.previous_token = if is_rotated { Some(old.token.clone()) } else { old.previous_token.clone() };
    }
    if *old == record {
        return Ok(CollectorTaskChange::Unchanged);
    }
    tx.put_collector(record)?;
    Ok(CollectorTaskChange::Replaced)
}

/// The status of a task, if it exists. What only the running server knows is empty.
pub fn status(view: &View<'_>, id: &TaskId, now: Time) -> Option<CollectorTaskStatus> {
    let state = view.collector(id)?;
    let (record, windows) = (&state.record, &state.windows);
    let settings = &record.settings;
    let collected = windows.values().filter_map(Window::collected).map(|collected| collected.collected);
    let next_due = windows.values().filter(|window| window.state == WindowState::Upcoming);
    let next_due = next_due.filter_map(|window| window.interval).map(|interval| ledger::due_time(&interval, settings));
    let open = windows.values().filter(|window| !window.state.is_final());
    let mut attention = ledger::attention(windows, settings, now);
    attention.reverse();
    attention.truncate(MAX_ATTENTION);
    let attention = attention.iter().map(|item| WindowAttention {
        window: item.window(),
        interval: windows.get(&item.window()).and_then(Window::shown_interval),
        text: item.text(),
    });
    let counts = ledger::counts(windows).into_iter().filter(|(_, count)| *count > 0);
    let is_link = |link: &&ResultLink| link.task == *id && link.is_active(now);
    let named = settings.presentation.title.clone().or_else(|| record.name.as_ref().map(ToString::to_string));
    Some(CollectorTaskStatus {
        id: *id,
        name: record.name.clone(),
        title: named.unwrap_or_else(|| format!("Task {id}")),
        parameters: record.public.clone(),
        start: settings.start,
        retention: settings.retention,
        schedule: settings.schedule.clone(),
        presentation: settings.presentation.clone(),
        webhooks: settings.webhooks.iter().map(|webhook| webhook.url.clone()).collect(),
        windows: counts.map(|(name, count)| (name.to_owned(), count)).collect(),
        last_collected: collected.max(),
        next_due: next_due.min(),
        next_deadline: open.filter_map(|window| ledger::deadline(window, settings)).min(),
        attention: attention.collect(),
        last_error: None,
        webhook_queue: state.events.len() as u64,
        links: view.result_links().values().filter(is_link).count() as u64,
        page: None,
    })
}

/// Removes a task with its windows, results and links. Returns whether it existed.
pub fn remove(tx: &mut Tx<'_>, id: &TaskId) -> Result<bool, Fault> {
    tx.remove_collector(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_use_https_or_loopback() {
        for text in ["https://a.example/x?y", "http://127.0.0.1:8/", "http://localhost/", "http://[::1]:1/x"] {
            assert!(check_webhook_url(text).is_ok(), "{text}");
        }
        for text in ["http://a.example/secret", "ftp://a.example/", "https://u:p@a.example/", "a.example", ""] {
            let why = check_webhook_url(text).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
