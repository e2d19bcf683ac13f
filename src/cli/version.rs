//! `dapbox version` and `--version`: the version and the supported protocols.

use serde::Serialize;

use super::{Outcome, args::OutputArgs};
use crate::{hpke::Suite, model::Revision, support::version, wire};

/// Arguments of `dapbox version`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Same as --version. -V prints one line.\n\n\
    Examples:\n  \
    dapbox version\n  \
    dapbox version -o json")]
pub struct Args {
    #[command(flatten)]
    output: OutputArgs,
}

/// The JSON output.
#[derive(Serialize)]
struct Version {
    release: &'static str,
    commit: &'static str,
    protocols: Vec<Protocol>,
    hpke: Hpke,
    tls: [&'static str; 2],
    certificates: [&'static str; 2],
    target: &'static str,
    #[serde(rename = "static")]
    is_static: bool,
}

/// A protocol revision with its VDAF revision.
#[derive(Serialize)]
struct Protocol {
    dap: &'static str,
    vdaf: &'static str,
}

/// The supported HPKE algorithms.
#[derive(Default, Serialize)]
struct Hpke {
    kems: Vec<String>,
    kdfs: Vec<String>,
    aeads: Vec<String>,
}

impl Version {
    fn of_this() -> Self {
        let protocol = |revision| Protocol {
            dap: wire::for_revision(revision).path_prefix(),
            vdaf: match revision {
                Revision::Dap09 => "vdaf-08",
                Revision::Dap18 => "vdaf-18",
                Revision::Dap19 => "vdaf-20",
            },
        };
        Self {
            release: version::RELEASE,
            commit: version::COMMIT,
            protocols: Revision::ALL.map(protocol).into(),
            hpke: Hpke::all(),
            tls: ["1.3", "1.2"],
            certificates: ["files", "acme"],
            target: version::TARGET,
            is_static: version::IS_STATIC,
        }
    }
}

impl Hpke {
    fn all() -> Self {
        let mut all = Self::default();
        for suite in Suite::all().map(|suite| suite.to_string()) {
            for (names, name) in [&mut all.kems, &mut all.kdfs, &mut all.aeads].into_iter().zip(suite.splitn(3, '-')) {
                if !names.iter().any(|known| known == name) {
                    names.push(name.to_owned());
                }
            }
        }
        all
    }
}

/// The long version as text, without the program's name, which clap adds.
pub fn long() -> String {
    let version = Version::of_this();
    let protocols: Vec<_> = version.protocols.iter().map(|each| format!("{} ({})", each.dap, each.vdaf)).collect();
    let Hpke { kems, kdfs, aeads } = &version.hpke;
    let lines = [
        ("protocols", protocols.join(", ")),
        ("HPKE", [kems, kdfs, aeads].map(|names| names.join(", ")).join("; ")),
        ("TLS", format!("{}; certificates: {}", version.tls.join(", "), version.certificates.join(", "))),
        ("target", format!("{}, {}", version.target, if version.is_static { "static" } else { "dynamic" })),
    ];
    let lines: String = lines.iter().map(|(name, value)| format!("\n  {name:<11}{value}")).collect();
    format!("{}{lines}", version::VERSION)
}

/// Runs `dapbox version`.
pub fn run(args: &Args) -> Outcome {
    args.output.print(&Version::of_this(), || format!("dapbox {}", long()))
}
