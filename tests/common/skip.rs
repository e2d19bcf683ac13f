//! Tests that a machine cannot run, or does not run unasked.
//!
//! Such a test returns early and leaves a record, since the test harness does not show what a passing test prints. The last
//! program of the suite, `skip_summary.rs`, counts and names the records. With `CI` in the environment a missing program fails
//! the test.
// Programs include this file alone, and few need all of it.
#![allow(dead_code)]

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// Where the records are: one file per test, with the reason.
pub fn records() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped")
}

/// Whether everything must be tested.
pub fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// Whether all of these programs are installed. If not, the running test is skipped, and must return.
///
/// # Panics
///
/// In CI, if one is missing.
#[track_caller]
pub fn has_programs(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().copied().filter(|program| find_program(program).is_none()).collect();
    let missing = missing.join(", ");
    assert!(missing.is_empty() || !is_ci(), "{missing} not installed");
    missing.is_empty() || skip(&format!("{missing} not installed"))
}

/// Whether the running test may mount file systems: in CI, and where a filter on the command line names the test. If not,
/// the test is skipped, and must return.
#[track_caller]
pub fn may_mount() -> bool {
    let test = running_test();
    // cargo-nextest names every test that it runs.
    let has_filter = env::var_os("NEXTEST").is_none();
    let is_named =
        has_filter && env::args().skip(1).any(|argument| !argument.starts_with('-') && test.contains(&argument));
    is_ci() || is_named || skip("it mounts file systems; name it to run it")
}

/// The path of a program, which may be one for the system's administrator.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    places.map(|place| place.join(name)).find(|file| file.is_file())
}

/// Records that the running test is skipped. Returns `false`, for the conditions above.
#[track_caller]
pub fn skip(reason: &str) -> bool {
    let test = format!("{}::{}", env!("CARGO_CRATE_NAME"), running_test());
    let record = || {
        fs::create_dir_all(records())?;
        let mut file = OpenOptions::new().create(true).append(true).open(records().join(test.replace("::", "--")))?;
        // In one write: tests run in parallel.
        file.write_all(format!("{test}: {reason}\n").as_bytes())
    };
    record().unwrap();
    eprintln!("skipped: {test}: {reason}");
    false
}

/// The name of the running test, which is that of its thread, or its place in the source if the harness runs it in the main
/// thread.
#[track_caller]
fn running_test() -> String {
    match std::thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => std::panic::Location::caller().to_string().replace('/', "::"),
    }
}
