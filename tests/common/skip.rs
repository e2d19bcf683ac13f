//! Tests that are skipped on some machines or run only on request.
//!
//! Such a test returns early and leaves a record, because the test harness hides the output of passing tests. The last
//! program
//! of the suite, `skip_summary.rs`, lists the records. With `CI` in the environment a missing program fails the test.
// Some programs include this file alone and use only parts of it.
#![allow(dead_code)]

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// The directory of the records: one file for each test, with the reason.
pub fn records() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped")
}

/// Whether every test must run.
pub fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// Whether these programs are installed. If not, the running test is skipped and must return.
///
/// # Panics
///
/// In CI, if a program is missing.
#[track_caller]
pub fn has_programs(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().copied().filter(|program| find_program(program).is_none()).collect();
    has_all(&missing.join(", "))
}

/// Whether nothing that the running test uses is missing. If not, the test is skipped and must return. In CI, records that
/// the test uses programs: it runs again without them.
///
/// # Panics
///
/// In CI, if something is missing.
#[track_caller]
pub fn has_all(missing: &str) -> bool {
    assert!(missing.is_empty() || !is_ci(), "{missing} not installed");
    if is_ci() {
        let users = Path::new(env!("CARGO_TARGET_TMPDIR")).join("users-of-programs");
        fs::create_dir_all(&users).unwrap();
        let test = running_test();
        fs::write(users.join(test.replace("::", "--")), format!("{test}\n")).unwrap();
    }
    missing.is_empty() || skip(&format!("{missing} not installed"))
}

/// Whether the running test may mount file systems: in CI, and when a filter on the command line names the test. If
/// not, the test is skipped and must return.
#[track_caller]
pub fn may_mount() -> bool {
    let test = running_test();
    // cargo-nextest names every test on the command line.
    let has_filter = env::var_os("NEXTEST").is_none();
    let is_named =
        has_filter && env::args().skip(1).any(|argument| !argument.starts_with('-') && test.contains(&argument));
    is_ci() || is_named || skip("it mounts file systems; name it to run it")
}

/// Finds a program in `PATH` and in the directories of system administration.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    places.map(|place| place.join(name)).find(|file| file.is_file())
}

/// Records that the running test is skipped. Returns `false`, as the conditions above do.
#[track_caller]
pub fn skip(reason: &str) -> bool {
    let test = format!("{}::{}", env!("CARGO_CRATE_NAME"), running_test());
    let record = || {
        fs::create_dir_all(records())?;
        let mut file = OpenOptions::new().create(true).append(true).open(records().join(test.replace("::", "--")))?;
        // A single write: tests run in parallel.
        file.write_all(format!("{test}: {reason}\n").as_bytes())
    };
    record().unwrap();
    eprintln!("skipped: {test}: {reason}");
    false
}

/// The name of the running test: the name of its thread, or its source location if the harness runs it in the main
/// thread.
#[track_caller]
fn running_test() -> String {
    match std::thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => std::panic::Location::caller().to_string().replace('/', "::"),
    }
}
