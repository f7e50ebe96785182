//! The kernel against the plain reference: random policies, compiled, mapped and loaded; random
//! packets, run by the programs. A case is one packet: what the program returned, what it counted and
//! what it told. Needs root.
//!
//! The usual run takes 100,000 cases. A million:
//! `cargo test --release -p namegate a_million_packets -- --ignored`

use std::collections::BTreeMap;
use std::net::IpAddr;

use bpf_redirect::packet::{
    GATEWAY_MAC, HOST_MAC, LOOPBACK, NEXT, Packet, REDIRECT, SHOT, WORKLOAD_MAC,
};
use bpf_redirect::{Change, Datapath, EndpointEntry, EventReader, Hook, HookMode, Ledger};
use bpf_redirect_common::{Address, Counter, Drop, EGRESS, Event, EventKind, INGRESS, Verdict};
use fqdn::Name;
use policy::reference::random::{Dice, file, options, read};
use policy::reference::setting::{ADDRESSES, ASKED, L4, address, crowd, name};
use policy::reference::{Reference, Wire};
use policy::{
    Cast, Compiler, Direction, EntryVerdict, FlowKey, Frontend, Identities, L4Protocol, LabelSet,
    LocalEndpoint, MatchType, PeerRef, RuleId, Service, ServiceFrontend, Snapshot,
};

use super::{Carriage, learned_entries, prefixes, services, static_entries};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Packets for each set of policies.
const PACKETS: u16 = 160;
/// Endpoints in the kernel, that take turns: what one may tell in a second is more than it tells.
const ENDPOINTS: u32 = 64;

/// The kernel's part, and what it was told of so far.
struct Kernel {
    datapath: Datapath,
    events: EventReader,
    /// The endpoint whose turn it is.
    number: u32,
    counted: BTreeMap<&'static str, u64>,
}

/// A compiled set and all that it was made from.
struct World<'a> {
    snapshot: &'a Snapshot,
    reference: Reference<'a>,
    told: &'a str,
}

/// An address that an endpoint has learned.
struct Learned {
    names: Vec<Name>,
    labels: LabelSet,
    identity: u32,
}

/// An endpoint in the kernel.
struct Guarded<'a> {
    world: &'a World<'a>,
    endpoint: &'a LocalEndpoint,
    learned: BTreeMap<IpAddr, Learned>,
    addresses: Vec<IpAddr>,
}

/// Protocol, the service's port, the backends' port.
type ServicePorts = &'static [(L4Protocol, u16, u16)];

/// Virtual addresses of services, and ports of each: one backend, backends of one identity, others that
/// differ, in both families; an endpoint alone, and with somebody else.
const SERVICES: [(&str, &[&str], ServicePorts); 7] = [
    (
        "10.96.0.1",
        &["10.2.0.5"],
        &[(L4Protocol::Tcp, 8_000, 80), (L4Protocol::Udp, 53, 53)],
    ),
    (
        "10.96.0.2",
        &["10.2.0.5", "10.2.0.6"],
        &[(L4Protocol::Tcp, 80, 443)],
    ),
    (
        "10.96.0.3",
        &["10.2.0.5", "10.2.0.9", "172.16.0.9"],
        &[
            (L4Protocol::Tcp, 443, 80),
            (L4Protocol::Tcp, 53, 53),
            (L4Protocol::Udp, 54, 53),
            (L4Protocol::Sctp, 80, 80),
        ],
    ),
    (
        "10.96.0.4",
        &["10.1.3.9", "192.168.0.3"],
        &[(L4Protocol::Tcp, 6_443, 443)],
    ),
    (
        "fd00:96::1",
        &["fd00::5", "2001:db8::1"],
        &[(L4Protocol::Tcp, 80, 80), (L4Protocol::Udp, 53, 53)],
    ),
    (
        "10.96.0.5",
        &["10.2.0.4", "fd00::4"],
        &[(L4Protocol::Tcp, 80, 80), (L4Protocol::Udp, 53, 53)],
    ),
    (
        "10.96.0.6",
        &["10.2.0.4", "10.2.0.3"],
        &[(L4Protocol::Tcp, 80, 80), (L4Protocol::Udp, 53, 53)],
    ),
];

/// The crowd, with these services.
fn crowd_with_services() -> Cast {
    let mut cast = crowd();
    for (vip, backends, ports) in SERVICES {
        let frontend = |(protocol, port, target): &(L4Protocol, u16, u16)| Frontend {
            vip: address(vip),
            protocol: *protocol,
            port: *port,
            target: *target,
        };
        cast.services.push(Service {
            namespace: "default".to_owned(),
            name: format!("at {vip}"),
            labels: policy::Labels::default(),
            backends: backends.iter().map(|text| address(text)).collect(),
            frontends: ports.iter().map(frontend).collect(),
        });
    }
    cast
}

/// A packet, and the flow that it opens.
struct Case {
    packet: Packet,
    hook: Hook,
    peer: IpAddr,
    wire: Wire,
}

/// What a packet comes to.
#[derive(Debug, PartialEq)]
struct Outcome {
    code: i32,
    /// The counter that went up, if any.
    counted: Option<&'static str>,
    /// Kind, verdict, match and reason of each event.
    events: Vec<(u8, u8, u8, u8)>,
}

impl Kernel {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test loads BPF programs: run it as root (cargo xtask test does)"
        );
        let datapath = Datapath::load(99, HookMode::Tcx, None).unwrap();
        Self {
            events: datapath.events().unwrap(),
            datapath,
            number: 0,
            counted: BTreeMap::new(),
        }
    }

    /// Guards an endpoint for some packets, and compares each.
    fn check(&mut self, guarded: &mut Guarded<'_>, identities: &mut Identities, dice: &mut Dice) {
        let number = self.number % ENDPOINTS + 1;
        self.number = number;
        self.datapath
            .set_endpoint(&EndpointEntry {
                endpoint: number,
                ifindex: LOOPBACK,
                workload_mac: WORKLOAD_MAC,
                host_mac: HOST_MAC,
                addresses: guarded.addresses.clone(),
            })
            .unwrap();
        let mut ledger = Ledger::new(self.datapath.table(number).unwrap());
        let (snapshot, id) = (guarded.world.snapshot, guarded.endpoint.id);
        let mut services = services(snapshot);
        for (_, service) in &mut services {
            let is_own = service.endpoint == id.get();
            service.endpoint = if is_own { number } else { 0 };
        }
        self.datapath.set_services(&services).unwrap();
        ledger
            .reload(static_entries(snapshot, id, Carriage::Direct), &[], |_| {
                Vec::new()
            })
            .unwrap();
        let change = |at, identity| Change {
            address: Address::from(at),
            identity,
        };
        guarded.learned = guarded.learn(identities, dice);
        for (at, learned) in &guarded.learned {
            let change = change(*at, Some(learned.identity));
            ledger
                .install(&[change], |identity| {
                    learned_entries(snapshot, id, (identities, identity), Carriage::Direct)
                })
                .unwrap();
        }
        let mut expected = self.counted.clone();
        for turn in 0..PACKETS {
            let case = guarded.case(40_000 + turn, dice);
            let wanted = guarded.expected(&case);
            self.run(guarded, &case, &wanted);
            if let Some(word) = wanted.counted {
                *expected.entry(word).or_default() += 1;
            }
        }
        self.counted = self.counters();
        assert_eq!(self.counted, expected, "{}", guarded.world.told);
        // Its policy stays until the next one: to take a map away waits for the kernel.
        let away = guarded.learned.keys().map(|at| change(*at, None));
        ledger
            .install(&away.collect::<Vec<_>>(), |_| Vec::new())
            .unwrap();
        self.datapath.sweep_flows(|_, _| true).unwrap();
    }

    fn run(&mut self, guarded: &Guarded<'_>, case: &Case, wanted: &Outcome) {
        let bytes = case.packet.bytes();
        let (code, _, _) = self.datapath.try_packet(case.hook, &bytes, 0).unwrap();
        let mut events = Vec::new();
        self.events.drain(|event| events.push(*event));
        let told = events.iter();
        let told = told.map(|event| (event.kind, event.verdict, event.matched, event.reason));
        let found = Outcome {
            code,
            counted: wanted.counted,
            events: told.collect(),
        };
        assert_eq!(found, *wanted, "{}", guarded.place(case));
        for event in &events {
            assert_eq!(event.endpoint, self.number);
            guarded.check_event(case, event);
        }
    }

    fn counters(&self) -> BTreeMap<&'static str, u64> {
        let counters = self.datapath.counters().unwrap();
        counters.iter().map(|one| (one.name, one.value)).collect()
    }
}

impl<'a> Guarded<'a> {
    fn new(world: &'a World<'a>, endpoint: &'a LocalEndpoint) -> Self {
        let mut addresses = endpoint.addresses.clone();
        if !addresses.iter().any(IpAddr::is_ipv6) {
            addresses.push(address("fd00::99"));
        }
        Self {
            world,
            endpoint,
            learned: BTreeMap::new(),
            addresses,
        }
    }

    /// What the endpoint learned of some addresses outside, each with an identity of its own.
    fn learn(&self, identities: &mut Identities, dice: &mut Dice) -> BTreeMap<IpAddr, Learned> {
        let mut learned = BTreeMap::new();
        for text in ADDRESSES {
            let at = address(text);
            if !dice.one_in(2) || self.world.snapshot.may_learn(at).is_err() {
                continue;
            }
            let names: Vec<Name> = (0..1 + dice.below(2))
                .map(|_| name(dice.of(&ASKED)))
                .collect();
            let snapshot = self.world.snapshot;
            let labels = snapshot.learned_labels(self.endpoint.id, names.iter(), at);
            let identity = identities.acquire(labels.clone()).unwrap().get();
            let one = Learned {
                names,
                labels,
                identity,
            };
            learned.insert(at, one);
        }
        learned
    }

    /// One random packet that opens a flow. No two have the same port or id.
    fn case(&self, source_port: u16, dice: &mut Dice) -> Case {
        let service = dice.one_in(6).then(|| dice.below(SERVICES.len()));
        let peer = match service {
            Some(at) => address(SERVICES[at].0),
            None => address(dice.of(&ADDRESSES)),
        };
        let own = self.addresses.iter();
        let own = *own
            .clone()
            .find(|own| own.is_ipv6() == peer.is_ipv6())
            .unwrap();
        let (protocol, port) = match l4(dice) {
            (0, _) if peer.is_ipv6() => (47, 0), // there it is no protocol but a header
            other => other,
        };
        let ports = service.map(|at| SERVICES[at].2);
        let (protocol, port) = match ports.filter(|_| !dice.one_in(4)) {
            Some(ports) => {
                let (protocol, port, _) = ports[dice.below(ports.len())];
                (protocol.number(), port)
            }
            None => (protocol, port),
        };
        let direction = [Direction::Egress, Direction::Ingress][usize::from(dice.one_in(3))];
        let flags = [0x02, 0x02, 0x10, 0x18, 0x11][dice.below(5)];
        let (source, destination, hook) = match direction {
            Direction::Egress => (own, peer, Hook::FromEndpoint),
            Direction::Ingress => (peer, own, Hook::ToEndpoint),
        };
        let mut packet =
            Packet::new(source, destination, (protocol, source_port, port)).flags(flags);
        if direction == Direction::Ingress {
            packet.source_mac = GATEWAY_MAC;
            packet.destination_mac = WORKLOAD_MAC;
        }
        Case {
            packet,
            hook,
            peer,
            wire: Wire {
                direction,
                protocol,
                port,
            },
        }
    }

    fn expected(&self, case: &Case) -> Outcome {
        let learned = self.learned.get(&case.peer);
        let names = learned.map_or(&[][..], |learned| &learned.names);
        if let Some(service) = self.service(case) {
            return self.expected_of(service, case.wire);
        }
        let reference = self.world.reference;
        let other = reference.other(case.peer, names);
        let (verdict, matched) = reference.judge(self.endpoint, &other, case.wire);
        // Also what neighbours have for each other: none of these packets comes from or stays on a link.
        expected(case.wire, verdict, matched)
    }

    /// The service that the packet goes to, if it goes to one.
    fn service(&self, case: &Case) -> Option<&'a ServiceFrontend> {
        if case.wire.direction == Direction::Ingress {
            return None;
        }
        let protocol = L4Protocol::from_number(case.wire.protocol)?;
        let server = (case.peer, case.wire.port).into();
        self.world.snapshot.frontend(server, protocol)
    }

    /// A flow may end at any backend, so each must be allowed; it is redirected if it is for one of them.
    fn expected_of(&self, service: &ServiceFrontend, wire: Wire) -> Outcome {
        let reference = self.world.reference;
        let wire = Wire {
            port: service.frontend.target,
            ..wire
        };
        let (_, backends, _) = SERVICES
            .iter()
            .find(|(vip, ..)| address(vip) == service.frontend.vip)
            .unwrap();
        let own = &self.endpoint.addresses;
        if backends.iter().all(|at| own.contains(&address(at))) {
            return expected(wire, EntryVerdict::Allow, MatchType::None);
        }
        let said: Vec<_> = backends
            .iter()
            .map(|at| reference.judge(self.endpoint, &reference.other(address(at), &[]), wire))
            .collect();
        let strongest = |passing| {
            let of = said
                .iter()
                .filter(|(verdict, _)| verdict.passes() == passing);
            of.map(|(verdict, _)| *verdict).max()
        };
        if service.backends.len() == 1 {
            let (verdict, matched) = said[0];
            assert!(said.iter().all(|one| *one == said[0]), "of one identity");
            return expected(wire, verdict, matched);
        }
        // A denial of one is an entry for the service, also where none was for the backend.
        let verdict = strongest(false).or_else(|| strongest(true)).unwrap();
        let matched = if verdict == EntryVerdict::AuditDefault {
            MatchType::None
        } else {
            MatchType::L3L4
        };
        expected(wire, verdict, matched)
    }

    fn check_event(&self, case: &Case, event: &Event) {
        let Wire {
            direction,
            protocol,
            port,
        } = case.wire;
        let learned = self.learned.get(&case.peer);
        let by_table = self.world.snapshot.identity_of(case.peer);
        let service = self.service(case);
        let identity = learned.map_or_else(|| by_table.get(), |learned| learned.identity);
        let identity = service.map_or(identity, |one| one.identity.get());
        let wanted = match direction {
            Direction::Egress => EGRESS,
            Direction::Ingress => INGRESS,
        };
        let found = (event.identity, event.direction, event.protocol);
        assert_eq!(found, (identity, wanted, protocol), "{}", self.place(case));
        let ends = (IpAddr::from(event.source), IpAddr::from(event.destination));
        assert_eq!(ends, (case.packet.source, case.packet.destination));
        if event.rule == 0 {
            return;
        }
        let peer = match learned {
            Some(learned) => PeerRef::Learned(&learned.labels),
            None => PeerRef::Known(by_table),
        };
        let flow = FlowKey {
            direction,
            identity: by_table,
            protocol,
            port,
        };
        let snapshot = self.world.snapshot;
        let rules = match service {
            None => snapshot.deciding_rules(self.endpoint.id, peer, flow),
            Some(one) => {
                let backends = one.backends.iter();
                let rules = backends.flat_map(|identity| {
                    let flow = FlowKey {
                        identity: *identity,
                        port: one.frontend.target,
                        ..flow
                    };
                    snapshot.deciding_rules(self.endpoint.id, PeerRef::Known(*identity), flow)
                });
                rules.collect()
            }
        };
        let rule = RuleId::from_number(event.rule);
        assert!(
            rules.contains(&rule),
            "{rule:?} in {rules:?}: {}",
            self.place(case)
        );
    }

    fn place(&self, case: &Case) -> String {
        let names = self.learned.get(&case.peer).map(|learned| &learned.names);
        format!(
            "{} with {} {names:?} {:?}\n{:?}\n{}",
            self.endpoint.id, case.peer, case.wire, self.world.reference.options, self.world.told
        )
    }
}

impl Outcome {
    fn told(
        code: i32,
        counted: Option<&'static str>,
        told: &[(EventKind, Verdict, u8, u8)],
    ) -> Self {
        let told = told.iter();
        let told = told.map(|(kind, verdict, matched, reason)| {
            (*kind as u8, *verdict as u8, *matched, *reason)
        });
        Self {
            code,
            counted,
            events: told.collect(),
        }
    }
}

/// What the kernel makes of the reference's verdict.
fn expected(wire: Wire, verdict: EntryVerdict, matched: MatchType) -> Outcome {
    let matched = u8::try_from(matched.number()).unwrap();
    let passed = |verdict| Outcome::told(NEXT, None, &[(EventKind::Verdict, verdict, matched, 0)]);
    let dropped = |verdict, reason: Drop| {
        let number = reason as u8;
        let events = [EventKind::Verdict, EventKind::Drop];
        let events = events.map(|kind| (kind, verdict, matched, number));
        Outcome::told(SHOT, Some(reason.word()), &events)
    };
    match verdict {
        EntryVerdict::Allow => passed(Verdict::Allow),
        EntryVerdict::AuditDefault => passed(Verdict::AuditUnmatched),
        EntryVerdict::AuditDeny => passed(Verdict::AuditDeny),
        // It goes to where its sender is told so.
        EntryVerdict::Refuse => Outcome {
            code: REDIRECT,
            ..dropped(Verdict::Refuse, Drop::NameHidden)
        },
        EntryVerdict::FailAuthentication => {
            dropped(Verdict::FailAuthentication, Drop::AuthenticationRequired)
        }
        EntryVerdict::Deny if matched == 0 => dropped(Verdict::Unmatched, Drop::PolicyDenied),
        EntryVerdict::Deny => dropped(Verdict::Deny, Drop::PolicyDeny),
        EntryVerdict::Redirect(_) => {
            let told = [(EventKind::Verdict, Verdict::Redirect, matched, 0)];
            let word = Counter::ALL.iter();
            let word = word
                .clone()
                .find(|(counter, _)| *counter == Counter::Redirected);
            let word = word.map(|(_, word)| *word);
            match (wire.direction, wire.protocol) {
                (_, TCP) => Outcome::told(REDIRECT, word, &told),
                // A query is told of by the proxy.
                (Direction::Egress, UDP) => Outcome::told(REDIRECT, word, &[]),
                // Inbound there is a proxy for TCP alone.
                _ => Outcome::told(SHOT, Some(Drop::PolicyDenied.word()), &told),
            }
        }
    }
}

/// What the policies name, ports beside it, and anything.
fn l4(dice: &mut Dice) -> (u8, u16) {
    const PROTOCOLS: [u8; 10] = [TCP, TCP, TCP, UDP, UDP, 132, 1, ICMPV6, 47, 0];
    const ENDS: [u16; 9] = [0, 1, 50, 53, 80, 90, 443, 8080, u16::MAX];
    if dice.one_in(2) {
        return L4[dice.below(L4.len())];
    }
    let protocol = PROTOCOLS[dice.below(PROTOCOLS.len())];
    let near = ENDS[dice.below(ENDS.len())].wrapping_add([0, 1, u16::MAX][dice.below(3)]);
    let port = match dice.one_in(2) {
        true => near,
        false => u16::try_from(dice.below(1 << 16)).unwrap(),
    };
    match protocol {
        TCP | UDP | 132 => (protocol, port),
        1 | ICMPV6 => (protocol, port % 256),
        _ => (protocol, 0),
    }
}

/// Compares at least `count` cases, from a seed on.
fn compare(count: usize, seed: u64) {
    let (cast, mut kernel, mut dice) = (crowd_with_services(), Kernel::new(), Dice(seed));
    let mut cases = 0;
    while cases < count {
        let (text, options) = (file(&mut dice), options(&mut dice));
        let Some(set) = read(&text) else {
            continue;
        };
        let mut identities = Identities::new();
        let built = Compiler::new().build(1, (&set, &cast, options), &mut identities);
        let Ok(snapshot) = built else {
            continue; // rules that contradict each other
        };
        kernel.datapath.set_prefixes(&prefixes(&snapshot)).unwrap();
        let world = World {
            snapshot: &snapshot,
            reference: Reference {
                policies: &set,
                cast: &cast,
                options,
            },
            told: &text,
        };
        let endpoint = &cast.endpoints[dice.below(cast.endpoints.len())];
        let mut guarded = Guarded::new(&world, endpoint);
        kernel.check(&mut guarded, &mut identities, &mut dice);
        cases += usize::from(PACKETS);
    }
}

#[test]
fn the_kernel_judges_a_hundred_thousand_packets_as_the_reference_does() {
    compare(100_000, 1);
}

#[test]
#[ignore = "minutes: see the head of the file"]
fn a_million_packets_are_judged_as_the_reference_judges() {
    compare(1_000_000, 2);
}
