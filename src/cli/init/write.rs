//! The file: only what was decided, each line with its reason.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    super::{Failure, findings::wrap, local::Directory},
    ServerRole, TlsChoice,
    decide::Decisions,
};
use crate::config::{Config, Overrides};

/// The longest line of a comment.
const WIDTH: usize = 86;
/// Options that are decided here, in the order in which they are written, each with its reason.
const COMMENTS: &[(&str, &str)] = &[
    (
        "data_dir",
        "Everything that must survive a restart: reports, sums, keys, tasks. Back it up ('dapbox backup'), and let \
         nobody else read it. Absolute, so that it is the same wherever the server is started.",
    ),
    ("listen", "The address that the other parties reach, or the proxy in front."),
    (
        "public_url",
        "What the other parties call this server; in a task, /dap-09/ or /dap-18/ stands behind it. Nothing is served \
         differently for it: 'dapbox doctor' looks whether it leads here.",
    ),
    ("tls.mode", ""),
    (
        "tls.certificate_file",
        "The certificate with those between it and the root. Changed files are taken over without a restart.",
    ),
    ("tls.key_file", "Its private key. The server must be able to read it, and nobody else should."),
    ("acme.domains", "The names in the certificate. The authority connects to port 443 of each of them."),
    ("acme.contact_email", "Where the authority may write to when something is wrong with the certificates."),
    ("proxy.trusted", "The proxies in front. What they say of a client's address in X-Forwarded-For is believed."),
];

/// The text of a configuration file.
pub struct ConfigFile {
    text: String,
    config: Config,
}

impl ConfigFile {
    /// Writes down what was decided and is not as it is by default anyway.
    pub fn new(decisions: &Decisions) -> Result<Self, Failure> {
        let changed = decisions.config.changed()?;
        let mut text = heading(decisions);
        let mut table = "";
        for (key, reason) in COMMENTS {
            let Some((_, value)) = changed.iter().find(|(changed, _)| changed == key) else { continue };
            let (of, name) = key.split_once('.').unwrap_or(("", key));
            if of != table {
                text.push_str(&format!("\n[{of}]\n"));
                table = of;
            } else if of.is_empty() {
                text.push('\n');
            }
            comment(&mut text, if *key == "tls.mode" { mode(decisions.tls) } else { reason });
            text.push_str(&format!("{name} = {value}\n"));
        }
        Ok(Self { text, config: decisions.config.clone() })
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Makes sure that a server will read it as it was meant, before anything is changed.
    pub fn check(&self) -> Result<(), Failure> {
        let dir = Directory::new(None)?;
        let path = dir.path().join("appliance.toml");
        self.write_to(&path)?;
        // What is wrong is said of what was decided: nobody has seen this file.
        let read = Config::from_sources(Some(&path), [], &Overrides::default()).map_err(Failure::usage)?;
        if read == self.config {
            return Ok(());
        }
        Err(Failure::new("what would be written does not mean what was decided; please report this"))
    }

    /// Writes the file. One that was there is kept, and where is returned.
    pub fn write(&self, path: &Path, force: bool) -> Result<Option<PathBuf>, Failure> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(|e| Failure::new(e).context(dir.display()))?;
        let fresh = with_suffix(path, ".new");
        // What a crash left behind is ours.
        let _ = fs::remove_file(&fresh);
        let written = self.write_to(&fresh).and_then(|()| install(&fresh, path, force));
        if written.is_err() {
            // It is of no use to anybody, and the error says more.
            let _ = fs::remove_file(&fresh);
        }
        written
    }

    fn write_to(&self, path: &Path) -> Result<(), Failure> {
        let write = || {
            // There is no secret in it, and the server may be another user.
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
            file.write_all(self.text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|e| Failure::new(e).context(path.display()))
    }
}

/// Puts a new file in its place. One that is there is kept under another name, and there is always one of them.
fn install(fresh: &Path, path: &Path, force: bool) -> Result<Option<PathBuf>, Failure> {
    let wrong = |e: std::io::Error| Failure::new(e).context(path.display());
    if force && path.exists() {
        let kept = with_suffix(path, ".bak");
        fs::copy(path, &kept).map_err(|e| Failure::new(e).context(kept.display()))?;
        fs::rename(fresh, path).map_err(wrong)?;
        return Ok(Some(kept));
    }
    // Unlike a renaming, this never replaces one that has come up meanwhile.
    match fs::hard_link(fresh, path) {
        Ok(()) => fs::remove_file(fresh).map(|()| None).map_err(wrong),
        Err(_) if path.exists() => Err(already_exists(path)),
        // There are file systems without links.
        Err(_) => fs::rename(fresh, path).map(|()| None).map_err(wrong),
    }
}

/// Refuses to replace a file unless that is wanted.
pub fn check_overwrite(path: &Path, force: bool) -> Result<(), Failure> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => Err(Failure::new(format!("{} is a directory", path.display()))),
        Ok(_) if !force => Err(already_exists(path)),
        _ => Ok(()),
    }
}

fn already_exists(path: &Path) -> Failure {
    Failure::new(format!(
        "{} is there already and is not overwritten. Name another file with --config, or replace it with --force, which \
         keeps a copy",
        path.display()
    ))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes the data directory for this user only. One that is there stays as it is, unless nothing is in it.
pub fn make_data_dir(dir: &Path) -> Result<(), Failure> {
    let wrong = |error: std::io::Error| {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => "; run this as root, or choose another with --data-dir",
            _ => "",
        };
        Failure::new(format!("cannot make the data directory {}: {error}{hint}", dir.display()))
    };
    if dir.is_dir() {
        let mode = fs::metadata(dir).map_err(wrong)?.permissions().mode();
        if mode & 0o077 != 0 && fs::read_dir(dir).map_err(wrong)?.next().is_none() {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(wrong)?;
        }
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(wrong)?;
    }
    fs::DirBuilder::new().mode(0o700).create(dir).map_err(wrong)
}

/// What the file begins with.
fn heading(decisions: &Decisions) -> String {
    let role = match decisions.role {
        ServerRole::Helper => {
            "Made for a helper, which answers the leaders of others. Nothing in here says so: each task does, when its \
             helper.toml is added."
        }
        ServerRole::Leader => {
            "Made for a leader, which takes uploads and works with the helper of somebody else. Nothing in here says \
             so: each task does, when its leader.toml is added."
        }
        ServerRole::Both => {
            "Made for a server that may be a leader or a helper: each task says which, when it is added."
        }
    };
    let mut text = String::new();
    comment(&mut text, "The configuration of a dapbox aggregator, made by 'dapbox init'.");
    text.push_str("#\n");
    comment(&mut text, role);
    text.push_str("#\n");
    comment(
        &mut text,
        "Only what was decided is here. All other options have their defaults; the appliance.toml that comes with each \
         release has all of them, with reasons. 'dapbox check' looks whether a change makes sense.",
    );
    text
}

/// Why TLS is as it is.
fn mode(tls: TlsChoice) -> &'static str {
    match tls {
        TlsChoice::Acme => {
            "An authority, Let's Encrypt, is asked for certificates, and again before they expire. To use it is to agree \
             to its terms of service."
        }
        TlsChoice::Files => "The certificate is in files, and somebody else renews it.",
        TlsChoice::Proxy | TlsChoice::Off => "",
    }
}

fn comment(text: &mut String, comment: &str) {
    for line in wrap(comment, WIDTH) {
        text.push_str(&format!("# {line}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_only_chosen_options_with_comments() {
        let mut config = Config { data_dir: PathBuf::from("/var/lib/dapbox"), ..Config::default() };
        config.proxy.trusted = vec!["127.0.0.1/32".parse().unwrap()];
        let file = ConfigFile::new(&Decisions { role: ServerRole::Helper, tls: TlsChoice::Proxy, config }).unwrap();
        file.check().unwrap();
        let lines: Vec<_> = file.text().lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        assert_eq!(lines, ["data_dir = \"/var/lib/dapbox\"", "[proxy]", "trusted = [\"127.0.0.1/32\"]"]);
        assert!(file.text().contains("# Made for a helper"), "{}", file.text());
        for (index, line) in file.text().lines().enumerate().filter(|(_, line)| line.contains(" = ")) {
            let above = file.text().lines().nth(index - 1).unwrap_or_default();
            assert!(above.starts_with("# "), "no reason for {line}");
        }
    }

    #[test]
    fn every_option_has_a_comment() {
        let known: Vec<_> = Config::default().flat().unwrap().into_iter().map(|(key, _)| key).collect();
        assert!(COMMENTS.iter().all(|(key, _)| known.iter().any(|known| known == key)));
        assert!(COMMENTS.iter().all(|(key, reason)| *key == "tls.mode" || !reason.is_empty()));
    }
}
