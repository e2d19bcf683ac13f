//! The language of comments, documents, help texts, errors and log lines.

use clap::CommandFactory;
use dapbox::cli::Cli;

use super::source::{Source, below, root};

/// Idioms that a reader has to translate into a plain statement.
const IDIOMS: &[&str] = &[
    "whoever",
    "anybody",
    "nobody",
    "somebody",
    "whatever",
    "what becomes",
    "what became",
    "what comes",
    "what came",
    "what is known",
    "what is said",
    "what is shown",
    "what is kept",
    "what is left",
    "what is there",
    "what is asked",
    "what is told",
    "by itself",
    "by themselves",
    "in force",
    "go on",
    "goes on",
    "going on",
    "at once",
    "so many",
    "so much",
    "is told",
    "are told",
    "be told",
    "take over",
    "takes over",
    "taken over",
    "those who",
    "the world",
];

/// The maximum share of sentences with an idiom, in comments and documents.
const MAX_SHARE: f64 = 0.005;

/// Texts in which an idiom is the right word: a file, and a part of the text.
const ALLOWED: &[(&str, &str)] = &[("tests/docs/tidy/language.rs", "")];

/// A sentence, with where it is.
#[derive(Clone)]
struct Sentence {
    place: String,
    text: String,
}

impl Sentence {
    /// The idiom of the sentence.
    fn idiom(&self) -> Option<&'static str> {
        let is_allowed = |(path, part): &&(&str, &str)| self.place.starts_with(path) && self.text.contains(part);
        let words = words(&self.text);
        let found = IDIOMS.iter().find(|idiom| words.contains(&format!(" {idiom} ")));
        found.copied().filter(|_| !ALLOWED.iter().any(|allowed| is_allowed(&allowed)))
    }
}

/// The words of a text in lower case, with a blank before and after each.
fn words(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.fold(" ".to_owned(), |all, word| format!("{all}{} ", word.to_lowercase()))
}

/// The sentences of a text. Items of lists, cells of tables and parts after a colon or semicolon count as sentences.
fn sentences(place: &str, text: &str) -> Vec<Sentence> {
    let (mut found, mut current) = (Vec::new(), String::new());
    let mut end = |current: &mut String| {
        let text = std::mem::take(current);
        if text.chars().any(char::is_alphabetic) {
            found.push(Sentence { place: place.to_owned(), text: text.trim().to_owned() });
        }
    };
    let mut is_code = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("```") {
            is_code = !is_code;
        }
        if is_code || line.is_empty() || line.starts_with(['-', '*', '#', '|']) {
            end(&mut current);
        }
        if is_code {
            continue;
        }
        for word in line.split_whitespace() {
            current.push_str(word);
            current.push(' ');
            if word == "|" || word.trim_end_matches([')', '"', '*', '`']).ends_with(['.', '!', '?', ':', ';']) {
                end(&mut current);
            }
        }
    }
    end(&mut current);
    found
}

/// The comments of all sources.
fn comments() -> Vec<Sentence> {
    let of = |source: &Source| -> Vec<Sentence> {
        let sentences = |text: &super::source::Text| sentences(&format!("{}:{}", source.path, text.line), &text.text);
        source.comments.iter().flat_map(sentences).collect()
    };
    ["src", "tests", "benches"].into_iter().flat_map(below).flat_map(|source| of(&source)).collect()
}

/// The documents, including those of `fixtures` and `benches`.
fn documents() -> Vec<Sentence> {
    let mut found = Vec::new();
    for directory in ["", "docs", "fixtures", "benches", "packaging"] {
        for entry in std::fs::read_dir(root().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let is_document =
                path.extension().is_some_and(|extension| extension == "md") || path.ends_with("appliance.toml");
            if is_document {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.extend(sentences(&name, &std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 500, "the documents were not found");
    found
}

/// The help texts of a command and of those below it.
fn help(command: &clap::Command, path: &str) -> Vec<Sentence> {
    let path = format!("{path} {}", command.get_name());
    let texts =
        [command.get_about(), command.get_long_about(), command.get_after_help(), command.get_after_long_help()];
    let of_arguments = command.get_arguments().flat_map(|argument| [argument.get_help(), argument.get_long_help()]);
    let texts = texts.into_iter().chain(of_arguments).flatten();
    let mut found: Vec<_> = texts.flat_map(|text| sentences(&path, &text.to_string())).collect();
    found.extend(command.get_subcommands().flat_map(|command| help(command, &path)));
    found
}

/// The sentences with an idiom, one on each line.
fn list(sentences: &[Sentence]) -> (usize, String) {
    let found = sentences.iter().filter_map(|sentence| {
        let idiom = sentence.idiom()?;
        Some(format!("{}: {idiom}: {}\n", sentence.place, sentence.text))
    });
    let found: Vec<_> = found.collect();
    (found.len(), found.concat())
}

#[test]
fn comments_and_documents_are_plain() {
    let all = [comments(), documents()].concat();
    let (count, found) = list(&all);
    let share = count as f64 / all.len() as f64;
    eprintln!("{count} of {} sentences have an idiom", all.len());
    assert!(share < MAX_SHARE, "{count} of {} sentences have an idiom:\n{found}", all.len());
}

#[test]
fn help_texts_are_plain() {
    let (count, found) = list(&help(&Cli::command(), ""));
    assert_eq!(count, 0, "\n{found}");
}

/// Errors, log lines, pages and all other output of the program.
#[test]
fn messages_are_plain() {
    let mut all = Vec::new();
    for source in below("src") {
        for text in &source.strings {
            all.extend(sentences(&format!("{}:{}", source.path, text.line), &text.text.replace("\\n", "\n")));
        }
    }
    let (count, found) = list(&all);
    assert_eq!(count, 0, "\n{found}");
}

#[test]
fn finds_idioms() {
    let text =
        "Nobody is\nasked. Fine: all of\nit. | what\nis kept | `goes on`; ```not\n\n```\nat once\n```\nthe worldly";
    let found = sentences("file", text);
    let idioms: Vec<_> = found.iter().filter_map(Sentence::idiom).collect();
    assert_eq!((found.len(), idioms), (7, vec!["nobody", "what is kept", "goes on"]));
}
