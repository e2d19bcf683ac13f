//! The CSV file of invalid and rejected rows.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::cli::{Failure, Outcome};

/// A CSV file of line numbers and reasons, or nothing.
pub struct Rejected(Option<csv::Writer<File>>);

impl Rejected {
    /// Creates the file, if a path is given. A resumed upload appends; other files are not overwritten.
    pub fn open(path: Option<&Path>, resumes: bool) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self(None)) };
        let mut options = OpenOptions::new();
        options.append(true).mode(0o600);
        let is_there = resumes && path.exists();
        let options = if is_there { &mut options } else { options.create_new(true) };
        let file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Failure::new(format!("{} already exists (hint: choose another file)", path.display()))
            }
            _ => Failure::new(error).context(path.display()),
        })?;
        let mut writer = csv::Writer::from_writer(file);
        if !is_there {
            writer.write_record(["line", "reason"])?;
            writer.flush()?;
        }
        Ok(Self(Some(writer)))
    }

    /// Adds a row.
    pub fn add(&mut self, line: u64, reason: &str) -> io::Result<()> {
        match &mut self.0 {
            Some(writer) => Ok(writer.write_record([&line.to_string(), reason])?),
            None => Ok(()),
        }
    }

    /// Flushes the file.
    pub fn flush(&mut self) -> Outcome {
        if let Some(writer) = &mut self.0 {
            writer.flush()?;
        }
        Ok(())
    }
}
