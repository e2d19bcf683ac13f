//! In-band provisioning: the configuration of a task as it travels in a header of the requests that are about the task.
//!
//! A revision of DAP goes with one draft of the extension, which is one implementation of [`Taskprov`] in a file of its
//! own.

mod dap09;

use bytes::Bytes;

use super::codec::Malformed;
use crate::model::{
    Revision, TaskId, TaskParameters,
    taskprov::{Advertisement, TaskConfiguration},
};

/// The header that a task's configuration travels in, in the lower case that HTTP/2 asks for.
pub const HEADER: &str = "dap-taskprov";

/// The longest configuration that is read, in bytes. It is two URLs and a hundred bytes beside them; whoever shows a longer
/// one has not said who they are yet.
pub const MAX_CONFIGURATION: usize = 4096;

/// Why a configuration is not followed before anything is known of its task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedTaskConfig {
    /// It is none.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It asks for something that we do not have.
    #[error("the task's configuration asks for {0}")]
    Unsupported(String),
}

/// The extension as it goes with a revision of DAP.
pub trait Taskprov: Sync {
    /// A configuration as the value of its header.
    fn encode_header(&self, configuration: &[u8]) -> String;
    /// A configuration from the value of its header.
    fn decode_header(&self, value: &[u8]) -> Result<Bytes, Malformed>;
    /// The id of the task that has this configuration.
    fn task_id(&self, configuration: &[u8]) -> TaskId;
    /// The bytes of a task's configuration, or why there are none. The id is what they hash to, not the one that is given.
    fn encode(&self, configuration: &TaskConfiguration) -> Result<Bytes, String>;
    /// Reads a task's configuration. All bytes are consumed, and what comes out encodes to them again.
    fn decode(&self, configuration: &Bytes) -> Result<TaskConfiguration, UnsupportedTaskConfig>;
    /// The extension that both shares of each report must have, with no data in it.
    fn report_extension(&self) -> Option<u16>;
}

/// The extension as it goes with a revision, if there is one.
pub fn for_revision(revision: Revision) -> Option<&'static dyn Taskprov> {
    match revision {
        Revision::Dap09 => Some(&dap09::Taskprov06),
        Revision::Dap18 => None,
    }
}

/// A new task's configuration, with the id that it makes; or why there is none.
pub fn advertise(public: TaskParameters, info: Bytes, max_batch_query_count: u64) -> Result<Advertisement, String> {
    let taskprov = for_revision(public.revision).ok_or("in-band provisioning goes with DAP-09 only, as yet")?;
    let configuration = TaskConfiguration { public, info, max_batch_query_count };
    let bytes = taskprov.encode(&configuration)?;
    let public = TaskParameters { id: taskprov.task_id(&bytes), ..configuration.public };
    Ok(Advertisement { configuration: TaskConfiguration { public, ..configuration }, bytes })
}
