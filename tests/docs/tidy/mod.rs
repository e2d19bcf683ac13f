//! The plan of the workspace: the dependencies between crates, rooms and files, the files that may name a third-party
//! crate, and the length of files and functions.

mod functions;
mod language;
mod log_events;
mod modules;
mod source;

use std::{collections::BTreeSet, fs};

use dapbox::support::Point;
use modules::Modules;
use source::{Source, below, root};

/// The members of the workspace with their permitted dependencies. The root package may use all.
const CRATES: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("support", &["protocol"]),
    ("results", &["protocol", "support"]),
    ("pages", &["protocol", "support", "results"]),
    ("store", &["protocol", "support", "results"]),
    ("client", &["protocol", "support"]),
    ("aggregator", &["protocol", "support", "results", "store"]),
    ("server", &["protocol", "support", "results", "pages", "store", "client", "aggregator"]),
];

/// Crates that `protocol` must not use: it has no I/O, clock, threads or runtime.
const NOT_IN_PROTOCOL: &[&str] = &["tokio", "reqwest", "hyper-util", "rayon", "tracing", "rustix", "sled", "warp"];

/// The rooms of each crate in order. Files of a room may use earlier rooms only. The root package has the name "".
const ROOMS: &[(&str, &[&str])] = &[
    ("protocol", &["model", "wire", "vdaf", "hpke"]),
    ("client", &["peer", "client", "collector"]),
    ("aggregator", &["config", "views", "keys", "tasks", "offline"]),
    ("server", &["pool", "shared", "transport", "upkeep", "dap", "leader", "results", "operator"]),
    ("", &["cli/doctor", "cli/demo", "tools/interop", "tools/bench"]),
];

/// Words that only certain files may use. A file is named by the end of its path.
const PRIVATE: &[(&str, &[&str])] = &[
    ("sled::", &["store/engine.rs"]),
    ("prio16", &["vdaf/"]),
    ("rayon::", &["pool.rs"]),
    ("reqwest::", &["peer.rs", "peer/", "cli/", "server/transport/tls/acme/authority.rs"]),
    ("instant_acme", &["server/transport/tls/acme/"]),
    ("hickory_resolver::", &["peer/resolver"]),
    ("sd_notify", &["cli/service_manager.rs"]),
    ("clap_complete", &["cli/completions.rs"]),
    ("clap_mangen", &["cli/man.rs"]),
    ("comfy_table", &["cli/table.rs"]),
    ("crossterm", &["cli/screen.rs"]),
    ("jiff::", &["support/timestamp.rs", "support/duration.rs", "results/schedule", "pages/"]),
    ("tracing_log::", &["cli/logging.rs"]),
    ("warp::", &["server/"]),
    ("prio18", &["vdaf/"]),
    ("maud::", &["server/operator/page", "pages/"]),
    ("use hpke::", &["hpke/", "model/mod.rs"]),
    (
        "aws_lc_rs",
        &["hpke/", "server/results/signature.rs", "server/transport/tls/", "peer/trust.rs", "cli/certificate.rs"],
    ),
    ("rustls::", &["server/transport/tls/", "peer/trust.rs", "server/lib.rs", "cli/certificate.rs", "cli/doctor/"]),
    ("x509_parser::", &["server/transport/tls/"]),
    ("chacha20poly1305::", &["store/vault.rs"]),
    ("yaml_serde::", &["wire/management/task_list.rs"]),
    ("siphasher::", &["store/fingerprints.rs"]),
    ("crc32fast::", &["store/ledger.rs"]),
    (
        "rustix::",
        &["store/space.rs", "store/owner.rs", "server/operator/metrics/", "cli/doctor/", "tools/bench/", "pool.rs"],
    ),
    ("prometheus_client", &["server/operator/metrics.rs"]),
    ("Revision::Dap09", &["wire/mod.rs", "wire/taskprov/", "vdaf/mod.rs", "server/", "cli/", "tools/"]),
    ("Revision::Dap19", &["wire/mod.rs", "wire/taskprov/", "vdaf/mod.rs", "server/", "cli/", "tools/"]),
    ("Revision::Dap18", &["wire/mod.rs", "wire/taskprov/", "vdaf/mod.rs", "server/", "cli/", "tools/"]),
];

/// The sources of the workspace.
fn sources() -> Vec<Source> {
    let found = below("src");
    assert!(found.len() > 100, "the sources are not where this test looks for them");
    found
}

/// The directories of the members below `src`.
fn members() -> Vec<String> {
    let entries = fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap().path());
    let members = entries.filter(|path| path.join("Cargo.toml").exists());
    members.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

/// The names of the dependencies of a member.
fn dependencies(member: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("src").join(member).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().cloned().collect()
}

#[test]
fn crates_depend_in_one_direction() {
    let planned: BTreeSet<_> = CRATES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(members().into_iter().collect::<BTreeSet<_>>(), planned);
    for (name, allowed) in CRATES {
        let found = dependencies(name);
        for used in found.iter().filter_map(|dependency| dependency.strip_prefix("dapbox-")) {
            assert!(allowed.contains(&used), "{name} must not depend on {used}");
        }
    }
    for dependency in dependencies("protocol") {
        assert!(!NOT_IN_PROTOCOL.contains(&dependency.as_str()), "protocol must not depend on {dependency}");
    }
}

#[test]
fn files_depend_in_one_direction() {
    let sources = sources();
    let circles = Modules::new(&sources, &members()).circles();
    assert!(circles.is_empty(), "{} circles:\n{}", circles.len(), circles.join("\n"));
}

#[test]
fn rooms_depend_in_one_direction() {
    let sources = sources();
    let modules = Modules::new(&sources, &members());
    for (name, rooms) in ROOMS {
        let backward = modules.backward(name, rooms);
        assert!(backward.is_empty(), "{name} has dependencies on later rooms:\n{}", backward.join("\n"));
    }
}

#[test]
fn dependencies_have_one_room() {
    for Source { path, code, .. } in sources() {
        for (word, homes) in PRIVATE {
            let is_home = homes.iter().any(|home| path.contains(&format!("/{home}")));
            assert!(is_home || !code.contains(word), "{path} must not name {word}");
        }
    }
}

#[test]
fn files_are_small_and_finished() {
    for Source { path, code, comments, .. } in sources() {
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 500, "{path} has {lines} lines of code: split it");
        for word in ["todo!", "unimplemented!", "dbg!"] {
            assert!(!code.contains(word), "{path} contains {word}");
        }
        let is_unfinished = comments.iter().any(|comment| comment.text.contains("FIXME"));
        assert!(!is_unfinished, "{path} contains FIXME");
    }
}

/// The tests of failure points would not notice an unlisted point, or one that no code passes.
#[test]
fn failure_points_are_listed_and_used() {
    let mut used = BTreeSet::new();
    for Source { path, code, .. } in sources() {
        let points = code.split("Point::").skip(1).filter(|_| path != "src/support/failpoint.rs");
        used.extend(points.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric()).collect::<String>()));
    }
    let listed: BTreeSet<_> = Point::ALL.iter().map(|point| format!("{point:?}")).collect();
    assert_eq!(used, listed, "Point::Test is for tests; all others belong into Point::ALL and at a write or a request");
}
