//! Version information of the binary.

/// Version and commit, such as `0.1.0 (0123456789ab)`.
pub const VERSION: &str = env!("BUILT_VERSION");
/// Version.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");
/// Commit, marked if the sources were changed; a placeholder if the build has no commit.
pub const COMMIT: &str = env!("BUILT_COMMIT");
/// Target triple.
pub const TARGET: &str = env!("BUILT_TARGET");
/// Whether the binary is static: it needs only the kernel of the system.
pub const IS_STATIC: bool = cfg!(target_feature = "crt-static");
