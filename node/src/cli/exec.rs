//! `namegate exec`, and its own inner step.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::colour;
use crate::exec::{Options, Orders, Wanted, Way, run, run_inside};
use crate::exit::{EXEC_FAILED, Exit};

/// Run one command that reaches the names that you allow, and nothing else.
///
/// The command gets a network of its own. TCP at every port and DNS are led through the gate; what is allowed
/// is called from this machine's address. Other UDP, ICMP and the rest are closed, as are this machine's
/// loopback and metadata services. A connection to an allowed name must also say that name where it speaks
/// TLS or HTTP.
///
/// It runs with and without root. Without, the system must allow user namespaces, and nft must be there;
/// what is missing is said.
///
/// Files are those of this machine, but for /etc/resolv.conf and sockets behind which others resolve names.
/// Under sudo the command runs as the user who called; it can't gain privileges.
///
/// The exit code is the command's own, 128 and the signal's number where one ended it, 127 if there is no
/// such program, 126 if it can't be run, 125 if it did not come to that, or if a file could
/// not be written of one that ended well.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate exec --allow github.com --allow '*.github.com' -- git clone https://github.com/a/b
  namegate exec --allow pypi.org --allow files.pythonhosted.org -- pip install requests
  namegate exec --policy ci.yaml --label job=build -- make test
  sudo namegate exec --audit --learn ci.yaml -- make test")]
pub(super) struct Exec {
    /// A name that it may reach at every port; a pattern such as '*.example.com'; an address or a prefix.
    /// Repeatable.
    #[arg(long, value_name = "NAME")]
    allow: Vec<String>,
    /// A TCP port of this machine's loopback that it may reach: at 169.254.1.1, with `--net=host` at the machine's
    /// own addresses. Repeatable.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    allow_host_port: Vec<u16>,
    /// Policies: a file, or all *.yaml of a folder. Repeatable. The server of names has the labels of
    /// kube-dns, so that a pod's policy fits.
    #[arg(long, value_name = "FILE|DIR")]
    policy: Vec<PathBuf>,
    /// A label by which policies select the command. Repeatable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Let all pass, and tell what would have been denied.
    #[arg(long)]
    audit: bool,
    /// Append its flows to a file, as JSON lines like those of Hubble's exporter.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Write policies that allow the names, addresses and ports that it used to a file.
    #[arg(long, value_name = "FILE")]
    learn: Option<PathBuf>,
    /// Append what it reached and what it was denied to a file, as Markdown for a page of a build.
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// End with 124 if the command ends with 0 but something was denied.
    #[arg(long)]
    fail_on_deny: bool,
    /// Run the command as this user, a name or a number [default: the caller, also under sudo].
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// How its network is made: `tc` by BPF programs, as root; `splice` by a user namespace and nft, as
    /// anybody; `cgroup` not at all, see `--net` [default: tc where the privileges are there, else splice].
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<Way>,
    /// `host`: leave the command in this machine's own network, for programs that need it, and judge it at its
    /// cgroup (`--mode cgroup`). Names in TLS and HTTP are not looked at then; only as root.
    #[arg(long, value_enum, value_name = "NET", conflicts_with = "mode")]
    net: Option<Net>,
    /// Tell what is done, on standard error.
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,
    /// Say nothing of denials at the end; files and the exit code tell them all the same.
    #[arg(short, long)]
    quiet: bool,
    /// The command.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Exec {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let level = if self.verbose { "info" } else { "error" };
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(level))
            .with_writer(std::io::stderr)
            .with_ansi(colour::fits(&std::io::stderr()))
            .try_init()
            .map_err(|error| anyhow::anyhow!("logging: {error}"))?;
        run(&Options {
            allow: self.allow,
            host_ports: self.allow_host_port,
            policies: self.policy,
            labels: self.label,
            audit: self.audit,
            user: self.user.map_or_else(caller, Wanted::Named),
            log: self.log,
            learn: self.learn,
            summary: self.summary,
            fail_on_deny: self.fail_on_deny,
            quiet: self.quiet,
            way: match self.net {
                Some(Net::Host) => Some(Way::Cgroup),
                Some(Net::Own) | None => self.mode,
            },
            command: self.command,
        })
    }
}

/// Whose network the command has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Net {
    /// One of its own.
    Own,
    /// The machine's.
    Host,
}

/// Under sudo, who called that.
fn caller() -> Wanted {
    let number = |name| std::env::var_os(name)?.to_str()?.parse::<u32>().ok();
    match number("SUDO_UID") {
        Some(uid @ 1..) => Wanted::BySudo(uid, number("SUDO_GID")),
        Some(0) | None => Wanted::Caller,
    }
}

/// Become a command, in the network that `namegate exec` has made for it.
#[derive(Args)]
#[command(hide = true)]
pub(super) struct Inside {
    orders: String,
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

impl Inside {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let orders: Orders = serde_json::from_str(&self.orders)
            .map_err(|error| Exit::with(EXEC_FAILED, format!("its orders: {error}")))?;
        run_inside(&orders, &self.command)?;
        Ok(ExitCode::SUCCESS)
    }
}
