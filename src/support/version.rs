//! Which program this is.

/// The release and the commit, such as `0.1.0 (0123456789ab)`.
pub const VERSION: &str = env!("BUILT_VERSION");
/// The release alone.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");
/// The commit, marked if the sources were changed since; what it is instead, if it is of none.
pub const COMMIT: &str = env!("BUILT_COMMIT");
/// What it was built for.
pub const TARGET: &str = env!("BUILT_TARGET");
/// Whether it needs nothing of the system that it runs on but the kernel.
pub const IS_STATIC: bool = cfg!(target_feature = "crt-static");
