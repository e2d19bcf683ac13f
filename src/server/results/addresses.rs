//! Addresses of pages and files of results.

use dapbox_pages::Addresses;
use dapbox_protocol::model::TaskId;

/// The path of links.
pub const LINKS: &str = "/results/";
/// The path of tasks at the private listener.
pub const TASKS: &str = "/tasks/";

/// The format of a representation of a task's results, by the end of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A page.
    Html,
    /// Comma-separated values.
    Csv,
    /// A line of JSON for each window.
    Ndjson,
    /// A JSON document.
    Json,
}

impl Format {
    /// Splits the last segment of a path into its name and its format.
    pub fn split(name: &str) -> (&str, Self) {
        let formats = [(".csv", Self::Csv), (".ndjson", Self::Ndjson), (".json", Self::Json)];
        let found = formats.iter().find_map(|(end, format)| Some((name.strip_suffix(end)?, *format)));
        found.unwrap_or((name, Self::Html))
    }
}

/// The addresses of a task at the private listener.
pub fn private_addresses(id: &TaskId) -> Addresses {
    Addresses { overview: Some("/".to_owned()), task: format!("{TASKS}{id}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_is_the_end_of_the_path() {
        assert_eq!(Format::split("abc"), ("abc", Format::Html));
        assert_eq!(Format::split("abc.csv"), ("abc", Format::Csv));
        assert_eq!(Format::split("abc.ndjson"), ("abc", Format::Ndjson));
        assert_eq!(Format::split("abc.json"), ("abc", Format::Json));
        assert_eq!(Format::split("abc.html"), ("abc.html", Format::Html));
    }
}
