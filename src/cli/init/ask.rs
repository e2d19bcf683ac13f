//! Asking a person, or not.

use std::{
    io::{IsTerminal, Write},
    path::Path,
};

use dialoguer::{
    Confirm, Input, Select,
    theme::{ColorfulTheme, SimpleTheme, Theme},
};

use super::{
    super::{Failure, style::is_unicode},
    write::ConfigFile,
};

/// Who answers what no flag says.
pub struct Prompter {
    who: AnswerSource,
    /// Flags that would have to be given.
    missing: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerSource {
    /// A person.
    Interactive,
    /// The defaults.
    Defaults,
    /// Nobody: what has to be decided is missing.
    NonInteractive,
}

/// A question whose answer is text.
pub struct Question<'a, T> {
    /// The flag that would have answered it.
    pub flag: &'static str,
    /// The question.
    pub text: &'a str,
    /// The answer of who just presses enter.
    pub default: String,
    /// What the answer means, or what is wrong with it.
    pub read: &'a dyn Fn(&str) -> Result<T, String>,
}

impl Prompter {
    /// A person at a terminal, unless nothing is to be asked.
    pub fn new(yes: bool) -> Self {
        // The questions are on standard error, so that the result can be kept.
        let is_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        let who = match (yes, is_terminal) {
            (true, _) => AnswerSource::Defaults,
            (false, true) => AnswerSource::Interactive,
            (false, false) => AnswerSource::NonInteractive,
        };
        Self { who, missing: Vec::new() }
    }

    /// One of several, each with what it means. Has to be decided.
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

    /// What has to be decided.
    pub fn require<T>(&mut self, question: &Question<'_, T>) -> Result<T, Failure> {
        if self.who == AnswerSource::NonInteractive {
            self.missing.push(question.flag);
        }
        self.ask(question)
    }

    /// What has a default that is good for most.
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

    /// Fails if something had to be decided and nobody did.
    pub fn check_complete(&self) -> Result<(), Failure> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let flags = self.missing.join(", ");
        Err(Failure::usage(format!(
            "nobody can be asked here: give {flags}; or --yes for the defaults. 'dapbox init --help' has examples"
        )))
    }

    /// Shows a person what is about to be written.
    pub fn confirm(&self, file: &ConfigFile, path: &Path) -> Result<bool, Failure> {
        if self.who != AnswerSource::Interactive {
            return Ok(true);
        }
        let lines: String = file.text().lines().map(|line| format!("  {line}\n")).collect();
        writeln!(std::io::stderr(), "\n{lines}")?;
        let text = format!("Write this to {}?", path.display());
        Confirm::with_theme(&*theme()).with_prompt(text).default(true).interact().map_err(aborted)
    }
}

/// How questions look: with marks that the locale has.
fn theme() -> Box<dyn Theme> {
    if is_unicode() { Box::new(ColorfulTheme::default()) } else { Box::new(SimpleTheme) }
}

fn aborted(error: dialoguer::Error) -> Failure {
    Failure::new(format!("nothing was written: {error}"))
}
