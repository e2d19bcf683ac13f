//! The length of functions.

use super::source::{Source, below};

/// The maximum number of lines of a shipped function, with its signature.
const MAX_LINES: usize = 70;
/// The same of a test, which is often one long story.
const MAX_TEST_LINES: usize = 100;

/// The functions of a file with their numbers of lines.
fn functions(code: &str) -> Vec<(String, usize)> {
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
    let mut check = |source: &Source, code: &str, most: usize| {
        for (name, lines) in functions(code).into_iter().filter(|(_, lines)| *lines > most) {
            long.push_str(&format!("{}: {name} has {lines} lines\n", source.path));
        }
    };
    for source in below("src") {
        check(&source, &source.code, MAX_LINES);
    }
    for source in ["src", "tests", "benches"].into_iter().flat_map(below) {
        check(&source, &source.code_with_tests, MAX_TEST_LINES);
    }
    assert!(long.is_empty(), "\n{long}");
}

#[test]
fn measures_functions() {
    let code = "fn a(b: [u8; 2]) {\n    if c {\n    }\n}\ntrait D {\n    fn e(&self);\n    fn f() {}\n}\n";
    assert_eq!(functions(code), [("a".to_owned(), 4), ("f".to_owned(), 1)]);
}
