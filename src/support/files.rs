//! Reads files written by users and their tools: configuration, task files, keys, certificates.
//!
//! Windows editors write a byte order mark before the text. PEM, TOML and base64url do not allow one, so all functions
//! here skip it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// UTF-8 byte order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";
/// UTF-16 byte order marks.
const MARKS_OF_UTF16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// Reads a file without its byte order mark.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_up_to(path, u64::MAX).map(|(bytes, _)| bytes)
}

/// Reads a UTF-8 text file without its byte order mark.
pub fn read_text(path: &Path) -> io::Result<String> {
    text(read(path)?)
}

/// Reads a text file of at most `most` bytes without its byte order mark. Returns `None` if the file is longer.
pub fn read_short_text(path: &Path, most: u64) -> io::Result<Option<String>> {
    let (bytes, is_whole) = read_up_to(path, most)?;
    is_whole.then(|| text(bytes)).transpose()
}

fn read_up_to(path: &Path, most: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    let length = File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.starts_with(MARK) {
        bytes.drain(..MARK.len());
    }
    Ok((bytes, length as u64 <= most))
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    let is_utf16 = MARKS_OF_UTF16.iter().any(|mark| bytes.starts_with(mark));
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::new(
            io::ErrorKind::InvalidData,
            match is_utf16 {
                true => "the text is UTF-16; save it as UTF-8".to_owned(),
                false => format!("the text is not UTF-8 at byte {at}; save it as UTF-8"),
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn skips_one_byte_order_mark() {
        for (bytes, text) in [
            (&b"\xef\xbb\xbfa"[..], "a"),
            (b"a\xef\xbb\xbf", "a\u{feff}"),
            (b"\xef\xbb\xbf\xef\xbb\xbfa", "\u{feff}a"),
            (b"\xef\xbb\xbf", ""),
            (b"", ""),
        ] {
            let (_dir, path) = written(bytes);
            assert_eq!(read_text(&path).unwrap(), text);
            assert_eq!(read(&path).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn rejects_other_encodings_and_long_texts() {
        let (_dir, path) = written(b"\xff\xfea\0");
        assert!(read_text(&path).unwrap_err().to_string().contains("UTF-16"));
        let (_dir, path) = written(b"caf\xe9");
        assert!(read_text(&path).unwrap_err().to_string().contains("not UTF-8 at byte 3"));
        let (_dir, path) = written(b"four");
        assert_eq!(read_short_text(&path, 4).unwrap().as_deref(), Some("four"));
        assert_eq!(read_short_text(&path, 3).unwrap(), None);
    }
}
