//! The configuration of a running aggregator: every option and every limit, with its default and the reason for it.
//!
//! A value is taken from the first of these that has it: command line flag, environment (`DAPBOX_LEADER__MAX_JOB_SIZE`
//! for `max_job_size` in `[leader]`), `appliance.toml`, default. Keys that nobody knows are refused wherever they stand,
//! because a misspelt limit that is silently ignored is a limit that does not exist.

mod acme;
pub mod address;
pub mod changes;
mod commented;
pub mod environment;
mod load;
mod log;
mod management;
mod network;
mod origin;
mod provisioning;
mod reload;
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
pub use load::{ConfigError, Overrides, UnknownKey};
pub use log::{Log, LogFormat};
pub use management::Management;
pub use network::{Acme, Monitor, OptionalAddress, Outbound, Proxy, Tls, TlsMode, check_public_url};
pub use origin::{Origin, Setting, is_secret};
pub use provisioning::Provisioning;
pub use reload::reloadable;
pub use taskprov::Taskprov;

/// Everything that an operator can decide. Durations are written like `60s`, `500ms`, `5m`, `1h` or `1d`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where everything that must survive a restart lives; `dapbox-data` in the current directory by default.
    pub data_dir: PathBuf,
    /// The address that peers, clients and collectors reach; `127.0.0.1:8080` by default, for a proxy in front.
    #[serde(deserialize_with = "address::deserialize")]
    pub listen: SocketAddr,
    /// The URL that the other parties reach this server under, without the path of a protocol revision; empty if there is
    /// none. Control planes are told it; else nothing is served differently for it: `dapbox doctor` looks whether it leads
    /// here, and `dapbox task add` refuses a task that has another URL for us.
    #[serde(deserialize_with = "base_url::deserialize_trimmed")]
    pub public_url: String,
    /// HTTPS on that address.
    pub tls: Tls,
    /// Certificates from an authority.
    pub acme: Acme,
    /// Proxies in front.
    pub proxy: Proxy,
    /// How we reach others.
    pub peer: Outbound,
    /// The private listener for those who watch.
    pub monitor: Monitor,
    /// The API through which control planes set tasks up.
    pub management: Management,
    /// Tasks that others set up here.
    pub provisioning: Provisioning,
    /// Tasks that are set up in-band.
    pub taskprov: Taskprov,
    /// Bounds on memory, queues and time.
    pub limits: Limits,
    /// How much room is left on the disk.
    pub disk: Disk,
    /// How a leader drives its tasks.
    pub leader: Leader,
    /// How a helper answers.
    pub helper: Helper,
    /// What is forgotten, and when.
    pub retention: Retention,
    /// The keys that reports are sealed to.
    pub hpke: Hpke,
    /// What secrets in the data directory are encrypted under.
    pub secrets: Secrets,
    /// What is logged.
    pub log: Log,
}

/// Bounds on memory, queues and time. What goes over a bound is refused or waits; nothing grows without one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest report in bytes; 1 MiB holds a vector of tens of thousands of numbers.
    pub max_report_bytes: usize,
    /// Longest upload in bytes, where the protocol has uploads of several reports. They are stored as they come, so that
    /// it is not memory that this bounds, but what one client may do in one go.
    pub max_upload_bytes: usize,
    /// Longest aggregation job request in bytes; 128 MiB holds 500 of the longest reports that are usual.
    pub max_job_bytes: usize,
    /// Most reports in one aggregation job, whatever its length.
    pub max_job_reports: usize,
    /// Longest request of any other kind in bytes: they are a few hundred bytes.
    pub max_message_bytes: usize,
    /// Longest answer that is accepted from a peer, in bytes; as long as the longest job.
    pub max_answer_bytes: usize,
    /// Memory for the bodies of uploads, in bytes; one that finds none left is answered 503 with `Retry-After`. A short one,
    /// of up to 4 KiB, needs none of it.
    pub upload_memory_bytes: usize,
    /// Memory for the bodies of all other requests, in bytes, apart because anybody may upload: with a few clients, a
    /// leader's jobs could be kept out. One that finds none left is answered 503 with `Retry-After`; short ones need none.
    pub request_memory_bytes: usize,
    /// Requests in progress at once of each kind: uploads, requests of aggregators and collectors, and requests to the
    /// management API; one more is answered 503 with `Retry-After`. A request counts once its body has arrived and its token
    /// was checked, so that one kind cannot shut out another.
    pub max_requests: usize,
    /// Request bodies that are awaited at once, of uploads and of requests with a token each. One more ends the one that has
    /// sent nothing for the longest time, with 503. Each takes a few kilobytes.
    pub max_pending_bodies: usize,
    /// How long a request body may send nothing before it ends with 503, where memory for bodies is short and others need
    /// what it holds.
    pub max_body_silence: Seconds,
    /// Connections open at once; one more is closed at once. Each costs some memory before it has asked for anything.
    pub max_connections: usize,
    /// How long a client may take over the head of a request, and a connection may be idle before it.
    pub head_timeout: Seconds,
    /// How long a request may take, from its first byte to the end of its body.
    pub request_timeout: Seconds,
    /// How far ahead of our clock a report's time may be: clocks differ.
    pub clock_skew: Seconds,
    /// Threads that compute; 0 means one for each processor.
    pub workers: usize,
    /// Aggregation jobs admitted to those threads at once; one more is answered 503 with `Retry-After`.
    pub pool_queue: usize,
    /// Writes that wait for the storage thread; one more waits before it is queued.
    pub store_queue: usize,
    /// Memory that the storage engine may use for its cache, in bytes.
    pub store_cache_bytes: u64,
    /// Memory for the sums of batch buckets of all tasks, in bytes. All sums are on disk; those that were used last are held
    /// in memory as well, so that a job need not read them.
    pub sum_cache_bytes: usize,
    /// Open batch buckets of one task: those that have reports and are not collected, at a leader also those of reports that
    /// wait. Clients decide how many there are, by the times of their reports. An upload that would open one more is refused
    /// (`reportRejected`, `report_dropped`). A helper takes twice as many from its leader. The default is twice the longest
    /// interval that can be collected.
    pub max_open_buckets: usize,
    /// Reports of one task that may wait for aggregation at a leader; uploads beyond that are answered 503.
    pub max_waiting_reports: u64,
    /// Memory for the names of rows that are written while a backup is made, in bytes; a backup for which it does not
    /// suffice fails.
    pub max_backup_tracking_bytes: usize,
    /// How long a graceful stop waits for requests and jobs in progress.
    pub stop_timeout: Seconds,
}

/// How much room is left on the disk of the data directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Disk {
    /// With less free space than this, in bytes, uploads, new aggregation jobs and collection jobs that would wait for more
    /// reports are answered 507 with `Retry-After`.
    /// Half of it is for what goes on then, which is a few hundred bytes for each report that waits; the other half for
    /// what comes in between two looks. 256 MiB are little on the disk of a small virtual machine.
    pub reserve_bytes: u64,
    /// The size of a file that holds room back, in bytes; 0 for none. It is given up when the disk is too full to start:
    /// opening the database takes up to 8 MiB and a list of its pages, and what goes on then takes some more.
    pub ballast_bytes: u64,
    /// How often the free space is looked at, besides looking when much was written.
    pub check_interval: Seconds,
    /// When those who are refused are told to come back: somebody has to make room first.
    pub retry_after: Seconds,
}

/// How a leader drives its tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Leader {
    /// Most reports in one aggregation job; more than a few hundred gain nothing and cost memory.
    pub max_job_size: usize,
    /// Fewer reports than this wait for more to come, for at most `max_job_delay`.
    pub min_job_size: usize,
    /// How long a report may wait for others before it is aggregated in a small job.
    pub max_job_delay: Seconds,
    /// Aggregation jobs of one task in progress at once; it takes several to hide the round trip to the helper.
    pub jobs_in_flight: usize,
    /// Memory for the aggregation jobs of all tasks while they wait for their helpers, in bytes. 500 vectors of 10,000
    /// numbers would take 84 MB. Jobs are made so short that two have room; others wait.
    pub max_memory_bytes: usize,
    /// How long the helper may take to answer one request.
    pub peer_timeout: Seconds,
    /// The first pause before a request to the helper is repeated; each further one is twice as long.
    pub retry_initial: Seconds,
    /// The longest pause before a request to the helper is repeated.
    pub retry_max: Seconds,
    /// The leader's share of one in this many uploaded reports is opened before the upload is answered; 0 for none. All other
    /// reports are opened when their job runs, and their clients never learn that it failed. With a sample, the first reports
    /// that are sealed to a key of a task are opened as well, until one is good. When workers are busy, none is opened.
    pub upload_sample_ratio: u32,
    /// How old a report may be, by our clock, for the leader to retry it after the helper called it too early. An older one
    /// is given up: otherwise a helper whose clock is wrong would be asked about it without end.
    pub early_retry_max: Seconds,
    /// Longest interval that can be collected at once, in units of the task's time precision: 10,000 hours are more than
    /// a year, and there are helpers that make an entry for each unit before they answer.
    pub max_interval_units: u64,
    /// When a collector that polls is told to come back.
    pub collection_retry_after: Seconds,
    /// Collection jobs of one task that may have no result yet; one more is answered 503 with `Retry-After`.
    pub max_collections: usize,
    /// How long a request for the next batch finds the same job again after its result was fetched (DAP-18, leader-selected
    /// batches), for a collector that lost it on the way. Later requests get the next batch: there are collectors that never
    /// delete a job. Its result stays at the job's URL until then.
    pub next_batch_after: Seconds,
}

/// How a helper answers aggregation jobs where the protocol lets it tell the leader to come back (DAP-18 section 3.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Helper {
    /// Jobs of more reports than this are stored first and answered later; 0 means all jobs.
    pub synchronous_reports: usize,
    /// When a leader is told to come back.
    pub retry_after: Seconds,
    /// Memory for aggregation jobs in progress beside their requests, in bytes: 1 KiB for each report, and three times the sum
    /// of each batch bucket. Jobs that find none left wait. A job that needs more than there is is refused with 413, and its
    /// leader makes shorter ones; only a job of one report runs alone.
    pub max_memory_bytes: usize,
    /// Jobs of one task that may wait to be answered; one more is answered 503 with `Retry-After`.
    pub max_deferred_jobs: usize,
}

/// What is forgotten, and when. How long reports and all that belongs to them are kept is the task's to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// How often what is over is looked for. The first time is this long after the start, so that a clock that is wrong
    /// until the network sets it does no harm.
    pub sweep_interval: Seconds,
    /// How long a helper keeps its answers to aggregation jobs, for a leader that did not get them: longer than any
    /// outage that a leader comes back from. A job that it repeats later than that cannot be finished any more.
    pub answer_age: Seconds,
}

/// The HPKE keys that we make (RFC 9180 section 7), and how long they are used. If another suite is wanted, a key of it is
/// made, and takes the place of the one that there is as in any rotation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hpke {
    /// Key encapsulation mechanism; every published client speaks the default, X25519.
    pub kem: Kem,
    /// Key derivation function.
    pub kdf: Kdf,
    /// Authenticated encryption.
    pub aead: Aead,
    /// Whether a second key is offered after that, of X-Wing (ML-KEM-768 with X25519): what is recorded today cannot be
    /// opened by the quantum computers of tomorrow. Off by default, because the specification is a draft, reports get 1.1 KB
    /// longer for each aggregator, and opening one takes longer. Clients that do not know it do not notice.
    pub post_quantum: bool,
    /// How long clients may use a key before they ask again.
    pub cache_max_age: Seconds,
    /// How long a key is handed out before another takes its place; `0s` for ever. A stolen key opens the reports of so much
    /// time. Old keys are kept for twice `cache_max_age`, and for as long as reports that were sealed to them may wait.
    pub rotate_every: Seconds,
    /// How long a new key is kept back before it is handed out, so that last night's backup has it. The first key of a new
    /// server is handed out at once.
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
    /// The suite of the keys that are offered after those, if any are.
    pub fn post_quantum_suite(&self) -> Option<Suite> {
        // X-Wing goes with any KDF (draft-connolly-cfrg-xwing-kem section 5.8).
        self.post_quantum.then(|| Suite { kem_id: hpke::XWING, ..self.suite() })
    }

    /// The suite of the keys that we make.
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

/// Where the key is that secrets in the data directory (private keys, verification keys, tokens) are encrypted under.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// The file that holds it, made at the first start; if empty, `secrets.key` in the data directory.
    pub key_file: PathBuf,
    /// The key itself, 32 bytes as unpadded base64url, in place of a file: meant for the environment.
    pub key: Secret,
}

impl Config {
    /// The socket that the command line talks to the running server through.
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
