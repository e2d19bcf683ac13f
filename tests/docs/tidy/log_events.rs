//! The catalogue of log events matches the sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
};

use dapbox::cli::log_events::{AREAS, FIELDS};

use super::{source::root, sources};

/// The level and the fields of an event.
type Signature = (String, BTreeSet<String>);

/// The events in the sources, by their text.
#[derive(Default)]
struct Logged(BTreeMap<String, Signature>);

impl Logged {
    fn add(&mut self, path: &str, level: &str, text: &str, fields: impl Iterator<Item = String>) {
        assert!(!text.contains(['{', '\\', '\n']), "{path}: the text of a log event must not contain data: {text}");
        let (known, all) = self.0.entry(text.to_owned()).or_insert_with(|| (level.to_owned(), BTreeSet::new()));
        assert_eq!(known, level, "{path}: {text:?} has two levels");
        all.extend(fields);
    }
}

/// The arguments of the call whose opening parenthesis is before `start`, in code without the contents of strings.
fn arguments(code: &str, start: usize) -> Vec<Range<usize>> {
    let (mut found, mut depth, mut from) = (Vec::new(), 0, start);
    for (at, c) in code[start..].char_indices().map(|(at, c)| (start + at, c)) {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth > 0 => depth -= 1,
            ')' | ',' if depth == 0 => {
                found.push(from..at);
                from = at + 1;
                if c == ')' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.into_iter().filter(|range| !code[range.clone()].trim().is_empty()).collect()
}

/// The content of a string literal.
fn literal(argument: &str) -> Option<&str> {
    argument.trim().strip_prefix('"')?.strip_suffix('"')
}

/// The name of a field such as `%error`, `delay = ?pause` or `task_id`.
fn field(argument: &str) -> String {
    let name = argument.split('=').next().unwrap_or_default();
    name.trim().trim_start_matches(['%', '?']).to_owned()
}

/// The events that the sources log, with the union of the fields over all places.
fn logged() -> Logged {
    let mut logged = Logged::default();
    for source in sources() {
        let (path, code) = (&source.path, &source.code);
        let text = fs::read_to_string(root().join(path)).unwrap();
        let words = |at: usize| arguments(code, at).into_iter().map(|range| text[range].to_owned()).collect::<Vec<_>>();
        for level in ["error", "warn", "info", "debug", "trace"] {
            let call = format!("{level}!(");
            for (at, _) in code.match_indices(&call) {
                assert!(code[..at].ends_with("tracing::"), "{path}: write tracing::{call}");
                let words = words(at + call.len());
                let (last, fields) = words.split_last().expect("an event has a text");
                let text =
                    literal(last).unwrap_or_else(|| panic!("{path}: the last argument is not a text: {words:?}"));
                logged.add(path, level, text, fields.iter().map(|word| field(word)));
            }
        }
        // Lines that are written without `tracing`, while a thread panics or the log is full.
        for (at, call) in code.match_indices("log_line(") {
            if let [_, level, text, fields] = &words(at + call.len())[..]
                && let (Some(level), Some(text)) = (literal(level), literal(text))
            {
                let names = fields.split("(\"").skip(1).filter_map(|rest| Some(rest.split_once("\",")?.0.to_owned()));
                let names = names.filter(|name| !name.contains('"'));
                logged.add(path, &level.to_lowercase(), text, names);
            }
        }
    }
    logged
}

#[test]
fn log_events_match_their_catalogue() {
    let rows = AREAS.iter().flat_map(|(_, events)| *events).map(|event| {
        let fields = event.fields.iter().map(|name| (*name).to_owned()).collect();
        (event.text.to_owned(), (event.level.name().to_owned(), fields))
    });
    let rows: Vec<(String, Signature)> = rows.collect();
    let catalogue: BTreeMap<_, _> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), catalogue.len(), "an event has two rows");
    let Logged(logged) = logged();
    let mut differences = String::new();
    for (text, signature) in &logged {
        if catalogue.get(text) != Some(signature) {
            differences += &format!("{text:?} is {signature:?} in the sources, and {:?} here\n", catalogue.get(text));
        }
    }
    for text in catalogue.keys().filter(|text| !logged.contains_key(*text)) {
        differences += &format!("no source logs {text:?}\n");
    }
    assert!(differences.is_empty(), "correct src/cli/log_events:\n{differences}");
}

#[test]
fn log_fields_have_a_meaning() {
    let used: BTreeSet<_> = AREAS.iter().flat_map(|(_, events)| *events).flat_map(|event| event.fields).collect();
    let described: BTreeSet<_> = FIELDS.iter().map(|(name, _)| name).collect();
    assert_eq!(used, described);
    assert!(FIELDS.is_sorted(), "the fields are sorted by name");
}

#[test]
fn splits_arguments_of_log_macros() {
    let code = "x(%a, b = f(1, 2), \"   \");";
    let words: Vec<_> = arguments(code, 2).into_iter().map(|range| code[range].trim().to_owned()).collect();
    assert_eq!(words, ["%a", "b = f(1, 2)", "\"   \""]);
    assert_eq!(words.iter().take(2).map(|word| field(word)).collect::<Vec<_>>(), ["a", "b"]);
}
