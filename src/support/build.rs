//! Sets the version, the commit and the target of the build as environment variables for the compiler.
//!
//! The variable `BUILT_COMMIT` overrides the commit, for builds without a repository. Only release builds contain the
//! commit; otherwise every commit would cause a full rebuild during development.

use std::{env, path::Path, process::Command};

/// Path of the workspace, relative to this crate.
const ROOT: &str = "../..";

/// Inputs of the binary. Changes of other files do not mark the commit as changed.
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

/// The commit that is checked out, marked as changed if the sources differ. Asks cargo to run this again after a commit
/// or a change of the sources.
fn committed() -> Option<String> {
    let root = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&root).canonicalize().ok()?
        != Path::new(&variable("CARGO_MANIFEST_DIR")).join(ROOT).canonicalize().ok()?
    {
        // The repository is another project that contains this one.
        return None;
    }
    // HEAD does not change when its branch moves; its log does.
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

/// The output of a git command, if it succeeds. `--no-optional-locks` prevents writes that would trigger a rebuild.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").current_dir(ROOT).arg("--no-optional-locks").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
