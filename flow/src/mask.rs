//! Which fields of a flow are wanted.

use std::collections::BTreeMap;

/// A field mask, as protobuf has it: paths of fields by their names in Hubble's protocol.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FieldMask {
    /// The fields that are wanted, each with what is wanted of it; none for all of it.
    fields: BTreeMap<&'static str, Self>,
}

/// A path that no flow has.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid path {path:?} for a flow")]
pub struct BadPath {
    /// The path.
    pub path: String,
}

impl FieldMask {
    /// All fields.
    pub const ALL: Self = Self {
        fields: BTreeMap::new(),
    };

    /// The mask of these paths; none want all.
    ///
    /// # Errors
    ///
    /// A path that no flow has.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Self, BadPath> {
        let mut mask = Self::default();
        for path in paths {
            mask.add(path).ok_or_else(|| BadPath {
                path: path.to_owned(),
            })?;
        }
        Ok(mask)
    }

    fn add(&mut self, path: &str) -> Option<()> {
        let mut kind = Kind::FLOW;
        let mut mask = self;
        let mut words = path.split('.').peekable();
        while let Some(word) = words.next() {
            let (name, inner) = kind.fields().iter().find(|(name, _)| *name == word)?;
            let is_whole = mask.fields.get(name).is_some_and(Self::is_all);
            mask = mask.fields.entry(name).or_default();
            match words.peek() {
                // What was wanted whole stays so.
                Some(_) if is_whole => return Self::default().add_in(*inner, words),
                Some(_) => kind = *inner,
                None => mask.fields.clear(),
            }
        }
        Some(())
    }

    /// Looks whether the rest of a path is there.
    fn add_in<'a>(&mut self, mut kind: Kind, words: impl Iterator<Item = &'a str>) -> Option<()> {
        for word in words {
            (_, kind) = *kind.fields().iter().find(|(name, _)| *name == word)?;
        }
        Some(())
    }

    /// Whether all fields are wanted.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.fields.is_empty()
    }

    /// What is wanted of a field, if it is wanted.
    #[must_use]
    pub fn of(&self, field: &str) -> Option<&Self> {
        match self.is_all() {
            true => Some(self),
            false => self.fields.get(field),
        }
    }
}

/// The kinds of messages that a path goes through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Flow,
    Emitter,
    Pair,
    Ip,
    L4,
    Ports,
    Tcp,
    TcpFlags,
    Icmp,
    Vrrp,
    Igmp,
    Tunnel,
    Endpoint,
    L7,
    Dns,
    Http,
    EventType,
    Service,
    File,
    IpTrace,
    Interface,
    Trace,
    TraceParent,
    Aggregate,
    /// A value, or a list, into which no path goes.
    End,
}

impl Kind {
    /// What a path begins in.
    pub(crate) const FLOW: Self = Self::Flow;

    /// The fields of a message, each with what is in it.
    #[expect(clippy::too_many_lines, reason = "one line for each field")]
    pub(crate) fn fields(self) -> &'static [(&'static str, Self)] {
        match self {
            Self::Flow => &[
                ("time", Self::End),
                ("uuid", Self::End),
                ("emitter", Self::Emitter),
                ("verdict", Self::End),
                ("drop_reason", Self::End),
                ("auth_type", Self::End),
                ("ethernet", Self::Pair),
                ("IP", Self::Ip),
                ("l4", Self::L4),
                ("tunnel", Self::Tunnel),
                ("source", Self::Endpoint),
                ("destination", Self::Endpoint),
                ("Type", Self::End),
                ("node_name", Self::End),
                ("node_labels", Self::End),
                ("source_names", Self::End),
                ("destination_names", Self::End),
                ("l7", Self::L7),
                ("reply", Self::End),
                ("event_type", Self::EventType),
                ("source_service", Self::Service),
                ("destination_service", Self::Service),
                ("traffic_direction", Self::End),
                ("policy_match_type", Self::End),
                ("trace_observation_point", Self::End),
                ("trace_reason", Self::End),
                ("file", Self::File),
                ("ip_trace_id", Self::IpTrace),
                ("drop_reason_desc", Self::End),
                ("is_reply", Self::End),
                ("debug_capture_point", Self::End),
                ("interface", Self::Interface),
                ("proxy_port", Self::End),
                ("trace_context", Self::Trace),
                ("sock_xlate_point", Self::End),
                ("socket_cookie", Self::End),
                ("cgroup_id", Self::End),
                ("Summary", Self::End),
                ("extensions", Self::End),
                ("egress_allowed_by", Self::End),
                ("ingress_allowed_by", Self::End),
                ("egress_denied_by", Self::End),
                ("ingress_denied_by", Self::End),
                ("policy_log", Self::End),
                ("aggregate", Self::Aggregate),
            ],
            Self::Emitter => &[("name", Self::End), ("version", Self::End)],
            Self::Pair => &[("source", Self::End), ("destination", Self::End)],
            Self::Ip => &[
                ("source", Self::End),
                ("source_xlated", Self::End),
                ("destination", Self::End),
                ("ipVersion", Self::End),
                ("encrypted", Self::End),
            ],
            Self::L4 => &[
                ("TCP", Self::Tcp),
                ("UDP", Self::Ports),
                ("SCTP", Self::Ports),
                ("ICMPv4", Self::Icmp),
                ("ICMPv6", Self::Icmp),
                ("VRRP", Self::Vrrp),
                ("IGMP", Self::Igmp),
            ],
            Self::Vrrp => &[
                ("type", Self::End),
                ("vrid", Self::End),
                ("priority", Self::End),
            ],
            Self::Igmp => &[("type", Self::End), ("group_address", Self::End)],
            Self::Ports => &[("source_port", Self::End), ("destination_port", Self::End)],
            Self::Tcp => &[
                ("source_port", Self::End),
                ("destination_port", Self::End),
                ("flags", Self::TcpFlags),
            ],
            Self::TcpFlags => &[
                ("FIN", Self::End),
                ("SYN", Self::End),
                ("RST", Self::End),
                ("PSH", Self::End),
                ("ACK", Self::End),
                ("URG", Self::End),
                ("ECE", Self::End),
                ("CWR", Self::End),
                ("NS", Self::End),
            ],
            Self::Icmp => &[("type", Self::End), ("code", Self::End)],
            Self::Tunnel => &[
                ("protocol", Self::End),
                ("IP", Self::Ip),
                ("l4", Self::L4),
                ("vni", Self::End),
            ],
            Self::Endpoint => &[
                ("ID", Self::End),
                ("identity", Self::End),
                ("cluster_name", Self::End),
                ("namespace", Self::End),
                ("labels", Self::End),
                ("pod_name", Self::End),
                ("workloads", Self::End),
            ],
            Self::L7 => &[
                ("type", Self::End),
                ("latency_ns", Self::End),
                ("dns", Self::Dns),
                ("http", Self::Http),
            ],
            Self::Dns => &[
                ("query", Self::End),
                ("ips", Self::End),
                ("ttl", Self::End),
                ("cnames", Self::End),
                ("observation_source", Self::End),
                ("rcode", Self::End),
                ("qtypes", Self::End),
                ("rrtypes", Self::End),
            ],
            Self::Http => &[
                ("code", Self::End),
                ("method", Self::End),
                ("url", Self::End),
                ("protocol", Self::End),
                ("headers", Self::End),
            ],
            Self::EventType => &[("type", Self::End), ("sub_type", Self::End)],
            Self::Service => &[("name", Self::End), ("namespace", Self::End)],
            Self::File => &[("name", Self::End), ("line", Self::End)],
            Self::IpTrace => &[("trace_id", Self::End), ("ip_option_type", Self::End)],
            Self::Interface => &[("index", Self::End), ("name", Self::End)],
            Self::Trace => &[("parent", Self::TraceParent)],
            Self::TraceParent => &[("trace_id", Self::End)],
            Self::Aggregate => &[
                ("ingress_flow_count", Self::End),
                ("egress_flow_count", Self::End),
                ("unknown_direction_flow_count", Self::End),
            ],
            Self::End => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_wanted_by_their_paths() {
        let mask = FieldMask::new(["time", "source.identity", "source.pod_name", "l7"]).unwrap();
        let source = mask.of("source").unwrap();
        assert!(source.of("identity").is_some() && source.of("labels").is_none());
        assert!(
            mask.of("l7")
                .unwrap()
                .of("dns")
                .unwrap()
                .of("query")
                .is_some()
        );
        assert!(mask.of("time").is_some() && mask.of("verdict").is_none());
        assert!(FieldMask::default().of("verdict").is_some());
    }

    #[test]
    fn what_is_wanted_whole_stays_whole_in_either_order() {
        for paths in [["source", "source.identity"], ["source.identity", "source"]] {
            let mask = FieldMask::new(paths).unwrap();
            assert!(mask.of("source").unwrap().is_all(), "{paths:?}");
        }
    }

    #[test]
    fn paths_that_no_flow_has_are_refused() {
        for path in [
            "nope",
            "",
            "time.seconds",
            "source.",
            "source.x",
            "l7.dns.query.x",
        ] {
            let error = FieldMask::new(["l7", path]).unwrap_err();
            assert_eq!(error.path, path);
        }
        assert!(FieldMask::new(["source", "source.x"]).is_err());
    }
}
