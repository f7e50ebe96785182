//! What policy says of a question, on both sides.

use std::net::{IpAddr, SocketAddr};

use policy::http::{HeaderLine, Path, Request};
use policy::{
    Decision, Direction, EndpointId, EntryVerdict, FlowKey, HttpDecision, L4Protocol, LabelSet,
    LocalEndpoint, NameBinding, PeerRef, Proxy, Question as DnsQuestion, RuleOrigin,
    ServiceFrontend, TlsDenied, TlsRule,
};

use super::question::{HttpQuestion, L7Question, Proto, Question};
use super::world::{Party, World};

/// What comes of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Decided(Answer),
    /// Why not: something isn't given that the verdict depends on.
    Undecided(String),
}

/// The verdicts of both sides; a side whose subject is no endpoint of the files has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) egress: Option<Side>,
    pub(crate) ingress: Option<Side>,
}

/// The verdict of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Side {
    pub(crate) direction: Direction,
    pub(crate) subject: String,
    pub(crate) peer: String,
    pub(crate) decision: Decision,
    /// Whether a proxy lets pass what is said; absent if none judges it, or nothing was given.
    pub(crate) l7: Option<bool>,
    /// All rules that say the same as the verdict.
    pub(crate) rules: Vec<RuleOrigin>,
    /// What else must be known to read it.
    pub(crate) note: Option<&'static str>,
}

impl Side {
    /// Whether the flow, or what is said through it, is refused.
    pub(crate) fn is_denied(&self) -> bool {
        !self.decision.verdict.passes() || self.l7 == Some(false)
    }

    /// Whether a proxy takes the flow for its name alone.
    pub(crate) fn asks_for_name(&self) -> bool {
        self.decision.verdict == EntryVerdict::Redirect(Proxy::Names)
    }

    /// Whether a proxy takes the flow.
    pub(crate) fn is_redirected(&self) -> bool {
        matches!(self.decision.verdict, EntryVerdict::Redirect(_))
    }
}

impl Answer {
    /// The side that decides: the first that refuses, else the first with a proxy, else the first.
    pub(crate) fn deciding(&self) -> Option<&Side> {
        let sides = || self.egress.iter().chain(&self.ingress);
        sides()
            .find(|side| side.is_denied())
            .or_else(|| sides().find(|side| side.is_redirected()))
            .or_else(|| sides().next())
    }

    /// Whether a side refuses.
    pub(crate) fn is_denied(&self) -> bool {
        self.deciding().is_some_and(Side::is_denied)
    }

    /// Whether two answers let the same pass, and through the same proxies.
    fn is_like(&self, other: &Self) -> bool {
        let shape = |side: &Option<Side>| {
            side.as_ref()
                .map(|side| (side.decision.verdict, side.decision.matched, side.l7))
        };
        shape(&self.egress) == shape(&other.egress) && shape(&self.ingress) == shape(&other.ingress)
    }
}

/// One flow between addresses.
struct Flow<'a> {
    world: &'a World,
    question: &'a Question,
    from: (Option<&'a LocalEndpoint>, IpAddr),
    to: (Option<&'a LocalEndpoint>, IpAddr),
}

impl World {
    /// Judges a question.
    ///
    /// # Errors
    /// If a party is nobody, or neither is an endpoint.
    pub(crate) fn judge(&self, question: &Question) -> Result<Outcome, String> {
        let from = self.party(&question.from)?;
        let to = self.party(&question.to)?;
        if matches!(from, Party::Name(_)) {
            return Err(
                "--from is an endpoint, an address or a reserved word, not a DNS name".into(),
            );
        }
        if from == to {
            // What a workload sends itself never leaves it.
            return Ok(Outcome::Decided(Answer {
                egress: None,
                ingress: None,
            }));
        }
        let is_endpoint = |party: &Party| matches!(party, Party::Endpoint(_));
        if !is_endpoint(&from) && !is_endpoint(&to) {
            let (from, to) = (&question.from, &question.to);
            return Err(format!(
                "neither {from} nor {to} is an endpoint of the files: no policy judges it"
            ));
        }
        let Party::Name(name) = &to else {
            return Ok(Outcome::Decided(self.between(question, &from, &to)));
        };
        let learned = question.learned.iter().filter(|(other, _)| other == name);
        let addresses: Vec<IpAddr> = learned.map(|(_, ip)| *ip).collect();
        let missing = addresses.is_empty();
        let tried = if missing { self.possible() } else { addresses };
        self.by_all(question, (&from, &tried), missing)
    }

    /// The one answer for all addresses of a name, if there is one.
    fn by_all(
        &self,
        question: &Question,
        (from, addresses): (&Party, &[IpAddr]),
        missing: bool,
    ) -> Result<Outcome, String> {
        let mut first: Option<Answer> = None;
        for address in addresses {
            let to = self.party(&address.to_string())?;
            let mut ways = vec![question.clone()];
            if missing && let Ok(Party::Name(name)) = self.party(&question.to) {
                let mut learning = question.clone();
                learning.learned.push((name, *address));
                ways.push(learning);
            }
            for way in ways {
                let answer = self.between(&way, from, &to);
                match &first {
                    None => first = Some(answer),
                    Some(first) if first.is_like(&answer) => {}
                    Some(_) if missing => {
                        let to = &question.to;
                        return Ok(Outcome::Undecided(format!(
                            "it depends on the address of {to}: give --learn {to}=ADDRESS"
                        )));
                    }
                    Some(_) => {
                        return Ok(Outcome::Undecided(format!(
                            "the addresses of {} are judged differently",
                            question.to
                        )));
                    }
                }
            }
        }
        first
            .map(Outcome::Decided)
            .ok_or_else(|| format!("no address can be tried for {}", question.to))
    }

    /// Addresses of every kind that policy tells apart, outside.
    fn possible(&self) -> Vec<IpAddr> {
        let outside = [policy::Family::V4, policy::Family::V6];
        let outside = outside.iter().filter_map(|family| self.outside(*family));
        let named = self.snapshot.prefixes().map(|(prefix, _)| prefix);
        let named = named
            .filter(|prefix| prefix.prefix_len() > 0)
            .map(|prefix| prefix.addr());
        let free = named.filter(|ip| self.snapshot.may_learn(*ip).is_ok());
        outside.chain(free).collect()
    }

    fn between(&self, question: &Question, from: &Party, to: &Party) -> Answer {
        let end = |party: &Party| match party {
            Party::Endpoint(index) => {
                let endpoint = self.endpoint(*index)?;
                let v4 = endpoint.addresses.iter().find(|ip| ip.is_ipv4());
                let address = v4.or_else(|| endpoint.addresses.first())?;
                Some((Some(endpoint), *address))
            }
            Party::Address(address) => Some((None, *address)),
            Party::Name(_) => None,
        };
        let (Some(from), Some(to)) = (end(from), end(to)) else {
            return Answer {
                egress: None,
                ingress: None,
            };
        };
        let flow = Flow {
            world: self,
            question,
            from,
            to,
        };
        Answer {
            egress: flow
                .from
                .0
                .map(|subject| flow.side(subject, Direction::Egress)),
            ingress: flow
                .to
                .0
                .map(|subject| flow.side(subject, Direction::Ingress)),
        }
    }
}

impl Flow<'_> {
    fn side(&self, subject: &LocalEndpoint, direction: Direction) -> Side {
        let snapshot = &self.world.snapshot;
        let (owner, address) = match direction {
            Direction::Egress => self.to,
            Direction::Ingress => self.from,
        };
        let frontend = self.frontend(address, direction);
        let labels = match frontend {
            Some(_) => None,
            None => self.learned(subject.id, address, direction),
        };
        let known = frontend.map_or_else(|| snapshot.identity_of(address), |one| one.identity);
        let peer = labels
            .as_ref()
            .map_or(PeerRef::Known(known), PeerRef::Learned);
        let key = FlowKey {
            direction,
            identity: known,
            protocol: self.question.proto.number(),
            port: frontend.map_or(self.question.port, |one| one.frontend.target),
        };
        let is_own = frontend.is_some_and(|one| one.only == Some(subject.id));
        let decision = match peer {
            _ if is_own => Decision::OWN,
            PeerRef::Known(_) => snapshot.judge(subject.id, key),
            PeerRef::Learned(labels) => snapshot.judge_learned(subject.id, labels, key),
        };
        let mut ids = match is_own {
            true => Vec::new(),
            false => snapshot.deciding_rules(subject.id, peer, key),
        };
        if ids.is_empty() {
            ids.push(decision.rule);
        }
        let (l7, note) = self.say((subject.id, direction), peer, decision);
        let note = note
            .or_else(|| is_own.then_some("it reaches itself: nobody else is behind the service"));
        let note = note.or_else(|| {
            let one = frontend?.frontend;
            let server = SocketAddr::new(one.vip, one.port);
            let is_ambiguous = snapshot.is_ambiguous(subject.id, server, one.protocol);
            is_ambiguous
                .then_some("ambiguous service: some of its backends may be reached and others not")
        });
        let mut rules: Vec<RuleOrigin> = ids
            .iter()
            .filter_map(|id| snapshot.rule(*id).cloned())
            .collect();
        rules.sort_by(|a, b| (&a.file, a.line, &a.name).cmp(&(&b.file, b.line, &b.name)));
        rules.dedup();
        Side {
            direction,
            subject: subject.workload.full_name(),
            peer: owner.map_or_else(
                || self.world.shown_address(address),
                |owner| owner.workload.full_name(),
            ),
            decision,
            l7,
            rules,
            note,
        }
    }

    /// The service whose virtual address it is, where it is judged as its backends.
    fn frontend(&self, address: IpAddr, direction: Direction) -> Option<&ServiceFrontend> {
        let protocol = L4Protocol::from_number(self.question.proto.number())?;
        let server = SocketAddr::new(address, self.question.port);
        match direction {
            Direction::Egress => self.world.snapshot.frontend(server, protocol),
            Direction::Ingress => None,
        }
    }

    /// What the address stands for, if the subject has learned it and may.
    fn learned(&self, subject: EndpointId, ip: IpAddr, direction: Direction) -> Option<LabelSet> {
        let snapshot = &self.world.snapshot;
        let learned = self
            .question
            .learned
            .iter()
            .filter(|(_, other)| *other == ip);
        let mut names = learned.map(|(name, _)| name).peekable();
        names.peek()?;
        if direction == Direction::Ingress || snapshot.may_learn(ip).is_err() {
            return None;
        }
        Some(snapshot.learned_labels(subject, names, ip))
    }

    /// What a proxy says of what is said.
    fn say(
        &self,
        (subject, direction): (EndpointId, Direction),
        peer: PeerRef<'_>,
        decision: Decision,
    ) -> (Option<bool>, Option<&'static str>) {
        let EntryVerdict::Redirect(proxy) = decision.verdict else {
            return (None, None);
        };
        let at = (subject, direction);
        match (proxy, &self.question.l7) {
            (Proxy::Names, None) => (None, self.binding_note(at, peer)),
            (Proxy::Tls, None) if self.question.proto == Proto::Udp => (
                None,
                Some("the server name in QUIC's first datagrams is judged (--sni)"),
            ),
            (_, None) => (None, None),
            (Proxy::Names, Some(L7Question::Dns(..))) => {
                (Some(true), self.binding_note(at, peer)) // it says no name
            }
            (Proxy::Names, Some(L7Question::Sni(name))) => (
                Some(self.may_name(at, peer, name)),
                self.binding_note(at, peer),
            ),
            (Proxy::Names, Some(L7Question::Http(request))) => {
                let may = match &request.sni {
                    Some(name) => self.may_name(at, peer, name),
                    None => self.may_request(at, peer, request),
                };
                (Some(may), self.binding_note(at, peer))
            }
            (Proxy::Dns, Some(L7Question::Dns(name, qtype))) => {
                (Some(self.may_ask(subject, (name.clone(), *qtype))), None)
            }
            (Proxy::Http, Some(L7Question::Http(request))) => {
                let sni = request.sni.as_deref();
                let named = sni.is_none_or(|name| self.may_name(at, peer, name));
                (Some(named && self.may_request(at, peer, request)), None)
            }
            (Proxy::Tls | Proxy::Http, Some(L7Question::Sni(name))) => {
                (Some(self.may_name(at, peer, name)), None)
            }
            (
                Proxy::Tls,
                Some(L7Question::Http(HttpQuestion {
                    sni: Some(name), ..
                })),
            ) => (Some(self.may_name(at, peer, name)), None),
            (Proxy::Tls, Some(L7Question::Http(_))) => (
                Some(false),
                Some("server names are judged there, and none was given (--sni)"),
            ),
            (Proxy::Dns, Some(L7Question::Http(_) | L7Question::Sni(_))) => (
                Some(false),
                Some("the port is one of DNS: only questions pass"),
            ),
            (Proxy::Http, Some(L7Question::Dns(..))) => (
                Some(false),
                Some("the port is one of HTTP: only requests pass"),
            ),
            (Proxy::Tls, Some(L7Question::Dns(..))) => (
                Some(false),
                Some("the port is one of TLS: only named servers pass"),
            ),
        }
    }

    fn may_ask(&self, subject: EndpointId, (name, qtype): (fqdn::Name, u16)) -> bool {
        let server = SocketAddr::new(self.to.1, self.question.port);
        let protocol = match self.question.proto {
            Proto::Tcp => L4Protocol::Tcp,
            Proto::Udp | Proto::Sctp | Proto::Icmp | Proto::Icmpv6 => L4Protocol::Udp,
        };
        let question = DnsQuestion {
            name,
            qtype,
            qclass: 1,
        };
        let snapshot = &self.world.snapshot;
        snapshot
            .judge_dns(subject, server, protocol, &question)
            .is_ok()
    }

    fn may_name(
        &self,
        (subject, direction): (EndpointId, Direction),
        peer: PeerRef<'_>,
        name: &str,
    ) -> bool {
        let (snapshot, port) = (&self.world.snapshot, self.question.port);
        let access = snapshot.http_access(subject, direction, peer, port);
        // Whether the certificate is of that name, only the daemon knows.
        let rules = snapshot.tls_rules(subject, direction, (peer, port));
        let ends = |rule: &TlsRule| rule.terminating.is_some() && rule.covers(name);
        let permit = snapshot.permit_tls((subject, direction), (peer, port), &access, Some(name));
        rules.iter().any(ends) || !matches!(permit, Err(TlsDenied::Name | TlsDenied::NotBound))
    }

    /// That the flow is bound to names, and how strictly.
    fn binding_note(
        &self,
        (subject, direction): (EndpointId, Direction),
        peer: PeerRef<'_>,
    ) -> Option<&'static str> {
        let snapshot = &self.world.snapshot;
        let access = snapshot.http_access(subject, direction, peer, self.question.port);
        match access.bound_by()?.1 {
            NameBinding::Off => None,
            NameBinding::Audit => Some(
                "name binding is audit: TLS and HTTP by another name than those of toFQDNs pass and \
                 are told",
            ),
            NameBinding::Enforce => Some(
                "name binding is enforce: TLS and HTTP pass by a name of toFQDNs only, other \
                 protocols pass",
            ),
        }
    }

    fn may_request(
        &self,
        (subject, direction): (EndpointId, Direction),
        peer: PeerRef<'_>,
        asked: &HttpQuestion,
    ) -> bool {
        let snapshot = &self.world.snapshot;
        let port = self.question.port;
        let rules = snapshot.tls_rules(subject, direction, (peer, port));
        let name = asked.sni.as_deref().or(asked.host.as_deref());
        let access = match name.filter(|_| rules.iter().any(|rule| rule.terminating.is_some())) {
            Some(name) => snapshot.http_access_in_tls(subject, direction, (peer, port), name),
            None => snapshot.http_access(subject, direction, peer, port),
        };
        let Ok(path) = Path::parse(asked.path.as_bytes()) else {
            return false;
        };
        let headers = asked.headers.iter();
        let headers: Vec<HeaderLine<'_>> = headers
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let decision = access.judge(&Request {
            method: &asked.method,
            path: Some(&path),
            host: asked.host.as_deref(),
            port: self.question.port,
            headers: &headers,
        });
        matches!(decision, HttpDecision::Allowed { .. })
    }
}
