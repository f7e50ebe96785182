//! Others change the node too: what they put in front of our programs or take away is seen within a
//! second, set right and said.

use std::collections::BTreeSet;

use anyhow::Result;
use bpf_redirect::{Attachment, Datapath, Hook, HookMode, Seat, Standing};
use transport::{LinkError, Netlink};

use crate::doctor::links::{CHAINED, routers};
use crate::resolver::{HELP, RESOLVED_ON_HOST, resolved_on_host};

use super::assembly::{SIDE_LINK_HOOKS, attach_side_link};
use super::{Daemon, Setup};

/// What was seen and set right.
#[derive(Debug, Default)]
pub(crate) struct Interference {
    /// How often.
    pub(crate) count: u64,
    /// The last one, in words.
    pub(crate) last: Option<String>,
}

impl Interference {
    fn note(&mut self, what: String) {
        tracing::error!("{what}");
        self.count += 1;
        self.last = Some(what);
    }
}

impl Daemon {
    /// Looks at every interface that carries programs of ours.
    pub(crate) fn watch(&mut self) {
        let mut seen = self.guards.watch(&mut self.datapath);
        seen.extend(self.watch_side_link());
        self.guards
            .try_again(&mut self.datapath, &self.learner, &self.gate);
        for what in seen {
            self.interference.note(what);
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.watch();
        }
    }

    /// Looks for what works and may go wrong on this node; what is new is said.
    pub(crate) fn watch_surroundings(&mut self) {
        self.watch_resolvers();
        // A link that goes while it is looked at is looked for the next time.
        if let Ok(routers) = routers() {
            say_new(&routers, &self.routers);
            self.routers = routers;
        }
    }

    /// Endpoints whose queries pass no link.
    pub(crate) fn watch_resolvers(&mut self) {
        let endpoints = self.guards.iter().map(|(_, guarded)| &guarded.found);
        let namespaces: Vec<_> = endpoints
            .filter_map(|found| Some((found.workload.full_name(), found.netns.clone()?)))
            .collect();
        let found = resolved_on_host(&namespaces);
        for endpoint in found.difference(&self.resolved_on_host) {
            tracing::warn!(%endpoint, "{RESOLVED_ON_HOST}; {HELP}");
        }
        self.resolved_on_host = found;
    }

    /// The side link: its programs, and the pair itself, which is made anew if it is gone.
    fn watch_side_link(&mut self) -> Vec<String> {
        let mut seen = Vec::new();
        match self.mend_side_link() {
            Ok(what) => seen.extend(what),
            Err(error) => seen.push(format!(
                "the side link can't be made anew, and all that is redirected is lost: {error:#}"
            )),
        }
        let ends = [
            &self.gate.node_end,
            &self.gate.gate_end,
            &self.gate.gate_end,
        ];
        for ((hook, end), attachment) in SIDE_LINK_HOOKS
            .into_iter()
            .zip(ends)
            .zip(&mut self.side_link)
        {
            let place = (hook, (end.name.as_str(), end.index));
            let mut look = || set_right(&mut self.datapath, place, attachment);
            let looked = match hook {
                Hook::NodeEnd => look(),
                Hook::GateIn | Hook::GateOut | Hook::FromEndpoint | Hook::ToEndpoint => {
                    self.gate.ns.run(look).map_err(Into::into).flatten()
                }
            };
            match looked {
                Ok(what) => seen.extend(what),
                Err(error) => seen.push(format!("the side link: {error:#}")),
            }
        }
        seen
    }

    /// Makes the pair anew if somebody deleted it. The proxy's sockets live on in the gate.
    fn mend_side_link(&mut self) -> Result<Option<String>> {
        let name = &self.gate.node_end.name;
        match Netlink::open()?.link(name) {
            Ok(link) if link.index == self.gate.node_end.index => return Ok(None),
            Ok(_) | Err(LinkError::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let what = format!("{name} was deleted: what is redirected was lost until now; it is back");
        // The pins of links that are on no interface are replaced.
        self.side_link.clear();
        self.gate.mend(&self.setup.instance.side_link())?;
        self.datapath.set_side_link(self.gate.node_end.index)?;
        let datapath = &mut self.datapath;
        let links = attach_side_link(&self.gate, |hook, at| datapath.attach(hook, at))?;
        self.side_link = links.into_iter().map(Some).collect();
        self.guards.set_mtus(&self.gate);
        Ok(Some(what))
    }
}

/// Who routes by programs of their own when a daemon starts, which is said. Where the links can't be looked at
/// nobody is known to, and neither where traffic leaves by another network.
pub(super) fn routers_around(setup: &Setup) -> BTreeSet<String> {
    if setup.outside.is_some() {
        return BTreeSet::new();
    }
    let found = routers().unwrap_or_default();
    say_new(&found, &BTreeSet::new());
    found
}

fn say_new(routers: &BTreeSet<String>, before: &BTreeSet<String>) {
    for router in routers.difference(before) {
        tracing::warn!("{router}: {CHAINED}");
    }
}

/// Sets one program of an interface right, if it isn't the first of its hook; says what was wrong.
///
/// # Errors
/// If the kernel refuses. Then the interface is closed or as it was, and the next look tries again.
pub(crate) fn set_right(
    datapath: &mut Datapath,
    (hook, interface): (Hook, (&str, u32)),
    attachment: &mut Option<Attachment>,
) -> Result<Option<String>> {
    let name = interface.0;
    let standing = match datapath.mode() {
        HookMode::Tcx => datapath.standing(hook, name)?,
        HookMode::Clsact => match filters(interface.1) {
            Ok(filters) => datapath.standing_among(hook, &filters)?,
            // The interface is gone.
            Err(_) => Standing::Unknown,
        },
    };
    let what = match standing {
        Standing::First | Standing::Unknown => return Ok(None),
        Standing::Behind(others) => {
            let others = others.join(", ");
            let Some(old) = attachment.take() else {
                return Ok(None);
            };
            *attachment = Some(datapath.attach_in_front(hook, interface, old)?);
            format!(
                "{name}: {others} came in front of {hook:?} and may have kept packets from it; it is in front again"
            )
        }
        Standing::Gone => {
            *attachment = Some(datapath.attach(hook, interface)?);
            format!(
                "{name}: {hook:?} was taken off; packets passed unjudged until now, and it is back"
            )
        }
    };
    Ok(Some(what))
}

/// The filters of an interface of the calling thread's namespace, in the order in which they run.
///
/// # Errors
/// If it is gone.
pub(crate) fn filters(ifindex: u32) -> Result<Vec<Seat>, LinkError> {
    let filters = Netlink::open()?.filters(ifindex)?.into_iter();
    let seats = filters.map(|filter| Seat {
        ingress: filter.ingress,
        program: filter.program.unwrap_or(filter.kind),
        id: filter.program_id.unwrap_or_default(),
    });
    Ok(seats.collect())
}
