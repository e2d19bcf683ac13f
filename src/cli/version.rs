//! `dapbox version` and `--version`: which program this is, and what it can do.

use serde::Serialize;

use super::{Outcome, args::Format, style::say};
use crate::{hpke::Suite, model::Revision, support::version, wire};

/// Arguments of `dapbox version`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The same as --version, and -V for one line.\n\n\
    Examples:\n  \
    dapbox version\n  \
    dapbox version -o json")]
pub struct Args {
    /// What to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What there is to say.
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

/// A revision of the protocol and its VDAFs.
#[derive(Serialize)]
struct Protocol {
    dap: &'static str,
    vdaf: &'static str,
}

/// The algorithms of HPKE that we have.
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

/// All of it for people, without the program's name, which clap puts before it.
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
    Ok(say(match args.output {
        Format::Json => serde_json::to_string_pretty(&Version::of_this())?,
        Format::Text => format!("dapbox {}", long()),
    })?)
}
