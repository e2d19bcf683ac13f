//! The resources of DAP: routes of each revision, uploads, aggregation jobs of the helper, collections, aggregate shares.

pub mod auth;
pub mod dap09;
pub mod dap18;
pub mod drive_deferred;
pub mod flow;
pub mod in_band;
pub mod jobs;
pub mod routes;
pub mod sample;
pub mod uploads;
