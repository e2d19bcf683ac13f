//! The configuration of a running aggregator: every option and limit with its default.
//!
//! A value comes from the first source that sets it: command line flag, environment variable
//! (`DAPBOX_LEADER__MAX_JOB_SIZE` for `max_job_size` in `[leader]`), `appliance.toml`, default. Unknown keys are
//! rejected everywhere, because a misspelt limit that is silently ignored is no limit.

mod acme;
pub mod address;
pub mod changes;
mod commented;
pub mod environment;
mod error;
mod load;
mod log;
mod management;
mod network;
mod origin;
mod provisioning;
mod reload;
mod results;
pub mod taskprov;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

pub use commented::commented;
use dapbox_protocol::{
    hpke::{self, Suite},
    model::{Secret, base_url},
};
pub use dapbox_support::duration::Seconds;
pub use error::{ConfigError, UnknownKey};
pub use load::Overrides;
pub use log::{Log, LogFormat};
pub use management::Management;
pub use network::{Acme, Monitor, OptionalAddress, Outbound, Proxy, Tls, TlsMode, check_public_url};
pub use origin::{Origin, Setting, is_secret};
pub use provisioning::Provisioning;
pub use reload::reloadable;
pub use results::Results;
pub use taskprov::Taskprov;

/// All options of an operator. Durations are written like `60s`, `500ms`, `5m`, `1h` or `1d`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The data directory; default `dapbox-data` in the current directory.
    pub data_dir: PathBuf,
    /// The address that peers, clients and collectors connect to; default `127.0.0.1:8080`, for a proxy in front.
    #[serde(deserialize_with = "address::deserialize")]
    pub listen: SocketAddr,
    /// The public URL of this server, without the path of a protocol revision; empty for none. Control planes receive
    /// it, `dapbox doctor` checks that it leads to this server, and `dapbox task add` rejects a task with another URL
    /// for this server.
    #[serde(deserialize_with = "base_url::deserialize_trimmed")]
    pub public_url: String,
    /// HTTPS on the public address.
    pub tls: Tls,
    /// Certificates from an ACME authority.
    pub acme: Acme,
    /// Reverse proxies.
    pub proxy: Proxy,
    /// Outgoing connections.
    pub peer: Outbound,
    /// The private listener for monitoring.
    pub monitor: Monitor,
    /// The management API for control planes.
    pub management: Management,
    /// Tasks that others set up on this server.
    pub provisioning: Provisioning,
    /// Tasks that are set up in-band.
    pub taskprov: Taskprov,
    /// Limits on memory, queues and time.
    pub limits: Limits,
    /// Free space to keep on the disk.
    pub disk: Disk,
    /// The leader of tasks.
    pub leader: Leader,
    /// The helper of tasks.
    pub helper: Helper,
    /// The collector of tasks, and the pages of its results.
    pub results: Results,
    /// Deletion of expired data.
    pub retention: Retention,
    /// The HPKE keys that reports are sealed to.
    pub hpke: Hpke,
    /// The key that encrypts secrets in the data directory.
    pub secrets: Secrets,
    /// The log.
    pub log: Log,
}

/// Limits on memory, queues and time. Requests beyond a limit are refused or wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest report, in bytes; default 1 MiB, which holds a vector of tens of thousands of numbers.
    pub max_report_bytes: usize,
    /// Longest upload of several reports, in bytes; default 64 MiB. Reports are stored as they arrive, so this limits a
    /// single client rather than memory.
    pub max_upload_bytes: usize,
    /// Longest request for an aggregation job, in bytes; default 128 MiB, which holds 500 of the longest usual reports.
    pub max_job_bytes: usize,
    /// Most reports in one aggregation job; default 1,000,000.
    pub max_job_reports: usize,
    /// Longest request of any other kind, in bytes; default 64 KiB.
    pub max_message_bytes: usize,
    /// Longest answer accepted from a peer, in bytes; default 128 MiB.
    pub max_answer_bytes: usize,
    /// Memory for the bodies of uploads, in bytes; default 64 MiB. An upload without memory is answered 503 with
    /// `Retry-After`. Bodies of up to 4 KiB need none.
    pub upload_memory_bytes: usize,
    /// Memory for the bodies of all other requests, in bytes; default 192 MiB. It is separate because any client may
    /// upload and could otherwise keep out a leader's jobs. A request without memory is answered 503 with
    /// `Retry-After`.
    pub request_memory_bytes: usize,
    /// Concurrent requests of each kind: uploads, requests of aggregators and collectors, requests to the management
    /// API; default 1024. Further requests are answered 503 with `Retry-After`. A request counts once its body has
    /// arrived and its token is verified, so that one kind cannot block another.
    pub max_requests: usize,
    /// Request bodies awaited at the same time, for uploads and for authenticated requests each; default 4096. A
    /// further one ends the request that has been silent longest with 503. Each takes a few kilobytes.
    pub max_pending_bodies: usize,
    /// How long a request body may be silent when memory for bodies is short; default 10 s. The request then ends with
    /// 503.
    pub max_body_silence: Seconds,
    /// Open connections; default 4096. Further connections are closed immediately.
    pub max_connections: usize,
    /// How long a client may take for the head of a request, and how long a connection may be idle; default 30 s.
    pub head_timeout: Seconds,
    /// How long a request may take, from its first byte to the end of its body; default 60 s.
    pub request_timeout: Seconds,
    /// How far ahead of this server's clock a report's time may be; default 60 s.
    pub clock_skew: Seconds,
    /// Worker threads for computation; 0 (default) for one per processor.
    pub workers: usize,
    /// Aggregation jobs admitted to the workers; default 64. Further ones are answered 503 with `Retry-After`.
    pub pool_queue: usize,
    /// Writes queued for the storage thread; default 1024. Further writers wait.
    pub store_queue: usize,
    /// Memory for the page cache of the database, in bytes; default 64 MiB.
    pub store_cache_bytes: u64,
    /// Memory for the cached sums of batch buckets of all tasks, in bytes; default 32 MiB. All sums are on disk; cached
    /// ones need not be read for a job.
    pub sum_cache_bytes: usize,
    /// Open batch buckets of one task: buckets with reports that are not collected, at a leader including waiting
    /// reports; default 20,000, twice the longest interval that can be collected. Clients choose the times of reports
    /// and thereby the number of buckets. An upload that would open another bucket is rejected (`reportRejected`,
    /// `report_dropped`). A helper allows its leader twice as many.
    pub max_open_buckets: usize,
    /// Reports of one task that may wait for aggregation at a leader; default 10,000,000. Further uploads are answered
    /// 503.
    pub max_waiting_reports: u64,
    /// Memory to track the rows that change during a backup, in bytes; default 64 MiB. A backup that needs more fails.
    pub max_backup_tracking_bytes: usize,
    /// How long a graceful shutdown waits for requests and jobs in progress; default 30 s.
    pub stop_timeout: Seconds,
}

/// Free space to keep on the disk of the data directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Disk {
    /// Free space, in bytes, below which uploads, new aggregation jobs and collection jobs that would wait for reports
    /// are answered 507 with `Retry-After`; default 256 MiB. Half of it is for work in progress, a few hundred bytes
    /// per waiting report. The other half is for what is admitted between two checks.
    pub reserve_bytes: u64,
    /// The size of the ballast file, in bytes; 0 for none; default 64 MiB. The ballast is released when the disk is too
    /// full to start. Opening the database takes up to 8 MiB and a list of its pages.
    pub ballast_bytes: u64,
    /// How often free space is measured, besides after large writes; default 2 s.
    pub check_interval: Seconds,
    /// The `Retry-After` of requests refused for lack of space; default 60 s.
    pub retry_after: Seconds,
}

/// How a leader drives its tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Leader {
    /// Most reports in one aggregation job; default 500. Larger jobs gain nothing and cost memory.
    pub max_job_size: usize,
    /// Reports that a job needs; default 100. Fewer reports wait for at most `max_job_delay`.
    pub min_job_size: usize,
    /// How long a report may wait before it is aggregated in a small job; default 5 s.
    pub max_job_delay: Seconds,
    /// Concurrent aggregation jobs of one task; default 8. Several hide the round trip to the helper.
    pub jobs_in_flight: usize,
    /// Memory for the aggregation jobs of all tasks that wait for their helpers, in bytes; default 40 MiB. 500 vectors
    /// of 10,000 numbers would take 84 MB. Jobs are sized so that two fit; others wait.
    pub max_memory_bytes: usize,
    /// How long the helper may take to answer a request; default 60 s.
    pub peer_timeout: Seconds,
    /// The first delay before a request to the helper is retried; default 500 ms. Each further delay is twice as long.
    pub retry_initial: Seconds,
    /// The longest delay before a request to the helper is retried; default 5 min.
    pub retry_max: Seconds,
    /// Opens the leader's share of one in this many uploaded reports before the upload is answered; default 100; 0 for
    /// none. Other reports are opened when their job runs, and their clients never learn of a failure. With a sample,
    /// the first reports sealed to a key are opened as well, until one is valid. Busy workers skip the sample.
    pub upload_sample_ratio: u32,
    /// The age up to which the leader retries a report that the helper called too early; default 1 day. Older ones are
    /// dropped, so that a helper with a wrong clock does not cause endless retries.
    pub early_retry_max: Seconds,
    /// Longest interval that can be collected, in units of the task's time precision; default 10,000. Some helpers
    /// create an entry for each unit before they answer.
    pub max_interval_units: u64,
    /// The `Retry-After` of a polling collector; default 1 s.
    pub collection_retry_after: Seconds,
    /// Collection jobs of one task without a result; default 1000. Further ones are answered 503 with `Retry-After`.
    pub max_collections: usize,
    /// How long a request for the next batch returns the same job after its result was fetched (DAP-18, leader-selected
    /// batches), for a collector that lost the result; default 5 min. Later requests get the next batch, because some
    /// collectors never delete a job. The result stays at the URL of its job.
    pub next_batch_after: Seconds,
}

/// How a helper answers aggregation jobs where the protocol lets it defer the answer (DAP-18 section 3.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Helper {
    /// Jobs of more reports than this are stored and answered later; default 1,000,000; 0 defers all jobs.
    pub synchronous_reports: usize,
    /// The `Retry-After` of a deferred job; default 1 s.
    pub retry_after: Seconds,
    /// Memory for aggregation jobs in progress, besides their requests, in bytes; default 64 MiB. A job takes 1 KiB per
    /// report and three times the sum of each batch bucket. Jobs without memory wait. A job that needs more than the
    /// total is refused with 413, and its leader makes smaller ones; a job of one report always runs.
    pub max_memory_bytes: usize,
    /// Deferred jobs of one task; default 1000. Further ones are answered 503 with `Retry-After`.
    pub max_deferred_jobs: usize,
}

/// When expired data is deleted. How long reports are kept is a parameter of the task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// How often expired data is deleted; default 10 min. The first time is this long after the start, so that the
    /// network can correct a wrong clock first.
    pub sweep_interval: Seconds,
    /// How long a helper keeps its answers to aggregation jobs, for leaders that retry; default 14 days. It should
    /// exceed any outage of a leader: a job that is retried later cannot be completed.
    pub answer_age: Seconds,
}

/// The HPKE keys of this server (RFC 9180 section 7) and their rotation. A change of the suite creates a key that
/// replaces the active one as in any rotation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hpke {
    /// Key encapsulation mechanism; default X25519, which every published client supports.
    pub kem: Kem,
    /// Key derivation function; default HKDF-SHA256.
    pub kdf: Kdf,
    /// Authenticated encryption; default AES-128-GCM.
    pub aead: Aead,
    /// Whether to offer a second key, of X-Wing (ML-KEM-768 with X25519), which protects recorded reports against
    /// quantum computers; default false. The specification is a draft, a report grows by 1.1 KB per aggregator, and
    /// opening it takes longer. Clients that do not know X-Wing ignore the key.
    pub post_quantum: bool,
    /// How long clients may cache a key; default 1 day.
    pub cache_max_age: Seconds,
    /// How long a key is active before it is rotated; default 90 days; `0s` for never. A stolen key opens the reports
    /// of this period. Expired keys are kept for twice `cache_max_age` plus the time that reports sealed to them may
    /// wait.
    pub rotate_every: Seconds,
    /// How long a new key stays pending before it is activated, so that a backup contains it; default 1 day. The first
    /// key of a new server is active immediately.
    pub pending_time: Seconds,
}

/// A key encapsulation mechanism (RFC 9180 section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kem {
    /// DHKEM(X25519, HKDF-SHA256).
    X25519,
    /// DHKEM(P-256, HKDF-SHA256).
    P256,
}

/// A key derivation function (RFC 9180 section 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kdf {
    /// HKDF-SHA256.
    #[serde(rename = "hkdf-sha256")]
    HkdfSha256,
    /// HKDF-SHA384.
    #[serde(rename = "hkdf-sha384")]
    HkdfSha384,
    /// HKDF-SHA512.
    #[serde(rename = "hkdf-sha512")]
    HkdfSha512,
}

/// Authenticated encryption (RFC 9180 section 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aead {
    /// AES-128-GCM.
    #[serde(rename = "aes-128-gcm")]
    Aes128Gcm,
    /// AES-256-GCM.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// ChaCha20Poly1305.
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

impl Hpke {
    /// The suite of the post-quantum key, if one is offered.
    pub fn post_quantum_suite(&self) -> Option<Suite> {
        // X-Wing goes with any KDF (draft-connolly-cfrg-xwing-kem section 5.8).
        self.post_quantum.then(|| Suite { kem_id: hpke::XWING, ..self.suite() })
    }

    /// The suite of the classical key.
    pub fn suite(&self) -> Suite {
        Suite {
            kem_id: match self.kem {
                Kem::X25519 => hpke::X25519,
                Kem::P256 => hpke::P256,
            },
            kdf_id: match self.kdf {
                Kdf::HkdfSha256 => hpke::SHA256,
                Kdf::HkdfSha384 => hpke::SHA384,
                Kdf::HkdfSha512 => hpke::SHA512,
            },
            aead_id: match self.aead {
                Aead::Aes128Gcm => hpke::AES128,
                Aead::Aes256Gcm => hpke::AES256,
                Aead::ChaCha20Poly1305 => hpke::CHACHA20,
            },
        }
    }
}

/// The source of the key that encrypts secrets in the data directory: private keys, verification keys, tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// The file of the key, created at the first start; default `secrets.key` in the data directory.
    pub key_file: PathBuf,
    /// The key itself, 32 bytes as unpadded base64url, instead of a file. Meant for the environment.
    pub key: Secret,
}

impl Config {
    /// The control socket of the server.
    pub fn control_socket(&self) -> PathBuf {
        self.data_dir.join("control.sock")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("dapbox-data"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            public_url: String::new(),
            tls: Tls::default(),
            acme: Acme::default(),
            proxy: Proxy::default(),
            peer: Outbound::default(),
            monitor: Monitor::default(),
            management: Management::default(),
            provisioning: Provisioning::default(),
            taskprov: Taskprov::default(),
            limits: Limits::default(),
            disk: Disk::default(),
            leader: Leader::default(),
            helper: Helper::default(),
            results: Results::default(),
            retention: Retention::default(),
            hpke: Hpke::default(),
            secrets: Secrets::default(),
            log: Log::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_report_bytes: 1 << 20,
            max_upload_bytes: 64 << 20,
            max_job_bytes: 128 << 20,
            max_job_reports: 1_000_000,
            max_message_bytes: 64 << 10,
            max_answer_bytes: 128 << 20,
            upload_memory_bytes: 64 << 20,
            request_memory_bytes: 192 << 20,
            max_requests: 1024,
            max_pending_bodies: 4096,
            max_body_silence: Seconds::new(10),
            max_connections: 4096,
            head_timeout: Seconds::new(30),
            request_timeout: Seconds::new(60),
            clock_skew: Seconds::new(60),
            workers: 0,
            pool_queue: 64,
            store_queue: 1024,
            store_cache_bytes: 64 << 20,
            sum_cache_bytes: 32 << 20,
            max_open_buckets: 20_000,
            max_waiting_reports: 10_000_000,
            max_backup_tracking_bytes: 64 << 20,
            stop_timeout: Seconds::new(30),
        }
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            reserve_bytes: 256 << 20,
            ballast_bytes: 64 << 20,
            check_interval: Seconds::new(2),
            retry_after: Seconds::new(60),
        }
    }
}

impl Default for Leader {
    fn default() -> Self {
        Self {
            max_job_size: 500,
            min_job_size: 100,
            max_job_delay: Seconds::new(5),
            jobs_in_flight: 8,
            max_memory_bytes: 40 << 20,
            peer_timeout: Seconds::new(60),
            retry_initial: Seconds::millis(500),
            retry_max: Seconds::new(300),
            upload_sample_ratio: 100,
            early_retry_max: Seconds::new(86_400),
            max_interval_units: 10_000,
            collection_retry_after: Seconds::new(1),
            max_collections: 1000,
            next_batch_after: Seconds::new(300),
        }
    }
}

impl Default for Helper {
    fn default() -> Self {
        Self {
            synchronous_reports: 1_000_000,
            retry_after: Seconds::new(1),
            max_memory_bytes: 64 << 20,
            max_deferred_jobs: 1000,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { sweep_interval: Seconds::new(600), answer_age: Seconds::new(14 * 86_400) }
    }
}

impl Default for Hpke {
    fn default() -> Self {
        Self {
            kem: Kem::X25519,
            kdf: Kdf::HkdfSha256,
            aead: Aead::Aes128Gcm,
            post_quantum: false,
            cache_max_age: Seconds::new(86_400),
            rotate_every: Seconds::new(90 * 86_400),
            pending_time: Seconds::new(86_400),
        }
    }
}

impl Default for Secrets {
    fn default() -> Self {
        Self { key_file: PathBuf::new(), key: Secret::new(Vec::new()) }
    }
}
