//! `namegate policy test`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::ask::{RegimeFlags, usage};
use crate::cli::print;
use crate::judge::cases::{self, Outcomes};

/// Run files of cases: what policy is expected to say, and whether it does.
///
/// A file is `{policy, endpoints, cases}`. `policy` and `endpoints` are a path relative to the file (a
/// file or a folder), a block of YAML text, or a list of such; a case has the words of `policy verdict`
/// (from, to, port, proto, icmpType, dns, qtype, http, sni, learn), a `name` if you like, and `expect`:
/// allowed, denied (by a proxy too), redirected or undecided; or a mapping of verdict, l7, match,
/// dropReason, direction, rule (the name of a policy that decides).
///
/// Exit code 0 if all pass, 1 if one fails, 2 if a file can't be used.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate policy test tests/*.yaml

  policy: ../policies
  endpoints: ../endpoints
  cases:
  - {from: shop/web, to: shop/db, port: 5432, expect: allowed}
  - {from: shop/web, to: world, port: 443, expect: {verdict: denied, dropReason: 133}}
  - {from: shop/web, to: kube-system/kube-dns, dns: evil.test, expect: denied}")]
pub(in crate::cli) struct Test {
    /// Files of cases.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    regime: RegimeFlags,
}

impl Test {
    pub(in crate::cli) fn run(self) -> anyhow::Result<ExitCode> {
        let mut all = Outcomes::default();
        for path in &self.files {
            let one =
                cases::run(path, self.regime.options(), self.regime.servers()).map_err(usage)?;
            all.passed += one.passed;
            all.failures.extend(one.failures);
        }
        let mut text = String::new();
        for failure in &all.failures {
            text.push_str(&format!("FAIL {failure}\n"));
        }
        text.push_str(&format!(
            "{} passed, {} failed\n",
            all.passed,
            all.failures.len()
        ));
        print(&text)?;
        Ok(ExitCode::from(u8::from(!all.failures.is_empty())))
    }
}
