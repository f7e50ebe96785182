//! `namegate policy schema`.

use std::process::ExitCode;

use clap::Args;

use super::print;

/// Print the JSON Schema of policy files, for editors.
///
/// It knows CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy and List: the whole
/// language, also what this release refuses. What no schema can say, `policy validate` does.
#[derive(Args)]
#[command(after_help = "Example:
  namegate policy schema > ~/.config/cilium.schema.json

Then, at the top of a policy file, for editors with the YAML language server:
  # yaml-language-server: $schema=/home/me/.config/cilium.schema.json")]
pub(in crate::cli) struct Schema {}

impl Schema {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self {} = self;
        print(policy::SCHEMA)
    }
}
