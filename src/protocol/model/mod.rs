//! Data types that all modules and all protocol revisions share.
//!
//! They do not depend on message layouts, VDAF crates, files or sockets.

pub mod base_url;
pub mod batch;
pub mod collection;
pub mod hpke;
pub mod ids;
pub mod job;
pub mod noise;
pub mod report;
pub mod secret;
pub mod task;
pub mod taskprov;
pub mod time;
pub mod tokens;
pub mod verify_keys;

pub use base_url::BaseUrl;
pub use batch::{BatchSelector, Bucket, Checksum, FixedSizeQuery, PartialBatchSelector, Query};
pub use collection::{AggregateShareReq, Collection, CollectionReq, ForwardedCollectionReq};
pub use hpke::{HpkeCiphertext, HpkeConfig, KeyState};
pub use ids::{AggregateShareId, AggregationJobId, BatchId, CollectionJobId, Id, ReportId, TaskId};
pub use job::{AggregationJobInitReq, PrepareInit, PrepareOutcome, PrepareResp};
pub use noise::Epsilon;
pub use report::{Extension, PlaintextInputShare, Report, ReportError, ReportMetadata, ReportShare};
pub use secret::{Secret, TokenHash};
pub use task::{BatchMode, MaxMeasurement, Party, Revision, Role, Task, TaskParameters, VdafConfig};
pub use time::{Duration, Interval, Time};
pub use tokens::Tokens;
pub use verify_keys::VerifyKeys;
