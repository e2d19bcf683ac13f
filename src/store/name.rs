//! Names of tasks.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The maximum length of a task name, in characters.
pub const MAX_CHARS: usize = 64;

/// The allowed characters besides letters, digits and blanks.
const PUNCTUATION: &str = "-._:/+()#,&";

/// The name that an operator gives to a task. It is local: no other party learns it and nothing in the protocol depends
/// on it. It is shown in tables, pages, logs and metric labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskName(String);

/// The text is not a valid task name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a task name has at most {MAX_CHARS} letters, digits, blanks and {PUNCTUATION}; it starts with a letter or digit \
     and does not end with a blank"
)]
pub struct NameError;

impl TaskName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TaskName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let fits = |c: char| c.is_alphanumeric() || c == ' ' || PUNCTUATION.contains(c);
        let is_good = text.starts_with(char::is_alphanumeric)
            && !text.ends_with(' ')
            && text.chars().all(fits)
            && text.chars().count() <= MAX_CHARS;
        if is_good { Ok(Self(text)) } else { Err(NameError) }
    }
}

impl FromStr for TaskName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.to_owned().try_into()
    }
}

impl From<TaskName> for String {
    fn from(name: TaskName) -> Self {
        name.0
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_names_that_fit_into_tables_and_labels() {
        let longest = "x".repeat(MAX_CHARS);
        for text in ["a", "Page load, checkout (v2)", "Größe 7", "2027-01/eu", longest.as_str()] {
            assert_eq!(text.parse::<TaskName>().map(String::from), Ok(text.to_owned()));
        }
        let too_long = "x".repeat(MAX_CHARS + 1);
        for text in ["", " a", "a ", "-a", "a\nb", "a\u{202e}b", "<b>", "a\"b", "\u{1b}[1m", too_long.as_str()] {
            assert_eq!(text.parse::<TaskName>(), Err(NameError), "{text:?}");
        }
        assert!(serde_json::from_str::<TaskName>("\"a\\u0007\"").is_err());
    }
}
