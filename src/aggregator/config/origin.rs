//! Options that differ from their defaults, and their sources.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{Config, ConfigError, Overrides, environment::is_option, load::key_of};
use dapbox_support::files;

/// An option that differs from its default.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its key with its table, as in `leader.max_job_size`.
    pub key: String,
    /// Its value as TOML; empty for a secret.
    pub value: String,
    /// The source of the value.
    pub origin: Origin,
    /// Sources that this one overrides.
    pub shadowed: Vec<Origin>,
}

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A command line flag.
    Flag,
    /// An environment variable.
    Environment(String),
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Environment(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// Whether the value of an option is never shown.
pub fn is_secret(key: &str) -> bool {
    key == "secrets.key"
}

impl Config {
    /// All options and their values, by dotted path.
    pub fn flat(&self) -> Result<Vec<(String, toml::Value)>, ConfigError> {
        let table = toml::Table::try_from(self).map_err(|e| ConfigError::Invalid(format!("the values: {e}")))?;
        let mut flat = Vec::new();
        for (key, value) in table {
            match value {
                toml::Value::Table(inner) => {
                    flat.extend(inner.into_iter().map(|(name, value)| (format!("{key}.{name}"), value)));
                }
                value => flat.push((key, value)),
            }
        }
        Ok(flat)
    }

    /// The options that differ from their defaults.
    pub fn changed(&self) -> Result<Vec<(String, toml::Value)>, ConfigError> {
        let (mut changed, defaults) = (self.flat()?, Self::default().flat()?);
        changed.retain(|option| !defaults.contains(option));
        Ok(changed)
    }

    /// The options that a source sets to another value than the default, or that one source overrides in another.
    /// `self` was loaded from these sources.
    pub fn settings(
        &self,
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &Overrides,
    ) -> Result<Vec<Setting>, ConfigError> {
        let variables = environment.into_iter().filter(|(name, value)| is_option(name, value));
        let variables: Vec<_> = variables.map(|(name, _)| name).collect();
        let in_file = file.map(keys_in_file).transpose()?.unwrap_or_default();
        let origins = |key: &str| -> Vec<Origin> {
            let is_flag =
                (key == "data_dir" && flags.data_dir.is_some()) || (key == "listen" && flags.listen.is_some());
            let flag = is_flag.then_some(Origin::Flag);
            let variable = variables.iter().find(|name| key_of(name) == key).cloned().map(Origin::Environment);
            let line = in_file.iter().find(|(known, _)| known == key).map(|(_, line)| *line);
            let place = file.zip(line).map(|(path, line)| Origin::File { path: path.to_owned(), line });
            flag.into_iter().chain(variable).chain(place).collect()
        };
        let defaults = Self::default().flat()?;
        let mut settings = Vec::new();
        for option in self.flat()? {
            let mut found = origins(&option.0);
            if found.is_empty() || (found.len() == 1 && defaults.contains(&option)) {
                continue;
            }
            let (key, value) = option;
            let value = if is_secret(&key) { String::new() } else { value.to_string() };
            settings.push(Setting { key, value, origin: found.remove(0), shadowed: found });
        }
        Ok(settings)
    }
}

/// The keys in a loaded file and their lines.
fn keys_in_file(path: &Path) -> Result<Vec<(String, usize)>, ConfigError> {
    let text = files::read_text(path).map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
    let syntax = |e: toml::de::Error| ConfigError::Syntax { path: path.to_owned(), message: e.to_string() };
    let table = DeTable::parse(&text).map_err(syntax)?;
    let line = |offset: usize| 1 + text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count();
    let mut keys = Vec::new();
    for (name, value) in table.get_ref() {
        match value.get_ref() {
            DeValue::Table(inner) => keys.extend(
                inner.keys().map(|key| (format!("{}.{}", name.get_ref(), key.get_ref()), line(key.span().start))),
            ),
            _ => keys.push((name.get_ref().to_string(), line(name.span().start))),
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_changed_options_with_their_sources() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("appliance.toml");
        let text = "data_dir = \"file\"\n[limits]\nworkers = 2\n# the default\nmax_requests = 1024\n";
        std::fs::write(&path, text).unwrap();
        let environment = || {
            [("DAPBOX_LIMITS__WORKERS", "4"), ("DAPBOX_SECRETS__KEY", "c2VjcmV0"), ("HOME", "/")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        let flags = Overrides { data_dir: Some(PathBuf::from("flag")), ..Overrides::default() };
        let config = Config::from_sources(Some(&path), environment(), &flags).unwrap();
        let settings = config.settings(Some(&path), environment(), &flags).unwrap();
        let shown: Vec<_> = settings
            .iter()
            .map(|s| {
                let shadowed: Vec<_> = s.shadowed.iter().map(ToString::to_string).collect();
                let shadowed = shadowed.join(" ").replace(&path.display().to_string(), "FILE");
                format!("{} = {} ({}) [{shadowed}]", s.key, s.value, s.origin)
            })
            .collect();
        let expected = [
            "data_dir = \"flag\" (command line) [FILE:1]",
            "limits.workers = 4 (DAPBOX_LIMITS__WORKERS) [FILE:3]",
            "secrets.key =  (DAPBOX_SECRETS__KEY) []",
        ];
        assert_eq!(shown, expected);
        let changed: Vec<_> = config.changed().unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(changed, ["data_dir", "limits.workers", "secrets.key"]);
    }
}
