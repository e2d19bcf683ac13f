//! What people bring from elsewhere: ids on the command line, and files of other programs.

use std::path::Path;

use super::Failure;
use crate::{model::TaskId, support::files, wire::parse_bytes};

/// For clap: a task's id.
pub fn task_id(text: &str) -> Result<TaskId, String> {
    let bytes = parse_bytes::parse(text, &[32])?;
    TaskId::try_from(bytes.as_slice()).map_err(|error| error.to_string())
}

/// The text of a file of at most so many bytes.
pub fn read_file(path: &Path, most: u64) -> Result<String, Failure> {
    let text = files::read_short_text(path, most).map_err(|error| Failure::new(error).context(path.display()))?;
    text.ok_or_else(|| Failure::new(format!("{} is longer than {} KiB", path.display(), most >> 10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_a_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_file(&path, 4).unwrap(), "four");
        assert!(read_file(&path, 3).unwrap_err().message().contains("longer"));
        assert!(read_file(&dir.path().join("y"), 3).is_err());
    }
}
