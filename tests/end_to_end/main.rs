//! Leader, helper, client and collector speak DAP to each other over HTTP.

mod attribution;
mod bad_jobs;
mod bad_requests;
mod collections;
#[path = "../common/mod.rs"]
mod common;
mod dap18_collections;
mod dap18_deferred;
mod dap18_jobs;
mod dap18_tasks;
mod dap18_uploads;
mod dap19;
mod decisions;
mod faults;
mod interop;
mod interop_browser;
mod interop_janus;
mod lifecycle;
mod memory;
mod noise;
mod overload;
mod privacy;
mod results;
mod results_browser;
mod results_clock;
mod results_janus;
mod results_pages;
mod taskprov;
mod time_windows;
