//! Workloads: a VDAF with a measurement, and a task for it.

use std::{fmt, str::FromStr};

use crate::{
    cli::{
        args::BatchArgs,
        failure::Failure,
        task,
        taskfile::{TaskFiles, VerifyKey},
    },
    model::{Revision, VdafConfig},
    vdaf::{
        Measurement,
        table::{self, VdafParameters},
    },
    wire,
};

/// Origin of the leader in a generated task. It is never resolved: connections go to the server's own address.
pub const ORIGIN: &str = "http://localhost/";
/// Origin of the helper in a generated task, never resolved either.
const HELPER_ORIGIN: &str = "http://helper.localhost/";

/// The URLs of leader and helper in a generated task.
pub fn urls(revision: Revision) -> [String; 2] {
    [ORIGIN, HELPER_ORIGIN].map(|origin| format!("{origin}{}/", wire::for_revision(revision).path_prefix()))
}

/// The syntax of a workload.
const SYNTAX_HINT: &str = "write count, sum:BITS, histogram:BINS, sumvec:LENGTHxBITS or l1-bound-sum:LENGTHxMAX";

/// A VDAF as written on the command line, with a measurement for it.
#[derive(Clone, Debug)]
pub struct Workload {
    name: String,
    /// The VDAF.
    pub vdaf: VdafConfig,
    /// The measurement of every client.
    pub measurement: Measurement,
}

/// A typical measurement for a VDAF.
pub fn measurement(vdaf: &VdafConfig) -> Measurement {
    match *vdaf {
        VdafConfig::Prio3Count => Measurement::Flag(true),
        VdafConfig::Prio3Sum { .. } => Measurement::Number(1),
        VdafConfig::Prio3Histogram { .. } => Measurement::Number(0),
        VdafConfig::Prio3SumVec { length, .. }
        | VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { length, .. } => {
            Measurement::Vector((0..length).map(|i| (i % 2) as u128).collect())
        }
        VdafConfig::Prio3MultihotCountVec { length, .. } | VdafConfig::Prio3L1BoundSum { length, .. } => {
            Measurement::Vector((0..length).map(|i| u128::from(i == 0)).collect())
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<usize>().map_err(|_| format!("'{text}' is not a number; {SYNTAX_HINT}"));
        let (short, rest) = text.split_once(':').unwrap_or((text, ""));
        let pair = || rest.split_once('x').ok_or_else(|| format!("'{text}': {SYNTAX_HINT}"));
        let mut parameters = VdafParameters::default();
        match short {
            "count" if rest.is_empty() => {}
            "sum" => parameters.bits = Some(number(rest)?),
            "histogram" => parameters.length = Some(number(rest)?),
            "sumvec" => {
                let (length, bits) = pair()?;
                (parameters.length, parameters.bits) = (Some(number(length)?), Some(number(bits)?));
            }
            "l1-bound-sum" => {
                let (length, max) = pair()?;
                (parameters.length, parameters.max_value) = (Some(number(length)?), Some(number(max)? as u64));
            }
            _ => return Err(format!("unknown workload '{text}'; {SYNTAX_HINT}")),
        }
        let vdaf = table::configure(short, &parameters).map_err(|e| e.to_string())?;
        Ok(Self { name: text.to_owned(), measurement: measurement(&vdaf), vdaf })
    }
}

impl Workload {
    /// Generates the files of a task between a leader and a helper with these base URLs.
    pub fn task(&self, revision: Revision, urls: [String; 2]) -> Result<TaskFiles, Failure> {
        let batch = BatchArgs { min_batch_size: Some(1), ..BatchArgs::default() };
        let parameters = task::parameters(revision, urls, self.vdaf.clone(), &batch)?;
        TaskFiles::generate(parameters, &VerifyKey::default())
    }
}
