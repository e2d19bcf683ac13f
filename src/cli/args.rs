//! Arguments that several subcommands share.

use std::{net::SocketAddr, path::PathBuf, time::Duration as Span};

use clap::{Args, ValueEnum};

use super::Failure;
use crate::{
    config::{Config, ConfigError, Overrides, Setting, environment},
    model::{BatchMode, Duration, Revision, VdafConfig},
    peer::{Peer, PeerOptions, RootCertificates},
    support::duration,
    vdaf::table::{self, VdafParameters},
};

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "appliance.toml";

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file. Without this, appliance.toml is read if it is there.
    #[arg(long, value_name = "FILE", env = "DAPBOX_CONFIG")]
    pub config: Option<PathBuf>,
    /// Directory for everything that must survive a restart.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl ConfigArgs {
    /// Reads the configuration.
    pub fn load(&self, listen: Option<SocketAddr>) -> Result<Config, Failure> {
        self.load_with_sources(listen).map(|(config, _)| config)
    }

    /// Reads the configuration, and says where it comes from.
    pub fn load_with_sources(&self, listen: Option<SocketAddr>) -> Result<(Config, Sources), Failure> {
        let sources = self.sources(listen);
        Ok((sources.load()?, sources))
    }

    /// Where the configuration comes from.
    pub fn sources(&self, listen: Option<SocketAddr>) -> Sources {
        let default = PathBuf::from(DEFAULT_FILE);
        let file = self.config.clone().or_else(|| default.exists().then_some(default));
        Sources { file, flags: Overrides { data_dir: self.data_dir.clone(), listen } }
    }

    /// Where the control socket of the server is. Known without a configuration if the data directory is given, so that
    /// a file that is broken does not keep anybody from the server that runs.
    pub fn control_socket(&self) -> Result<PathBuf, Failure> {
        match &self.data_dir {
            Some(data_dir) => Ok(Config { data_dir: data_dir.clone(), ..Config::default() }.control_socket()),
            None => Ok(self.load(None)?.control_socket()),
        }
    }
}

/// Where a configuration comes from, besides the environment.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// What the command line sets.
    pub flags: Overrides,
}

impl Sources {
    /// Reads the configuration.
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.file.as_deref(), &self.flags)
    }

    /// What is not as it is by default in a configuration that was loaded from here.
    pub fn settings(&self, config: &Config) -> Result<Vec<Setting>, ConfigError> {
        let environment = environment::read(std::env::vars_os())?;
        config.settings(self.file.as_deref(), environment, &self.flags)
    }
}

/// How the aggregators of a task are reached.
#[derive(Clone, Debug, Default, Args)]
pub struct PeerArgs {
    /// Root certificates (PEM) of the aggregators' own authority, if it is none that everybody trusts.
    #[arg(long, value_name = "FILE", env = "DAPBOX_CA_FILE")]
    ca_file: Option<PathBuf>,
}

impl PeerArgs {
    /// The client for requests to them.
    pub fn peer(&self) -> Result<Peer, Failure> {
        let roots = self.ca_file.as_deref().map(RootCertificates::read).transpose()?.unwrap_or_default();
        Ok(Peer::new(&PeerOptions { roots, ..PeerOptions::default() })?)
    }
}

/// What commands share that take something away for ever.
#[derive(Clone, Debug, clap::Args)]
pub struct DestructiveArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// A revision of the protocol, as it is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Dap {
    /// What deployed clients, leaders and helpers speak: Janus 0.7, @divviup/dap, Daphne.
    #[default]
    #[value(name = "09", alias = "dap-09")]
    Dap09,
    /// The newest draft: uploads of several reports in one request, largest numbers that are not whole bits.
    #[value(name = "18", alias = "dap-18")]
    Dap18,
}

impl Dap {
    /// The revision.
    pub fn revision(self) -> Revision {
        match self {
            Self::Dap09 => Revision::Dap09,
            Self::Dap18 => Revision::Dap18,
        }
    }
}

/// Which VDAF, and its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct VdafArgs {
    /// What is measured: count, sum, sumvec, histogram, multihot, or sumvec-hmac.
    #[arg(long, value_name = "NAME", help_heading = "What is measured")]
    pub vdaf: Option<String>,
    /// Bits of each number (sum, sumvec): numbers are below 2^BITS.
    #[arg(long, help_heading = "What is measured")]
    pub bits: Option<usize>,
    /// The largest number (sum, sumvec), in place of --bits. With --dap 18 any; otherwise one below a power of two.
    #[arg(long, value_name = "N", help_heading = "What is measured")]
    pub max_measurement: Option<u64>,
    /// Numbers in each vector (sumvec), flags (multihot), or bins (histogram).
    #[arg(long, help_heading = "What is measured")]
    pub length: Option<usize>,
    /// How many flags may be set at once (multihot).
    #[arg(long, help_heading = "What is measured")]
    pub max_weight: Option<usize>,
    /// Trades the length of proofs for that of uploads; a good value is chosen if this is left out.
    #[arg(long, help_heading = "What is measured")]
    pub chunk_length: Option<usize>,
    /// Number of proofs (sumvec-hmac).
    #[arg(long, help_heading = "What is measured")]
    pub proofs: Option<u8>,
}

impl VdafArgs {
    /// Whether any of it was given.
    pub fn is_given(&self) -> bool {
        *self != Self::default()
    }

    /// The VDAF; a count if none is named.
    pub fn configure(&self) -> Result<VdafConfig, Failure> {
        let parameters = VdafParameters {
            bits: self.bits,
            max_measurement: self.max_measurement,
            length: self.length,
            max_weight: self.max_weight,
            chunk_length: self.chunk_length,
            proofs: self.proofs,
        };
        table::configure(self.vdaf.as_deref().unwrap_or("count"), &parameters).map_err(Failure::usage)
    }
}

/// How reports are put into batches.
#[derive(Clone, Debug, Default, Args)]
pub struct BatchArgs {
    /// Who decides what a batch is; time-interval by default.
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Batches")]
    pub query: Option<QueryKind>,
    /// No aggregate of fewer reports is ever given out: this hides the single client in the crowd. 100 by default, and
    /// 1 in a pair.
    #[arg(long, value_name = "N", help_heading = "Batches")]
    pub min_batch_size: Option<u64>,
    /// No batch has more reports (fixed-size only; not with --dap 18).
    #[arg(long, value_name = "N", help_heading = "Batches")]
    pub max_batch_size: Option<u64>,
    /// Each batch has reports of one such window of time only, a multiple of the time precision; what a window has left
    /// over stays uncollected until more come (fixed-size only; the leader's own matter, no draft has it).
    #[arg(long, value_parser = precision, value_name = "DURATION", help_heading = "Batches")]
    pub batch_time_window: Option<Duration>,
    /// Times are rounded down to a multiple of this, and intervals must be multiples of it. 1h by default, and 10s in
    /// a pair.
    #[arg(long, value_parser = precision, value_name = "DURATION", help_heading = "Batches")]
    pub time_precision: Option<Duration>,
}

/// Who decides what a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QueryKind {
    /// The collector, by naming an interval of time.
    TimeInterval,
    /// The leader, as soon as enough reports are there; DAP-18 calls it leader-selected.
    #[value(alias = "leader-selected")]
    FixedSize,
}

impl BatchArgs {
    /// The same, with these defaults.
    pub fn or(self, min_batch_size: u64, time_precision: Duration) -> Self {
        Self {
            min_batch_size: self.min_batch_size.or(Some(min_batch_size)),
            time_precision: self.time_precision.or(Some(time_precision)),
            ..self
        }
    }

    /// No aggregate of fewer reports is given out.
    pub fn min_batch_size(&self) -> u64 {
        self.min_batch_size.unwrap_or(100)
    }

    /// Times are rounded down to a multiple of this.
    pub fn time_precision(&self) -> Duration {
        self.time_precision.unwrap_or(Duration(3600))
    }

    /// The batch mode.
    pub fn mode(&self) -> Result<BatchMode, Failure> {
        if self.min_batch_size() == 0 {
            return Err(Failure::usage("--min-batch-size must be at least 1"));
        }
        let batch_time_window_size = self.batch_time_window;
        if let Some(window) = batch_time_window_size {
            if self.query != Some(QueryKind::FixedSize) {
                return Err(Failure::usage("--batch-time-window needs --query fixed-size"));
            }
            if !window.0.is_multiple_of(self.time_precision().0) {
                return Err(Failure::usage("--batch-time-window must be a multiple of --time-precision"));
            }
        }
        match (self.query.unwrap_or(QueryKind::TimeInterval), self.max_batch_size) {
            (QueryKind::TimeInterval, None) => Ok(BatchMode::TimeInterval),
            (QueryKind::TimeInterval, Some(_)) => Err(Failure::usage("--max-batch-size needs --query fixed-size")),
            (QueryKind::FixedSize, Some(max)) if max < self.min_batch_size() => {
                Err(Failure::usage("--max-batch-size must not be below --min-batch-size"))
            }
            (QueryKind::FixedSize, max_batch_size) => {
                Ok(BatchMode::FixedSize { max_batch_size, batch_time_window_size })
            }
        }
    }
}

/// What a result is printed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON value.
    Json,
}

/// For clap: a length of time.
pub fn duration(text: &str) -> Result<Span, String> {
    duration::parse(text)
}

/// For clap: a length of time in whole seconds, and at least one.
pub fn precision(text: &str) -> Result<Duration, String> {
    let span = duration::parse(text)?;
    match (span.as_secs(), span.subsec_millis()) {
        (0, _) | (_, 1..) => Err("must be a whole number of seconds, and at least one".to_owned()),
        (seconds, 0) => Ok(Duration(seconds)),
    }
}
