//! `namegate completions`.

use std::process::ExitCode;

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell as Generator;

use super::{Namegate, print};

/// Print what a shell needs to complete commands and flags.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate completions bash > /usr/share/bash-completion/completions/namegate
  namegate completions zsh > /usr/share/zsh/vendor-completions/_namegate
  namegate completions fish > ~/.config/fish/completions/namegate.fish")]
pub(super) struct Completions {
    /// Which shell.
    shell: Shell,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// GNU Bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

impl Completions {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        print(&script(self.shell))
    }
}

fn script(shell: Shell) -> String {
    let generator = match shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut Namegate::command(), "namegate", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_completed_in_every_shell() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for command in Namegate::command().get_subcommands() {
                assert!(
                    script.contains(command.get_name()),
                    "{}",
                    command.get_name()
                );
            }
            assert!(script.contains("dns-ttl-floor"), "flags too");
        }
    }
}
