//! `namegate policy verdict`, and what its relatives share.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use policy::Options;
use serde_json::json;

use crate::cli::run::{DnsServersFlag, EnforcementMode, NameBinding, QuicMode};
use crate::cli::{Output, print};
use crate::exit::{Exit, USAGE};
use crate::judge::question::Words;
use crate::judge::{Outcome, World, read};
use crate::presets::DnsServers;

/// The exit code of a question that can't be decided.
pub(super) const UNDECIDED: u8 = 3;

/// Say what policy does with a flow, by files alone: no daemon, no privileges.
///
/// Both sides are judged: egress of --from, ingress of --to; a side whose subject is no endpoint of the
/// files (an address, a word as `world`) has no verdict. The first side that refuses decides. REDIRECTED
/// means that a proxy takes the flow; with --dns, --http or --sni it is asked too, and says ALLOWED or
/// DENIED on its own: the verdict stays REDIRECTED then, as in Hubble's flows. A DNS name after --to is
/// judged at each address that --learn gives it; if they differ, or there is none and it matters, the
/// question is undecided.
///
/// Exit code 0 if it is allowed, 1 if denied (by a proxy too), 2 for wrong usage or files that can't be
/// used, 3 if undecided.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate policy verdict --policy policies/ --endpoints endpoints/ \\
    --from default/frontend --to default/backend --port 8080
  namegate policy verdict --policy p.yaml --endpoints e.yaml --from shop/web \\
    --to kube-system/kube-dns --dns www.example.com
  namegate policy verdict --policy p.yaml --endpoints e.yaml --from shop/web \\
    --to api.example.com --learn api.example.com=198.51.100.7 --http 'GET /v1/x' -o json")]
pub(in crate::cli) struct Verdict {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    words: Words,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// The files that a question is judged by.
#[derive(Args, Clone)]
pub(super) struct Files {
    /// Policies: files, folders, or - for standard input.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE|DIR")]
    policy: Vec<PathBuf>,
    /// Endpoints: files or folders.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE|DIR")]
    endpoints: Vec<PathBuf>,
    #[command(flatten)]
    regime: RegimeFlags,
}

/// How policies are enforced.
#[derive(Args, Clone)]
pub(super) struct RegimeFlags {
    /// Whether endpoints are closed that no policy closes.
    #[arg(long, value_enum, default_value = "default", value_name = "MODE")]
    enforcement_mode: EnforcementMode,
    /// The local host has no way in of its own.
    #[arg(long)]
    no_allow_localhost: bool,
    /// Whether TLS and HTTP to addresses that only toFQDNs allow must be to a name that it allows.
    #[arg(long, value_enum, default_value = "off", value_name = "HOW")]
    name_binding: NameBinding,
    /// What becomes of datagrams where over TCP a name is needed.
    #[arg(long, value_enum, default_value = "refuse")]
    quic: QuicMode,
    #[command(flatten)]
    servers: DnsServersFlag,
}

impl RegimeFlags {
    /// Who is asked where no rule says it.
    pub(super) fn servers(&self) -> &DnsServers {
        &self.servers.dns_servers
    }

    pub(super) fn options(&self) -> Options {
        Options {
            mode: self.enforcement_mode.into(),
            audit: false,
            allow_localhost: !self.no_allow_localhost,
            name_binding: self.name_binding.into(),
            quic: self.quic.into(),
        }
    }
}

impl Files {
    /// Reads and compiles all.
    pub(super) fn world(&self) -> anyhow::Result<World> {
        let world = || {
            let policies = read::policies(read::all_files(&self.policy)?, self.regime.servers())?;
            let cast = read::endpoints(&read::all_files(&self.endpoints)?)?;
            World::new(policies, cast, self.regime.options())
        };
        world().map_err(usage)
    }
}

/// A failure of wrong usage or files that can't be used.
pub(super) fn usage(message: String) -> anyhow::Error {
    Exit::with(USAGE, message)
}

impl Verdict {
    pub(in crate::cli) fn run(self) -> anyhow::Result<ExitCode> {
        let question = self.words.question().map_err(usage)?;
        let world = self.files.world()?;
        let outcome = world.judge(&question).map_err(usage)?;
        let (code, json, text) = match outcome {
            Outcome::Undecided(reason) => (
                UNDECIDED,
                json!({"verdict": null, "reason": reason}),
                format!("undecided: {reason}\n"),
            ),
            Outcome::Decided(answer) => (
                u8::from(answer.is_denied()),
                answer.json(),
                answer.lines(&question),
            ),
        };
        match self.output {
            Output::Json => print(&format!("{json:#}\n"))?,
            Output::Text => print(&text)?,
        };
        Ok(ExitCode::from(code))
    }
}
