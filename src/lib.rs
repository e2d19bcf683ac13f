//! dapbox: an aggregator for privacy-preserving measurement in one binary.
//!
//! This page is the architecture. It takes five minutes to read: the parties, the crates, the path of a report, and the
//! invariants. Design decisions are in the documentation of the modules that they explain, under "Decision".
//!
//! # Parties
//!
//! ```text
//!            two encrypted shares           two encrypted aggregate shares
//!   client ───────────────────────► leader ───────────────────────────────► collector
//!                                    │  ▲
//!    aggregation jobs and requests   │  │   answers and the helper's
//!    for aggregate shares            ▼  │   encrypted aggregate share
//!                                   helper
//! ```
//!
//! In DAP, the Distributed Aggregation Protocol, a **client** splits each measurement into two encrypted shares. A
//! **leader** and a **helper** that do not collude verify the shares with zero-knowledge proofs (a VDAF, Prio3) and add
//! them up. A **collector** decrypts the two aggregate shares and combines them into the aggregate result. dapbox
//! implements all four parties. Leader and helper are roles of a task: one server can be the leader of one task and the
//! helper of another.
//!
//! DAP-09, DAP-18 and DAP-19 are served side by side under different paths. A task is pinned to one revision.
//!
//! # Crates
//!
//! A crate may use only crates below it in this table; `dapbox-aggregator` and `dapbox-client` do not use each other. `tests/docs/tidy` checks the modules inside a crate.
//!
//! | crate | directory | contents |
//! |---|---|---|
//! | `dapbox` | `src/` | [`cli`], the commands; `tools`, benchmarks and the interoperability test runner |
//! | `dapbox-server` | `src/server/` | the HTTP server: `transport` (listeners, TLS, memory budgets), `dap` (routes and handlers), `leader` (drivers of jobs), `upkeep` (keys, retention, disk), `operator` (control socket, management API, metrics, status page); [`pool`], the VDAF worker threads |
//! | `dapbox-aggregator` | `src/aggregator/` | [`aggregator`], the rules of an aggregator, synchronous, with `now` as an argument (except `offline`, which opens a data directory for the command line); [`config`], every option and limit; [`views`], status for operators |
//! | `dapbox-client` | `src/client/` | [`client`] uploads, [`collector`] collects, [`peer`] is the HTTP client of all parties |
//! | `dapbox-pages` | `src/pages/` | [`pages`]: results of a collector as HTML, charts, CSV and JSON |
//! | `dapbox-store` | `src/store/` | [`store`]: durable group commits, replay protection, secrets at rest, backups; `engine.rs` alone uses sled |
//! | `dapbox-results` | `src/results/` | [`results`], the rules of a collector: windows, schedules, statistics; synchronous, with `now` as an argument |
//! | `dapbox-support` | `src/support/` | [`support`]: faults, failpoints, the clock, files, text formats |
//! | `dapbox-protocol` | `src/protocol/` | [`model`], the nouns of DAP; [`wire`], message encodings per revision; [`vdaf`], alone in using `prio`; [`hpke`]. No I/O, no clock, no threads |
//!
//! # Where to start reading
//!
//! - [`server::Server::start`] assembles a server. A request passes `src/server/transport/listen.rs`, `public.rs`, the routes
//!   of its revision (`dap/dap09.rs` or `dap/current.rs`) and a handler such as `dap/upload.rs`, which calls the rules in
//!   [`aggregator`].
//! - `src/server/leader/request_loop.rs` and `aggregation_job.rs` decide what a failed request to the helper means (503, 410,
//!   timeouts).
//! - [`server::Environment`] replaces the clock and the requests to peers, for simulators.
//! - [`aggregator::helper`] has the rules of the helper's aggregation jobs, [`aggregator::leader`] those of the leader,
//!   [`aggregator::collect`] those of collections.
//! - [`client::Client`] and [`collector::Collector`] are the other two parties.
//! - `cli/demo` runs all four parties in one process.
//!
//! # The path of a report
//!
//! 1. **Upload.** The leader decodes the report, checks it and stores it encrypted. It answers when the report is durable.
//!    A report that is known already is ignored. No public-key operation happens here, except for a small
//!    sample of reports that idle workers open.
//! 2. **Aggregation job, leader.** One write selects reports for a job and drops replayed ones
//!    (`aggregator/leader/pick.rs`). The worker pool opens and prepares them. The job's reports and the hash of its request are
//!    stored before the request is sent; after a restart, the same bytes are prepared again. The request is sent until the
//!    helper gives a final answer.
//! 3. **Aggregation job, helper.** A repeated request gets the stored answer. A new one reserves its report IDs; a report
//!    whose ID was aggregated before, or is in another job in progress, is rejected as replayed. The worker pool opens and prepares the shares and sums them per batch
//!    bucket. One write stores sums, report IDs and the answer.
//! 4. **Commit, leader.** The worker pool finishes preparation. One write merges the sums, records the report IDs and
//!    deletes the reports.
//! 5. **Collection.** A durable collection job waits until its batch can be closed, closes the batch in one write, requests
//!    the helper's aggregate share, and seals its own share to the collector.
//!
//! # Invariants
//!
//! 1. **A report is aggregated at most once.** Report IDs are stored in the same write as the sums that contain them.
//! 2. **Leader and helper agree.** A request that may have arrived is repeated with the same bytes until it is answered,
//!    across restarts. The helper answers a repeat with the bytes of its first answer, or with 410 after the answer
//!    has expired or the job was deleted.
//!    Both aggregators compare the joint randomness part of a public share with their own, so an honest leader accepts
//!    every report that the helper accepts.
//! 3. **A batch is collected at most once**, never below the minimum batch size. It is closed durably before its result is
//!    sent.
//! 4. **What is acknowledged is durable.** An answer is sent after the group commit that contains what it promises.
//! 5. **Everything before a task's horizon is closed**, whatever the clock shows. The horizon is stored and only rises.
//!    Only data before the horizon is deleted. Retention raises it; so does the restore of a backup.
//! 6. **Every storage error is fatal.** The server shuts down, and a restart reads the durable state. No background part
//!    fails unnoticed: `src/server/upkeep/supervise.rs` restarts it or shuts the server down.
//! 7. **Decoding is total**: it consumes every byte, never panics and allocates no more than the input justifies. Every
//!    queue, body and vector has a limit. A panic on the worker pool fails one request.
//! 8. **Four kinds of failure stay distinct**: [`wire::Malformed`] (bytes), [`wire::Problem`] (a problem document for a
//!    peer), [`model::ReportError`] (one report), [`support::Fault`] (our own failure, logged once and answered 500).
//! 9. **The protocol revision is known at the edge only**: in [`wire`], [`vdaf`], the routes and the management API of the
//!    server, and the command line. Where the
//!    revisions differ about collected batches, [`wire::CollectedBatchPolicy`] names the policy.

#![deny(clippy::print_stderr)]

pub mod cli;
mod tools;

pub use dapbox_aggregator::{self as aggregator, config, views};
pub use dapbox_client::{client, collector, peer};
pub use dapbox_pages as pages;
pub use dapbox_protocol::{hpke, model, vdaf, wire};
pub use dapbox_results as results;
pub use dapbox_server::{self as server, pool};
pub use dapbox_store as store;
pub use dapbox_support as support;
