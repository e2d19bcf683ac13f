//! Input of other programs: ids on the command line, and files.

use std::path::Path;

use super::Failure;
use crate::{model::TaskId, support::files, wire::parse_bytes};

/// Parses a task id, base64url or hexadecimal, for clap.
pub fn parse_task_id(text: &str) -> Result<TaskId, String> {
    let bytes = parse_bytes::parse(text, &[32])?;
    TaskId::try_from(bytes.as_slice()).map_err(|error| error.to_string())
}

/// Reads a text file of at most `most` bytes.
pub fn read_limited(path: &Path, most: u64) -> Result<String, Failure> {
    let text = files::read_short_text(path, most).map_err(|error| Failure::new(error).context(path.display()))?;
    text.ok_or_else(|| Failure::new(format!("{} is larger than {} KiB", path.display(), most >> 10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_file_over_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_limited(&path, 4).unwrap(), "four");
        assert!(read_limited(&path, 3).unwrap_err().message().contains("larger"));
        assert!(read_limited(&dir.path().join("y"), 3).is_err());
    }
}
