//! The graph of the files of each crate: which file uses items of another one.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Source;

/// A module: the directory of its crate below `src` (empty for the root package), and its path in the crate.
type Module = (String, Vec<String>);

/// What a file imports under a name.
#[derive(Clone)]
struct Import {
    path: Vec<String>,
    name: String,
    is_public: bool,
}

/// The modules of all crates. Each is a file.
pub struct Modules<'a> {
    files: BTreeMap<Module, &'a Source>,
    imports: BTreeMap<Module, Vec<Import>>,
}

impl<'a> Modules<'a> {
    /// The modules of sources. `crates` are the directories of the members below `src`.
    pub fn new(sources: &'a [Source], crates: &[String]) -> Self {
        let files: BTreeMap<_, _> =
            sources.iter().filter_map(|source| Some((module(&source.path, crates)?, source))).collect();
        let imports = files.iter().map(|(module, source)| (module.clone(), imports(&source.code))).collect();
        Self { files, imports }
    }

    /// The files that a file depends on. Re-exports do not count, and neither do modules above it: a module is one unit
    /// with those below it.
    fn dependencies(&self, module: &Module) -> BTreeSet<Module> {
        let code = &self.files[module].code;
        let imported = self.imports[module].iter().filter(|import| !import.is_public).map(|import| import.path.clone());
        let paths = imported.chain(inline_paths(&without_imports(code)));
        let found = paths.filter_map(|path| self.resolve(module, &path, 0));
        found.filter(|found| found.0 != module.0 || !module.1.starts_with(&found.1)).collect()
    }

    /// The file that defines what a path in a module means; `None` if it is of another crate.
    fn resolve(&self, from: &Module, path: &[String], depth: usize) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        let child = |name: &String| (from.0.clone(), [&from.1[..], std::slice::from_ref(name)].concat());
        let (mut found, mut rest) = match first.as_str() {
            "crate" => ((from.0.clone(), Vec::new()), rest),
            "self" => (from.clone(), rest),
            "super" => ((from.0.clone(), from.1[..from.1.len().checked_sub(1)?].to_vec()), rest),
            _ if self.files.contains_key(&child(first)) => (child(first), rest),
            _ => return None,
        };
        while let Some((next, after)) = rest.split_first() {
            let below = match next.as_str() {
                "super" => (found.0.clone(), found.1[..found.1.len().checked_sub(1)?].to_vec()),
                _ => (found.0.clone(), [&found.1[..], std::slice::from_ref(next)].concat()),
            };
            if !self.files.contains_key(&below) {
                return self.exported(&found, rest, depth).or(Some(found));
            }
            (found, rest) = (below, after);
        }
        self.files.contains_key(&found).then_some(found)
    }

    /// Follows an item that a module imports from elsewhere.
    fn exported(&self, module: &Module, item: &[String], depth: usize) -> Option<Module> {
        let imports = self.imports.get(module)?.iter().filter(|_| depth < 8);
        let named = imports.clone().find(|import| import.name == item[0]);
        if let Some(import) = named {
            return self.resolve(module, &[&import.path[..], &item[1..]].concat(), depth + 1);
        }
        let mut globs = imports.filter(|import| import.name == "*");
        globs.find_map(|glob| {
            let target = self.resolve(module, &glob.path, depth + 1)?;
            let defines = |keyword| self.files[&target].code.contains(&format!("{keyword} {}", item[0]));
            ["struct", "enum", "fn", "trait", "type", "const"].into_iter().any(defines).then_some(target)
        })
    }

    /// Groups of files that depend on each other, with one circle for each.
    pub fn circles(&self) -> Vec<String> {
        let graph: BTreeMap<_, _> = self.files.keys().map(|module| (module, self.dependencies(module))).collect();
        let (mut circles, mut covered) = (Vec::new(), BTreeSet::new());
        for start in graph.keys() {
            let Some(circle) = way_back(&graph, start) else { continue };
            if circle.iter().all(|module| covered.insert(module.clone())) {
                let names: Vec<_> = circle.iter().map(|module| self.files[module].path.as_str()).collect();
                circles.push(names.join(" -> "));
            }
        }
        circles
    }

    /// Files that depend on a later room of their crate. `order` is the path of each room, earliest first.
    pub fn backward(&self, name: &str, order: &[&str]) -> Vec<String> {
        let room = |module: &Module| {
            let path = module.1.join("/");
            let mut rooms = order.iter().enumerate();
            let found = rooms.rfind(|(_, room)| path == **room || path.starts_with(&format!("{room}/")));
            found.map(|(position, _)| position)
        };
        let mut found = Vec::new();
        for module in self.files.keys().filter(|module| module.0 == name) {
            for used in self.dependencies(module) {
                if room(module).zip(room(&used)).is_some_and(|(own, used)| used > own) {
                    found.push(format!("{} -> {}", self.files[module].path, self.files[&used].path));
                }
            }
        }
        found
    }
}

/// The shortest way from a module to itself.
fn way_back(graph: &BTreeMap<&Module, BTreeSet<Module>>, start: &Module) -> Option<Vec<Module>> {
    let mut ways: BTreeMap<Module, Module> = BTreeMap::new();
    let mut queue = std::collections::VecDeque::from([start.clone()]);
    while let Some(module) = queue.pop_front() {
        for next in &graph[&module] {
            if next == start {
                let mut way = vec![module.clone()];
                while way.last() != Some(start) {
                    way.push(ways[way.last().unwrap()].clone());
                }
                way.reverse();
                return Some(way);
            }
            if !ways.contains_key(next) {
                ways.insert(next.clone(), module.clone());
                queue.push_back(next.clone());
            }
        }
    }
    None
}

/// The module of a file. Unit tests and `main.rs` are none.
fn module(path: &str, crates: &[String]) -> Option<Module> {
    let path = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let member = crates.iter().find(|member| path.starts_with(&format!("{member}/"))).cloned().unwrap_or_default();
    let path = path.strip_prefix(&member)?.trim_start_matches('/');
    let mut segments: Vec<String> = path.split('/').map(str::to_owned).collect();
    if segments.iter().any(|segment| segment == "tests") || path == "main" {
        return None;
    }
    if matches!(segments.last()?.as_str(), "mod" | "lib") {
        segments.pop();
    }
    Some((member, segments))
}

/// The statements of imports, with their positions.
fn import_statements(code: &str) -> Vec<(usize, usize)> {
    let mut statements = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let line = code[..at].rfind('\n').map_or(0, |end| end + 1);
        let before = code[line..at].trim();
        let is_import = before.is_empty() || before == "pub" || before.starts_with("pub(");
        if let Some(end) = code[at..].find(';').filter(|_| is_import) {
            statements.push((line, at + end + 1));
        }
    }
    statements
}

fn imports(code: &str) -> Vec<Import> {
    let mut found = Vec::new();
    for (start, end) in import_statements(code) {
        let statement = code[start..end - 1].trim();
        let (visibility, tree) = statement.split_once("use ").unwrap();
        expand(tree, &[], !visibility.trim().is_empty(), &mut found);
    }
    found
}

/// Expands `a::{b, c as d}`.
fn expand(tree: &str, prefix: &[String], is_public: bool, found: &mut Vec<Import>) {
    let tree = tree.trim();
    if let Some((head, group)) = tree.split_once('{') {
        let head: Vec<String> = head.split("::").map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect();
        let prefix = [prefix, &head].concat();
        let group = group.trim_end().strip_suffix('}').unwrap_or(group);
        members(group).into_iter().for_each(|member| expand(member, &prefix, is_public, found));
        return;
    }
    let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias.trim())));
    let mut path = [prefix, &path.split("::").map(|part| part.trim().to_owned()).collect::<Vec<_>>()].concat();
    let last = path.last().cloned().unwrap_or_default();
    if matches!(last.as_str(), "self" | "*") {
        path.pop();
    }
    let name = match (alias, last.as_str()) {
        (Some(alias), _) => alias.to_owned(),
        (None, "self") => path.last().cloned().unwrap_or_default(),
        _ => last,
    };
    if !path.is_empty() {
        found.push(Import { path, name, is_public });
    }
}

/// The members of a group, which may hold groups.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&group[start..]);
    found.into_iter().filter(|member| !member.trim().is_empty()).collect()
}

fn without_imports(code: &str) -> String {
    let mut rest = code.to_owned();
    for (start, end) in import_statements(code).into_iter().rev() {
        rest.replace_range(start..end, "");
    }
    rest
}

/// Paths in code, such as `crate::a::b` and `child::c`.
fn inline_paths(code: &str) -> Vec<Vec<String>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut paths = Vec::new();
    for word in code.split(|c: char| !is_word(c) && c != ':') {
        let parts: Vec<String> = word.split("::").map(str::to_owned).collect();
        if parts.len() > 1 && !parts[0].is_empty() && parts.iter().all(|part| part.chars().all(is_word)) {
            paths.push(parts.into_iter().filter(|part| !part.is_empty()).collect());
        }
    }
    paths
}

#[test]
fn finds_circles() {
    let source = |path: &str, code: &str| Source::parse(path.to_owned(), code);
    let sources = [
        source("src/x/lib.rs", "mod a;\nmod b;\npub use a::A;\n"),
        source("src/x/a.rs", "use crate::b::{self, B};\n"),
        source("src/x/b.rs", "fn f() { super::A::new() }\n"),
        source("src/x/c.rs", "use crate::A;\n"),
    ];
    let modules = Modules::new(&sources, &["x".to_owned()]);
    assert_eq!(modules.circles(), ["src/x/a.rs -> src/x/b.rs"]);
}
