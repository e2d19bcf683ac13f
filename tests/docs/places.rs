//! What the documents call by a name that anybody may have, and where it is in the test.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::PathBuf};

use tempfile::TempDir;

/// A directory in which a document's commands are run, and what its names mean there.
pub struct Places {
    dir: TempDir,
    /// What is written in the document, and what is meant; the longest first.
    names: Vec<(String, String)>,
}

impl Places {
    /// A new directory, with free ports for those that the document uses, and with these further names.
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
            // Ports only: a meaning may have a path of this machine, whatever the names say about such paths.
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

    /// From now on, `name` means `meaning`, if it does not mean something yet.
    pub fn name(&mut self, name: &str, meaning: &str) {
        if name != meaning && !self.names.iter().any(|(known, _)| known == name) {
            self.names.push((name.to_owned(), meaning.to_owned()));
            self.sort();
        }
    }

    /// Where the commands are run.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// What is on the path before everything else.
    pub fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    /// Makes a program that stands for one which the test cannot have.
    pub fn pretend(&self, name: &str, script: &str) {
        let file = self.bin().join(name);
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A command as it is run.
    pub fn meant(&self, text: &str) -> String {
        replace(text, self.names.iter().map(|(name, meaning)| (name.as_str(), meaning.as_str())))
    }

    /// What a command wrote, as the document has it.
    pub fn written(&self, text: &str) -> String {
        replace(text, self.names.iter().map(|(name, meaning)| (meaning.as_str(), name.as_str())))
    }
}

/// Replaces in one pass, so that what was put in is not replaced again; the first of several that fit counts.
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

/// Ports that nothing listens on, and that the system gives to nobody who asks for any: the documents' servers are told
/// their ports before they start.
fn free_ports(count: usize) -> Vec<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let lowest = range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(32_768).max(12_000);
    let span = lowest - 10_000;
    // Tests of one process and of several begin at different places.
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    let first = (seed / 1000 % u32::from(span)) as u16;
    let candidates = (0..span).map(|step| 10_000 + (first + step) % span);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    candidates.filter(free).take(count).collect()
}
