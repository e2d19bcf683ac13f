//! The configuration file with the chosen settings, each with a comment.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    super::{Failure, findings::wrap, local_pair::WorkDir},
    ServerRole, TlsChoice,
    decide::Decisions,
};
use crate::config::{Config, Overrides};

/// Maximum line length of a comment, in characters.
const WIDTH: usize = 86;
/// The options that `dapbox init` sets, in the order of the file, with their comments.
const COMMENTS: &[(&str, &str)] = &[
    (
        "data_dir",
        "All persistent data: reports, aggregates, keys, tasks. Back it up ('dapbox backup') and keep it private. Absolute, so \
         that it does not depend on the working directory of the server.",
    ),
    ("listen", "Address for the other parties, or for the proxy in front."),
    (
        "public_url",
        "URL of this server for the other parties; in a task, /dap-09/ or /dap-18/ follows it. It does not change what is \
         served; 'dapbox doctor' checks that it leads here.",
    ),
    ("tls.mode", ""),
    ("tls.certificate_file", "Certificate file with the full chain. The server reloads changed files."),
    ("tls.key_file", "Private key file, readable for the server only."),
    ("acme.domains", "Names in the certificate. The authority connects to port 443 of each of them."),
    ("acme.contact_email", "Contact address for the authority, for problems with the certificates."),
    ("proxy.trusted", "Proxies in front, trusted to set the client's address in X-Forwarded-For."),
];

/// A configuration file.
pub struct ConfigFile {
    text: String,
    config: Config,
}

impl ConfigFile {
    /// Formats the settings that differ from the defaults.
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

    /// Checks, before anything is changed, that the text parses to the same configuration.
    pub fn check(&self) -> Result<(), Failure> {
        let dir = WorkDir::new(None)?;
        let path = dir.path().join("appliance.toml");
        self.write_to(&path)?;
        // The temporary path means nothing to the user, so the error has no context.
        let read = Config::from_sources(Some(&path), [], &Overrides::default()).map_err(Failure::usage)?;
        if read == self.config {
            return Ok(());
        }
        Err(Failure::new("internal error: the file would not parse to the chosen settings; please report this"))
    }

    /// Writes the file. Returns the path of the copy if a file was replaced.
    pub fn write(&self, path: &Path, force: bool) -> Result<Option<PathBuf>, Failure> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(dir).map_err(|e| Failure::new(e).context(dir.display()))?;
        let fresh = with_suffix(path, ".new");
        // A leftover of a crash.
        let _ = fs::remove_file(&fresh);
        let written = self.write_to(&fresh).and_then(|()| install(&fresh, path, force));
        if written.is_err() {
            // The original error says more than one of this call.
            let _ = fs::remove_file(&fresh);
        }
        written
    }

    fn write_to(&self, path: &Path) -> Result<(), Failure> {
        let write = || {
            // The file has no secrets, and the server may run as another user.
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
            file.write_all(self.text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|e| Failure::new(e).context(path.display()))
    }
}

/// Moves a new file into place. A replaced file is copied first, and the path always has a file.
fn install(fresh: &Path, path: &Path, force: bool) -> Result<Option<PathBuf>, Failure> {
    let wrong = |e: std::io::Error| Failure::new(e).context(path.display());
    if force && path.exists() {
        let kept = with_suffix(path, ".bak");
        fs::copy(path, &kept).map_err(|e| Failure::new(e).context(kept.display()))?;
        fs::rename(fresh, path).map_err(wrong)?;
        return Ok(Some(kept));
    }
    // Unlike a rename, a link never replaces a file created meanwhile.
    match fs::hard_link(fresh, path) {
        Ok(()) => fs::remove_file(fresh).map(|()| None).map_err(wrong),
        Err(_) if path.exists() => Err(already_exists(path)),
        // Some file systems lack hard links.
        Err(_) => fs::rename(fresh, path).map(|()| None).map_err(wrong),
    }
}

/// Refuses to replace a file without `force`.
pub fn check_overwrite(path: &Path, force: bool) -> Result<(), Failure> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => Err(Failure::new(format!("{} is a directory", path.display()))),
        Ok(_) if !force => Err(already_exists(path)),
        _ => Ok(()),
    }
}

fn already_exists(path: &Path) -> Failure {
    Failure::new(format!(
        "{} exists (hint: choose another file with --config, or replace it with --force, which \
         keeps a copy)",
        path.display()
    ))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Creates the data directory for this user only. Leaves an existing one unchanged, unless it is empty.
pub fn make_data_dir(dir: &Path) -> Result<(), Failure> {
    let wrong = |error: std::io::Error| {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => " (hint: run as root, or choose another directory with --data-dir)",
            _ => "",
        };
        Failure::new(format!("cannot create the data directory {}: {error}{hint}", dir.display()))
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

/// The comment at the top of the file.
fn heading(decisions: &Decisions) -> String {
    let role = match decisions.role {
        ServerRole::Helper => {
            "Intended for a helper, which answers other leaders' requests. No option says so: the role is set by each \
             task's helper.toml."
        }
        ServerRole::Leader => {
            "Intended for a leader, which receives uploads and works with another organization's helper. No option says \
             so: the role is set by each task's leader.toml."
        }
        ServerRole::Both => "Intended for a server that is leader or helper, depending on the task.",
    };
    let mut text = String::new();
    comment(&mut text, "Configuration of a dapbox aggregator, created by 'dapbox init'.");
    text.push_str("#\n");
    comment(&mut text, role);
    text.push_str("#\n");
    comment(
        &mut text,
        "All other options have their defaults; the appliance.toml of each release documents them. Validate changes with \
         'dapbox check'.",
    );
    text
}

/// The comment of `tls.mode`.
fn mode(tls: TlsChoice) -> &'static str {
    match tls {
        TlsChoice::Acme => {
            "Automatic certificates from Let's Encrypt. Using it implies agreement to its terms of service."
        }
        TlsChoice::Files => "Certificates in files that the operator renews.",
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
        assert!(file.text().contains("# Intended for a helper"), "{}", file.text());
        for (index, line) in file.text().lines().enumerate().filter(|(_, line)| line.contains(" = ")) {
            let above = file.text().lines().nth(index - 1).unwrap_or_default();
            assert!(above.starts_with("# "), "no comment for {line}");
        }
    }

    #[test]
    fn every_option_has_a_comment() {
        let known: Vec<_> = Config::default().flat().unwrap().into_iter().map(|(key, _)| key).collect();
        assert!(COMMENTS.iter().all(|(key, _)| known.iter().any(|known| known == key)));
        assert!(COMMENTS.iter().all(|(key, reason)| *key == "tls.mode" || !reason.is_empty()));
    }
}
