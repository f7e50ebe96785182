//! `namegate policy explain`.

use std::process::ExitCode;

use clap::Args;

use super::ask::{Files, UNDECIDED, usage};
use crate::cli::print;
use crate::judge::question::Words;
use crate::judge::world::Party;
use crate::judge::{Outcome, explain};

/// Explain a verdict, or what holds for one endpoint, in sentences.
///
/// With the words of `policy verdict`: the entry that decides, all policies that say the same, and what
/// would have to change. With --of: whether each direction of an endpoint is closed, by which policies,
/// whom it may reach and who may reach it, on which ports, with which names and requests; and the
/// warnings of the files that concern it. Header values of HTTP rules are left out.
///
/// Exit code 0 if it could be explained, 2 for wrong usage or files that can't be used, 3 if undecided.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate policy explain --policy policies/ --endpoints endpoints/ --of shop/web
  namegate policy explain --policy policies/ --endpoints endpoints/ \\
    --from shop/web --to shop/db --port 5432")]
pub(in crate::cli) struct Explain {
    #[command(flatten)]
    files: Files,
    /// The endpoint to explain.
    #[arg(long, value_name = "NS/NAME", conflicts_with_all = ["from", "to"])]
    of: Option<String>,
    #[command(flatten)]
    words: Words,
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
            return print(&world.explained(endpoint));
        }
        let question = self.words.question().map_err(usage)?;
        let world = self.files.world()?;
        match world.judge(&question).map_err(usage)? {
            Outcome::Decided(answer) => print(&explain::answer(&answer, &question)),
            Outcome::Undecided(reason) => {
                print(&format!("undecided: {reason}\n"))?;
                Ok(ExitCode::from(UNDECIDED))
            }
        }
    }
}
