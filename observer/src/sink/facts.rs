//! What of a flow can be searched for in logs: a few facts, each under a name of its own, by
//! OpenTelemetry's words where it has some. Only what is wanted of the flow is among them.

use flow::{Endpoint, Event, FieldMask, Flow, L4, Printer};

/// One fact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fact {
    Text(String),
    Number(i64),
}

/// The facts of a flow, by their names.
pub(super) type Facts = Vec<(&'static str, Fact)>;

/// The facts that a mask wants.
pub(super) fn of(flow: &Flow, mask: &FieldMask) -> Facts {
    let mut facts = Facts::new();
    let text = |text: &str| Fact::Text(text.to_owned());
    if mask.of("verdict").is_some() {
        facts.push(("hubble.verdict", text(flow.verdict.name())));
    }
    if let (Some(_), Some(reason)) = (mask.of("drop_reason_desc"), flow.drop_reason()) {
        let name = reason
            .name()
            .map_or_else(|| reason.number().to_string(), str::to_owned);
        facts.push(("hubble.drop_reason", Fact::Text(name)));
    }
    if mask.of("event_type").is_some() {
        facts.push(("hubble.event", text(event(&flow.event))));
    }
    if mask.of("traffic_direction").is_some() {
        facts.push(("hubble.direction", text(flow.traffic_direction.name())));
    }
    packet(flow, mask, &mut facts);
    let ends = [
        (
            "source",
            &flow.source,
            ["hubble.source.namespace", "hubble.source.pod"],
        ),
        (
            "destination",
            &flow.destination,
            ["hubble.destination.namespace", "hubble.destination.pod"],
        ),
    ];
    for (field, endpoint, names) in ends {
        if let Some(mask) = mask.of(field) {
            peer(endpoint, mask, names, &mut facts);
        }
    }
    if let (Some(_), [name, ..]) = (mask.of("destination_names"), &flow.destination_names[..]) {
        facts.push(("hubble.destination.name", text(name)));
    }
    if let Some(mask) = mask.of("l7") {
        message(&flow.event, mask, &mut facts);
    }
    facts
}

fn event(event: &Event) -> &'static str {
    match event {
        Event::Dns(_) => "dns",
        Event::Http(_) => "http",
        Event::OtherL7 { .. } => "l7",
        Event::PolicyVerdict { .. } => "policy-verdict",
        Event::Drop { .. } => "drop",
        Event::Trace { .. } => "trace",
        Event::Other { .. } => "other",
    }
}

/// Addresses and ports.
fn packet(flow: &Flow, mask: &FieldMask, facts: &mut Facts) {
    if let (Some(mask), Some(ip)) = (mask.of("IP"), flow.ip) {
        for (field, name, address) in [
            ("source", "source.address", ip.source),
            ("destination", "destination.address", ip.destination),
        ] {
            if mask.of(field).is_some() {
                facts.push((name, Fact::Text(address.to_string())));
            }
        }
    }
    let Some((mask, l4)) = mask.of("l4").zip(flow.l4) else {
        return;
    };
    let (field, transport) = match l4 {
        L4::Tcp { .. } => ("TCP", "tcp"),
        L4::Udp { .. } => ("UDP", "udp"),
        L4::Sctp { .. } => ("SCTP", "sctp"),
        L4::Icmpv4 { .. } => ("ICMPv4", "icmp"),
        L4::Icmpv6 { .. } => ("ICMPv6", "icmpv6"),
    };
    let Some(mask) = mask.of(field) else {
        return;
    };
    facts.push(("network.transport", Fact::Text(transport.to_owned())));
    if let Some((source, destination)) = l4.ports() {
        for (field, name, port) in [
            ("source_port", "source.port", source),
            ("destination_port", "destination.port", destination),
        ] {
            if mask.of(field).is_some() {
                facts.push((name, Fact::Number(port.into())));
            }
        }
    }
}

fn peer(endpoint: &Endpoint, mask: &FieldMask, names: [&'static str; 2], facts: &mut Facts) {
    let texts = [
        ("namespace", &endpoint.namespace),
        ("pod_name", &endpoint.pod_name),
    ];
    for ((field, text), name) in texts.into_iter().zip(names) {
        if mask.of(field).is_some() && !text.is_empty() {
            facts.push((name, Fact::Text(text.to_string())));
        }
    }
}

/// What the two sides said to each other.
fn message(event: &Event, mask: &FieldMask, facts: &mut Facts) {
    match event {
        Event::Dns(dns) => {
            let is_wanted = mask.of("dns").and_then(|mask| mask.of("query")).is_some();
            if is_wanted {
                facts.push(("dns.question.name", Fact::Text(dns.query.to_string())));
            }
        }
        Event::Http(http) => {
            let Some(mask) = mask.of("http") else {
                return;
            };
            if mask.of("method").is_some() {
                facts.push(("http.request.method", Fact::Text(http.method.to_string())));
            }
            if mask.of("url").is_some() {
                facts.push(("url.full", Fact::Text(http.url.to_string())));
            }
            if mask.of("code").is_some() && http.code > 0 {
                facts.push(("http.response.status_code", Fact::Number(http.code.into())));
            }
        }
        Event::OtherL7 { .. }
        | Event::PolicyVerdict { .. }
        | Event::Drop { .. }
        | Event::Trace { .. }
        | Event::Other { .. } => {}
    }
}

/// A line for people: Hubble's, without the time. Of a flow of which not all is wanted, what its own command
/// prints of what is left.
pub(super) fn line(flow: &Flow, (mask, json): (&FieldMask, &str)) -> String {
    let mut line = String::new();
    let printer = Printer::default();
    if mask.is_all() {
        printer.write_event(flow, &mut line);
    } else if let Ok(flow::Line::Flow(left)) = flow::Line::parse(json) {
        printer.write_event(&left, &mut line);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::{Direction, Dns, Http, Ip, MessageKind, RecordType, Verdict};

    fn flow(event: Event) -> Flow {
        Flow {
            ip: Some(Ip::new([10, 0, 0, 2].into(), [198, 18, 0, 1].into())),
            l4: Some(L4::Tcp {
                source_port: 40_000,
                destination_port: 80,
                flags: None,
            }),
            source: Endpoint {
                namespace: "shop".into(),
                pod_name: "cart-1".into(),
                ..Endpoint::default()
            },
            destination_names: vec!["web.example.com".into()],
            traffic_direction: Direction::Egress,
            ..Flow::new(event, Verdict::Dropped)
        }
    }

    fn texts(flow: &Flow, paths: &[&str]) -> String {
        let mask = FieldMask::new(paths.iter().copied()).unwrap();
        let fact = |(name, fact): &(&str, Fact)| match fact {
            Fact::Text(text) => format!("{name}={text}"),
            Fact::Number(number) => format!("{name}={number}"),
        };
        of(flow, &mask)
            .iter()
            .map(fact)
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn facts_are_those_that_are_wanted_and_no_others() {
        let http = flow(Event::Http(Http {
            kind: MessageKind::Response,
            latency_ns: 0,
            code: 403,
            method: "GET".into(),
            url: "http://web.example.com/secret".into(),
            protocol: "HTTP/1.1".into(),
            headers: Vec::new(),
        }));
        assert_eq!(
            texts(&http, &[]),
            "hubble.verdict=DROPPED hubble.event=http hubble.direction=EGRESS \
             source.address=10.0.0.2 destination.address=198.18.0.1 network.transport=tcp \
             source.port=40000 destination.port=80 hubble.source.namespace=shop \
             hubble.source.pod=cart-1 hubble.destination.name=web.example.com \
             http.request.method=GET url.full=http://web.example.com/secret \
             http.response.status_code=403"
        );
        let some = [
            "l7.http.code",
            "IP.source",
            "l4.TCP.destination_port",
            "source.pod_name",
        ];
        assert_eq!(
            texts(&http, &some),
            "source.address=10.0.0.2 network.transport=tcp destination.port=80 \
             hubble.source.pod=cart-1 http.response.status_code=403"
        );
        let dns = Dns::request("x.evil.test.".into(), RecordType::Number(1));
        let dns = flow(Event::Dns(dns));
        assert_eq!(
            texts(&dns, &["l7.dns.query"]),
            "dns.question.name=x.evil.test."
        );
        assert_eq!(texts(&dns, &["l7.dns.qtypes"]), "");
        let reason = flow::DropReason::POLICY_DENIED;
        let drop = flow(Event::Drop { reason });
        let reason = "hubble.drop_reason=POLICY_DENIED";
        assert_eq!(texts(&drop, &["drop_reason_desc"]), reason);
        assert_eq!(texts(&drop, &["uuid"]), "");
    }

    #[test]
    fn the_line_says_no_more_than_is_wanted() {
        let dns = Dns::request("x.evil.test.".into(), RecordType::Number(1));
        let dns = flow(Event::Dns(dns));
        let of = |paths: &[&str]| {
            let mask = FieldMask::new(paths.iter().copied()).unwrap();
            let mut json = String::new();
            dns.write_wanted_line(&mask, &mut json);
            line(&dns, (&mask, &json))
        };
        assert_eq!(
            of(&[]),
            "shop/cart-1:40000 (unknown) <> web.example.com:80 (unknown) dns-request proxy DROPPED \
             (DNS Query x.evil.test. A)"
        );
        let left = of(&["verdict", "source"]);
        assert!(left.contains("DROPPED") && !left.contains("evil"), "{left}");
    }
}
