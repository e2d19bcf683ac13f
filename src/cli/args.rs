//! Arguments that several commands share.

use std::{net::SocketAddr, path::PathBuf, time::Duration as Span};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{Failure, Outcome, style};
use crate::{
    config::{Config, ConfigError, Overrides, Setting, environment},
    model::{BatchMode, Duration, Revision, VdafConfig},
    peer::{Peer, PeerOptions, RootCertificates},
    support::duration,
    vdaf::table::{self, VdafParameters},
};

/// The configuration file that is read without `--config`.
pub const DEFAULT_FILE: &str = "appliance.toml";

/// Selects the configuration.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file. Default: appliance.toml, if it exists.
    #[arg(long, value_name = "FILE", env = "DAPBOX_CONFIG")]
    pub config: Option<PathBuf>,
    /// Data directory; overrides data_dir of the configuration.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl ConfigArgs {
    /// Loads the configuration.
    pub fn load(&self, listen: Option<SocketAddr>) -> Result<Config, Failure> {
        self.load_with_sources(listen).map(|(config, _)| config)
    }

    /// Loads the configuration and returns its sources.
    pub fn load_with_sources(&self, listen: Option<SocketAddr>) -> Result<(Config, ConfigSources), Failure> {
        let sources = self.sources(listen);
        Ok((sources.load()?, sources))
    }

    /// Returns the sources of the configuration.
    pub fn sources(&self, listen: Option<SocketAddr>) -> ConfigSources {
        let default = PathBuf::from(DEFAULT_FILE);
        let file = self.config.clone().or_else(|| default.exists().then_some(default));
        ConfigSources { file, flags: Overrides { data_dir: self.data_dir.clone(), listen } }
    }

    /// Returns the path of the server's control socket. With `--data-dir` the configuration is not loaded, so that an
    /// invalid file does not prevent access to a running server.
    pub fn control_socket(&self) -> Result<PathBuf, Failure> {
        match &self.data_dir {
            Some(data_dir) => Ok(Config { data_dir: data_dir.clone(), ..Config::default() }.control_socket()),
            None => Ok(self.load(None)?.control_socket()),
        }
    }
}

/// The sources of a configuration besides the environment.
#[derive(Clone, Debug, Default)]
pub struct ConfigSources {
    /// The configuration file.
    pub file: Option<PathBuf>,
    /// Options set on the command line.
    pub flags: Overrides,
}

impl ConfigSources {
    /// Loads the configuration.
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.file.as_deref(), &self.flags)
    }

    /// Lists the options of `config`, loaded from these sources, that differ from their defaults.
    pub fn settings(&self, config: &Config) -> Result<Vec<Setting>, ConfigError> {
        let environment = environment::read(std::env::vars_os())?;
        config.settings(self.file.as_deref(), environment, &self.flags)
    }
}

/// Selects the output format.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgs {
    /// Output format.
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORMAT", default_value_t = Format::Text)]
    pub format: Format,
}

impl OutputArgs {
    /// Prints a value as indented JSON, or the text for people.
    pub fn print(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Outcome {
        Ok(style::print(match self.format {
            Format::Json => serde_json::to_string_pretty(value)?,
            Format::Text => text(),
        })?)
    }
}

/// An output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people.
    Text,
    /// One JSON value.
    Json,
}

/// Connects to the aggregators of a task.
#[derive(Clone, Debug, Default, Args)]
pub struct PeerArgs {
    /// PEM file with root certificates to trust in addition to the system's.
    #[arg(long, value_name = "FILE", env = "DAPBOX_CA_FILE")]
    ca_file: Option<PathBuf>,
}

impl PeerArgs {
    /// Creates the HTTP client.
    pub fn peer(&self) -> Result<Peer, Failure> {
        let roots = self.ca_file.as_deref().map(RootCertificates::read).transpose()?.unwrap_or_default();
        Ok(Peer::new(&PeerOptions { roots, ..PeerOptions::default() })?)
    }
}

/// Arguments of commands that delete data permanently.
#[derive(Clone, Debug, clap::Args)]
pub struct DestructiveArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Do not ask for confirmation.
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A protocol revision on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RevisionArg {
    /// DAP-09, spoken by deployed software: Janus 0.7, @divviup/dap, Daphne.
    #[default]
    #[value(name = "09", alias = "dap-09")]
    Dap09,
    /// DAP-18: several reports per upload request, sums with any maximum.
    #[value(name = "18", alias = "dap-18")]
    Dap18,
    /// DAP-19, the newest draft: as DAP-18, with verification keys that can be replaced.
    #[value(name = "19", alias = "dap-19")]
    Dap19,
}

impl RevisionArg {
    /// Returns the revision.
    pub fn revision(self) -> Revision {
        match self {
            Self::Dap09 => Revision::Dap09,
            Self::Dap18 => Revision::Dap18,
            Self::Dap19 => Revision::Dap19,
        }
    }
}

/// Selects a VDAF and its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct VdafArgs {
    /// VDAF: count, sum, sumvec, histogram, multihot, l1-bound-sum (DAP-18 and later) or sumvec-hmac (DAP-09 only).
    #[arg(long, value_name = "NAME", help_heading = "VDAF")]
    pub vdaf: Option<String>,
    /// Bits per number (sum, sumvec): numbers are below 2^BITS.
    #[arg(long, help_heading = "VDAF")]
    pub bits: Option<usize>,
    /// Maximum number (sum, sumvec), instead of --bits. DAP-09 requires a power of two minus 1.
    #[arg(long, value_name = "N", help_heading = "VDAF")]
    pub max_measurement: Option<u64>,
    /// Number of vector elements (sumvec, l1-bound-sum), flags (multihot) or bins (histogram).
    #[arg(long, help_heading = "VDAF")]
    pub length: Option<usize>,
    /// Maximum number of set flags per measurement (multihot).
    #[arg(long, help_heading = "VDAF")]
    pub max_weight: Option<usize>,
    /// Maximum sum of the numbers of a measurement (l1-bound-sum).
    #[arg(long, value_name = "N", help_heading = "VDAF")]
    pub max_value: Option<u64>,
    /// Elements per chunk of the proof: balances proof size and upload size. Default: derived from the length.
    #[arg(long, help_heading = "VDAF")]
    pub chunk_length: Option<usize>,
    /// Number of proofs (sumvec-hmac).
    #[arg(long, help_heading = "VDAF")]
    pub proofs: Option<u8>,
}

impl VdafArgs {
    /// Returns whether any of the arguments is set.
    pub fn is_given(&self) -> bool {
        *self != Self::default()
    }

    /// Returns the VDAF; count by default.
    pub fn configure(&self) -> Result<VdafConfig, Failure> {
        let parameters = VdafParameters {
            bits: self.bits,
            max_measurement: self.max_measurement,
            length: self.length,
            max_weight: self.max_weight,
            max_value: self.max_value,
            chunk_length: self.chunk_length,
            proofs: self.proofs,
        };
        table::configure(self.vdaf.as_deref().unwrap_or("count"), &parameters).map_err(Failure::usage)
    }
}

/// Selects how reports are grouped into batches.
#[derive(Clone, Debug, Default, Args)]
pub struct BatchArgs {
    /// Batch mode. Default: time-interval.
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Batches")]
    pub query: Option<QueryKind>,
    /// Minimum reports per aggregate, which protects single clients. Default: 100 (dapbox pair: 1).
    #[arg(long, value_name = "N", help_heading = "Batches")]
    pub min_batch_size: Option<u64>,
    /// Maximum reports per batch (fixed-size, DAP-09 only).
    #[arg(long, value_name = "N", help_heading = "Batches")]
    pub max_batch_size: Option<u64>,
    /// Put only reports of one time window of this length into a batch (fixed-size; a multiple of the time precision).
    /// Reports left over in a window wait for more. Local to the leader, no part of DAP.
    #[arg(long, value_parser = parse_precision, value_name = "DURATION", help_heading = "Batches")]
    pub batch_time_window: Option<Duration>,
    /// Unit to which report times are rounded down and of which intervals are multiples. Default: 1h (dapbox pair: 10s).
    #[arg(long, value_parser = parse_precision, value_name = "DURATION", help_heading = "Batches")]
    pub time_precision: Option<Duration>,
}

/// A batch mode on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QueryKind {
    /// The collector selects a time interval.
    TimeInterval,
    /// The leader fills batches as reports arrive (DAP-18: leader-selected).
    #[value(alias = "leader-selected")]
    FixedSize,
}

impl BatchArgs {
    /// Sets defaults for what is not given.
    pub fn with_defaults(self, min_batch_size: u64, time_precision: Duration) -> Self {
        Self {
            min_batch_size: self.min_batch_size.or(Some(min_batch_size)),
            time_precision: self.time_precision.or(Some(time_precision)),
            ..self
        }
    }

    /// Returns the minimum batch size.
    pub fn min_batch_size(&self) -> u64 {
        self.min_batch_size.unwrap_or(100)
    }

    /// Returns the time precision.
    pub fn time_precision(&self) -> Duration {
        self.time_precision.unwrap_or(Duration(3600))
    }

    /// Returns the batch mode.
    pub fn mode(&self) -> Result<BatchMode, Failure> {
        if self.min_batch_size() == 0 {
            return Err(Failure::usage("--min-batch-size must be at least 1"));
        }
        let batch_time_window_size = self.batch_time_window;
        if let Some(window) = batch_time_window_size {
            if self.query != Some(QueryKind::FixedSize) {
                return Err(Failure::usage("--batch-time-window requires --query fixed-size"));
            }
            if !window.0.is_multiple_of(self.time_precision().0) {
                return Err(Failure::usage("--batch-time-window must be a multiple of --time-precision"));
            }
        }
        match (self.query.unwrap_or(QueryKind::TimeInterval), self.max_batch_size) {
            (QueryKind::TimeInterval, None) => Ok(BatchMode::TimeInterval),
            (QueryKind::TimeInterval, Some(_)) => Err(Failure::usage("--max-batch-size requires --query fixed-size")),
            (QueryKind::FixedSize, Some(max)) if max < self.min_batch_size() => {
                Err(Failure::usage("--max-batch-size must be at least --min-batch-size"))
            }
            (QueryKind::FixedSize, max_batch_size) => {
                Ok(BatchMode::FixedSize { max_batch_size, batch_time_window_size })
            }
        }
    }
}

/// Parses a duration for clap.
pub fn parse_duration(text: &str) -> Result<Span, String> {
    duration::parse(text)
}

/// Parses a duration of whole seconds, at least one, for clap.
pub fn parse_precision(text: &str) -> Result<Duration, String> {
    let span = duration::parse(text)?;
    match (span.as_secs(), span.subsec_millis()) {
        (0, _) | (_, 1..) => Err("must be a whole number of seconds, at least 1".to_owned()),
        (seconds, 0) => Ok(Duration(seconds)),
    }
}
