//! The sources of the workspace, separated into code, comments and string literals.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

/// A Rust file.
pub struct Source {
    /// The path below the repository.
    pub path: String,
    /// The shipped code: comments, string literals and unit tests are blank, and lines keep their numbers.
    pub code: String,
    /// The same with the unit tests.
    pub code_with_tests: String,
    /// Blocks of comments.
    pub comments: Vec<Text>,
    /// String literals of shipped code.
    pub strings: Vec<Text>,
}

/// A text in a file.
pub struct Text {
    pub line: usize,
    pub text: String,
}

impl Source {
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let relative = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        Self::parse(relative, &text)
    }

    /// Separates the text of a file.
    pub fn parse(path: String, text: &str) -> Self {
        let Pieces { code: code_with_tests, comments, strings } = Pieces::of(text);
        let tests = if path.ends_with("/tests.rs") || path.contains("/tests/") {
            std::iter::once(0..text.len()).collect()
        } else {
            test_items(&code_with_tests)
        };
        let mut code = code_with_tests.clone();
        tests.iter().for_each(|range| blank(&mut code, range.clone()));
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        let ships = |at: usize| !tests.iter().any(|range| range.contains(&at));
        let strings = strings.into_iter().filter(|(at, _)| ships(*at));
        let strings = strings.map(|(at, text)| Text { line: line(at), text }).collect();
        Self { path, code, code_with_tests, comments: blocks(comments, line), strings }
    }
}

/// The directory of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files below a directory of the repository, in order.
pub fn below(directory: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    find(&root().join(directory), &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "{directory} has no sources");
    paths.iter().map(|path| Source::read(path)).collect()
}

fn find(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The text of a file in pieces. The code has the length of the text.
struct Pieces {
    code: String,
    comments: Vec<(usize, String)>,
    strings: Vec<(usize, String)>,
}

impl Pieces {
    fn of(text: &str) -> Self {
        let mut pieces = Self { code: text.to_owned(), comments: Vec::new(), strings: Vec::new() };
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            at += if rest.starts_with("//") {
                let length = rest.find('\n').unwrap_or(rest.len());
                pieces.comments.push((at, rest[..length].to_owned()));
                blank(&mut pieces.code, at..at + length);
                length
            } else if let Some((quote, length)) = string_literal(text, at) {
                let hashes = quote.matches('#').count();
                let content = at + quote.len()..at + length - 1 - hashes;
                pieces.strings.push((at, text[content.clone()].to_owned()));
                blank(&mut pieces.code, content);
                length
            } else {
                char_literal(rest).unwrap_or_else(|| rest.chars().next().map_or(1, char::len_utf8))
            };
        }
        pieces
    }
}

/// The opening quote and the length of the string literal that begins here.
fn string_literal(text: &str, at: usize) -> Option<(&str, usize)> {
    let rest = &text[at..];
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if text[..at].ends_with(is_word) {
        return None;
    }
    let raw = rest.strip_prefix("br").or(rest.strip_prefix('r'));
    if let Some(after) = raw.filter(|after| after.trim_start_matches('#').starts_with('"')) {
        let hashes = after.len() - after.trim_start_matches('#').len();
        let quote = &rest[..rest.len() - after.len() + hashes + 1];
        let closing = format!("\"{}", "#".repeat(hashes));
        let length = rest[quote.len()..].find(&closing)?;
        return Some((quote, quote.len() + length + closing.len()));
    }
    let quote = if rest.starts_with("b\"") || rest.starts_with("c\"") { &rest[..2] } else { rest.get(..1)? };
    if !quote.ends_with('"') {
        return None;
    }
    let mut is_escaped = false;
    let end = rest[quote.len()..].find(|c| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    })?;
    Some((quote, quote.len() + end + 1))
}

/// The length of the character literal that begins here, which may hold a quote or a brace. Lifetimes are skipped.
fn char_literal(rest: &str) -> Option<usize> {
    let content = rest.strip_prefix('\'')?;
    let length = match content.strip_prefix('\\') {
        Some(escaped) => 2 + escaped.char_indices().skip(1).find(|(_, c)| *c == '\'')?.0,
        None => 1 + content.chars().next()?.len_utf8(),
    };
    rest[length..].starts_with('\'').then_some(length + 1)
}

/// The items below `#[cfg(test)]`.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut items = Vec::new();
    for (start, attribute) in code.match_indices("#[cfg(test)]") {
        let body = start + attribute.len();
        let end = match code[body..].find(['{', ';']) {
            Some(at) if code[body + at..].starts_with('{') => closing_brace(code, body + at),
            Some(at) => body + at,
            None => code.len() - 1,
        };
        items.push(start..end + 1);
    }
    items
}

/// The brace that closes the one here.
fn closing_brace(code: &str, open: usize) -> usize {
    let mut depth = 0;
    let end = code[open..].char_indices().find(|(_, c)| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth == 0
    });
    end.map_or(code.len() - 1, |(at, _)| open + at)
}

/// Overwrites a range with blanks, but for line ends.
fn blank(text: &mut String, range: Range<usize>) {
    let blanks: String = text[range.clone()].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
    text.replace_range(range, &blanks);
}

/// Joins the comments of consecutive lines. An empty line of a comment stays one.
fn blocks(comments: Vec<(usize, String)>, line: impl Fn(usize) -> usize) -> Vec<Text> {
    let mut blocks: Vec<Text> = Vec::new();
    let mut last = 0;
    for (at, comment) in comments {
        let (line, content) = (line(at), comment.trim_start_matches('/').trim_start_matches('!').trim());
        match blocks.last_mut() {
            Some(block) if line == last + 1 => {
                block.text.push('\n');
                block.text.push_str(content);
            }
            _ => blocks.push(Text { line, text: content.to_owned() }),
        }
        last = line;
    }
    blocks
}

#[test]
fn separates_code_comments_and_strings() {
    let text = "/// One.\n/// Two.\nfn a() { let b = '{'; \"c // \\\" d\" } // Three\n#[cfg(test)]\nmod e { \"f\" }\n";
    let source = Source::parse("src/a.rs".to_owned(), text);
    assert_eq!(source.code.len(), text.len());
    assert!(source.code.contains("fn a() { let b = '{'; \"") && !source.code.contains("mod e"), "{}", source.code);
    assert!(source.code_with_tests.contains("mod e"));
    let texts = |texts: &[Text]| texts.iter().map(|text| text.text.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&source.comments), ["One.\nTwo.\nThree"]);
    assert_eq!(texts(&source.strings), ["c // \\\" d"]);
    let raw = Source::parse("src/a.rs".to_owned(), "fn a<'a>() { r#\"b \" c\"# }");
    assert_eq!(texts(&raw.strings), ["b \" c"]);
}
