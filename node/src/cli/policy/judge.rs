//! One question to a scene: may this be sent, and may that be asked?

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use policy::http::{HeaderLine, Path, Request};
use policy::{
    Direction, EndpointId, EntryVerdict, FlowKey, HttpDecision, L4Protocol, PeerRef, Proxy,
    Question, RuleId, RuleOrigin, SniDecision,
};

use super::scene::{Party, Scene, Seen};
use crate::exit::{Exit, USAGE};

/// What is asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// The IANA protocol number.
    pub(super) protocol: u8,
    /// The destination port, or the type of ICMP.
    pub(super) port: u16,
    pub(super) dns: Option<Question>,
    pub(super) http: Option<HttpAsked>,
    pub(super) sni: Option<String>,
}

/// A request: `METHOD PATH [host=H] [Name: value]...`.
#[derive(Clone, Debug)]
pub(super) struct HttpAsked {
    method: String,
    path: String,
    host: Option<String>,
    headers: Vec<(String, String)>,
}

impl HttpAsked {
    /// Reads a request as it is written on the command line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace().peekable();
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return Err(format!(
                "{text:?} is not METHOD PATH [host=H] [Name: value]..."
            ));
        };
        let mut asked = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            host: None,
            headers: Vec::new(),
        };
        while let Some(word) = words.next() {
            if let Some(host) = word.strip_prefix("host=") {
                asked.host = Some(host.to_owned());
                continue;
            }
            let Some(name) = word.strip_suffix(':') else {
                return Err(format!(
                    "{word:?} is neither host=H nor the name of a header"
                ));
            };
            let mut value = Vec::new();
            let ends = |next: &&str| next.ends_with(':') || next.starts_with("host=");
            while let Some(next) = words.next_if(|next| !ends(next)) {
                value.push(next);
            }
            asked.headers.push((name.to_owned(), value.join(" ")));
        }
        Path::parse(asked.path.as_bytes()).map_err(|error| format!("{path:?}: {error}"))?;
        Ok(asked)
    }
}

/// What comes of it.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) egress: Option<Side>,
    pub(super) ingress: Option<Side>,
    /// The side that decides.
    pub(super) direction: Direction,
}

/// What the policy of one side says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Side {
    pub(super) verdict: EntryVerdict,
    /// Whether what is asked inside is allowed, where a proxy judges that.
    pub(super) l7: Option<bool>,
    pub(super) matched: &'static str,
    pub(super) drop_reason: Option<u8>,
    pub(super) rules: Vec<RuleOrigin>,
}

/// Why there is no verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Undecided(pub(super) String);

impl Side {
    pub(super) fn word(&self) -> &'static str {
        match self.verdict {
            EntryVerdict::Redirect(_) => "REDIRECTED",
            EntryVerdict::AuditDefault | EntryVerdict::Allow | EntryVerdict::AuditDeny => "ALLOWED",
            EntryVerdict::FailAuthentication | EntryVerdict::Deny => "DENIED",
        }
    }

    pub(super) fn passes(&self) -> bool {
        self.verdict.passes() && self.l7 != Some(false)
    }
}

impl Outcome {
    /// The sides that there are, the one that decides first.
    pub(super) fn sides(&self) -> impl Iterator<Item = (Direction, &Side)> {
        let egress = self.egress.as_ref().map(|side| (Direction::Egress, side));
        let ingress = self.ingress.as_ref().map(|side| (Direction::Ingress, side));
        let (first, second) = match self.direction {
            Direction::Egress => (egress, ingress),
            Direction::Ingress => (ingress, egress),
        };
        first.into_iter().chain(second)
    }

    pub(super) fn deciding(&self) -> Option<&Side> {
        self.sides().next().map(|(_, side)| side)
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.sides().all(|(_, side)| side.passes())
    }

    /// `DENIED` if a side denies, else `REDIRECTED` if a side redirects.
    pub(super) fn word(&self) -> &'static str {
        let words: Vec<&str> = self.sides().map(|(_, side)| side.word()).collect();
        let find = |word| words.iter().find(|other| **other == word).copied();
        find("DENIED")
            .or_else(|| find("REDIRECTED"))
            .unwrap_or("ALLOWED")
    }

    /// Whether what is asked inside is allowed, where a proxy judges that.
    pub(super) fn l7(&self) -> Option<bool> {
        let judged: Vec<bool> = self.sides().filter_map(|(_, side)| side.l7).collect();
        (!judged.is_empty()).then(|| judged.iter().all(|allowed| *allowed))
    }
}

impl Scene {
    /// Asks it.
    ///
    /// # Errors
    /// As wrong usage, if neither side is an endpoint.
    pub(super) fn ask(
        &self,
        (from, to): (&Party, &Party),
        asked: &Asked,
    ) -> Result<Result<Outcome, Undecided>> {
        if from.endpoint.is_none() && to.endpoint.is_none() {
            let message = format!(
                "neither {} nor {} is an endpoint of the files: no policy is about them",
                from.text, to.text
            );
            return Err(Exit::with(USAGE, message));
        }
        let needs = |party: &Party| {
            let text = &party.text;
            Undecided(format!(
                "{text} has no address here: say what it resolved to with --learn {text}=ADDRESS"
            ))
        };
        if let Some(party) = [from, to]
            .into_iter()
            .find(|party| party.addresses.is_empty())
        {
            return Ok(Err(needs(party)));
        }
        let mut outcomes = Vec::new();
        for source in &from.addresses {
            for destination in &to.addresses {
                let egress = from.endpoint.filter(|_| from.endpoint != to.endpoint);
                let ingress = to.endpoint.filter(|_| from.endpoint != to.endpoint);
                outcomes.push(Outcome::of(
                    egress.map(|id| self.side(Direction::Egress, id, (*destination, asked))),
                    ingress.map(|id| self.side(Direction::Ingress, id, (*source, asked))),
                ));
            }
        }
        let mut outcomes = outcomes.into_iter();
        let Some(first) = outcomes.next() else {
            return Ok(Err(needs(to)));
        };
        if outcomes.any(|other| (other.word(), other.l7()) != (first.word(), first.l7())) {
            let message = format!("the addresses of {} differ: ask for one of them", to.text);
            return Ok(Err(Undecided(message)));
        }
        Ok(Ok(first))
    }

    fn side(
        &self,
        direction: Direction,
        endpoint: EndpointId,
        (peer, asked): (IpAddr, &Asked),
    ) -> Side {
        let seen = match direction {
            Direction::Egress => self.seen_by(endpoint, peer),
            Direction::Ingress => Seen::Known(self.snapshot.identity_of(peer)),
        };
        let (identity, peer_ref) = match &seen {
            Seen::Known(identity) => (*identity, PeerRef::Known(*identity)),
            Seen::Learned(labels) => (policy::Identity::ANY, PeerRef::Learned(labels)),
        };
        let flow = FlowKey {
            direction,
            identity,
            protocol: asked.protocol,
            port: asked.port,
        };
        let decision = match &seen {
            Seen::Known(_) => self.snapshot.judge(endpoint, flow),
            Seen::Learned(labels) => self.snapshot.judge_learned(endpoint, labels, flow),
        };
        let rules = self.snapshot.deciding_rules(endpoint, peer_ref, flow);
        let mut side = Side {
            verdict: decision.verdict,
            l7: None,
            matched: decision.matched.word(),
            drop_reason: decision.drop_reason(),
            rules: self.origins(&rules),
        };
        if let EntryVerdict::Redirect(proxy) = decision.verdict {
            let judged = match proxy {
                Proxy::Dns => self.dns(endpoint, peer, asked),
                Proxy::Http => self.http((endpoint, direction), peer_ref, asked),
                Proxy::Tls => self.sni((endpoint, direction), peer_ref, asked),
            };
            if let Some((allowed, rule)) = judged {
                side.l7 = Some(allowed);
                if let Some(rule) = rule.filter(|rule| *rule != RuleId::NONE) {
                    side.rules = self.origins(&[rule]);
                }
            }
        }
        side
    }

    fn origins(&self, rules: &[RuleId]) -> Vec<RuleOrigin> {
        let mut origins: Vec<RuleOrigin> = rules
            .iter()
            .filter_map(|rule| self.snapshot.rule(*rule).cloned())
            .collect();
        origins.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        origins.dedup();
        origins
    }

    fn dns(
        &self,
        endpoint: EndpointId,
        server: IpAddr,
        asked: &Asked,
    ) -> Option<(bool, Option<RuleId>)> {
        let question = asked.dns.as_ref()?;
        let protocol = match asked.protocol {
            6 => L4Protocol::Tcp,
            _ => L4Protocol::Udp,
        };
        let server = SocketAddr::new(server, asked.port);
        let verdict = self
            .snapshot
            .judge_dns(endpoint, server, protocol, question);
        Some(match verdict {
            Ok(permit) => (true, Some(permit.rule())),
            Err(_) => (false, None),
        })
    }

    fn http(
        &self,
        (endpoint, direction): (EndpointId, Direction),
        peer: PeerRef<'_>,
        asked: &Asked,
    ) -> Option<(bool, Option<RuleId>)> {
        let http = asked.http.as_ref()?;
        let access = self
            .snapshot
            .http_access(endpoint, direction, peer, asked.port);
        let path = Path::parse(http.path.as_bytes()).ok()?;
        let headers: Vec<HeaderLine<'_>> = http
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let request = Request {
            method: &http.method,
            path: Some(&path),
            host: http.host.as_deref(),
            port: asked.port,
            headers: &headers,
        };
        Some(match access.judge(&request) {
            HttpDecision::Allowed { rule, .. } => (true, Some(rule)),
            HttpDecision::Denied => (false, None),
        })
    }

    fn sni(
        &self,
        (endpoint, direction): (EndpointId, Direction),
        peer: PeerRef<'_>,
        asked: &Asked,
    ) -> Option<(bool, Option<RuleId>)> {
        let name = asked.sni.as_deref()?;
        let name = Some(name).filter(|name| !name.is_empty());
        let place = (peer, asked.port);
        Some(
            match self.snapshot.judge_sni(endpoint, direction, place, name) {
                SniDecision::Allowed(rule) => (true, rule),
                SniDecision::Denied => (false, None),
            },
        )
    }
}

impl Outcome {
    /// The side that denies decides; else the egress one, if there is one.
    pub(super) fn of(egress: Option<Side>, ingress: Option<Side>) -> Self {
        let direction = match (&egress, &ingress) {
            (Some(egress), _) if !egress.passes() => Direction::Egress,
            (_, Some(ingress)) if !ingress.passes() => Direction::Ingress,
            (Some(_), _) | (None, None) => Direction::Egress,
            (None, Some(_)) => Direction::Ingress,
        };
        Self {
            egress,
            ingress,
            direction,
        }
    }
}
