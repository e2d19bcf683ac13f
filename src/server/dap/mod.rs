//! The resources of DAP: routes of each revision, uploads, aggregation jobs of the helper, collections, aggregate shares.

pub mod aggregate_shares;
pub mod auth;
pub mod collections;
pub mod context;
pub mod current;
pub mod dap09;
pub mod deferred_jobs;
pub mod helper_jobs;
pub mod in_band;
pub mod noise;
pub mod routes;
pub mod sampler;
pub mod upload;
pub mod upload_sample;
pub mod upload_stream;
