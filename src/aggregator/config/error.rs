//! Errors of a configuration.

use std::path::PathBuf;

/// Why the configuration is invalid. The text names file and line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The message of the TOML parser, with line and column.
        message: String,
    },
    /// Unknown keys or variables.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Unknown(Vec<UnknownKey>),
    /// A value of the wrong type.
    #[error("{0}")]
    Value(Box<figment::Error>),
    /// An invalid value or combination of values.
    #[error("{0}")]
    Invalid(String),
}

/// An unknown key or variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// Its location: `file:line`, or `environment`.
    pub location: String,
    /// The key with its table, as in `leader.max_job_size`, or the variable.
    pub key: String,
    /// A similar known key.
    pub suggestion: Option<String>,
}

impl std::fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: unknown key '{}'", self.location, self.key)?;
        self.suggestion.iter().try_for_each(|known| write!(f, "; did you mean '{known}'?"))
    }
}
