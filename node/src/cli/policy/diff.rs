//! `namegate policy diff`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::ask::{RegimeFlags, usage};
use crate::cli::{Output, print};
use crate::judge::diff::{CHANGES_SHOWN_MAX, Difference, compare};
use crate::judge::read;

/// Say which verdicts change from one set of policies to another.
///
/// Asked are all pairs of endpoints, addresses of every prefix and names of every pattern in either
/// set, the node and the world; on every port at the ends of a range and beside them, one unused port of
/// each protocol and the usual ICMP; and, where a proxy judges, the names and requests that the lists
/// themselves have. It is a sample, not a proof. Without --endpoints the workloads are made up: one for
/// each selector of either set, named by it.
///
/// Exit code 0 if nothing changes, 1 if something does, 2 if a set can't be used.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate policy diff policies/ proposed/ --endpoints endpoints/
  namegate policy diff old.yaml new.yaml -o json")]
pub(in crate::cli) struct Diff {
    /// The set before: a file or folder.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The set after.
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Endpoints: files or folders.
    #[arg(long, num_args = 1.., value_name = "FILE|DIR")]
    endpoints: Vec<PathBuf>,
    #[command(flatten)]
    regime: RegimeFlags,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Diff {
    pub(in crate::cli) fn run(self) -> anyhow::Result<ExitCode> {
        let difference = self.compare().map_err(usage)?;
        match self.output {
            Output::Json => print(&format!("{:#}\n", as_json(&difference)))?,
            Output::Text => print(&as_text(&difference))?,
        };
        Ok(ExitCode::from(u8::from(difference.count() > 0)))
    }

    fn compare(&self) -> Result<Difference, String> {
        let load = |path: &PathBuf| {
            let files = read::files(path).map_err(|error| error.to_string())?;
            read::policies(files, self.regime.servers())
        };
        let sets = (load(&self.old)?, load(&self.new)?);
        let cast = match self.endpoints.as_slice() {
            [] => None,
            paths => Some(read::endpoints(&read::all_files(paths)?)?),
        };
        compare(sets, cast, self.regime.options())
    }
}

fn as_json(difference: &Difference) -> Value {
    let rows = difference.changes.iter();
    let rows = rows.map(|((side, change), on)| json!({"side": side, "change": change, "on": on}));
    json!({
        "changes": rows.collect::<Vec<_>>(),
        "asked": difference.asked,
        "complete": !difference.is_cut,
    })
}

fn as_text(difference: &Difference) -> String {
    let mut text = String::new();
    let (mut shown, mut last) = (0, "");
    for ((side, change), on) in &difference.changes {
        if shown >= CHANGES_SHOWN_MAX {
            break;
        }
        if last != side {
            text.push_str(&format!("{side}\n"));
            last = side;
        }
        let some: Vec<&str> = on
            .iter()
            .take(CHANGES_SHOWN_MAX - shown)
            .map(String::as_str)
            .collect();
        shown += some.len();
        text.push_str(&format!("  {change}: {}\n", some.join(", ")));
    }
    let count = difference.count();
    if shown < count {
        text.push_str(&format!("{} more are not shown\n", count - shown));
    }
    if difference.is_cut {
        text.push_str(&format!(
            "there is more to ask than {} questions; the rest is not compared\n",
            difference.asked
        ));
    }
    text.push_str(&format!(
        "{count} verdicts change, {} asked\n",
        difference.asked
    ));
    text
}
