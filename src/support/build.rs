//! Tells the code which release and commit it is, and for which target it is built.
//!
//! `BUILT_COMMIT` in the environment says it where there is no repository, as in a container. The commit stands in
//! release builds only: while the code is worked on, every commit would have everything built anew otherwise.

use std::{env, path::Path, process::Command};

/// The workspace, from here.
const ROOT: &str = "../..";

/// What goes into the program: a change of anything else does not make it another.
const SOURCES: [&str; 3] = ["src", "Cargo.toml", "Cargo.lock"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=BUILT_COMMIT");
    println!("cargo::rustc-env=BUILT_TARGET={}", variable("TARGET"));
    let release = variable("CARGO_PKG_VERSION");
    let commit = match variable("BUILT_COMMIT") {
        given if !given.is_empty() => given,
        _ if variable("PROFILE") != "release" => "development build".to_owned(),
        _ => committed().unwrap_or_else(|| "unknown commit".to_owned()),
    };
    println!("cargo::rustc-env=BUILT_COMMIT={commit}");
    println!("cargo::rustc-env=BUILT_VERSION={release} ({commit})");
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// The commit that is checked out, with a mark if the sources differ from it. Asks to be asked again when that may have
/// changed: when there is another commit, or a source was touched.
fn committed() -> Option<String> {
    let root = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&root).canonicalize().ok()?
        != Path::new(&variable("CARGO_MANIFEST_DIR")).join(ROOT).canonicalize().ok()?
    {
        // Somebody else's repository that we were put into.
        return None;
    }
    // A branch is moved without HEAD being written; its log is written each time.
    for name in ["HEAD", "logs/HEAD", "packed-refs"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        let path = if Path::new(&path).is_absolute() { path } else { format!("{root}/{path}") };
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    SOURCES.iter().for_each(|path| println!("cargo::rerun-if-changed={ROOT}/{path}"));
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&[&["status", "--porcelain", "--"], &SOURCES[..]].concat())?;
    Some(if changed.is_empty() { commit } else { format!("{commit}, changed") })
}

/// What git says, if it is there and has something to say. It writes nothing, or it would be its own occasion.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").current_dir(ROOT).arg("--no-optional-locks").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
