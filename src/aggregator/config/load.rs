//! Loads a [`Config`] from flags, environment and file. Errors name the source of the value.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider,
    providers::Serialized,
    value::{Dict, Map, Value},
};
use toml::de::{DeTable, DeValue};

use super::{
    Config, acme,
    environment::{self, PREFIX, is_option},
    error::{ConfigError, UnknownKey},
    management,
    network::check_public_url,
    provisioning, results, taskprov,
};
use dapbox_support::files;

/// Values from the command line, which override all others.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Overrides [`Config::data_dir`].
    pub data_dir: Option<PathBuf>,
    /// Overrides [`Config::listen`].
    pub listen: Option<SocketAddr>,
}

impl Config {
    /// Loads the configuration from `file`, the environment of the process, and `flags`.
    pub fn load(file: Option<&Path>, flags: &Overrides) -> Result<Self, ConfigError> {
        Self::from_sources(file, environment::read(std::env::vars_os())?, flags)
    }

    /// Loads the configuration like [`Config::load`], from the given environment.
    pub fn from_sources(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &Overrides,
    ) -> Result<Self, ConfigError> {
        let known = Self::known_keys()?;
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = file {
            let text = files::read_text(path).map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
            check_file_keys(path, &text, &known)?;
            figment = figment.merge(from_file(path, &text)?);
        }
        for variable in environment.into_iter().filter(|(name, value)| is_option(name, value)) {
            figment = figment.merge(from_variable(&known, variable)?);
        }
        if let Some(data_dir) = &flags.data_dir {
            check_path(data_dir)?;
            figment = figment.merge(Serialized::default("data_dir", data_dir));
        }
        if let Some(listen) = flags.listen {
            figment = figment.merge(Serialized::default("listen", listen));
        }
        let config: Self = figment.extract().map_err(|e| ConfigError::Value(Box::new(e)))?;
        config.check()?;
        Ok(config)
    }

    /// All keys as dotted paths, taken from the default configuration.
    fn known_keys() -> Result<Vec<String>, ConfigError> {
        Ok(Self::default().flat()?.into_iter().map(|(key, _)| key).collect())
    }

    /// Validates values that have the right type.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.check_minimums()?;
        let leader = &self.leader;
        if leader.min_job_size > leader.max_job_size {
            let text = format!(
                "leader.min_job_size ({}) must not exceed leader.max_job_size ({})",
                leader.min_job_size, leader.max_job_size
            );
            return Err(ConfigError::Invalid(text));
        }
        if !self.hpke.rotate_every.is_zero() && self.hpke.rotate_every <= self.hpke.pending_time {
            let text = "hpke.rotate_every must exceed hpke.pending_time, or be 0s for no rotation";
            return Err(ConfigError::Invalid(text.to_owned()));
        }
        if leader.retry_initial > leader.retry_max {
            return Err(ConfigError::Invalid("leader.retry_initial must not exceed leader.retry_max".to_owned()));
        }
        check_public_url(&self.public_url).map_err(|why| ConfigError::Invalid(format!("public_url {why}")))?;
        if let Some(text) = self.tls.invalid_reason().or_else(|| self.proxy.invalid_reason()) {
            return Err(ConfigError::Invalid(text));
        }
        acme::check(self)
            .and_then(|()| management::check(self))
            .and_then(|()| provisioning::check(self))
            .and_then(|()| results::check(self))
            .and_then(|()| taskprov::check_options(self))
            .map_err(ConfigError::Invalid)
    }

    /// Validates the options that have a lower bound.
    fn check_minimums(&self) -> Result<(), ConfigError> {
        let (limits, leader) = (&self.limits, &self.leader);
        let at_least_one = [
            ("limits.max_report_bytes", limits.max_report_bytes),
            ("limits.max_upload_bytes", limits.max_upload_bytes),
            ("limits.max_job_bytes", limits.max_job_bytes),
            ("limits.max_job_reports", limits.max_job_reports),
            ("limits.max_message_bytes", limits.max_message_bytes),
            ("limits.max_answer_bytes", limits.max_answer_bytes),
            ("limits.max_requests", limits.max_requests),
            ("limits.max_pending_bodies", limits.max_pending_bodies),
            ("limits.max_connections", limits.max_connections),
            ("limits.pool_queue", limits.pool_queue),
            ("limits.store_queue", limits.store_queue),
            ("limits.max_open_buckets", limits.max_open_buckets),
            ("helper.max_deferred_jobs", self.helper.max_deferred_jobs),
            ("helper.max_memory_bytes", self.helper.max_memory_bytes),
            ("leader.max_job_size", leader.max_job_size),
            ("leader.min_job_size", leader.min_job_size),
            ("leader.jobs_in_flight", leader.jobs_in_flight),
            ("leader.max_memory_bytes", leader.max_memory_bytes),
            ("log.queue_bytes", self.log.queue_bytes),
            ("leader.max_collections", leader.max_collections),
            ("results.max_requests", self.results.max_requests),
            ("results.max_task_requests", self.results.max_task_requests),
            ("results.max_webhook_queue", self.results.max_webhook_queue),
        ];
        if let Some((key, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Invalid(format!("{key} must be at least 1")));
        }
        let not_zero = [
            ("limits.request_timeout", limits.request_timeout),
            ("limits.head_timeout", limits.head_timeout),
            ("tls.check_interval", self.tls.check_interval),
            ("tls.handshake_timeout", self.tls.handshake_timeout),
            ("disk.check_interval", self.disk.check_interval),
            ("leader.peer_timeout", leader.peer_timeout),
            ("leader.retry_initial", leader.retry_initial),
            ("results.leader_timeout", self.results.leader_timeout),
            ("results.retry_max", self.results.retry_max),
            ("results.webhook_timeout", self.results.webhook_timeout),
            ("retention.sweep_interval", self.retention.sweep_interval),
        ];
        if let Some((key, _)) = not_zero.iter().find(|(_, value)| value.is_zero()) {
            return Err(ConfigError::Invalid(format!("{key} must be positive")));
        }
        let enough = [
            (
                "limits.upload_memory_bytes",
                limits.upload_memory_bytes,
                "limits.max_report_bytes",
                limits.max_report_bytes,
            ),
            ("limits.request_memory_bytes", limits.request_memory_bytes, "limits.max_job_bytes", limits.max_job_bytes),
        ];
        if let Some((key, value, least_key, least)) = enough.iter().find(|(_, value, _, least)| value < least) {
            let text = format!("{key} ({value}) must not be less than {least_key} ({least})");
            return Err(ConfigError::Invalid(text));
        }
        Ok(())
    }
}

/// Rejects a data directory whose path is not UTF-8: neither a configuration nor a message can name it.
fn check_path(path: &Path) -> Result<(), ConfigError> {
    let refusal =
        || ConfigError::Invalid(format!("the data directory {path:?} is not UTF-8 text; choose another path"));
    path.to_str().map(|_| ()).ok_or_else(refusal)
}

/// Rejects unknown keys with their lines, which figment does not know.
fn check_file_keys(path: &Path, text: &str, known: &[String]) -> Result<(), ConfigError> {
    let table = DeTable::parse(text).map_err(|e| syntax(path, &e))?;
    let mut unknown = Vec::new();
    collect_unknown(table.get_ref(), "", known, &mut |key, offset| {
        let line = 1 + text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count();
        let location = format!("{}:{line}", path.display());
        unknown.push((offset, UnknownKey { location, suggestion: suggest(&key, known), key }));
    });
    unknown.sort_by_key(|(offset, _)| *offset);
    if unknown.is_empty() {
        Ok(())
    } else {
        Err(ConfigError::Unknown(unknown.into_iter().map(|(_, key)| key).collect()))
    }
}

fn syntax(path: &Path, error: &toml::de::Error) -> ConfigError {
    ConfigError::Syntax { path: path.to_owned(), message: error.to_string().trim_end().to_owned() }
}

/// Parses the file. figment's own parser depends on an older version of `toml`.
fn from_file(path: &Path, text: &str) -> Result<NamedSource, ConfigError> {
    let table: toml::Table = toml::from_str(text).map_err(|e| syntax(path, &e))?;
    let data = Value::serialize(table).map(|value| Profile::Default.collect(value.into_dict().unwrap_or_default()));
    Ok(NamedSource { name: path.display().to_string(), data })
}

fn collect_unknown(table: &DeTable, prefix: &str, known: &[String], report: &mut impl FnMut(String, usize)) {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        let inside = format!("{key}.");
        match value.get_ref() {
            DeValue::Table(inner) if known.iter().any(|known| known.starts_with(&inside)) => {
                collect_unknown(inner, &inside, known, report);
            }
            _ if known.contains(&key) => {}
            _ => report(key, name.span().start),
        }
    }
}

/// The known key most similar to `key`: by its whole path, or by its last part in another table.
fn suggest(key: &str, known: &[String]) -> Option<String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let score = |known: &String| {
        let tables = known.split_once('.').map_or(0.0, |(table, _)| strsim::jaro_winkler(table, key));
        strsim::jaro_winkler(known, key).max(strsim::jaro_winkler(&last(known), &last(key)) - 0.01).max(tables - 0.02)
    };
    let best = known.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.8).then(|| best.clone())
}

/// The key that a variable sets.
pub(super) fn key_of(variable: &str) -> String {
    variable.strip_prefix(PREFIX).unwrap_or(variable).to_ascii_lowercase().replace("__", ".")
}

fn from_variable(known: &[String], (name, text): (String, String)) -> Result<NamedSource, ConfigError> {
    let key = key_of(&name);
    if !known.contains(&key) {
        let variable = |key: String| format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase());
        let suggestion = suggest(&key, known).map(variable);
        return Err(ConfigError::Unknown(vec![UnknownKey {
            location: "environment".to_owned(),
            key: name,
            suggestion,
        }]));
    }
    // Never fails: text that is no number, flag or list is a string.
    let value: Value = text.parse().unwrap_or_else(|_| Value::from(text.as_str()));
    let data = figment::util::nest(&key, value).into_dict().unwrap_or_default();
    Ok(NamedSource { name: format!("environment variable {name}"), data: Ok(Profile::Default.collect(data)) })
}

/// Values and their source, for the messages of figment.
struct NamedSource {
    name: String,
    data: figment::Result<Map<Profile, Dict>>,
}

impl Provider for NamedSource {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        self.data.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)], flags: &Overrides) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("appliance.toml");
        std::fs::write(&path, text).unwrap();
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::from_sources(Some(&path), environment, flags)
    }

    #[test]
    fn rejects_unknown_key_with_line_and_suggestion() {
        let text = "data_dir = \"x\"\n\n[leader]\n# a comment\nmax_jobsize = 3\n";
        let error = load(text, &[], &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("appliance.toml:5: unknown key 'leader.max_jobsize'"), "{error}");
        assert!(error.contains("did you mean 'leader.max_job_size'?"), "{error}");

        let error = load("[limit]\nworkers = 1\n", &[], &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("appliance.toml:1: unknown key 'limit'"), "{error}");
        let error = load("max_job_size = 1\n", &[], &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("did you mean 'leader.max_job_size'?"), "{error}");
        let error = load("zzzzqqq = 1\n", &[], &Overrides::default()).unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn rejects_unknown_variable_with_suggestion() {
        let error = load("", &[("DAPBOX_LOG__LEVLE", "debug")], &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("'DAPBOX_LOG__LEVLE'") && error.contains("'DAPBOX_LOG__LEVEL'"), "{error}");
        assert!(load("", &[("DAPBOX_CONFIG", "x"), ("OTHER", "y")], &Overrides::default()).is_ok());
        let of_kubernetes = [("DAPBOX_PORT", "tcp://10.0.0.7:8080"), ("DAPBOX_X_SERVICE_HOST", "10.0.0.7")];
        assert_eq!(load("", &of_kubernetes, &Overrides::default()).unwrap(), Config::default());
    }

    #[test]
    fn flags_override_environment_and_environment_overrides_file() {
        let text =
            "listen = \"127.0.0.1:1\"\ndata_dir = \"file\"\n[leader]\nmax_job_delay = \"7s\"\nmin_job_size = 3\n";
        let environment = [("DAPBOX_LISTEN", "127.0.0.1:2"), ("DAPBOX_LEADER__MAX_JOB_DELAY", "20ms")];
        let flags = Overrides { listen: Some(([127, 0, 0, 1], 3).into()), ..Overrides::default() };

        let config = load(text, &environment, &Overrides::default()).unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.data_dir, Path::new("file"));
        assert_eq!(config.leader.max_job_delay, super::super::Seconds::millis(20));
        assert_eq!(config.leader.min_job_size, 3);
        assert_eq!(config.leader.max_job_size, 500);
        assert_eq!(load(text, &environment, &flags).unwrap().listen.port(), 3);
    }

    #[test]
    fn errors_name_the_source_of_the_value() {
        let error = load("[limits]\nworkers = \"many\"\n", &[], &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("workers") && error.contains("appliance.toml"), "{error}");
        let error = load("", &[("DAPBOX_LISTEN", "nowhere")], &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("DAPBOX_LISTEN"), "{error}");
        let error = load("[limits\n", &[], &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn rejects_invalid_values() {
        for text in [
            "[leader]\nmin_job_size = 501",
            "[limits]\nmax_requests = 0",
            "[limits]\nmax_job_bytes = 300_000_000",
            "[leader]\nretry_initial = \"0s\"",
            "[tls]\nmode = \"files\"\ncertificate_file = \"cert.pem\"",
            "[tls]\nkey_file = \"key.pem\"",
            "[proxy]\ntrusted = [\"0.0.0.0/0\"]",
            "[hpke]\nrotate_every = \"1d\"",
            "[management]\npath = \"/api\"",
            "[results]\npublic = true",
        ] {
            assert!(matches!(load(text, &[], &Overrides::default()), Err(ConfigError::Invalid(_))), "{text}");
        }
    }

    #[test]
    fn supports_every_configurable_suite() {
        for kem in ["x25519", "p256"] {
            for kdf in ["hkdf-sha256", "hkdf-sha384", "hkdf-sha512"] {
                for aead in ["aes-128-gcm", "aes-256-gcm", "chacha20-poly1305"] {
                    let text = format!("[hpke]\nkem = \"{kem}\"\nkdf = \"{kdf}\"\naead = \"{aead}\"\n");
                    let suite = load(&text, &[], &Overrides::default()).unwrap().hpke.suite();
                    assert!(suite.is_supported(), "{suite}");
                }
            }
        }
        assert_eq!(Config::default().hpke.suite(), dapbox_protocol::hpke::Suite::DEFAULT);
    }

    #[test]
    fn example_lists_every_option_with_its_default() {
        let example = include_str!("../../../appliance.toml");
        assert_eq!(load(example, &[], &Overrides::default()).unwrap(), Config::default());

        let table: toml::Table = example.parse().unwrap();
        for key in Config::known_keys().unwrap() {
            let found = match key.split_once('.') {
                Some((outer, inner)) => table.get(outer).and_then(|t| t.get(inner)).is_some(),
                None => table.contains_key(&key),
            };
            assert!(found, "{key} is missing from appliance.toml");
        }
    }
}
