//! What every room of the server uses: the clock, the transport to peers, the configuration handle, the cache of tasks.

pub mod clock;
pub mod config_handle;
pub mod keyed_locks;
pub mod peer_transport;
pub mod stop;
pub mod task_cache;
pub mod taskprov_peers;
pub mod wakeups;
