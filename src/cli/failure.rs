//! The outcome of a command.

use std::fmt::Display;

/// Why a command failed, for the user.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

/// The outcome of a command.
pub type Outcome = Result<(), Failure>;

impl Failure {
    /// A failure with exit code 1.
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 1 }
    }

    /// Wrong usage, with exit code 2.
    pub fn usage(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 2 }
    }

    /// The description.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        self.code
    }

    /// Prefixes the description with what was attempted.
    pub fn context(self, attempt: impl Display) -> Self {
        Self { message: format!("{attempt}: {}", self.message), ..self }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}
