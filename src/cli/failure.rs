//! The outcome of a command.

use std::fmt::Display;

/// The error of a command, for the user.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

/// The outcome of a command.
pub type Outcome = Result<(), Failure>;

impl Failure {
    /// Creates a failure with exit code 1.
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 1 }
    }

    /// Creates a usage error with exit code 2.
    pub fn usage(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 2 }
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        self.code
    }

    /// Prefixes the message with its context, such as a path.
    pub fn context(self, attempt: impl Display) -> Self {
        Self { message: format!("{attempt}: {}", self.message), ..self }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}
