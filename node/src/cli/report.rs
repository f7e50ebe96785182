//! `namegate report`.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::cli::lines::{FlowSource, TooLong};
use crate::cli::{Which, print};
use crate::report::Report as Page;

/// Write one HTML page about recorded flows: who talks to which names, what was denied and which rule
/// would allow it, how long names took.
///
/// Reads Hubble's JSON, one object a line: ours, or that of a real Cilium. The page is one file that loads
/// nothing and runs nothing; what a workload made up is shown as text. Lines that can't be read are counted.
///
/// Exit code 0 if something could be read, 1 if not, 2 if the file can't be opened.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate report --from flows.jsonl --output report.html
  hubble observe --all -o json | namegate report --from - > report.html
  namegate report --live > report.html")]
pub(super) struct Report {
    #[command(flatten)]
    flows: FlowSource,
    /// Where the page goes [default: standard output].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
}

impl Report {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut page = Page::default();
        self.flows.each(&self.which, |line| match line {
            Ok(line) => page.take(&String::from_utf8_lossy(line)),
            Err(TooLong) => page.refuse(),
        })?;
        // Standard error may be closed; the page is what counts.
        let _ = writeln!(io::stderr().lock(), "namegate: {}", page.in_short());
        if !page.has_flows() {
            return Ok(ExitCode::FAILURE);
        }
        match &self.output {
            None => print(&page.html()),
            Some(path) => {
                let written = fs::write(path, page.html());
                written.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
