//! `namegate man`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_mangen::Man as Page;

use super::{Namegate, print};

/// Print the manual page, or write the pages of all commands.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate man | man -l -
  namegate man --dir /usr/local/share/man/man1")]
pub(super) struct Man {
    /// Write the pages of all commands here, namegate.1, namegate-run.1 …; the folder is made.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.dir {
            Some(dir) => {
                write_all(&dir).with_context(|| dir.display().to_string())?;
                Ok(ExitCode::SUCCESS)
            }
            None => print(&page()?),
        }
    }
}

fn page() -> std::io::Result<String> {
    let mut page = Vec::new();
    Page::new(command()).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn write_all(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(command(), dir)
}

/// Without `help`, whose pages would say nothing.
fn command() -> clap::Command {
    Namegate::command().disable_help_subcommand(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_command() {
        let page = page().unwrap();
        for command in Namegate::command().get_subcommands() {
            let name = command.get_name().replace('-', "\\-");
            let name = format!("namegate\\-{name}");
            let is_meant = !command.is_hide_set();
            assert_eq!(page.contains(&name), is_meant, "{name} in {page}");
        }
        assert!(page.contains("Exit codes"), "and what follows the help");
        assert!(!page.contains("namegate\\-help"), "which has no page");
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("man1");
        write_all(&dir).unwrap();
        for (file, word) in [
            ("namegate.1", "NAME"),
            ("namegate-run.1", "dns\\-ttl\\-floor"),
            ("namegate-fqdn-cache-list.1", "endpoint"),
            ("namegate-observe.1", "verdict"),
        ] {
            let text = std::fs::read_to_string(dir.join(file)).unwrap();
            assert!(text.contains(word), "{file}: {text}");
        }
        assert!(!dir.join("namegate-help.1").exists());
    }
}
