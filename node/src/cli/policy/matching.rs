//! `namegate policy match`.

use std::process::ExitCode;

use clap::Args;
use fqdn::{Everything, Name, Pattern};
use serde_json::json;

use super::ask::usage;
use crate::cli::{Output, print};

/// Say which names a `matchPattern` stands for: `yes` or `no` and the name, a line each.
///
/// Exit code 0 if all names match, 1 if one does not, 2 if the pattern or a name is none.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate policy match '*.example.com' www.example.com example.com
  namegate policy match --fqdn '*' example.com -o json")]
pub(in crate::cli) struct Match {
    /// As in `dns` rules.
    #[arg(value_name = "PATTERN")]
    pattern: String,
    /// Names to try.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Read the pattern as `toFQDNs` does: a lone star stands for plain names only.
    #[arg(long)]
    fqdn: bool,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Match {
    pub(in crate::cli) fn run(self) -> anyhow::Result<ExitCode> {
        let everything = match self.fqdn {
            true => Everything::PlainNames,
            false => Everything::AnyName,
        };
        let bad = |text: &str, why: &dyn std::fmt::Display| usage(format!("{text:?}: {why}"));
        let pattern = Pattern::parse(&self.pattern, everything)
            .map_err(|error| bad(&self.pattern, &error))?;
        let mut all = true;
        let mut found = Vec::new();
        for text in &self.names {
            let name = Name::from_text(text).map_err(|error| bad(text, &error))?;
            let matches = pattern.matches(&name);
            all &= matches;
            found.push((text, matches));
        }
        match self.output {
            Output::Json => {
                let rows = found
                    .iter()
                    .map(|(name, yes)| json!({"name": name, "match": yes}));
                print(&format!("{:#}\n", rows.collect::<serde_json::Value>()))?
            }
            Output::Text => {
                let word = |yes| if yes { "yes" } else { "no" };
                let rows = found
                    .iter()
                    .map(|(name, yes)| format!("{}\t{name}\n", word(*yes)));
                print(&rows.collect::<String>())?
            }
        };
        Ok(ExitCode::from(u8::from(!all)))
    }
}
