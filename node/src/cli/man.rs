//! `namegate man`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_mangen::Man as Page;

use super::{Namegate, config, layers, print};

/// Print the manual page, or write the pages of all commands.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate man | man -l -
  namegate man --dir /usr/local/share/man")]
pub(super) struct Man {
    /// Write all pages here: man1/namegate.1, man1/namegate-run.1 …, man5/namegate-config.5 and
    /// namegate-policy.5; the folders are made.
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
    let (commands, files) = (dir.join("man1"), dir.join("man5"));
    std::fs::create_dir_all(&commands)?;
    std::fs::create_dir_all(&files)?;
    clap_mangen::generate_to(command(), commands)?;
    std::fs::write(files.join("namegate-config.5"), config_page())?;
    std::fs::write(files.join("namegate-policy.5"), POLICY_PAGE)
}

/// The page of policy files.
const POLICY_PAGE: &str = include_str!("man/policy.5");

/// The page of the configuration: what `docs/configuration.md` begins with, then each key.
fn config_page() -> String {
    let mut page =
        ".TH NAMEGATE\\-CONFIG 5\n.SH NAME\nnamegate\\-config \\- what namegate run does\n\
        .SH SYNOPSIS\n/etc/namegate/config.yaml, /etc/namegate/config.d/*.yaml\n.SH DESCRIPTION\n"
            .to_owned();
    for part in config::introduction().split("\n\n").skip(2) {
        match part.starts_with("    ") {
            true => page.push_str(&format!(".nf\n{}\n.fi\n", escaped(part))),
            false => page.push_str(&format!(".PP\n{}\n", escaped(&part.replace('`', "")))),
        }
    }
    page.push_str(".SH KEYS\n");
    for arg in layers::keys(&layers::definition()) {
        let (key, meant) = (arg.get_id().as_str(), config::help_of(arg));
        page.push_str(&format!(".TP\n.B {}\n{}\n", escaped(key), escaped(&meant)));
    }
    page + ".SH SEE ALSO\n.BR namegate\\-run (1),\n.BR namegate\\-policy (5)\n"
}

/// Text that roff takes for text: no line of it begins a request.
fn escaped(text: &str) -> String {
    let lines = text.trim_end().lines().map(|line| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        match line.starts_with(['.', '\'']) {
            true => format!("\\&{line}"),
            false => line,
        }
    });
    lines.collect::<Vec<String>>().join("\n")
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
        let dir = dir.path().join("man");
        write_all(&dir).unwrap();
        for (file, word) in [
            ("man1/namegate.1", "NAME"),
            ("man1/namegate-run.1", "dns\\-ttl\\-floor"),
            ("man1/namegate-fqdn-cache-list.1", "endpoint"),
            ("man1/namegate-observe.1", "verdict"),
            ("man5/namegate-config.5", ".B dns_ttl_floor\n"),
            ("man5/namegate-config.5", "config.d"),
            ("man5/namegate-policy.5", "toFQDNs"),
        ] {
            let text = std::fs::read_to_string(dir.join(file)).unwrap();
            assert!(text.contains(word), "{file}: {text}");
        }
        assert!(!dir.join("man1/namegate-help.1").exists());
    }
}
