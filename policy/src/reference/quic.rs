//! What becomes of datagrams where over TCP a name or request is judged.

use std::collections::BTreeSet;

use super::{Reference, Said, bits_of, is_one_port, names_of};
use crate::l4::{L7Rules, PortMatch, PortRule, Ports, RuleProtocol};
use crate::limits::QUIC_PORTS_MAX;
use crate::rule::{Effect, Item, Policy};
use crate::{Direction, EntryVerdict, L4Protocol, LocalEndpoint, Proxy, Quic};

impl Reference<'_> {
    /// Whether the server name in QUIC is judged where an endpoint's rules for TCP judge that in TLS.
    pub(super) fn judges_quic(&self, endpoint: &LocalEndpoint, port: u16) -> bool {
        if self.options.quic != Quic::Sni || !self.is_named_alone(endpoint, port) {
            return false;
        }
        let dns = self.dns_ports();
        let listens = |port: &u16| {
            let mut endpoints = self.cast.endpoints.iter();
            *port != 53
                && !dns.contains(port)
                && endpoints.any(|one| self.is_named_alone(one, *port))
        };
        // The reference knows no virtual addresses.
        let below = (0..port).filter(|below| *below != 443 && listens(below));
        let before = below.count() + usize::from(port != 443 && listens(&443));
        listens(&port) && before < QUIC_PORTS_MAX
    }

    /// Whether a rule names a port by itself and judges names there, and no rule anything else.
    fn is_named_alone(&self, endpoint: &LocalEndpoint, port: u16) -> bool {
        if !endpoint.is_redirectable {
            return false;
        }
        let items = self.items(endpoint, Direction::Egress);
        let of_names = items.iter().any(|(_, item)| {
            let mut rules = rules(item).iter();
            passes(item)
                && rules.any(|rule| {
                    let judges = rule.l7.as_deref().is_some_and(|l7| {
                        matches!(l7.rules, L7Rules::None)
                            && l7.terminating_tls.is_none()
                            && l7.originating_tls.is_none()
                    });
                    judges && is_one_port(&rule.port) && self.is_about(rule, (6, port))
                })
        });
        let otherwise = |(policy, item): &(&Policy, &Item)| match passes(item) {
            true => rules(item).iter().any(|rule| {
                let Some(l7) = rule.l7.as_deref() else {
                    return false;
                };
                match l7.rules {
                    L7Rules::Dns(_) => [6, 17].iter().any(|one| self.is_about(rule, (*one, port))),
                    L7Rules::Http(_) => self.is_about(rule, (6, port)),
                    L7Rules::None => {
                        let is_ours = l7.terminating_tls.is_some() || l7.originating_tls.is_some();
                        is_ours && self.is_about(rule, (6, port))
                    }
                }
            }),
            false if policy.audit => false,
            false => {
                let about = |protocol| {
                    let mut rules = rules(item).iter();
                    rules.any(move |rule| {
                        let is_sure = protocol == 6 || !matches!(rule.port, PortMatch::Named(_));
                        is_sure && self.is_about(rule, (protocol, port))
                    })
                };
                about(6) && !about(17)
            }
        };
        of_names && !items.iter().any(otherwise)
    }

    /// Where names are asked on this node.
    fn dns_ports(&self) -> BTreeSet<u16> {
        let mut found = BTreeSet::new();
        for endpoint in &self.cast.endpoints {
            for (_, item) in self.items(endpoint, Direction::Egress) {
                let of_dns = rules(item).iter().filter(|rule| names_of(rule).is_some());
                for rule in of_dns.filter(|_| passes(item)) {
                    let numbers = (0..=u16::MAX).filter(|port| is_within(rule, *port));
                    found.extend(numbers);
                    let workloads = self.cast.workloads();
                    let owned = workloads.flat_map(|(workload, _)| workload.ports.iter());
                    let called = owned.filter(|(name, _)| match &rule.port {
                        PortMatch::Named(wanted) => wanted == *name,
                        PortMatch::All | PortMatch::Range(..) => false,
                    });
                    let numbers = called.map(|(_, (port, _))| *port).filter(|port| {
                        [6, 17].iter().any(|one| self.is_about(rule, (*one, *port)))
                    });
                    found.extend(numbers);
                }
            }
        }
        found
    }

    /// Whether a rule is about a port of anybody's.
    fn is_about(&self, rule: &PortRule, (protocol, port): (u8, u16)) -> bool {
        let is_protocol = match rule.protocol {
            RuleProtocol::Any => matches!(protocol, 6 | 17),
            RuleProtocol::One(one) => one.number() == protocol,
            RuleProtocol::Icmp(_) => false,
        };
        let protocol = L4Protocol::from_number(protocol);
        let is_port = match &rule.port {
            PortMatch::All | PortMatch::Range(..) => is_within(rule, port),
            PortMatch::Named(name) => self.cast.workloads().any(|(workload, _)| {
                let owned = workload.ports.get(name);
                owned.is_some_and(|(own, of)| *own == port && Some(*of) == protocol)
            }),
        };
        is_protocol && is_port
    }
}

fn rules(item: &Item) -> &[PortRule] {
    match &item.ports {
        Ports::Any => &[],
        Ports::List(list) => list,
    }
}

fn passes(item: &Item) -> bool {
    item.effect == Effect::Allow && !item.fails_authentication
}

fn is_within(rule: &PortRule, port: u16) -> bool {
    match rule.port {
        PortMatch::All => true,
        PortMatch::Range(first, last) => (first..=last).contains(&port),
        PortMatch::Named(_) => false,
    }
}

/// What is said of datagrams to a port since over TCP a name or request is judged there, which no rule
/// opens that says it of the same ports or more, and of the same peer or everybody.
pub(super) fn instead(over_tcp: &[Said], port: u16, judged: bool) -> Vec<Said> {
    let is_strongest = |one: &&Said| {
        let mut rest = over_tcp.iter();
        !rest.any(|other| {
            other.detail == one.detail
                && other.of_peer == one.of_peer
                && !matches!(other.verdict, EntryVerdict::Redirect(_))
                && other.verdict > one.verdict
        })
    };
    let needs = |one: &&Said| {
        let mut rest = over_tcp.iter();
        let is_open = rest.any(|other| {
            other.verdict == EntryVerdict::Allow
                && other.detail.1 <= one.detail.1
                && (one.of_peer || !other.of_peer)
        });
        let judges = matches!(
            one.verdict,
            EntryVerdict::Redirect(Proxy::Tls | Proxy::Http)
        );
        judges && is_strongest(one) && !is_open
    };
    let names = EntryVerdict::Redirect(Proxy::Tls);
    let of = |one: &Said| Said {
        verdict: match judged && one.verdict == names && one.detail == (true, 16) {
            true => names,
            false => EntryVerdict::Refuse,
        },
        detail: (true, beside_dns(one.detail.1, u32::from(port))),
        of_peer: one.of_peer,
    };
    over_tcp.iter().filter(needs).map(of).collect()
}

/// The bits of the block of a port in what is left of a larger one without the port of DNS.
fn beside_dns(bits: u32, port: u32) -> u32 {
    let size = 1 << (16 - bits);
    let (first, last) = (port / size * size, port / size * size + size - 1);
    match (first..=last).contains(&53) {
        true if port < 53 => bits_of(first, 52, port),
        true => bits_of(54, last, port),
        false => bits,
    }
}
