//! Links between documents and into the repository.

use std::collections::BTreeSet;

use super::{DOCUMENTS, markdown, read, root};

/// The pages of the project beside its documents.
const PROJECT_PAGES: [&str; 3] = ["README.md", "CONTRIBUTING.md", "SECURITY.md"];

#[test]
fn resolves_links() {
    for name in DOCUMENTS.into_iter().chain(PROJECT_PAGES) {
        let text = read(name);
        let dir = root().join(name).parent().unwrap().to_owned();
        for (line, target) in markdown::links(&text) {
            if target.starts_with("http://") || target.starts_with("https://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() { root().join(name) } else { dir.join(path) };
            assert!(file.exists(), "{name}:{line}: there is no {}", file.display());
            if !anchor.is_empty() {
                let anchors = markdown::anchors(&std::fs::read_to_string(&file).unwrap());
                assert!(anchors.iter().any(|known| known == anchor), "{name}:{line}: no heading {target}: {anchors:?}");
            }
        }
    }
}

/// Every document must be linked.
#[test]
fn links_to_each_document() {
    let mut linked = BTreeSet::new();
    for name in DOCUMENTS.into_iter().chain(["README.md"]) {
        let links = markdown::links(&read(name));
        linked.extend(links.into_iter().filter_map(|(_, target)| {
            let file = target.split('#').next()?.rsplit('/').next()?;
            (!name.ends_with(file)).then(|| file.to_owned())
        }));
    }
    for name in DOCUMENTS {
        let file = name.rsplit('/').next().unwrap();
        assert!(linked.contains(file), "no other document links to {name}");
    }
}

/// Source files that a document names exist.
#[test]
fn names_existing_files() {
    for name in DOCUMENTS.into_iter().chain(PROJECT_PAGES) {
        for (line, text) in markdown::prose(&read(name)) {
            let words = text.split('`').skip(1).step_by(2);
            for file in words.filter(|word| word.starts_with("src/") || word.starts_with("tests/")) {
                assert!(root().join(file).exists(), "{name}:{line}: there is no {file}");
            }
        }
    }
}
