//! `namegate exec`: one command that reaches what its policy allows, and nothing else.
//!
//! The command gets a network namespace whose only link ends in a node namespace of this process, which
//! has no way out. There the same daemon as ever guards it, and its proxies ask servers from the namespace
//! that namegate was called in. On that one nothing is changed. Namespaces, programs and maps are held by
//! descriptors alone: whatever is killed, nothing stays, and what is left of the command is cut off.
//!
//! Without privileges the command's process makes both namespaces in a user namespace, where no program can
//! be loaded: rules of nft lead to sockets that it hands to this process. The same proxies serve them, and
//! they judge a connection's address too.
//!
//! With `--net=host` the command stays in the machine's network, and is judged at its cgroup.

mod account;
mod command;
mod cure;
mod door;
mod inside;
mod job;
mod network;
mod rules;
mod spliced;
mod surroundings;
mod told;
mod user;
mod veil;
mod way;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use bpf_redirect::{HookMode, Loader};
use bpf_redirect_common::Aggregation;
use flow::{Cursor, FieldMask, Filter, Redaction};
use fqdn_cache::Lifetimes;
use observer::{Export, FileTarget, SharedRing, Target};
use policy::{Identities, Mode, NameBinding, Quic};
use transport::{NetNs, Sandbox};

use crate::cluster::Cluster;
use crate::daemon::{Daemon, Ending, Outside, Setup};
use crate::datapath::Carriage;
use crate::endpoints::file::Roster;
use crate::exit::{DENIED, EXEC_FAILED, Exit};
use crate::guard::EndpointState;
use crate::instance::Instance;
use crate::learner::{INSTALL_WAIT, Scruples};
use crate::remembered::Remembered;
use crate::secrets::Secrets;
use crate::upstream::UpstreamSource;

use account::Account;
use command::{Running, Signals};
use door::Door;
pub(crate) use inside::{Orders, run as run_inside};
use job::{Guarded, Job};
use rules::Rules;
use spliced::Spliced;
use surroundings::Surroundings;
use told::Cure;
use user::User;
pub(crate) use user::Wanted;
pub(crate) use way::Way;

/// What is to be run, and how.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Names, patterns, addresses and prefixes that it may reach.
    pub(crate) allow: Vec<String>,
    /// Ports of this machine's loopback that it may reach.
    pub(crate) host_ports: Vec<u16>,
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
    /// Say nothing of what was denied.
    pub(crate) quiet: bool,
    /// How its network is made; `None`: as can be.
    pub(crate) way: Option<Way>,
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
    let way = options.way.unwrap_or_else(Way::probe);
    tracing::info!(mode = %way, "the command's network");
    way.check()?;
    let rules = Rules::read(options, way)?;
    try_files(options)?;
    let user = user::find(&options.user)?;
    let around = Surroundings::look(&rules, (&options.host_ports, way))?;
    if !around.has_ipv6 {
        tracing::info!("no IPv6: the machine has no route by it, and names have no such addresses");
    }
    let called = Called {
        user,
        signals: Signals::catch()?,
        outside: Outside {
            ns: NetNs::current().context("/proc/thread-self/ns/net")?,
            stand_ins: around.resolver.stand_ins.clone(),
        },
    };
    let code = match way {
        Way::Tc => by_programs(options, (rules, &around), called),
        Way::Splice => by_sockets(options, (&rules, &around), called),
        Way::Cgroup => by_cgroup(options, (rules, &around), called),
    };
    code.map(ExitCode::from)
}

/// Whether what is written at the end can be, before there is something to lose.
fn try_files(options: &Options) -> Result<()> {
    let learn = options.learn.iter().map(|path| ("--learn", path));
    let summary = options.summary.iter().map(|path| ("--summary", path));
    for (flag, path) in learn.chain(summary) {
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        file.with_context(|| format!("{flag} {}", path.display()))?;
    }
    Ok(())
}

/// How namegate was called.
struct Called {
    user: Option<User>,
    signals: Signals,
    outside: Outside,
}

/// In a network of ours, guarded by a daemon like any other.
fn by_programs(
    options: &Options,
    (rules, around): (Rules, &Surroundings),
    called: Called,
) -> Result<u8> {
    let loader = Loader::start().ahead_for_links();
    let sandbox = Sandbox::create().context("the command's network")?;
    let node = sandbox.node.clone();
    // The command's process makes itself ready while its guard does. Only who is inside comes to this door.
    let door = sandbox
        .inside
        .run(Door::open)
        .context("the command's network")??;
    let orders = Orders::new(around, called.user.as_ref()).with_gate(&door);
    let start = (&orders, options.command.as_slice());
    let running = Running::start(&sandbox.inside, start, called.signals)?;
    let guarded = || -> Result<u8> {
        let setup = setup((options, Way::Tc), around, called.outside)?;
        let roster = || network::roster((options, &around.resolver), &sandbox);
        let daemon = guard(loader, (setup, rules), roster).inspect_err(|_| running.kill())?;
        let book = Book::open((options, Way::Tc), around, &daemon.flow_ring);
        match door.meet(&running)? {
            Ok(stream) => door::let_go(&stream)?,
            // It has said why.
            Err(code) => return Ok(code),
        }
        attend(options, running, (daemon, book))
    };
    node.run(guarded).context("the command's node")?
}

/// In the machine's own network. The daemon has a namespace of its own, in which there is nothing: what it
/// would make on a node the machine doesn't get.
fn by_cgroup(
    options: &Options,
    (rules, around): (Rules, &Surroundings),
    called: Called,
) -> Result<u8> {
    let loader = Loader::start();
    let job = Job::create()?;
    let outside = called.outside.ns.clone();
    let guarded = || -> Result<u8> {
        let setup = setup((options, Way::Cgroup), around, called.outside)?;
        let roster = || {
            Ok(network::roster_on_host(
                (options, &around.resolver),
                job.site()?,
            ))
        };
        let mut daemon = guard(loader, (setup, rules), roster)?;
        job.pin(&mut daemon)?;
        let orders = Orders::new(around, called.user.as_ref()).in_cgroup(&job.cgroup);
        let book = Book::open((options, Way::Cgroup), around, &daemon.flow_ring);
        let start = (&orders, options.command.as_slice());
        let guarded = Guarded { daemon, job };
        let running = Running::start(&outside, start, called.signals)?;
        attend(options, running, (guarded, book))
    };
    let node = NetNs::create().context("a namespace for the proxies")?;
    node.run(guarded).context("a namespace for the proxies")?
}

/// In a network that the command's process makes itself, guarded where its sockets are served.
fn by_sockets(
    options: &Options,
    (rules, around): (&Rules, &Surroundings),
    called: Called,
) -> Result<u8> {
    if called.user.is_some() {
        let said = "--mode splice runs the command as who calls it: call it without sudo and without --user";
        return Err(Exit::with(EXEC_FAILED, said));
    }
    let outside = called.outside.ns.clone();
    let setup = setup((options, Way::Splice), around, called.outside)?;
    let door = Door::open()?;
    let orders = Orders::new(around, None).with_door(&door);
    let start = (&orders, options.command.as_slice());
    let running = Running::start(&outside, start, called.signals)?;
    let (stream, listening) = match door.take(&running)? {
        Ok(taken) => taken,
        // It has said why.
        Err(code) => return Ok(code),
    };
    let guarded = Spliced::start(&setup, (options, rules, &around.resolver), listening);
    let guarded = guarded.inspect_err(|_| running.kill())?;
    let book = Book::open((options, Way::Splice), around, &guarded.flow_ring);
    door::let_go(&stream)?;
    attend(options, running, (guarded, book))
}

/// What is done for a command while it runs, by whoever guards it.
trait Guard {
    /// Takes away what has expired.
    fn expire(&mut self);
    /// Forgets the flows that are over.
    fn sweep(&mut self);
    /// Whether all threads live.
    fn all_alive(&self) -> bool;
    /// Ends it; then all flows are told. What ends with this process isn't taken away before.
    ///
    /// # Errors
    /// If something can't be taken away.
    fn end(self) -> Result<()>;
}

impl Guard for Daemon {
    fn expire(&mut self) {
        Self::expire(self);
    }

    fn sweep(&mut self) {
        Self::sweep(self);
    }

    fn all_alive(&self) -> bool {
        self.dns.all_alive() && self.http.all_alive()
    }

    fn end(self) -> Result<()> {
        Self::end(self, Ending::WithNode, drop)
    }
}

/// To the command's end, and tells what there is to tell.
fn attend(
    options: &Options,
    running: Running,
    (mut guard, mut book): (impl Guard, Book),
) -> Result<u8> {
    let ended = running.attend(&mut guard, &mut book);
    guard.end()?;
    // Told before what went wrong here, if something did.
    let (has_denials, written) = book.close(options);
    let code = match ended? {
        0 if has_denials && options.fail_on_deny => DENIED,
        0 => return written.map(|()| 0),
        code => code,
    };
    // What the command ended with is more than what we couldn't write.
    if let Err(error) = written {
        say(&format!("{error:#}"));
    }
    Ok(code)
}

/// The account of the command, and how far the flows are read.
struct Book {
    account: Account,
    ring: Arc<SharedRing>,
    cursor: Cursor,
}

impl Book {
    fn open(
        (options, way): (&Options, Way),
        around: &Surroundings,
        ring: &Arc<SharedRing>,
    ) -> Self {
        let learns = options.learn.is_some();
        Self {
            account: Account::new(options.audit, learns, &around.resolver.text)
                .with_carriage(way.carriage()),
            ring: Arc::clone(ring),
            cursor: ring.end(),
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

    /// Tells it, once the daemon has ended and all flows are there. Says whether something was denied, and
    /// whether the files are written.
    fn close(mut self, options: &Options) -> (bool, Result<()>) {
        self.read();
        let cure = match options.policies.is_empty() {
            true => Cure::Options,
            false => Cure::Rules,
        };
        if !options.quiet {
            let said = told::denials(&self.account, (cure, options.audit));
            // Standard error may be closed.
            let _ = std::io::stderr().lock().write_all(said.as_bytes());
        }
        (self.account.has_denials(), self.write(options))
    }

    fn write(&self, options: &Options) -> Result<()> {
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
        Ok(())
    }
}

/// Puts a daemon to the command's link or cgroup, under the policies; on a thread in the node's namespace.
fn guard(
    loader: Loader,
    (setup, rules): (Setup, Rules),
    roster: impl FnOnce() -> Result<Roster>,
) -> Result<Daemon> {
    let mut daemon = Daemon::start(
        loader,
        (setup, None),
        Identities::new(),
        Remembered::default(),
    )?;
    daemon.set_policies(rules.set, Secrets::default());
    daemon.set_roster(roster()?);
    daemon
        .enforce()
        .map_err(|problems| Exit::with(EXEC_FAILED, crate::judge::read::told(problems.iter())))?;
    for (_, guarded) in daemon.guards.iter() {
        match &guarded.state {
            EndpointState::Ready => {}
            EndpointState::Attaching => anyhow::bail!("the command is not guarded"),
            EndpointState::Refused(reason) => {
                anyhow::bail!("the command can't be guarded: {reason}")
            }
        }
    }
    Ok(daemon)
}

/// What the daemon is made with; on a thread in the node's namespace, where it has one.
fn setup(
    (options, way): (&Options, Way),
    around: &Surroundings,
    outside: Outside,
) -> Result<Setup> {
    let carriage = way.carriage();
    // What no rule selects is closed too, and what rules let through is called by its name. In the machine's
    // network no proxy looks at names, and a policy of ours closes what is sent; what comes is nobody's concern
    // unless a rule is about it.
    let (mode, name_binding) = match carriage {
        Carriage::ByProxy => (Mode::Always, NameBinding::Enforce),
        Carriage::Direct => (Mode::Default, NameBinding::Off),
    };
    Ok(Setup {
        instance: Instance::parse("exec").map_err(anyhow::Error::msg)?,
        cluster: Cluster::default(),
        pins: None,
        hook_mode: match way {
            Way::Tc | Way::Cgroup => Some(HookMode::of_own_namespace()),
            // There are no programs.
            Way::Splice => None,
        },
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
            mode,
            // There policies say it, so that one of ours can hold all the same.
            audit: options.audit && carriage == Carriage::ByProxy,
            name_binding,
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
        encrypted_resolvers: Arc::default(),
        outside: Some(outside),
        dns_source: UpstreamSource::Node,
        http_source: UpstreamSource::Node,
        carriage,
    })
}

/// A line for whoever called; standard error may be closed.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "namegate: {line}");
}

/// A file of flows that is one command's: all of them, in one file.
fn export(path: &Path) -> Result<Export> {
    Ok(Export {
        to: Target::File(FileTarget {
            path: path.to_owned(),
            octets_max: u64::MAX,
            backups_max: None,
            compress: false,
            agent_events: false,
        }),
        filter: Filter::new(&[], &[]).map_err(|error| anyhow::anyhow!("{error}"))?,
        mask: FieldMask::new([]).map_err(|error| anyhow::anyhow!("{error}"))?,
        end: None,
        aggregate: None,
    })
}
