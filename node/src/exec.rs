//! `namegate exec`: one command that reaches what its policy allows, and nothing else.
//!
//! The command gets a network namespace whose only link ends in a node namespace of this process, which
//! has no way out. There the same daemon as ever guards it, and its proxies ask servers from the namespace
//! that namegate was called in. On that one nothing is changed. Namespaces, programs and maps are held by
//! descriptors alone: whatever is killed, nothing stays, and what is left of the command is cut off.

mod account;
mod command;
mod inside;
mod network;
mod rules;
mod surroundings;
mod told;
mod user;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use bpf_redirect_common::Aggregation;
use flow::{Cursor, FieldMask, Filter, Redaction};
use fqdn_cache::Lifetimes;
use observer::{Export, FileTarget, SharedRing, Target};
use policy::{Identities, Mode, NameBinding, Quic};
use transport::{NetNs, Sandbox};

use crate::daemon::{Daemon, Outside, Setup};
use crate::exit::{DENIED, EXEC_FAILED, Exit};
use crate::guard::EndpointState;
use crate::instance::Instance;
use crate::learner::{INSTALL_WAIT, Scruples};
use crate::remembered::Remembered;

use account::Account;
use command::{Running, Signals};
pub(crate) use inside::{Orders, run as run_inside};
use rules::Rules;
use surroundings::Surroundings;
use told::Cure;
pub(crate) use user::Wanted;

/// What is to be run, and how.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Names, patterns, addresses and prefixes that it may reach.
    pub(crate) allow: Vec<String>,
    /// Files and folders of policies.
    pub(crate) policies: Vec<PathBuf>,
    /// Labels by which policies select it.
    pub(crate) labels: Vec<(String, String)>,
    /// Judge and tell, block nothing.
    pub(crate) audit: bool,
    /// Whose process it is to be.
    pub(crate) user: Wanted,
    /// A file for its flows, as JSON lines.
    pub(crate) log: Option<PathBuf>,
    /// A file for the policies that allow what it did.
    pub(crate) learn: Option<PathBuf>,
    /// A file to which what it did is appended, as Markdown.
    pub(crate) summary: Option<PathBuf>,
    /// End with 124 where it ends well and something was denied.
    pub(crate) fail_on_deny: bool,
    /// The program and its arguments.
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// Runs the command and gives its exit code.
///
/// # Errors
/// With 125 for whatever went wrong before the command ran; with a signal's code if one came before.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    prepare_and_run(options).map_err(|error| match error.downcast_ref::<Exit>() {
        Some(exit) if exit.code > 128 => error,
        Some(_) | None => Exit::with(EXEC_FAILED, format!("{error:#}")),
    })
}

fn prepare_and_run(options: &Options) -> Result<ExitCode> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "exec needs root: it makes network namespaces and loads BPF programs"
    );
    let rules = Rules::read(options)?;
    let user = user::find(&options.user)?;
    let outside = NetNs::current().context("the network namespace")?;
    let around = Surroundings::look(&rules)?;
    let signals = Signals::catch()?;
    let sandbox = Sandbox::create().context("the command's network")?;
    let node = sandbox.node.clone();
    let outside = Outside {
        ns: outside,
        stand_ins: around.resolver.stand_ins.clone(),
    };
    let guarded = || -> Result<u8> {
        let mut daemon = guard(options, (rules, &around), (&sandbox, outside))?;
        let orders = Orders::new(&around, user.as_ref());
        let mut book = Book::open(options, &around, &daemon);
        let running = Running::start(&sandbox.inside, (&orders, &options.command), signals)?;
        let ended = running.attend(&mut daemon, &mut book);
        daemon.end(true)?;
        // Told before what went wrong here, if something did.
        let denied = book.close(options);
        Ok(match (ended?, denied?) {
            (0, true) if options.fail_on_deny => DENIED,
            (code, _) => code,
        })
    };
    node.run(guarded)
        .context("the command's node")?
        .map(ExitCode::from)
}

/// The account of the command, and how far the flows are read.
struct Book {
    account: Account,
    ring: Arc<SharedRing>,
    cursor: Cursor,
}

impl Book {
    fn open(options: &Options, around: &Surroundings, daemon: &Daemon) -> Self {
        let learns = options.learn.is_some();
        Self {
            account: Account::new(options.audit, learns, &around.resolver.text),
            ring: Arc::clone(&daemon.flow_ring),
            cursor: daemon.flow_ring.end(),
        }
    }

    /// Takes what was told since.
    fn read(&mut self) {
        loop {
            let batch = self.ring.read_from(self.cursor);
            if batch.flows.is_empty() {
                return;
            }
            self.cursor = batch.cursor;
            batch.flows.iter().for_each(|flow| self.account.take(flow));
        }
    }

    /// Tells it, once the daemon has ended and all flows are there. Says whether something was denied.
    ///
    /// # Errors
    /// If a file can't be written.
    fn close(mut self, options: &Options) -> Result<bool> {
        self.read();
        let cure = match options.policies.is_empty() {
            true => Cure::Options,
            false => Cure::Rules,
        };
        let said = told::denials(&self.account, (cure, options.audit));
        // Standard error may be closed.
        let _ = std::io::stderr().lock().write_all(said.as_bytes());
        if let Some(path) = &options.learn {
            fs::write(path, self.account.learned())
                .with_context(|| format!("--learn {}", path.display()))?;
        }
        if let Some(path) = &options.summary {
            let command = network::name_of(options);
            let page = told::page(&self.account, (&command, options.audit));
            let file = fs::OpenOptions::new().create(true).append(true).open(path);
            file.and_then(|mut file| file.write_all(page.as_bytes()))
                .with_context(|| format!("--summary {}", path.display()))?;
        }
        Ok(self.account.has_denials())
    }
}

/// Puts a daemon to the command's link, under the policies; on a thread in the node's namespace.
fn guard(
    options: &Options,
    (rules, around): (Rules, &Surroundings),
    (sandbox, outside): (&Sandbox, Outside),
) -> Result<Daemon> {
    let setup = setup(options, around, outside)?;
    let mut daemon = Daemon::start((setup, None), Identities::new(), Remembered::default())?;
    let roster = network::roster((options, &around.resolver), sandbox)?;
    daemon.set_policies(rules.set, Arc::default());
    daemon.set_roster(roster);
    daemon
        .enforce()
        .map_err(|problems| Exit::with(EXEC_FAILED, crate::judge::read::told(problems.iter())))?;
    for (_, guarded) in daemon.guards.iter() {
        match &guarded.state {
            EndpointState::Ready => {}
            EndpointState::Attaching => anyhow::bail!("the command's link is not guarded"),
            EndpointState::Refused(reason) => anyhow::bail!("the command's link: {reason}"),
        }
    }
    Ok(daemon)
}

fn setup(options: &Options, around: &Surroundings, outside: Outside) -> Result<Setup> {
    Ok(Setup {
        instance: Instance::parse("exec").map_err(anyhow::Error::msg)?,
        pins: None,
        hook_mode: None,
        exports: options
            .log
            .as_deref()
            .map(export)
            .transpose()?
            .into_iter()
            .collect(),
        flow_logs: None,
        metrics: None,
        cilium_metrics: false,
        redaction: Redaction::default(),
        flows_max: flow::limits::RING_FLOWS_MAX,
        aggregation: Aggregation::Off,
        enforcement: policy::Options {
            // What no rule selects is closed too.
            mode: Mode::Always,
            audit: options.audit,
            name_binding: NameBinding::Enforce,
            quic: Quic::Refuse,
            ..policy::Options::default()
        },
        http: httpproxy::Settings {
            source: httpproxy::Source::Node(around.closed.clone()),
            ..httpproxy::Settings::default()
        },
        lifetimes: Lifetimes::default(),
        install_wait: INSTALL_WAIT,
        scruples: Scruples::default(),
        dns_refresh: false,
        dns: dnsproxy::Settings {
            no_aaaa: !around.has_ipv6,
            ..dnsproxy::Settings::default()
        },
        outside: Some(outside),
    })
}

/// A file of flows that is one command's: all of them, in one file.
fn export(path: &Path) -> Result<Export> {
    Ok(Export {
        to: Target::File(FileTarget {
            path: path.to_owned(),
            octets_max: u64::MAX,
            backups_max: None,
            compress: false,
        }),
        filter: Filter::new(&[], &[]).map_err(|error| anyhow::anyhow!("{error}"))?,
        mask: FieldMask::new([]).map_err(|error| anyhow::anyhow!("{error}"))?,
        end: None,
    })
}
