//! The house keeps its plan: which room may know which, and who alone may name a crate.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use dapbox::support::Point;

/// The rooms, each with those that it may use. `model` is everybody's.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("config", &["model", "hpke"]),
    ("wire", &["model"]),
    ("vdaf", &["model"]),
    ("hpke", &["model"]),
    ("pool", &["model"]),
    ("store", &["model"]),
    ("peer", &["model", "wire"]),
    ("aggregator", &["model", "config", "wire", "vdaf", "hpke", "store"]),
    ("server", &["model", "config", "wire", "vdaf", "hpke", "pool", "store", "peer", "aggregator"]),
    ("client", &["model", "config", "wire", "vdaf", "hpke", "peer"]),
    ("collector", &["model", "config", "wire", "vdaf", "hpke", "peer"]),
];

/// Words that only certain files may say, outside comments.
const PRIVATE: &[(&str, &[&str])] = &[
    ("sled::", &["store/engine.rs"]),
    ("prio16", &["vdaf/"]),
    ("rayon::", &["pool.rs"]),
    ("reqwest::", &["peer.rs", "peer/", "cli/", "server/tls/acme/authority.rs"]),
    ("instant_acme", &["server/tls/acme/"]),
    ("hickory_resolver::", &["peer/names"]),
    ("sd_notify", &["cli/manager.rs"]),
    ("clap_complete", &["cli/shell.rs"]),
    ("clap_mangen", &["cli/manual.rs"]),
    ("tracing_log::", &["cli/logging.rs"]),
    ("warp::", &["server/"]),
    ("prio18", &["vdaf/"]),
    ("maud::", &["server/page"]),
    ("use hpke::", &["hpke/", "model/mod.rs"]),
    ("aws_lc_rs", &["hpke/", "server/tls/", "peer/trust.rs", "cli/certificate.rs"]),
    ("rustls::", &["server/tls/", "peer/trust.rs", "server/lib.rs", "cli/certificate.rs", "cli/doctor/"]),
    ("x509_parser::", &["server/tls/"]),
    ("chacha20poly1305::", &["store/vault.rs"]),
    ("yaml_serde::", &["wire/management/task_list.rs"]),
    ("siphasher::", &["store/fingerprints.rs"]),
    ("crc32fast::", &["store/ledger.rs"]),
    (
        "rustix::",
        &[
            "store/space.rs",
            "store/owner.rs",
            "server/metrics/",
            "cli/doctor/",
            "cli/bench/",
            "cli/screen.rs",
            "pool.rs",
        ],
    ),
    ("prometheus_client", &["server/operator/metrics.rs"]),
    ("Revision::Dap09", &["wire/mod.rs", "wire/taskprov/", "vdaf/mod.rs", "server/", "cli/"]),
    ("Revision::Dap18", &["wire/mod.rs", "wire/taskprov/", "vdaf/mod.rs", "server/", "cli/"]),
];

/// The code of a file: no comments, and no tests, which may reach further than what they test.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
    shipped.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if path.is_file() && name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

fn source_files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    assert!(found.len() > 30, "the sources are not where this test looks for them");
    let relative = |path: &Path| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    found.iter().map(|path| (relative(path), code(path))).collect()
}

/// The rooms that a file names: `crate::room::…`, and the members of `use crate::{…}`.
fn rooms_used(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for part in code.split("crate::").skip(1) {
        let Some(group) = part.strip_prefix('{') else {
            used.push(part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            continue;
        };
        let (mut depth, mut word) = (0, String::new());
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => used.push(std::mem::take(&mut word)),
                _ if depth == 0 => word.push(c),
                _ => {}
            }
        }
        used.push(word);
    }
    let first = |path: &String| path.trim().split("::").next().unwrap_or_default().to_owned();
    used.iter().map(first).filter(|room| !room.is_empty()).collect()
}

#[test]
fn rooms_depend_in_one_direction() {
    for (file, code) in source_files() {
        let room = file.split(['/', '.']).next().unwrap_or_default();
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else { continue };
        for used in rooms_used(&code).iter().filter(|used| ROOMS.iter().any(|(name, _)| name == used)) {
            assert!(used == room || allowed.contains(&used.as_str()), "{file} must not use {used}");
        }
    }
}

#[test]
fn each_crate_has_one_room() {
    for (file, code) in source_files() {
        for (word, homes) in PRIVATE {
            let at_home = homes.iter().any(|home| file.starts_with(home));
            assert!(at_home || !code.contains(word), "{file} must not name {word}");
        }
    }
}

#[test]
fn files_are_small_and_finished() {
    for (file, code) in source_files() {
        assert!(code.lines().count() <= 500, "{file} is too long: split it");
        for word in ["todo!", "unimplemented!", "FIXME", "dbg!"] {
            assert!(!code.contains(word), "{file} says {word}");
        }
    }
}

/// A point that is not in the list, or that nothing passes any more, would fail nobody.
#[test]
fn failure_points_are_listed_and_used() {
    let mut used = BTreeSet::new();
    for (file, code) in source_files() {
        let points = code.split("Point::").skip(1).filter(|_| file != "model/failpoint.rs");
        used.extend(points.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric()).collect::<String>()));
    }
    let listed: BTreeSet<_> = Point::ALL.iter().map(|point| format!("{point:?}")).collect();
    assert_eq!(used, listed, "Point::Test is for tests; all others belong into Point::ALL and at a write or a request");
}
