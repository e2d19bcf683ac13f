//! Prompts, if there is a terminal.

use std::{
    io::{IsTerminal, Write},
    path::Path,
};

use dialoguer::{
    Confirm, Input, Select,
    theme::{ColorfulTheme, SimpleTheme, Theme},
};

use super::super::{Failure, style::is_unicode};

/// Answers the questions that no flag answers.
pub struct Prompter {
    who: AnswerSource,
    /// Flags that are required without a terminal.
    missing: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerSource {
    /// A person at a terminal.
    Interactive,
    /// The defaults.
    Defaults,
    /// No one: required answers are missing.
    NonInteractive,
}

/// A question with a text answer.
pub struct Question<'a, T> {
    /// The flag that answers it.
    pub flag: &'static str,
    /// The prompt.
    pub text: &'a str,
    /// The default answer.
    pub default: String,
    /// Parses the answer.
    pub read: &'a dyn Fn(&str) -> Result<T, String>,
}

impl Prompter {
    /// Asks at the terminal, if there is one and `yes` is not set.
    pub fn new(yes: bool) -> Self {
        // Prompts go to standard error, so that standard output has the result only.
        let is_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        let who = match (yes, is_terminal) {
            (true, _) => AnswerSource::Defaults,
            (false, true) => AnswerSource::Interactive,
            (false, false) => AnswerSource::NonInteractive,
        };
        Self { who, missing: Vec::new() }
    }

    /// Asks a required question with several choices, each with a description.
    pub fn select<T: Copy>(
        &mut self,
        flag: &'static str,
        text: &str,
        choices: &[(T, &str)],
        default: usize,
    ) -> Result<T, Failure> {
        let index = match self.who {
            AnswerSource::Defaults => default,
            AnswerSource::NonInteractive => {
                self.missing.push(flag);
                default
            }
            AnswerSource::Interactive => Select::with_theme(&*theme())
                .with_prompt(text)
                .items(choices.iter().map(|(_, meaning)| *meaning))
                .default(default)
                .interact()
                .map_err(aborted)?,
        };
        Ok(choices[index].0)
    }

    /// Asks a required question.
    pub fn require<T>(&mut self, question: &Question<'_, T>) -> Result<T, Failure> {
        if self.who == AnswerSource::NonInteractive {
            self.missing.push(question.flag);
        }
        self.ask(question)
    }

    /// Asks a question with a reasonable default.
    pub fn ask<T>(&self, question: &Question<'_, T>) -> Result<T, Failure> {
        let read = |text: &str| (question.read)(text.trim());
        if self.who != AnswerSource::Interactive {
            return read(&question.default).map_err(|why| Failure::usage(format!("{}: {why}", question.flag)));
        }
        let theme = theme();
        let input = Input::<String>::with_theme(&*theme).with_prompt(question.text).allow_empty(true);
        let input = if question.default.is_empty() { input } else { input.default(question.default.clone()) };
        let text = input.validate_with(|text: &String| read(text).map(drop)).interact_text().map_err(aborted)?;
        read(&text).map_err(Failure::usage)
    }

    /// Fails if a required answer is missing.
    pub fn check_complete(&self) -> Result<(), Failure> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let flags = self.missing.join(", ");
        Err(Failure::usage(format!(
            "no terminal to ask questions: set {flags}, or use --yes for the defaults (see 'dapbox init --help')"
        )))
    }

    /// Shows the text of the file at `path` and asks for confirmation.
    pub fn confirm(&self, text: &str, path: &Path) -> Result<bool, Failure> {
        if self.who != AnswerSource::Interactive {
            return Ok(true);
        }
        let lines: String = text.lines().map(|line| format!("  {line}\n")).collect();
        writeln!(std::io::stderr(), "\n{lines}")?;
        let prompt = format!("Write this to {}?", path.display());
        Confirm::with_theme(&*theme()).with_prompt(prompt).default(true).interact().map_err(aborted)
    }
}

/// The style of the prompts, with symbols that the locale supports.
fn theme() -> Box<dyn Theme> {
    if is_unicode() { Box::new(ColorfulTheme::default()) } else { Box::new(SimpleTheme) }
}

fn aborted(error: dialoguer::Error) -> Failure {
    Failure::new(format!("no file was written: {error}"))
}
