//! dapbox: an aggregator for privacy-preserving measurement in one binary.
//!
//! This page is the architecture: what there is, where to begin reading, and what always holds.
//!
//! # Bird's eye
//!
//! In DAP, the Distributed Aggregation Protocol, a **client** splits each measurement into two encrypted shares. A
//! **leader** and a **helper** that do not collude check the shares together with zero-knowledge proofs (a VDAF,
//! Prio3), add them up, and hand two aggregate shares to a **collector**, which alone can read the total. dapbox can be
//! each of the four. A leader and a helper are the same server with another role in a task; a server has one data
//! directory and needs no other process.
//!
//! Two revisions of the protocol live side by side: DAP-09, which deployed clients speak, and DAP-18, the newest draft. A
//! task is pinned to one of them when it is made, and they are mounted under different paths, so that a revision is
//! never guessed.
//!
//! # Where to begin
//!
//! - [`server::Server::start`] brings up an aggregator. A request goes from `server/transport/listen.rs` to the routes of its
//!   revision (`server/dap/dap09.rs`, `server/dap/dap18.rs`) to `server/dap/flow.rs`, which runs the decisions of [`aggregator`] in
//!   the right order and on the right threads.
//! - [`aggregator`] has the rules of the protocol, one file for each interaction. Read `helper.rs` first.
//! - [`client::Client`] uploads, [`collector::Collector`] collects.
//! - `cli/demo` puts all four together.
//!
//! # Rooms
//!
//! A room uses those to its right, never back; `tests/tidy.rs` checks it.
//!
//! ```text
//! main -> cli -> { server, client, collector } -> { aggregator, peer } -> { wire, vdaf, hpke, pool, store } -> model
//! ```
//!
//! | room | what it knows |
//! |---|---|
//! | [`model`] | the nouns: tasks, reports, batches, jobs; the names of the failure points. No layouts, and no I/O but `files.rs` |
//! | [`wire`] | bytes and nouns; one directory for each protocol revision behind one trait |
//! | [`vdaf`] | measurements, shares and proofs; alone in naming `prio`, of which it has one version for each revision |
//! | [`hpke`] | key pairs, seal, open; alone in naming the `hpke` crate and `aws_lc_rs` |
//! | [`pool`] | threads for arithmetic, with a limit on what is admitted |
//! | [`store`] | durable group commits, secrets at rest, backups; `engine.rs` is alone in naming `sled` |
//! | [`aggregator`] | decisions: synchronous, `now` is an argument |
//! | [`peer`] | the HTTP client, exact about what may have arrived; whose certificates are believed, where hosts are |
//! | [`server`] | HTTP and TLS, what is shown to those who watch, shutdown, and the drivers of what happens by itself |
//! | [`client`], [`collector`] | the other two parties |
//! | [`config`] | `appliance.toml`; every limit has its name there |
//!
//! # The way of the data
//!
//! - **Upload**: decode, check, store still encrypted, answer when durable. No public-key work, but for a small sample of
//!   reports that idle workers open first.
//! - **Aggregation job, helper**: seen before? same bytes. Else reserve the report ids in the store's writer, open and
//!   prepare on the pool, summing per batch bucket as it goes, then sums, ids and answer in one write.
//! - **Aggregation job, leader**: pick reports in one write, prepare on the pool, store what the request is made of
//!   and its hash, send it until it is answered, finish on the pool, then one write merges the sums and drops the reports.
//! - **Collection**: a durable job waits until its batch can be closed, closes it in one write, asks the helper, seals.
//!
//! # What always holds
//!
//! 1. **A report is aggregated at most once.** Ids of aggregated reports are stored with the sums that they are in.
//! 2. **Leader and helper never disagree.** A request that may have arrived is repeated with the same bytes until it is
//!    answered, over restarts too; the helper answers a repeat with the bytes of its first answer, or with 410 when it does
//!    not keep them any more.
//!    Whatever a client sends, an honest leader accepts each report that the helper accepts: both compare their own joint
//!    randomness part in the public share with the one that they compute.
//! 3. **A batch is collected at most once**, never below the minimum, and closed durably before anybody is told.
//! 4. **What is acknowledged is durable**: answers are sent after the group commit that holds what they promise.
//! 5. **Everything before a task's horizon is closed**, whatever the clock says: it is stored, only rises, and what is
//!    forgotten is always before it. Retention raises it, and so does whoever has lost what came after a backup.
//! 6. **Any failure of the store is fatal.** Memory may be ahead of the disk then; a restart reads what is true.
//!    No background part ends unnoticed: `server/upkeep/supervise.rs` restarts it, or takes the server down.
//! 7. **Decoding is total**, every queue, body and vector has a limit, and a panic on the pool is one request's fault.
//! 8. **Four kinds of failure, never merged**: [`wire::Malformed`] (bytes), [`wire::Problem`] (what a peer is told),
//!    [`model::ReportError`] (one report), [`model::Fault`] (ours: logged once, answered 500).
//! 9. Nothing outside [`wire`], [`vdaf`] and the routes in [`server`] knows which revision a task has: inside, times are
//!    seconds, ids are explicit, and a noun has what any revision needs. Where the revisions rule differently about
//!    collected batches, [`wire::CollectedBatchPolicy`] says so as a policy with a name.
//!
//! # Choices that are not obvious
//!
//! - **A batch bucket outlives its collection**, without its sum: counts stay, so that a later query that overlaps is
//!   refused as an overlap and not as too small, in the order of checks that the draft gives.
//! - **The helper's aggregate share is sealed in the store's writer.** Closing a batch and storing what was given out
//!   must be one step, it happens once per batch, and it takes less time than the commit itself.
//! - **Noise is a share of no reports**: what is given out begins with a draw instead of zero, made on the pool before the
//!   write that closes the batch and put in by it. A task draws for one batch at a time, once that batch can be closed, and
//!   other tasks do not wait for it. A draw that was not needed is dropped unseen; one that was is on disk before anybody
//!   sees it. The sampler is `prio`'s, so that nobody has to trust ours.
//! - **A batch's time window is that of its reports**, aggregated or in jobs under way. It is stored nowhere else, and so it
//!   cannot differ from them.
//! - **A collection that may close its batch lets it rest**: no new job takes reports of its interval, so that it ends
//!   under any load of uploads.
//! - **A job is dissolved in one case only**: its request is refused for good (413, or `invalidMessage`), and every earlier
//!   attempt was refused with a status that proves that nothing was taken (such as 429, or 503 with `Retry-After`).
//!   Everything else is repeated, with pauses, and shown in the task's status.
//! - **Requests are routed by one function of method and path** instead of a warp filter per resource: 404, 405 and 415
//!   have an order then, and headers for browsers are on errors too.
//! - **What a job, a share or a collection is called is the server's choice in DAP-18**, and it is a hash of what was
//!   asked: the same request finds the same resource without any lookup by content. Deleting one raises a generation that
//!   is hashed too, so that a deleted id stays dead and the same question can be asked anew.
//! - **Answers may be deferred on either side.** A leader that gets an empty answer polls the place that it was told, and
//!   sends the same bytes again if the helper does not know that place any more. A helper that defers has stored the
//!   request before it says so.
//! - **A leader-selected batch is given out until its collection job is deleted**, or for `leader.next_batch_after` after its
//!   result was fetched: there are collectors that never delete a job. Its result stays at the job's URL. The collector
//!   keeps the result first and deletes then; a result that was lost on the way is not lost for good.
//! - **That a result was fetched is stored before it is sent.** A result that nobody fetched is shown to the operator, and
//!   is given out again as often as it is asked for.
//! - **A job that is to be tried again is deleted at the helper first.** Reports that were too early for the helper's clock
//!   may make a later job that is the same to the byte, and whoever names jobs by their content would answer it as before.
//! - **An upload that is malformed at its end is stored up to there.** It is stored as it comes in, and uploads are
//!   idempotent: the client sends all of it again.
//! - **Extensions that we do not know refuse an upload as a whole**, after its other reports were stored: the protocol has
//!   no way to tell a client about the extensions of one report.
//! - **A task's public parameters are one noun**, [`model::TaskParameters`], which client, collector and aggregators
//!   share: DAP-18 binds every sealed share to all of them.
//! - **A maximum is a number, not a number of bits**: the older VDAF takes only those of whole bits and says so. In VDAF-18
//!   sums are in a field of 64 bits: maxima stay below 2^32 there, so that no sum of a realistic batch wraps around.
//! - **Of an aggregated report a keyed 64-bit fingerprint is kept**, on disk and in memory; `store/fingerprints.rs` has the
//!   arithmetic. Where one side takes a new report for a known one, both drop it.
//! - **Rows that hold secrets are encrypted as rows, not the files**: everything that copies rows, backups and compaction, can
//!   do so without the key.
//! - **The database has a ledger**: each commit writes a sum over all rows, and a file beside it says which commits are
//!   durable. sled takes what it cannot read for what was not written, and would open as an older state; replay protection
//!   would be gone without a word. A start reads every row for it.
//! - **A restored aggregator gives its past up.** It cannot know what it aggregated and gave out since the backup, and no
//!   protocol tells it; so the restore itself raises every task's horizon above now, before the directory can be opened.
//! - **A helper's answers expire, their jobs do not** (before their reports do): a late repeat is refused with 410, never
//!   answered differently.
//! - **The disk is watched by what may be written, not by the clock alone**: between two looks no more is admitted than the
//!   reserve can take.
//! - **HPKE's key schedule is the `hpke` crate's, its X25519 and ciphers are aws-lc's.** They plug into the crate's traits,
//!   and tests compare them with the crate's own. A private key is parsed once and knows its public key, so that opening
//!   costs one multiplication, which is nearly all that it costs.
//! - **The jobs of a task take turns at the workers, and tasks share them.** If the jobs of a task shared them too, they would
//!   all end at once, and the workers would have nothing to do while all are stored.
//! - **Sums are on disk.** Memory holds what is counted of each batch bucket, and a cache of encoded sums. Clients choose the
//!   times of reports, so a task has a limit of open buckets, which an upload checks: what is accepted can be aggregated.
//! - **Memory is shared out before it is used.** The times of its reports tell how many sums a job has, before anything of it
//!   is prepared; a helper refuses one that does not fit (413). A leader's job takes its part before it loads reports. While the helper
//!   does not answer it may lose to another job what it prepared, and prepares it again: the request is the same to the byte.
//!   Uploads have a budget of their own, because anybody may send them.
//! - **The system's allocator stays.** mimalloc and jemalloc changed neither throughput nor preparation by more than runs
//!   differ, and took more memory.
//! - **A task never changes, but for its tokens**, which stand beside it: whoever has learnt one speaks for a party. Whoever
//!   accepts a token takes the old one and the new one for a while, whoever presents it tries the new one first, so that
//!   either side may change first. A request that is repeated takes the tokens of now, not those that it began with.
//! - **A task that a control plane has set up has an end that may change**, beside it like tokens: nothing of DAP-09 is bound
//!   to it. Such a task's token is derived from a secret and the task's id, so that the management API answers a repeat as it
//!   answered first, over restarts and restores too; and the API knows no tasks but its own.
//! - **That a task was contacted is stored beside its first request**, which does not wait for it. Only such tasks may be
//!   removed by a clock that others set up and no request has ever named; in doubt, as after a restore, somebody has come.
//! - **A task that is set up in-band has its peer's tokens**, as they are configured now, and none of its own: they are replaced
//!   in one place for all tasks, and a peer that is taken out speaks for none of them. All else of it is fixed when it is first
//!   heard of, as of any task. Whether its reports have the extension is looked at where shares are opened, on both sides.
//! - **To a restored copy a task that it has forgotten comes as a new one**: the store closes the past of every task that is
//!   added to it, whichever way the task comes.
//! - **HPKE keys are replaced by a function without effects** (`aggregator/keys/plan.rs`): what becomes of each key at some
//!   time, given all keys, the tasks, the configuration and the clock. A key is pending before it is handed out, so that a
//!   backup has it before anybody seals to it. Nothing is deleted by a clock that nobody has looked at: what cannot be undone
//!   waits until the server has run for a while.
//! - **A post-quantum key is offered after the classical one**: clients that take the first that they know take what they
//!   always took. It is the `hpke` crate's X-Wing as it is, slower than X25519, and off by default.
//! - **The log has a thread of its own and a bounded queue** (`cli/logging/sink.rs`): nothing else waits for standard error.
//!   A log that nobody reads costs lines, which are counted, and never a driver or an answer.
//! - **A request takes its slot when its body is there** (`server/transport/slots.rs`), and uploads, peers and the management API have
//!   slots of their own: anybody may upload, and a client that sends nothing must cost nothing that others need.
//! - **A driver that fails is restarted, a listener or a store that fails ends the process** (`server/upkeep/supervise.rs`): what a
//!   driver does is repeated from what is stored, as after a start. Readiness says so until it works again.
//! - **TLS is beside the loop that accepts**, and a connection has its place before its handshake, so that slow handshakes
//!   take places and nothing else. The control socket and the private listener have places of their own.
//! - **An authority is convinced on port 443 alone** (TLS-ALPN-01): no other port, no access to the DNS. What it gave out is
//!   kept, failures are followed by longer pauses, a certificate is renewed when a third of its life is left; and whatever
//!   fails, the one in use stays.
//! - **Hosts are found without the C library** (`peer/names.rs`): a static binary that asks it loads parts of the system's
//!   own into itself. It is done in the same way where the binary is not static, so that it is tested.
//! - **A configuration that was replaced is kept** until the server stops (`server/operator/live.rs`): readers need no lock, a request
//!   goes on with what it began with, and only an operator's reload makes another.
//! - **Watching reads, and counts nothing twice**: metrics, the overview, `dapbox status` and the page are read from what the
//!   store counts anyway. What is kept for them alone is in `server/operator/recorder.rs`, bounded, and forgotten at a restart. The
//!   private listener goes last, so that whoever watches learns why a server stops.
//! - **The status page is one document without anything else**: all that it shows is in it. Its script fetches the next one
//!   and changes what is different; without scripts it is the same page.
//! - **`init` writes what differs from the defaults and nothing else**, so that a later release can have better ones. `check`
//!   looks at a configuration, `doctor` at the world; the doctor asks other aggregators for nothing but their keys.
//! - **The runner of interop tests knows nobody**: it asks dapbox's own parties, too, through the test API alone, and adds up
//!   what it had uploaded without any of the code that it tries. `serve` cannot be told to have that API: only `interop serve`
//!   has it, on loopback, and it takes nothing that a page in a browser may send unasked.
//! - **No aggregation parameter, no query count**: Prio3 has one parameter, the empty one. Another is refused, so a batch
//!   cannot be queried more often than once, and `max_batch_query_count` only has to be at least one.

#![deny(clippy::print_stderr)]

pub mod cli;
mod tools;

pub use dapbox_aggregator::{self as aggregator, config, views};
pub use dapbox_client::{client, collector, peer};
pub use dapbox_protocol::{hpke, model, vdaf, wire};
pub use dapbox_server::{self as server, pool};
pub use dapbox_store as store;
pub use dapbox_support as support;
