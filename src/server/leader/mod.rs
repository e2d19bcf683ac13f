//! What a leader does without a request: it drives aggregation jobs and collection jobs.

pub mod aggregation_driver;
pub mod aggregation_job;
pub mod collection_driver;
pub mod context;
pub mod request_loop;
pub mod retry_state;
