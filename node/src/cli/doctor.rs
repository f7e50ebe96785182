//! `namegate doctor`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::layers::Trouble;
use super::{Output, Which, config, print};
use crate::doctor::{Finding, Patient, Status, examine};

/// Look for what is missing on this node and for what is in the way, and say what to do about it.
///
/// It looks at the kernel and our privileges, at the configuration and the folders as `namegate run` would
/// read them, at who guards this network namespace already, and at programs of others on the links. It changes
/// nothing, and needs no daemon. Exit code 0 if nothing failed, 1 if something did, 78 if the configuration,
/// which says where to look, can't be read.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate doctor
  namegate doctor -o json | jq '.[] | select(.status != \"ok\")'")]
pub(super) struct Doctor {
    /// Folder of policy files, as for `run`; repeatable [default: as the configuration says].
    #[arg(long, value_name = "DIR")]
    policy_dir: Vec<PathBuf>,
    /// Folder of endpoint files, as for `run` [default: as the configuration says].
    #[arg(long, value_name = "DIR")]
    endpoint_dir: Option<PathBuf>,
    /// Where the pins are or would be [default: as the configuration says].
    #[arg(long, value_name = "DIR")]
    bpf_dir: Option<PathBuf>,
    /// The configuration of the daemon, as for `run`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Doctor {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let found = self.which.find(self.config.as_deref())?;
        let policy_dirs = match self.policy_dir.is_empty() {
            true => found.policy_dirs,
            false => self.policy_dir,
        };
        let settings = match config::read(self.config, &[]) {
            Ok(_) => Vec::new(),
            Err(Trouble::Config(faults)) => faults,
            Err(Trouble::Usage(error)) => return Err(error.into()),
        };
        let findings = examine(&Patient {
            settings,
            socket: found.socket,
            bpf_dir: self.bpf_dir.unwrap_or(found.bpf_dir),
            instance: found.instance,
            policy_dirs,
            endpoint_dir: self.endpoint_dir.unwrap_or(found.endpoint_dir),
        });
        match self.output {
            Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&findings)?))?,
            Output::Text => print(&text(&findings))?,
        };
        let has_failed = findings.iter().any(|one| one.status == Status::Fail);
        Ok(if has_failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for one in findings {
        let word = match one.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        out.push_str(&format!("{word:<5} {:<11} {}\n", one.check, one.message));
        if let Some(help) = &one.help {
            out.push_str(&format!("{:<17} help: {help}\n", ""));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_with_what_to_do() {
        let of = |status, help: Option<&str>| Finding {
            check: "btf",
            status,
            message: "x".to_owned(),
            help: help.map(str::to_owned),
        };
        assert_eq!(
            text(&[of(Status::Ok, None), of(Status::Fail, Some("do y"))]),
            "ok    btf         x\nFAIL  btf         x\n                  help: do y\n"
        );
    }
}
