//! Links to the results of a task, for people without an account: read only, expiring and revocable. Only the hash of a
//! link's token is stored.

use dapbox_protocol::model::{Secret, TaskId, Time, TokenHash};
use dapbox_store::{ResultLink, Tx, View, WriteError};

use crate::views::results::{LinkStatus, NewLink};

/// Maximum number of valid links of a task.
pub const MAX_LINKS: usize = 256;
/// Maximum length of the label of a link, in characters.
pub const MAX_LABEL: usize = 100;
/// Length of the id of a link: the first characters of its hash.
const ID_CHARS: usize = 12;

/// Why a link is not added or revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// This server does not collect the task.
    #[error("this server does not collect task {0}; list its tasks with 'dapbox results list'")]
    NoTask(TaskId),
    /// The label is too long or contains control characters.
    #[error("a label has at most {MAX_LABEL} characters and no control characters")]
    Label,
    /// There are too many links.
    #[error("task {0} has {MAX_LINKS} links, which is the maximum; revoke some")]
    TooMany(TaskId),
    /// No link has this id.
    #[error("link {0:?} does not exist; list the links with 'dapbox results link list'")]
    Unknown(String),
}

/// Adds a link with a token, and deletes expired ones.
pub fn add(tx: &mut Tx<'_>, new: NewLink, token: &Secret, now: Time) -> Result<LinkStatus, WriteError<LinkError>> {
    let NewLink { task, label, valid_for } = new;
    if tx.collector(&task).is_none() {
        return Err(WriteError::Refused(LinkError::NoTask(task)));
    }
    if label.chars().count() > MAX_LABEL || label.chars().any(char::is_control) {
        return Err(WriteError::Refused(LinkError::Label));
    }
    let is_valid = |link: &&ResultLink| link.task == task && link.is_active(now);
    if tx.result_links().values().filter(is_valid).count() >= MAX_LINKS {
        return Err(WriteError::Refused(LinkError::TooMany(task)));
    }
    let expired = tx.result_links().values().filter(|link| !link.is_active(now));
    for hash in expired.map(|link| link.hash).collect::<Vec<_>>() {
        tx.remove_result_link(&hash);
    }
    let expires = valid_for.map(|valid_for| now.saturating_add(valid_for));
    let link = ResultLink { task, hash: TokenHash::of(token.expose()), label, created: now, expires };
    let status = status(&link);
    tx.put_result_link(link)?;
    Ok(status)
}

/// Revokes the link with this id.
pub fn revoke(tx: &mut Tx<'_>, id: &str) -> Result<LinkStatus, WriteError<LinkError>> {
    let found = tx.result_links().values().find(|link| id_of(&link.hash) == id).cloned();
    let Some(link) = found else { return Err(WriteError::Refused(LinkError::Unknown(id.to_owned()))) };
    tx.remove_result_link(&link.hash);
    Ok(status(&link))
}

/// The valid links, of one task or of all, the oldest first.
pub fn list(view: &View<'_>, task: Option<&TaskId>, now: Time) -> Vec<LinkStatus> {
    let is_wanted = |link: &&ResultLink| link.is_active(now) && task.is_none_or(|task| link.task == *task);
    let mut found: Vec<_> = view.result_links().values().filter(is_wanted).map(status).collect();
    found.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    found
}

/// The task of a valid link with this token.
///
/// The token is hashed before the search, so the duration depends on the hash alone and reveals nothing of a token.
pub fn find(view: &View<'_>, token: &str, now: Time) -> Option<TaskId> {
    let link = view.result_links().get(&TokenHash::of(token.as_bytes()))?;
    link.is_active(now).then_some(link.task)
}

fn status(link: &ResultLink) -> LinkStatus {
    LinkStatus {
        id: id_of(&link.hash),
        task: link.task,
        label: link.label.clone(),
        created: link.created,
        expires: link.expires,
    }
}

/// Identifies a link in lists. Some characters of a hash do not reveal the token.
fn id_of(hash: &TokenHash) -> String {
    hash.to_string().chars().take(ID_CHARS).collect()
}
