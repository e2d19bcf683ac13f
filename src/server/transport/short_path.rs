//! Paths of sockets beyond the limit of the system.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

/// Maximum length of a socket path in bytes (unix(7)): 108 with the terminator.
const MAX_SOCKET_PATH: usize = 107;

/// A path of a socket within the limit of the system.
///
/// A longer path leads through a descriptor of the socket's directory, which stays open with this value.
#[derive(Debug)]
pub struct ShortPath {
    path: PathBuf,
    _directory: Option<File>,
}

impl ShortPath {
    /// Creates a path to a socket, which need not exist.
    ///
    /// # Errors
    ///
    /// If the path is too long, and its directory cannot be opened or `/proc` is missing.
    pub fn of(socket: &Path) -> io::Result<Self> {
        let length = socket.as_os_str().as_bytes().len();
        let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Ok(Self::itself(socket));
        };
        if length <= MAX_SOCKET_PATH {
            return Ok(Self::itself(socket));
        }
        let directory = File::open(directory)?;
        let shortcut = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        if !shortcut.is_dir() {
            let text = format!(
                "the path has {length} bytes, above the limit of {MAX_SOCKET_PATH} without /proc (hint: set a shorter data_dir)"
            );
            return Err(io::Error::other(text));
        }
        Ok(Self { path: shortcut.join(name), _directory: Some(directory) })
    }

    /// Uses the socket's own path, regardless of its length.
    pub fn itself(socket: &Path) -> Self {
        Self { path: socket.to_owned(), _directory: None }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn opens_sockets_at_long_paths() {
        let dir = tempfile::tempdir().unwrap();
        for depth in [0, 1, 3] {
            let deep = (0..depth).fold(dir.path().to_owned(), |path, _| path.join("d".repeat(120)));
            std::fs::create_dir_all(&deep).unwrap();
            let socket = deep.join("control.sock");
            let _listener = UnixListener::bind(ShortPath::of(&socket).unwrap().path()).unwrap();
            assert!(socket.exists(), "{}", socket.display());
            let short = ShortPath::of(&socket).unwrap();
            assert_eq!(short.path() == socket, depth == 0);
            UnixStream::connect(short.path()).unwrap();
        }
        let missing = dir.path().join("m".repeat(120)).join("control.sock");
        assert_eq!(ShortPath::of(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
