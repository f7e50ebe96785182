//! `namegate policy match`: which names a pattern stands for.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use fqdn::{Everything, Name, Pattern, PatternSet};
use serde_json::json;

use crate::cli::{Output, print};
use crate::exit::{Exit, USAGE};

/// Say which names a `matchPattern` or a `matchName` stands for.
///
/// Exit code 0 if it stands for all of them, 1 if not, 2 if it is no pattern or one is no name.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate policy match '*.example.com' www.example.com example.com
  namegate policy match '**.example.com' a.b.example.com")]
pub(in crate::cli) struct Match {
    /// The pattern; quote it, so that the shell leaves the stars alone.
    pattern: String,
    /// Names.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// As `toFQDNs` reads it: stars alone stand only for names of letters, digits, `-` and `_`.
    #[arg(long)]
    fqdn: bool,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Match {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let everything = match self.fqdn {
            true => Everything::PlainNames,
            false => Everything::AnyName,
        };
        let wrong = |text: &str, error: &dyn std::fmt::Display| {
            Exit::with(USAGE, format!("{text:?}: {error}"))
        };
        let pattern = Pattern::parse(&self.pattern, everything)
            .map_err(|error| wrong(&self.pattern, &error))?;
        let mut set = PatternSet::new();
        set.insert(&pattern, ());
        let mut results = Vec::new();
        for text in &self.names {
            let name = Name::from_text(text).map_err(|error| wrong(text, &error))?;
            results.push((text, set.first_match(name.as_wire()).is_some()));
        }
        let all = results.iter().all(|(_, matches)| *matches);
        match self.output {
            Output::Json => {
                let results = results.iter();
                let list: Vec<_> = results
                    .map(|(name, matches)| json!({"name": name, "matches": matches}))
                    .collect();
                print(&format!("{:#}\n", json!(list)))?;
            }
            Output::Text => {
                let width = results.iter().map(|(name, _)| name.len()).max();
                let width = width.unwrap_or_default();
                let mut out = String::new();
                for (name, matches) in results {
                    let word = if matches { "yes" } else { "no" };
                    out.push_str(&format!("{name:width$}  {word}\n"));
                }
                print(&out)?;
            }
        }
        Ok(ExitCode::from(u8::from(!all)))
    }
}
