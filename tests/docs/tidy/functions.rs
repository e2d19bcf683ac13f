//! The length of functions.

use super::source::{Source, below};

/// The maximum number of lines of a function, with its signature.
const MAX_LINES: usize = 70;

/// The functions of a file with their numbers of lines.
fn functions(source: &Source) -> Vec<(String, usize)> {
    let code = &source.code_with_tests;
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let is_word = code[..at].chars().next_back().is_some_and(|c| !c.is_whitespace() && c != '(');
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if is_word || name.is_empty() {
            continue;
        }
        if let Some(end) = end_of_function(&code[at..]) {
            found.push((name, code[at..at + end].matches('\n').count() + 1));
        }
    }
    found
}

/// The end of the body. A function without a body has none.
fn end_of_function(code: &str) -> Option<usize> {
    let (mut parentheses, mut braces) = (0, 0);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => parentheses += 1,
            ')' | ']' => parentheses -= 1,
            ';' if parentheses == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[test]
fn functions_are_short() {
    let mut long = String::new();
    for source in ["src", "tests", "benches"].into_iter().flat_map(below) {
        for (name, lines) in functions(&source).into_iter().filter(|(_, lines)| *lines > MAX_LINES) {
            long.push_str(&format!("{}: {name} has {lines} lines\n", source.path));
        }
    }
    assert!(long.is_empty(), "\n{long}");
}

#[test]
fn measures_functions() {
    let code = "fn a(b: [u8; 2]) {\n    if c {\n    }\n}\ntrait D {\n    fn e(&self);\n    fn f() {}\n}\n";
    let found = functions(&Source::parse("src/a.rs".to_owned(), code));
    assert_eq!(found, [("a".to_owned(), 4), ("f".to_owned(), 1)]);
}
