//! In-band task provisioning (taskprov): task configurations in a request header.
//!
//! Each DAP revision has one draft of the extension, an implementation of [`Taskprov`] in a module of its own.

mod dap09;
mod dap19;

use bytes::Bytes;

use super::codec::Malformed;
use crate::model::{
    Revision, TaskId, TaskParameters,
    taskprov::{Advertisement, TaskConfiguration},
};

/// The header with the task configuration, in lower case as HTTP/2 requires.
pub const HEADER: &str = "dap-taskprov";

/// Maximum length of a configuration in bytes. A configuration has two URLs and about a hundred bytes; its sender is
/// not authenticated yet.
pub const MAX_CONFIGURATION: usize = 4096;

/// A task configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedTaskConfig {
    /// The configuration is malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The configuration uses an unsupported feature.
    #[error("unsupported task configuration: {0}")]
    Unsupported(String),
}

/// The taskprov extension of a DAP revision.
pub trait Taskprov: Sync {
    /// Encodes a configuration as a header value.
    fn encode_header(&self, configuration: &[u8]) -> String;
    /// Decodes a configuration from a header value; `None` if the extension ignores the value.
    fn decode_header(&self, value: &[u8]) -> Result<Option<Bytes>, Malformed>;
    /// The task id of a configuration.
    fn task_id(&self, configuration: &[u8]) -> TaskId;
    /// Encodes a task configuration. Ignores the given task id, because the id is the hash of the encoding. Fails if
    /// the extension cannot express the task.
    fn encode(&self, configuration: &TaskConfiguration) -> Result<Bytes, String>;
    /// Decodes a task configuration. Consumes all bytes; encoding the result yields the same bytes.
    fn decode(&self, configuration: &Bytes) -> Result<TaskConfiguration, UnsupportedTaskConfig>;
    /// The extension type that both shares of each report must have, without data.
    fn report_extension(&self) -> Option<u16>;
    /// Whether a malformed configuration is ignored, as if there were none.
    fn ignores_malformed(&self) -> bool;
}

/// The taskprov extension of a revision, if it has one.
pub fn for_revision(revision: Revision) -> Option<&'static dyn Taskprov> {
    match revision {
        Revision::Dap09 => Some(&dap09::Taskprov06),
        Revision::Dap18 => None,
        Revision::Dap19 => Some(&dap19::Taskprov04),
    }
}

/// Creates the advertisement of a new task, with its task id. Fails if the revision has no extension or cannot express
/// the task.
pub fn advertise(public: TaskParameters, info: Bytes, max_batch_query_count: u64) -> Result<Advertisement, String> {
    let taskprov = for_revision(public.revision).ok_or("in-band provisioning is supported in DAP-09 and DAP-19")?;
    let configuration = TaskConfiguration { public, info, max_batch_query_count };
    let bytes = taskprov.encode(&configuration)?;
    let public = TaskParameters { id: taskprov.task_id(&bytes), ..configuration.public };
    Ok(Advertisement { configuration: TaskConfiguration { public, ..configuration }, bytes })
}
