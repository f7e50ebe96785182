//! The flows of the HTTP proxy.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use flow::{
    Direction, DropReason, Event, Flow, Http, HttpHeader, Ip, MessageKind, TracePoint, TraceReason,
    Verdict,
};
use httpproxy::{
    By, Denied, End, EndRecord, Named, News, Note, Protocol, Redirected, Refused, RequestRecord,
    ResponseRecord, Said, Told, TunnelEnd, TunnelEnded, Why,
};
use policy::{MatchType, NameBinding, RuleId};

use super::{Peers, Teller, answering, l4};
use crate::clock;

/// Policy denied it.
const POLICY_DENIED: u8 = 133;
/// That the body of a request whose head went on can't be read.
const BAD_REQUEST_BODY: &str = "malformed-request-body";

impl Teller {
    /// The flow of what the HTTP proxy tells; `None` for what is only counted.
    pub(crate) fn http(&self, news: &News) -> Option<Flow> {
        match news {
            News::Refused(refused) => Some(self.refused(refused)),
            News::Named(named) => self.named(named),
            News::Tunnel(tunnel) => Some(self.tunnel(tunnel)),
            News::Http(redirected, Told::Request(request)) => {
                Some(self.request(redirected, request))
            }
            News::Http(redirected, Told::Response(response)) => {
                Some(self.response_of(redirected, response))
            }
            News::Http(redirected, Told::Ended(end)) => Some(self.ended(redirected, end)),
            News::Http(_, Told::Fault(_)) => None,
        }
    }

    fn request(&self, redirected: &Redirected, request: &RequestRecord) -> Flow {
        let verdict = match &request.verdict {
            httpproxy::Verdict::Allowed { audited: true, .. } => Verdict::Audit,
            httpproxy::Verdict::Allowed { .. } => Verdict::Forwarded,
            httpproxy::Verdict::Denied(_)
            | httpproxy::Verdict::Malformed(_)
            | httpproxy::Verdict::TooSlow => Verdict::Dropped,
        };
        let peers = self.redirected_peers(redirected);
        let message = self.message(request, MessageKind::Request, &request.fields);
        let flow = self.of_connection(redirected, &peers, Flow::new(Event::Http(message), verdict));
        Flow {
            time: Some(clock::time_of_day(request.at)),
            is_reply: Some(false),
            policy_log: self.remarks(request, &peers),
            trace_id: trace_id(&request.fields),
            ..self.allowed_by(request, flow)
        }
    }

    /// The server is the source of its response, also where the proxy made it.
    fn response_of(&self, redirected: &Redirected, response: &ResponseRecord) -> Flow {
        let verdict = match response.by {
            By::Server
            | By::Proxy(Why::Denied | Why::Malformed | Why::BadBody(_) | Why::TooSlow) => {
                Verdict::Forwarded
            }
            By::Proxy(
                Why::NoPolicy
                | Why::Unreachable
                | Why::ServerGone
                | Why::BadResponse(_)
                | Why::ServerSlow
                | Why::Untrusted,
            ) => Verdict::Error,
        };
        let request = &response.request;
        let peers = self.redirected_peers(redirected);
        let message = Http {
            code: response.status.into(),
            latency_ns: nanoseconds(response.latency),
            ..self.message(request, MessageKind::Response, &response.fields)
        };
        let flow = self.of_connection(redirected, &peers, Flow::new(Event::Http(message), verdict));
        let flow = self.allowed_by(request, flow);
        let remarks = self.remarks(request, &peers).into_iter();
        let why = match response.by {
            By::Proxy(Why::BadBody(_)) => Some(Arc::from(BAD_REQUEST_BODY)),
            By::Proxy(_) | By::Server => None,
        };
        Flow {
            time: Some(clock::time_of_day(request.at + response.latency)),
            policy_log: remarks.chain(why).collect(),
            trace_id: trace_id(&request.fields),
            ..answering(flow)
        }
    }

    /// An exchange that ended in another way than by its response. Where none was told this stands for it,
    /// as an error without a status; else it is what was seen of the connection then, or a drop where
    /// policy ended it: a request has one event, and at most one response.
    fn ended(&self, redirected: &Redirected, end: &EndRecord) -> Flow {
        let (word, verdict) = match end.end {
            End::TunnelClosed => ("tunnel-closed", Verdict::Forwarded),
            End::Revoked => ("policy-changed", Verdict::Dropped),
            End::ClientGone => ("client-gone", Verdict::Error),
            End::ServerGone => ("server-gone", Verdict::Error),
            End::Idle => ("idle", Verdict::Error),
            End::BadRequestBody(_) => (BAD_REQUEST_BODY, Verdict::Error),
            End::BadResponseBody(_) => ("malformed-response-body", Verdict::Error),
            End::Unreachable => ("unreachable", Verdict::Error),
            End::Stopped => ("daemon-stopped", Verdict::Error),
        };
        let request = &end.request;
        let peers = self.redirected_peers(redirected);
        let time = Some(clock::time_of_day(request.at + end.duration));
        let log = [word.into(), moved(end.sent, end.received)];
        if !end.is_answered {
            let message = Http {
                latency_ns: nanoseconds(end.duration),
                ..self.message(request, MessageKind::Response, &[])
            };
            let flow = Flow::new(Event::Http(message), verdict);
            let flow = self.of_connection(redirected, &peers, flow);
            return Flow {
                time,
                policy_log: log.into(),
                trace_id: trace_id(&request.fields),
                ..answering(self.allowed_by(request, flow))
            };
        }
        let event = match verdict {
            Verdict::Dropped => policy_drop(),
            Verdict::Unknown
            | Verdict::Forwarded
            | Verdict::Error
            | Verdict::Audit
            | Verdict::Redirected
            | Verdict::Traced
            | Verdict::Translated => seen_on_its_way(),
        };
        let url = self.redaction.url(&request.url);
        let which = format!("{} {url}", request.method);
        let flow = self.of_connection(redirected, &peers, Flow::new(event, verdict));
        Flow {
            time,
            is_reply: (verdict != Verdict::Dropped).then_some(false),
            policy_log: log.into_iter().chain([which.into()]).collect(),
            trace_id: trace_id(&request.fields),
            ..self.allowed_by(request, flow)
        }
    }

    /// What the deciding rule asks to be logged, what its headers were, and why a request went nowhere.
    fn remarks(&self, request: &RequestRecord, peers: &Peers) -> Vec<Arc<str>> {
        match &request.verdict {
            httpproxy::Verdict::Allowed { rule, notes, .. } => {
                let log = self.directory.load().log(*rule).cloned();
                let notes = notes.iter().flat_map(|note| match note {
                    Note::Missing(name, value) => {
                        let value = self.redaction.header(name, value);
                        vec![format!("missing header {name}: {value}")]
                    }
                    Note::Rejected(name, value) => {
                        let value = self.redaction.header(name, value);
                        vec![format!("rejected header {name}: {value}")]
                    }
                    Note::Host(bound) => {
                        let said = ("host", Some(request.host()));
                        let found = of_name(said, bound.fits, &peers.destination_names);
                        found.map_or_else(Vec::new, |what| vec![what, bound_words(bound.mode)])
                    }
                });
                log.into_iter().chain(notes.map(Arc::from)).collect()
            }
            httpproxy::Verdict::Denied(Denied::NotAllowed) => Vec::new(),
            httpproxy::Verdict::Denied(Denied::NameNotBound) => {
                let what = of_name(("host", Some(request.host())), false, &[]);
                let mode = bound_words(NameBinding::Enforce);
                what.into_iter().chain([mode]).map(Arc::from).collect()
            }
            httpproxy::Verdict::Denied(Denied::OtherName) => vec!["other-name-than-tls".into()],
            httpproxy::Verdict::Denied(Denied::NoPolicy) => vec!["no-policy".into()],
            httpproxy::Verdict::Malformed(bad) => vec![bad.to_string().into()],
            httpproxy::Verdict::TooSlow => vec!["the head took too long".into()],
        }
    }

    fn allowed_by(&self, request: &RequestRecord, flow: Flow) -> Flow {
        match &request.verdict {
            httpproxy::Verdict::Allowed { rule, .. } => self.allowed_by_rule(*rule, flow),
            httpproxy::Verdict::Denied(_)
            | httpproxy::Verdict::Malformed(_)
            | httpproxy::Verdict::TooSlow => flow,
        }
    }

    fn allowed_by_rule(&self, rule: RuleId, flow: Flow) -> Flow {
        let policies = self.directory.load().policies(rule);
        match flow.traffic_direction {
            Direction::Ingress => Flow {
                ingress_allowed_by: policies,
                ..flow
            },
            Direction::Egress | Direction::Unknown => Flow {
                egress_allowed_by: policies,
                ..flow
            },
        }
    }

    /// The end of a tunnel that is no request's. Hubble has no word for it: it is told as what was seen
    /// of a connection on its way out of the proxy, or as a drop where policy ended it.
    fn tunnel(&self, tunnel: &TunnelEnd) -> Flow {
        let (trace, drop) = (seen_on_its_way(), policy_drop());
        let (word, event, verdict) = match tunnel.end {
            TunnelEnded::Closed => ("tunnel-closed", trace, Verdict::Forwarded),
            TunnelEnded::Gone => ("tunnel-reset", trace, Verdict::Forwarded),
            TunnelEnded::Idle => ("idle", trace, Verdict::Forwarded),
            TunnelEnded::Stopped => ("daemon-stopped", trace, Verdict::Forwarded),
            TunnelEnded::OtherName => ("other-name-in-second-hello", drop, Verdict::Dropped),
            TunnelEnded::Revoked => ("policy-changed", drop, Verdict::Dropped),
        };
        let name = tunnel.server_name.as_ref();
        let name = name.map(|name| Arc::from(format!("server name {name}")));
        let ech = tunnel.has_ech.then(|| Arc::from("encrypted-client-hello"));
        let after = tunnel.at.saturating_duration_since(tunnel.begin);
        let after = format!("after {} ms", after.as_millis());
        let redirected = &tunnel.redirected;
        let peers = self.redirected_peers(redirected);
        let flow = self.of_connection(redirected, &peers, Flow::new(event, verdict));
        let log = [
            word.into(),
            moved(tunnel.sent, tunnel.received),
            after.into(),
        ];
        Flow {
            time: Some(clock::time_of_day(tunnel.at)),
            is_reply: (verdict == Verdict::Forwarded).then_some(false),
            policy_log: log.into_iter().chain(name).chain(ech).collect(),
            ..self.allowed_by_rule(tunnel.rule, flow)
        }
    }

    /// A connection that was refused as a whole: a drop without a message of a protocol.
    fn refused(&self, refused: &Refused) -> Flow {
        let redirected = &refused.redirected;
        let peers = self.redirected_peers(redirected);
        let name = refused.server_name.as_ref().map(|name| format!(": {name}"));
        let mut log = format!("{}{}", refused.refusal.word(), name.unwrap_or_default());
        if let Some(remark) = &refused.remark {
            log.push_str(&format!(" ({remark})"));
        }
        Flow {
            time: Some(clock::time_of_day(refused.at)),
            policy_log: vec![Arc::from(log)],
            ..self.of_connection(
                redirected,
                &peers,
                Flow::new(policy_drop(), Verdict::Dropped),
            )
        }
    }

    /// What a connection said that is bound to names, unless it said one that was learned for the
    /// address: of that its end is told.
    fn named(&self, named: &Named) -> Option<Flow> {
        let redirected = &named.redirected;
        let peers = self.redirected_peers(redirected);
        let (what, fits) = match &named.said {
            Said::Server { name, fits } => {
                let said = ("sni", name.as_deref());
                (of_name(said, *fits, &peers.destination_names)?, *fits)
            }
            Said::Nothing => ("opaque".to_owned(), true),
            Said::Unfit(refusal) => (refusal.word().to_owned(), false),
        };
        let judged = Event::PolicyVerdict {
            match_type: MatchType::L3L4.number(),
            drop_reason: None,
        };
        let dropped = Event::Drop {
            reason: DropReason::from_number(POLICY_DENIED),
        };
        let (event, verdict) = match (fits, named.mode) {
            (true, _) => (judged, Verdict::Forwarded),
            (false, NameBinding::Enforce) => (dropped, Verdict::Dropped),
            (false, NameBinding::Off | NameBinding::Audit) => (judged, Verdict::Audit),
        };
        let directory = self.directory.load();
        let log = directory.log(named.rule).cloned();
        let words = [what, bound_words(named.mode)].map(Arc::from);
        let policies = directory.policies(named.rule);
        // Only what a workload sends is bound to names. By what would have denied it, were it not only audited.
        let (allowed_by, denied_by) = match fits {
            true => (policies, Vec::new()),
            false => (Vec::new(), policies),
        };
        Some(Flow {
            time: Some(clock::time_of_day(named.at)),
            is_reply: (verdict != Verdict::Dropped).then_some(false),
            policy_log: log.into_iter().chain(words).collect(),
            egress_allowed_by: allowed_by,
            egress_denied_by: denied_by,
            ..self.of_connection(redirected, &peers, Flow::new(event, verdict))
        })
    }

    /// Who talks to whom over a redirected connection.
    fn redirected_peers(&self, redirected: &Redirected) -> Peers {
        let (client, server) = (redirected.client, redirected.server);
        let endpoint = redirected.endpoint;
        match redirected.direction {
            policy::Direction::Egress => {
                self.peers(endpoint, (client, server), redirected.protocol)
            }
            policy::Direction::Ingress => {
                let (other, names) = self.peer_of(Some(endpoint), client.ip(), None);
                Peers {
                    source: other,
                    destination: self.local(endpoint.get(), server.ip()),
                    source_names: names,
                    destination_names: Vec::new(),
                }
            }
        }
    }

    fn message(
        &self,
        request: &RequestRecord,
        kind: MessageKind,
        fields: &[(String, String)],
    ) -> Http {
        Http {
            kind,
            latency_ns: 0,
            code: 0,
            method: request.method.as_str().into(),
            url: self.redaction.url(&request.url).into(),
            protocol: request.version.map_or("HTTP/1.1", Protocol::text).into(),
            headers: self.headers(fields),
        }
    }

    /// Sorted by name, in the form that Go's programs write names.
    fn headers(&self, fields: &[(String, String)]) -> Vec<HttpHeader> {
        let header = |(name, value): &(String, String)| HttpHeader {
            key: canonical(name).into(),
            value: self.redaction.header(name, value).into(),
        };
        let mut headers: Vec<HttpHeader> = fields.iter().map(header).collect();
        headers.sort_by(|a, b| a.key.cmp(&b.key));
        headers
    }

    /// Fills in what is the same for all flows of a connection, from its client to its server.
    fn of_connection(&self, redirected: &Redirected, peers: &Peers, flow: Flow) -> Flow {
        let (client, server) = (redirected.client, redirected.server);
        self.with_services(Flow {
            ip: Some(Ip::new(client.ip(), server.ip())),
            l4: l4(
                redirected.protocol.number(),
                (client.port(), server.port()),
                None,
            ),
            traffic_direction: match redirected.direction {
                policy::Direction::Egress => Direction::Egress,
                policy::Direction::Ingress => Direction::Ingress,
            },
            ..self.between(peers, flow)
        })
    }
}

/// What was seen of a connection on its way out of the proxy: how ends are told for which Hubble has no
/// word.
const fn seen_on_its_way() -> Event {
    Event::Trace {
        point: TracePoint::FROM_PROXY,
        reason: TraceReason::Established,
    }
}

fn policy_drop() -> Event {
    Event::Drop {
        reason: DropReason::from_number(POLICY_DENIED),
    }
}

fn moved(sent: u64, received: u64) -> Arc<str> {
    format!("{sent} octets up, {received} down").into()
}

/// The trace that a request belongs to, by its `traceparent` (W3C Trace Context, 3.2): empty for one that
/// is not as it should be, or where there are several.
fn trace_id(fields: &[(String, String)]) -> Arc<str> {
    trace_of(fields).map(Arc::from).unwrap_or_default()
}

fn trace_of(fields: &[(String, String)]) -> Option<&str> {
    let named = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("traceparent");
    let mut parents = fields.iter().filter(named);
    let (Some((_, parent)), None) = (parents.next(), parents.next()) else {
        return None;
    };
    let mut parts = parent.split('-');
    let is_hex = |part: &&str| {
        part.bytes()
            .all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut part = |len| parts.next().filter(|part| part.len() == len).filter(is_hex);
    let (Some(version), Some(trace), Some(span), Some(_)) = (part(2), part(32), part(16), part(2))
    else {
        return None;
    };
    let is_zero = |part: &str| part.bytes().all(|it| it == b'0');
    // A later version may go on, this one may not.
    let is_over = parts.next().is_none() || version != "00";
    let is_valid = version != "ff" && !is_zero(trace) && !is_zero(span) && is_over;
    is_valid.then_some(trace)
}

/// `x-request-id` is `X-Request-Id`.
fn canonical(name: &str) -> Cow<'_, str> {
    let letters = || {
        let mut is_start = true;
        name.chars().map(move |letter| {
            let letter = match is_start {
                true => letter.to_ascii_uppercase(),
                false => letter.to_ascii_lowercase(),
            };
            is_start = letter == '-';
            letter
        })
    };
    // Most write it so.
    match letters().eq(name.chars()) {
        true => Cow::Borrowed(name),
        false => Cow::Owned(letters().collect()),
    }
}

/// What is told of a server name or host of a connection that is bound to names; nothing of one that was
/// learned for the address.
fn of_name((kind, name): (&str, Option<&str>), fits: bool, learned: &[Arc<str>]) -> Option<String> {
    let name = name.unwrap_or_default();
    let bare = name.split(':').next().unwrap_or_default();
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    let is_learned = || learned.iter().any(|one| one.eq_ignore_ascii_case(bare));
    let what = match fits {
        false => "not-allowed",
        true if is_learned() => return None,
        true => "not-learned",
    };
    match name {
        "" => Some(format!("{kind}-{what}")),
        name => Some(format!("{kind}-{what}: {name}")),
    }
}

fn bound_words(mode: NameBinding) -> String {
    format!("name-binding: {}", mode.word())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_as_programs_in_go_write_it() {
        for (name, written) in [
            ("x-request-id", "X-Request-Id"),
            ("X-Request-Id", "X-Request-Id"),
            ("DNT", "Dnt"),
            ("Content-LENGTH", "Content-Length"),
            ("-a--b-", "-A--B-"),
            ("", ""),
        ] {
            assert_eq!(canonical(name), written, "{name}");
        }
    }

    #[test]
    fn a_trace_is_known_by_a_parent_that_is_as_it_should_be() {
        const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
        let of = |values: &[&str]| {
            let field = |value: &&str| ("TraceParent".to_owned(), (*value).to_owned());
            let fields: Vec<_> = values.iter().map(field).collect();
            trace_id(&fields).to_string()
        };
        let parent =
            |version: &str, rest: &str| format!("{version}-{TRACE}-b7ad6b7169203331-{rest}");
        for (version, rest, known) in [
            ("00", "01", true),
            ("00", "01-more", false),
            ("00", "1", false),
            ("cc", "01-more", true),
            ("ff", "01", false),
            ("0", "01", false),
        ] {
            let told = of(&[&parent(version, rest)]);
            assert_eq!(told == TRACE, known, "{version} {rest}: {told:?}");
            assert_eq!(told.is_empty(), !known);
        }
        let good = parent("00", "01");
        for wrong in [
            "",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "HUBBLE_REDACTED",
        ] {
            assert_eq!(of(&[wrong]), "", "{wrong}");
        }
        assert_eq!(of(&[&good, &good]), "", "which of them?");
        assert_eq!(of(&[]), "");
    }
}
