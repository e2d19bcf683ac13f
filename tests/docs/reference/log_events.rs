//! The log events, from the catalogue in the code.

use dapbox::cli::log_events::{AREAS, FIELDS};

use super::{code, table};

const INTRODUCTION: &str = "\
The log goes to standard error. The text of an event (`message` in JSON) never changes with its data, so that alerts can
match it. A field may be absent where it does not apply. Events of the level `debug` are not logged by default.

";

/// The events by area, and their fields.
pub fn text() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (area, events) in AREAS {
        let rows = events.iter().map(|event| {
            let fields: Vec<_> = event.fields.iter().map(|field| code(field)).collect();
            vec![
                event.text.to_owned(),
                code(event.level.name()),
                fields.join(", "),
                event.meaning.to_owned(),
                event.action.to_owned(),
            ]
        });
        let heading = ["event", "level", "fields", "meaning", "what to do"];
        text += &format!("### {area}\n\n{}\n", table(&heading, rows));
    }
    let fields = FIELDS.iter().map(|(name, meaning)| vec![code(name), (*meaning).to_owned()]);
    format!("{text}### Fields of log events\n\n{}", table(&["field", "meaning"], fields))
}
