//! The names in the documents and their meaning in a test.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::PathBuf};

use tempfile::TempDir;

/// The directory in which a document's commands run, and the meanings of its names there.
pub struct Places {
    dir: TempDir,
    /// A name in the document and its meaning; the longest name first.
    names: Vec<(String, String)>,
}

impl Places {
    /// A new directory with free ports for those of the document, and with these further names.
    pub fn new(ports: &[u16], names: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        let free = free_ports(ports.len());
        let mut all: Vec<(String, String)> = ports
            .iter()
            .zip(free)
            .map(|(port, free)| (format!("127.0.0.1:{port}"), format!("127.0.0.1:{free}")))
            .collect();
        for (name, meaning) in names {
            let meaning = meaning.replace("DIR", dir.path().to_str().unwrap());
            // Ports only: the meaning may be a path of this machine that matches other names.
            let ports = all[..ports.len()].iter().map(|(from, to)| (from.as_str(), to.as_str()));
            let meaning = replace(&meaning, ports);
            all.push(((*name).to_owned(), meaning));
        }
        for sub in ["bin", "home"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dapbox"), dir.path().join("bin/dapbox")).unwrap();
        let mut places = Self { dir, names: all };
        places.sort();
        places
    }

    fn sort(&mut self) {
        self.names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    }

    /// Defines the meaning of a name, unless it has one.
    pub fn name(&mut self, name: &str, meaning: &str) {
        if name != meaning && !self.names.iter().any(|(known, _)| known == name) {
            self.names.push((name.to_owned(), meaning.to_owned()));
            self.sort();
        }
    }

    /// The working directory of the commands.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// The directory at the front of `PATH`.
    pub fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    /// Writes a program that replaces one the test cannot have.
    pub fn pretend(&self, name: &str, script: &str) {
        let file = self.bin().join(name);
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Translates a command for the test.
    pub fn meant(&self, text: &str) -> String {
        replace(text, self.names.iter().map(|(name, meaning)| (name.as_str(), meaning.as_str())))
    }

    /// Translates output back into the document's names.
    pub fn written(&self, text: &str) -> String {
        replace(text, self.names.iter().map(|(name, meaning)| (meaning.as_str(), name.as_str())))
    }
}

/// Replaces in one pass, so that replacements are not replaced again. The first matching name counts.
fn replace<'a>(text: &str, pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let (mut rest, mut replaced) = (text, String::new());
    while let Some(c) = rest.chars().next() {
        match pairs.clone().find(|(from, _)| rest.starts_with(from)) {
            Some((from, to)) => {
                replaced.push_str(to);
                rest = &rest[from.len()..];
            }
            None => {
                replaced.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    replaced
}

/// Free ports outside of the range that the system assigns: the documents' servers get their ports before they start.
fn free_ports(count: usize) -> Vec<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let lowest = range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(32_768).max(12_000);
    let span = lowest - 10_000;
    // Tests of one process and of several begin at different ports.
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    let first = (seed / 1000 % u32::from(span)) as u16;
    let candidates = (0..span).map(|step| 10_000 + (first + step) % span);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    candidates.filter(free).take(count).collect()
}
