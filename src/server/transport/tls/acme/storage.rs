//! The files that must survive a restart: the account, and the certificate with its key. Requesting new ones at each
//! start would soon hit a rate limit.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use dapbox_aggregator::config::Acme;

/// The directory in the data directory.
const DIRECTORY: &str = "acme";
/// Maximum length of a file, in bytes. Files that we write are much shorter.
const MAX_FILE: u64 = 1 << 20;

/// The files of one CA and one set of domains. Other sets have other names and are kept, so that a configuration can be
/// changed back.
#[derive(Clone, Debug)]
pub struct AcmeStorage {
    data_dir: PathBuf,
    /// The account.
    pub account: PathBuf,
    /// The certificate with its key.
    pub certificate: PathBuf,
}

impl AcmeStorage {
    /// The files for these options.
    pub fn new(data_dir: &Path, options: &Acme) -> Self {
        let mut domains: Vec<&str> = options.domains.iter().map(String::as_str).collect();
        domains.sort_unstable();
        let dir = data_dir.join(DIRECTORY);
        let account = dir.join(format!("account-{}.json", name_of(&[&options.directory])));
        let parts = [&[options.directory.as_str()], &domains[..]].concat();
        let certificate = dir.join(format!("certificate-{}.pem", name_of(&parts)));
        Self { data_dir: data_dir.to_owned(), account, certificate }
    }

    /// Creates the directory, and checks that it is writable before a certificate is requested.
    pub fn prepare(&self) -> io::Result<()> {
        let dir = self.data_dir.join(DIRECTORY);
        if !dir.is_dir() {
            DirBuilder::new().mode(0o700).create(&dir)?;
            File::open(&self.data_dir)?.sync_all()?;
        }
        let trial = dir.join("trial");
        write(&trial, &[0; 4096])?;
        fs::remove_file(trial)
    }
}

/// The name of a file for these words.
fn name_of(words: &[&str]) -> String {
    let digest = Sha256::digest(words.join("\n"));
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file, if it exists.
pub fn read(path: &Path) -> io::Result<Option<Zeroizing<String>>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE => Err(io::Error::other("the file is too long")),
        Ok(_) => fs::read_to_string(path).map(|text| Some(Zeroizing::new(text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a private file durably and atomically.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let begun = path.with_extension("new");
    match fs::remove_file(&begun) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&begun)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&begun, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Deletes a file.
pub fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn options(directory: &str, domains: &[&str]) -> Acme {
        let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
        Acme { directory: directory.to_owned(), domains, ..Acme::default() }
    }

    #[test]
    fn separates_files_by_authority_and_domains() {
        let storage =
            |directory: &str, domains: &[&str]| AcmeStorage::new(Path::new("data"), &options(directory, domains));
        let first = storage("https://a/", &["a.example", "b.example"]);
        assert_eq!(first.certificate, storage("https://a/", &["b.example", "a.example"]).certificate);
        let fewer = storage("https://a/", &["a.example"]);
        assert_eq!(first.account, fewer.account);
        assert_ne!(first.certificate, fewer.certificate);
        let elsewhere = storage("https://b/", &["a.example", "b.example"]);
        assert_ne!(first.account, elsewhere.account);
        assert_ne!(first.certificate, elsewhere.certificate);
    }

    #[test]
    fn writes_private_files_atomically() {
        let dir = tempfile::tempdir().unwrap();
        let storage = AcmeStorage::new(dir.path(), &options("https://a/", &["a.example"]));
        assert!(read(&storage.certificate).unwrap().is_none());
        storage.prepare().unwrap();
        storage.prepare().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("acme")), 0o700);

        // A file left behind by a crash is replaced, regardless of its permissions.
        fs::write(storage.certificate.with_extension("new"), "half").unwrap();
        write(&storage.certificate, b"first").unwrap();
        write(&storage.certificate, b"second").unwrap();
        assert_eq!(mode(&storage.certificate), 0o600);
        assert_eq!(read(&storage.certificate).unwrap().unwrap().as_str(), "second");
        assert_eq!(fs::read_dir(dir.path().join("acme")).unwrap().count(), 1);
        forget(&storage.certificate).unwrap();
        forget(&storage.certificate).unwrap();
        assert!(read(&storage.certificate).unwrap().is_none());
    }
}
