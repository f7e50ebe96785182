//! `namegate hold`, for the daemon alone.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use crate::instance::Instance;
use crate::keeper;

/// Hold the listeners of a daemon until the next one takes them. `namegate run` starts it by itself.
#[derive(Args)]
#[command(hide = true)]
pub(super) struct Hold {
    /// Whose.
    #[arg(long, value_name = "NAME", value_parser = Instance::parse)]
    instance: Instance,
}

impl Hold {
    /// It, as the daemon starts it; none for words that are to be read as everybody's. It lives as long as the daemon:
    /// what reading them takes, which is the grammar of all commands, would stay in its memory.
    pub(super) fn alone(args: &[OsString]) -> Option<Self> {
        let [_, hold, option, name] = args else {
            return None;
        };
        let is_alone = hold == "hold" && option == "--instance";
        let instance = Instance::parse(name.to_str().filter(|_| is_alone)?).ok()?;
        Some(Self { instance })
    }

    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        keeper::hold(&self.instance)?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, Namegate};

    #[test]
    fn it_is_read_alone_as_it_is_read_with_all_commands() {
        let alone = |words: &[&str]| {
            let args: Vec<OsString> = words.iter().map(OsString::from).collect();
            Hold::alone(&args).map(|hold| hold.instance.name().to_owned())
        };
        let words = ["namegate", "hold", "--instance", "lab-2"];
        let Command::Hold(hold) = <Namegate as clap::Parser>::try_parse_from(words)
            .unwrap()
            .command
        else {
            panic!("another command");
        };
        assert_eq!(alone(&words).as_deref(), Some(hold.instance.name()));
        for others in [
            &["namegate", "hold", "--instance", "no/name"][..],
            &["namegate", "hold", "--help"],
            &["namegate", "hold"],
            &["namegate", "run", "--instance", "lab-2"],
            &["namegate", "hold", "--instance", "lab-2", "--help"],
        ] {
            assert_eq!(alone(others), None, "{others:?}");
        }
    }
}
