//! The `dapbox` command.
//!
//! # Decision: the allocator of the system
//!
//! mimalloc and jemalloc were measured as global allocators. The throughput of uploads and of report preparation stayed within
//! the variation between runs, and both used more memory. So dapbox uses the allocator of the system.

#![deny(clippy::print_stderr)]

fn main() -> std::process::ExitCode {
    dapbox::cli::run()
}
