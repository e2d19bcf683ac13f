//! The nouns that every room and both protocol revisions share.
//!
//! Nothing here knows a message layout, a VDAF crate or a socket; [`files`] alone opens files.

pub mod base_url;
pub mod batch;
pub mod build;
pub mod calendar;
pub mod collection;
pub mod failpoint;
pub mod fault;
pub mod files;
pub mod hpke;
pub mod ids;
pub mod job;
pub mod keys;
pub mod latency;
pub mod management;
pub mod name;
pub mod noise;
pub mod overview;
pub mod part;
pub mod pasted;
pub mod reload;
pub mod report;
pub mod secret;
pub mod status;
pub mod task;
pub mod taskprov;
pub mod time;
pub mod tokens;
pub mod words;

pub use base_url::BaseUrl;
pub use batch::{BatchSelector, Bucket, Checksum, FixedSizeQuery, PartialBatch, Query};
pub use collection::{AggregateShareReq, Collection, CollectionReq, PassedOn};
pub use failpoint::{Act, Failpoints, Phase, Point};
pub use fault::Fault;
pub use hpke::{HpkeCiphertext, HpkeConfig};
pub use ids::{AggregateShareId, AggregationJobId, BatchId, CollectionJobId, ReportId, TaskId};
pub use job::{JobInit, PrepareInit, PrepareOutcome, PrepareResp};
pub use noise::Epsilon;
pub use part::Part;
pub use report::{Extension, PlaintextInputShare, Report, ReportError, ReportMetadata, ReportShare};
pub use secret::{Secret, TokenHash};
pub use task::{BatchMode, Max, Party, Revision, Role, Task, TaskParameters, VdafConfig};
pub use time::{Duration, Interval, Time};
pub use tokens::Tokens;
