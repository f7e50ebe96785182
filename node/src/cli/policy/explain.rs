//! `namegate policy explain`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::ask::{Files, UNDECIDED, usage};
use crate::cli::{Output, print};
use crate::judge::question::Words;
use crate::judge::world::Party;
use crate::judge::{Outcome, explain};

/// Explain a verdict, or what holds for one endpoint, in sentences or as JSON.
///
/// With the words of `policy verdict`: the entry that decides, all policies that say the same, and what
/// would have to change. With --of: whether each direction of an endpoint is closed, by which policies,
/// whom it may reach and who may reach it, on which ports, with which names and requests; and the
/// warnings of the files that concern it. Header values of HTTP rules are left out.
///
/// JSON says the same in fields. Of a verdict: what `policy verdict -o json` prints, and what was asked;
/// for each side its subject and peer, the proxy, and `to_allow`. Of an endpoint: for each direction
/// `enforcement` (open, observed: open to all that no rule denies, enforced, audited), `closed_by`, empty
/// where the mode closes it, and `rules`; in a rule null peers are everybody, null ports every port and
/// protocol, null l7 anything that may be said; `name_binding` is off, audit or enforce.
///
/// Exit code 0 if it could be explained, 2 for wrong usage or files that can't be used, 3 if undecided.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate policy explain --policy policies/ --endpoints endpoints/ --of shop/web
  namegate policy explain --policy policies/ --endpoints endpoints/ \\
    --from shop/web --to shop/db --port 5432
  namegate policy explain --policy policies/ --endpoints endpoints/ --of shop/web -o json")]
pub(in crate::cli) struct Explain {
    #[command(flatten)]
    files: Files,
    /// The endpoint to explain.
    #[arg(long, value_name = "NS/NAME", conflicts_with_all = ["from", "to"])]
    of: Option<String>,
    #[command(flatten)]
    words: Words,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Explain {
    pub(in crate::cli) fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(name) = &self.of {
            let world = self.files.world()?;
            let party = world.party(name).map_err(usage)?;
            let endpoint = match party {
                Party::Endpoint(index) => world.endpoint(index),
                Party::Address(_) | Party::Name(_) => None,
            };
            let endpoint =
                endpoint.ok_or_else(|| usage(format!("{name} is no endpoint of the files")))?;
            let explained = world.explained(endpoint);
            return match self.output {
                Output::Json => print(&format!("{:#}\n", explained.json())),
                Output::Text => print(&explained.text()),
            };
        }
        let question = self.words.question().map_err(usage)?;
        let world = self.files.world()?;
        let outcome = world.judge(&question).map_err(usage)?;
        let (code, json, text) = match outcome {
            Outcome::Undecided(reason) => (
                ExitCode::from(UNDECIDED),
                json!({"verdict": null, "reason": reason}),
                format!("undecided: {reason}\n"),
            ),
            Outcome::Decided(answer) => (
                ExitCode::SUCCESS,
                explain::as_json(&answer, &question),
                explain::as_text(&answer, &question),
            ),
        };
        match self.output {
            Output::Json => print(&format!("{json:#}\n"))?,
            Output::Text => print(&text)?,
        };
        Ok(code)
    }
}
