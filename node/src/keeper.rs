//! What keeps the listening sockets while no daemon runs: systemd's store of descriptors where it started
//! us, else a process of our own. Queries and connections wait in them for the next daemon.

mod holder;
mod systemd;
pub(crate) mod wire;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

pub(crate) use holder::{end, hold};
pub(crate) use systemd::Manager;

use holder::Holder;

use crate::clock;
use crate::instance::Instance;

/// Descriptors that are kept; of more the last are not, and that is said.
pub(crate) const KEPT_MAX: usize = 64;

/// The names of what is kept.
const NAMES: [&str; 8] = [
    DNS_UDP,
    DNS_TCP,
    DNS_UDP_NODE[0],
    DNS_UDP_NODE[1],
    DNS_TCP_NODE[0],
    DNS_TCP_NODE[1],
    WAITING,
    LATELY,
];
/// The gate's listeners.
pub(crate) const DNS_UDP: &str = "dns-udp";
pub(crate) const DNS_TCP: &str = "dns-tcp";
/// The node's, of IPv4 and IPv6.
pub(crate) const DNS_UDP_NODE: [&str; 2] = ["dns-udp-node4", "dns-udp-node6"];
pub(crate) const DNS_TCP_NODE: [&str; 2] = ["dns-tcp-node4", "dns-tcp-node6"];
/// What was read and isn't answered.
pub(crate) const WAITING: &str = "dns-waiting";
/// What was learned and isn't on disk.
pub(crate) const LATELY: &str = "learned-lately";

/// How long after a process that holds them was started another one is, at the earliest.
const RESTART_AFTER: Duration = Duration::from_secs(10);

/// Who keeps them.
enum Way {
    Systemd,
    /// Our own process; `None` where there is none, until the next look.
    Holder(Option<Holder>),
}

/// What an earlier daemon left, and what this one leaves to the next.
pub(crate) struct Keeper {
    instance: Instance,
    manager: Manager,
    way: Way,
    /// What was found, with its name, as long as nobody took it.
    found: Vec<(String, OwnedFd)>,
    /// What is to be kept, with its name.
    kept: Vec<(&'static str, OwnedFd)>,
    /// When somebody was last looked for.
    tried: Option<Instant>,
    /// Whether it was said that there is nobody.
    has_complained: bool,
}

impl Keeper {
    /// Takes what an earlier daemon of this instance left, wherever that is.
    pub(crate) fn open(instance: &Instance, manager: Manager) -> Self {
        let mut found = manager.take();
        let holder = Holder::find(instance);
        let (holder, held) = holder.map_or((None, Vec::new()), |(one, held)| (Some(one), held));
        found.extend(held);
        let found = each_once(found);
        let way = match manager.is_there() {
            true => {
                // What it held is here, and will be in the store.
                if let Some(holder) = holder {
                    holder.end();
                }
                Way::Systemd
            }
            false => Way::Holder(holder),
        };
        if !found.is_empty() {
            tracing::info!(
                descriptors = found.len(),
                "found what an earlier daemon listened on"
            );
        }
        Self {
            instance: instance.clone(),
            manager,
            way,
            found,
            kept: Vec::new(),
            tried: None,
            has_complained: false,
        }
    }

    /// What was found under a name.
    pub(crate) fn take(&mut self, name: &str) -> Vec<OwnedFd> {
        let (taken, left) = std::mem::take(&mut self.found)
            .into_iter()
            .partition(|(found, _)| found == name);
        self.found = left;
        let taken: Vec<(String, OwnedFd)> = taken;
        taken.into_iter().map(|(_, fd)| fd).collect()
    }

    /// Whether something was found under a name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.found.iter().any(|(found, _)| found == name)
    }

    /// Lets everything go that was kept: a listener that nobody reads would take queries away from those
    /// that somebody does.
    pub(crate) fn forget(&mut self) {
        self.found.clear();
        match &mut self.way {
            Way::Systemd => self.manager.forget(),
            Way::Holder(holder) => {
                if let Some(holder) = holder.take() {
                    holder.end();
                }
            }
        }
    }

    /// Has these kept, and nothing else.
    pub(crate) fn keep(&mut self, mut all: Vec<(&'static str, OwnedFd)>) {
        if all.len() > KEPT_MAX {
            tracing::warn!("of {} listeners {KEPT_MAX} outlive the daemon", all.len());
            all.truncate(KEPT_MAX);
        }
        if !std::mem::take(&mut self.found).is_empty() && matches!(self.way, Way::Systemd) {
            // They can be told apart only by name.
            self.manager.forget();
        }
        self.kept = all;
        self.hand_over();
    }

    /// Looks whether somebody still keeps them, and finds somebody where nobody does.
    pub(crate) fn watch(&mut self) {
        let is_gone = match &mut self.way {
            Way::Systemd => false,
            Way::Holder(holder) => holder.as_mut().is_none_or(|one| !one.is_alive()),
        };
        if !is_gone || self.kept.is_empty() {
            return;
        }
        if matches!(self.way, Way::Holder(Some(_))) {
            tracing::warn!("the process that holds the sockets is gone");
            self.way = Way::Holder(None);
        }
        let now = clock::now();
        let may_try = |tried| now.saturating_duration_since(tried) >= RESTART_AFTER;
        if self.tried.is_none_or(may_try) {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        self.tried = Some(clock::now());
        let given = match &mut self.way {
            Way::Systemd => self.manager.keep(&self.kept),
            Way::Holder(holder) => give(&self.instance, holder, &self.kept),
        };
        match given {
            Ok(()) => self.has_complained = false,
            Err(_) if self.has_complained => {}
            Err(error) => {
                self.has_complained = true;
                tracing::warn!("queries won't wait for the next daemon: {error}");
            }
        }
    }

    /// Who keeps them, for people.
    pub(crate) fn who(&self) -> String {
        if self.has_complained {
            return "nobody".to_owned();
        }
        match &self.way {
            Way::Systemd => "systemd".to_owned(),
            Way::Holder(Some(holder)) => format!("process {}", holder.pid()),
            Way::Holder(None) => "nobody".to_owned(),
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.kept.len()
    }
}

/// A daemon that died while it handed over leaves some twice.
fn each_once(all: Vec<(String, OwnedFd)>) -> Vec<(String, OwnedFd)> {
    let mut seen = BTreeSet::new();
    let mut is_new = |(_, fd): &(String, OwnedFd)| {
        rustix::fs::fstat(fd).is_ok_and(|stat| seen.insert((stat.st_dev, stat.st_ino)))
    };
    all.into_iter().filter(|one| is_new(one)).collect()
}

fn give(
    instance: &Instance,
    holder: &mut Option<Holder>,
    kept: &[(&'static str, OwnedFd)],
) -> io::Result<()> {
    let there = match holder.take() {
        Some(there) => there,
        None => Holder::start(instance)?,
    };
    for (name, fd) in kept {
        there.keep(name, fd.as_fd())?;
    }
    there.settle()?;
    *holder = Some(there);
    Ok(())
}
