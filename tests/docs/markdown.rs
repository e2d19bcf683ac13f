//! The subset of Markdown that the documents use: fenced blocks, headings, links.

/// A fenced block.
#[derive(Clone, Debug)]
pub struct Block {
    /// The line of its fence.
    pub line: usize,
    /// The text behind the fence: the language first.
    pub info: Vec<String>,
    /// Its lines.
    pub lines: Vec<String>,
}

impl Block {
    /// The language.
    pub fn language(&self) -> &str {
        self.info.first().map_or("", String::as_str)
    }

    /// The value of `name=value` behind the fence.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.info.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The beginning of a comment with another party's command.
const MEANWHILE: &str = "<!-- meanwhile ";

/// The fenced blocks of a document, in order. Commands of another party are blocks of the language `meanwhile`.
pub fn blocks(text: &str) -> Vec<Block> {
    let (mut found, mut open): (Vec<Block>, bool) = (Vec::new(), false);
    for (index, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), open) {
            (Some(_), true) => open = false,
            (Some(info), false) => {
                let info = info.split_whitespace().map(str::to_owned).collect();
                found.push(Block { line: index + 1, info, lines: Vec::new() });
                open = true;
            }
            (None, true) => found.last_mut().unwrap().lines.push(line.to_owned()),
            (None, false) => {
                let meanwhile = line.strip_prefix(MEANWHILE).and_then(|rest| rest.strip_suffix(" -->"));
                found.extend(meanwhile.map(|command| {
                    let (info, lines) = (vec!["meanwhile".to_owned()], vec![command.to_owned()]);
                    Block { line: index + 1, info, lines }
                }));
            }
        }
    }
    assert!(!open, "a fence is not closed");
    found
}

/// The lines outside of fenced blocks.
pub fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut open = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        open ^= fence;
        (!open && !fence).then_some((index + 1, line))
    })
}

/// The anchors of the headings, as GitHub generates them.
pub fn anchors(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (_, line) in prose(text).filter(|(_, line)| line.starts_with('#')) {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let same = found.iter().filter(|known| **known == anchor).count();
        found.push(if same == 0 { anchor } else { format!("{anchor}-{same}") });
    }
    found
}

/// The targets of links, with their lines.
pub fn links(text: &str) -> Vec<(usize, String)> {
    let targets = |line: &str| -> Vec<String> {
        line.split("](").skip(1).filter_map(|rest| Some(rest.split(')').next()?.to_owned())).collect()
    };
    prose(text).flat_map(|(number, line)| targets(line).into_iter().map(move |target| (number, target))).collect()
}

#[test]
fn parses_document() {
    let text = "# A `b` c\n\n```console in=x\n$ a\nb\n```\n\n[x](y.md#z) [1](2)\n## A b c\n";
    let found = blocks(text);
    assert_eq!((found.len(), found[0].line, found[0].language()), (1, 3, "console"));
    assert_eq!(found[0].value("in"), Some("x"));
    assert_eq!(found[0].lines, ["$ a", "b"]);
    assert_eq!(anchors(text), ["a-b-c", "a-b-c-1"]);
    assert_eq!(links(text), [(8, "y.md#z".to_owned()), (8, "2".to_owned())]);
}
