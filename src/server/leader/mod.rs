//! What a leader does without a request: it drives aggregation jobs and collection jobs.

pub mod drive_collections;
pub mod drive_jobs;
pub mod leader_job;
pub mod persist;
pub mod pursue;
