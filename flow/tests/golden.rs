//! Bytes against bytes: what the stock `hubble` command wrote for the same events.
#![expect(clippy::unwrap_used, reason = "a test may die")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flow::{
    Dns, DropReason, Event, FieldMask, Flow, Http, Ip, L4, Line, MessageKind, Printer, RecordType,
    Redaction, Table, TcpFlags, TimeFormat, Verdict,
};
use serde_json::Value;

const CASES: &str = include_str!("data/cases.txt");

/// Number of the case, and its text.
fn numbered(text: &str) -> Vec<(u32, &str)> {
    let lines = text.lines().map(|line| line.split_once('\t').unwrap());
    lines
        .map(|(number, line)| (number.parse().unwrap(), line))
        .collect()
}

/// Checks every case, then tells of all that differ.
fn check(expected: &str, write: impl Fn(&Line, &mut String)) {
    let (cases, expected) = (numbered(CASES), numbered(expected));
    assert_eq!(cases.len(), expected.len());
    let mut wrong = String::new();
    for ((number, case), (_, expected)) in cases.into_iter().zip(expected) {
        let mut out = String::new();
        write(
            &Line::parse(case).unwrap_or_else(|error| panic!("case {number}: {error}")),
            &mut out,
        );
        if out != expected {
            let same = out
                .bytes()
                .zip(expected.bytes())
                .take_while(|(a, b)| a == b)
                .count();
            wrong += &format!("case {number}, from byte {same}:\n  {out}\n  {expected}\n");
        }
    }
    assert!(wrong.is_empty(), "ours, then Hubble's:\n{wrong}");
}

fn write_exporter_line(line: &Line, out: &mut String) {
    match line {
        Line::Flow(flow) => flow.write_exporter_line(out),
        Line::LostEvents {
            lost,
            node_name,
            time,
        } => {
            lost.write_exporter_line(node_name, *time, out);
        }
    }
}

fn write_compact(options: Printer) -> impl Fn(&Line, &mut String) {
    move |line, out| match line {
        Line::Flow(flow) => options.write(flow, out),
        Line::LostEvents { lost, time, .. } => options.write_lost(lost, *time, out),
    }
}

#[test]
fn exporter_lines_are_hubbles_bytes() {
    check(include_str!("data/expected.json.txt"), write_exporter_line);
}

#[test]
fn exporter_lines_are_hubbles_bytes_with_our_own_summary() {
    check(
        include_str!("data/expected.json.txt"),
        |line, out| match line {
            Line::Flow(flow) if has_own_words(flow) => {
                Flow {
                    summary: None,
                    ..flow.as_ref().clone()
                }
                .write_exporter_line(out);
            }
            Line::Flow(_) | Line::LostEvents { .. } => write_exporter_line(line, out),
        },
    );
}

fn has_own_words(flow: &Flow) -> bool {
    !matches!(flow.event, Event::OtherL7 { .. } | Event::Other { .. })
}

/// What the stock command prints of what it gets by the mask that it always sends, obeyed to the letter.
#[test]
fn masked_flows_are_printed_as_hubble_prints_them() {
    let paths = "time,verdict,ethernet,IP,l4,source.identity,source.namespace,source.pod_name,\
        destination.identity,destination.namespace,destination.pod_name,Type,node_name,l7,\
        event_type,source_service,destination_service,is_reply,Summary,ip_trace_id";
    let mask = FieldMask::new(paths.split(',')).unwrap();
    let masked = |flow: &Flow| {
        let mut text = String::new();
        flow.write_wanted_json(&mask, &mut text);
        Flow::from_json(&text).unwrap()
    };
    let printer = Printer::default();
    check(
        include_str!("data/expected.compact.default-mask.txt"),
        |line, out| match line {
            Line::Flow(flow) => printer.write(&masked(flow), out),
            Line::LostEvents { lost, time, .. } => printer.write_lost(lost, *time, out),
        },
    );
}

#[test]
fn dicts_are_hubbles_bytes() {
    let (printer, mut out) = (Printer::default(), String::new());
    for (number, case) in numbered(CASES) {
        if number > 1 {
            out.push_str(Printer::BETWEEN);
        }
        match Line::parse(case).unwrap() {
            Line::Flow(flow) => printer.write_dict(&flow, &mut out),
            Line::LostEvents { lost, time, .. } => printer.write_dict_lost(&lost, time, &mut out),
        }
    }
    assert_eq!(out, include_str!("data/expected.dict.txt"));
}

#[test]
fn tables_are_hubbles_bytes() {
    let (mut table, mut out) = (Table::new(Printer::default()), String::new());
    for (_, case) in numbered(CASES) {
        match Line::parse(case).unwrap() {
            Line::Flow(flow) => table.push(&flow),
            Line::LostEvents { lost, time, .. } => table.push_lost(&lost, time),
        }
    }
    table.write(&mut out);
    assert_eq!(out, include_str!("data/expected.table.txt"));
}

#[test]
fn flow_without_its_envelope_is_the_same_object() {
    for (number, case) in numbered(CASES) {
        let Line::Flow(flow) = Line::parse(case).unwrap() else {
            continue;
        };
        let (mut object, mut line) = (String::new(), String::new());
        flow.write_json(&mut object);
        flow.write_exporter_line(&mut line);
        assert!(
            line.starts_with(&format!("{{\"flow\":{object},")),
            "case {number}"
        );
        assert_eq!(
            Flow::from_json(&object).as_ref(),
            Ok(flow.as_ref()),
            "case {number}"
        );
    }
}

#[test]
fn compact_lines_are_hubbles_bytes() {
    check(
        include_str!("data/expected.compact.txt"),
        write_compact(Printer::default()),
    );
}

#[test]
fn numeric_compact_lines_are_hubbles_bytes() {
    let time_format = TimeFormat::from_name("RFC3339Nano");
    let options = Printer {
        numeric: true,
        time_format,
        ..Printer::default()
    };
    check(
        include_str!("data/expected.compact.numeric.txt"),
        write_compact(options),
    );
}

#[test]
fn coloured_compact_lines_are_hubbles_bytes() {
    let options = Printer {
        color: true,
        ..Printer::default()
    };
    check(
        include_str!("data/expected.compact.color.txt"),
        write_compact(options),
    );
}

#[test]
fn compact_lines_with_node_and_policy_names_are_hubbles_bytes() {
    let options = Printer {
        node_name: true,
        policy_names: true,
        ..Printer::default()
    };
    check(
        include_str!("data/expected.compact.node-policy.txt"),
        write_compact(options),
    );
}

#[test]
fn compact_text_cannot_steer_a_terminal() {
    let query = "a\x1b[2J\rb.".into();
    let dns = Dns::request(query, RecordType::Number(1));
    let mut out = String::new();
    Printer::default().write(&Flow::new(Event::Dns(dns), Verdict::Forwarded), &mut out);
    let expected =
        r"N/A:  (unknown) <>  (unknown) dns-request proxy FORWARDED (DNS Query a^[[2J\rb. A)";
    assert_eq!(out, expected);
}

#[test]
fn summaries_are_hubbles() {
    let rows = include_str!("data/summaries.tsv").lines().skip(1);
    let mut count = 0;
    for row in rows {
        let mut columns = row.splitn(3, '\t');
        let (kind, fields) = (columns.next().unwrap(), columns.next().unwrap());
        // Hubble has no name for CAA; ours says it.
        let expected = columns
            .next()
            .unwrap()
            .replace("x.example. Unknown", "x.example. CAA");
        let flow = flow_of(kind, &serde_json::from_str(fields).unwrap());
        assert_eq!(flow.summary(), expected, "{row}");
        count += 1;
    }
    assert_eq!(count, 215);
}

#[test]
fn type_without_a_mnemonic_is_said_by_number() {
    let dns = Dns::request("x.example.".into(), RecordType::Number(65280));
    let flow = Flow::new(Event::Dns(dns), Verdict::Forwarded);
    assert_eq!(flow.summary(), "DNS Query x.example. TYPE65280");
}

#[test]
fn drop_reasons_are_ciliums() {
    let mut count = 0;
    for row in include_str!("data/drop-reasons.tsv").lines().skip(1) {
        let columns: Vec<_> = row.split('\t').collect();
        let reason = DropReason::from_number(columns[0].parse().unwrap());
        assert_eq!(reason.name().unwrap_or(""), columns[1]);
        assert_eq!(reason.text(), Some(columns[2]));
        count += 1;
    }
    assert_eq!(
        (0..=255)
            .filter_map(|it| DropReason::from_number(it).text())
            .count(),
        count
    );
}

/// The flow that a row of `summaries.tsv` describes.
fn flow_of(kind: &str, fields: &Value) -> Flow {
    let l4 = match kind {
        "dns-request" | "dns-response" => return dns_flow(kind, fields),
        "http-request" | "http-response" => return http_flow(kind, fields),
        "tcp" => Some(L4::Tcp {
            source_port: 1,
            destination_port: 2,
            flags: Some(flags(fields)),
        }),
        "udp" => Some(L4::Udp {
            source_port: 1,
            destination_port: 2,
        }),
        "sctp" => Some(L4::Sctp {
            source_port: 1,
            destination_port: 2,
        }),
        "icmpv4" => Some(L4::Icmpv4 {
            kind: byte(fields, "type"),
            code: byte(fields, "code"),
        }),
        "icmpv6" => Some(L4::Icmpv6 {
            kind: byte(fields, "type"),
            code: byte(fields, "code"),
        }),
        "ip4-other" | "ip6-other" | "ethernet-only" => None,
        kind => panic!("{kind}"),
    };
    let ip = match kind {
        "ethernet-only" => None,
        "ip6-other" => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        _ => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    let event = Event::PolicyVerdict {
        match_type: 0,
        drop_reason: None,
    };
    let ip = ip.map(|ip| Ip::new(ip, ip));
    Flow {
        l4,
        ip,
        ..Flow::new(event, Verdict::Forwarded)
    }
}

fn http_flow(kind: &str, fields: &Value) -> Flow {
    let text = |key: &str| fields[key].as_str().unwrap_or_default();
    let redaction = Redaction {
        url_query: fields["redact_query"] == true,
        ..Redaction::default()
    };
    let http = Http {
        kind: match kind {
            "http-request" => MessageKind::Request,
            _ => MessageKind::Response,
        },
        latency_ns: fields["latency_ns"].as_u64().unwrap_or(0),
        code: u32::try_from(fields["code"].as_u64().unwrap_or(0)).unwrap(),
        method: text("method").into(),
        url: redaction.url(text("url")).into(),
        protocol: text("protocol").into(),
        headers: Vec::new(),
    };
    Flow::new(Event::Http(http), Verdict::Forwarded)
}

fn dns_flow(kind: &str, fields: &Value) -> Flow {
    let texts = |key: &str| -> Vec<&str> {
        fields[key]
            .as_array()
            .into_iter()
            .flatten()
            .map(|item| item.as_str().unwrap())
            .collect()
    };
    let number = |key: &str| fields[key].as_u64().unwrap_or(0) as u32;
    let types = fields["qtypes"].as_array().unwrap().iter();
    let dns = Dns {
        kind: if kind == "dns-request" {
            MessageKind::Request
        } else {
            MessageKind::Response
        },
        latency_ns: 0,
        query: fields["query"].as_str().unwrap().into(),
        ips: texts("ips")
            .into_iter()
            .map(|ip| ip.parse().unwrap())
            .collect(),
        ttl: number("ttl"),
        cnames: texts("cnames").into_iter().map(Into::into).collect(),
        observation_source: fields["observation_source"]
            .as_str()
            .unwrap_or("")
            .to_owned()
            .into(),
        rcode: number("rcode"),
        qtypes: types
            .map(|it| RecordType::Number(it.as_u64().unwrap() as u16))
            .collect(),
        rrtypes: Vec::new(),
    };
    Flow::new(Event::Dns(dns), Verdict::Forwarded)
}

fn byte(fields: &Value, key: &str) -> u8 {
    fields[key].as_u64().unwrap() as u8
}

fn flags(fields: &Value) -> TcpFlags {
    let names = fields["flags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap());
    names.fold(TcpFlags::default(), |flags, name| {
        flags.and(match name {
            "FIN" => TcpFlags::FIN,
            "SYN" => TcpFlags::SYN,
            "RST" => TcpFlags::RST,
            "PSH" => TcpFlags::PSH,
            "ACK" => TcpFlags::ACK,
            "URG" => TcpFlags::URG,
            "ECE" => TcpFlags::ECE,
            "CWR" => TcpFlags::CWR,
            "NS" => TcpFlags::NS,
            name => panic!("{name}"),
        })
    })
}

/// What is in a file may not steer the terminal that shows it, in whichever form and column.
#[test]
fn no_form_prints_an_escape_of_an_event() {
    let bad = "a\x1b]0;x\x07\rb";
    let event = Event::Dns(Dns::request(bad.into(), RecordType::Number(1)));
    let mut flow = Flow {
        node_name: bad.into(),
        ip: Some(Ip::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into())),
        destination_names: vec![bad.into()],
        ..Flow::new(event, Verdict::Forwarded)
    };
    flow.source.pod_name = bad.into();
    flow.source.namespace = bad.into();
    let printer = Printer {
        node_name: true,
        policy_names: true,
        ..Printer::default()
    };
    let (mut compact, mut dict, mut rows) = (String::new(), String::new(), String::new());
    printer.write(&flow, &mut compact);
    printer.write_dict(&flow, &mut dict);
    let mut table = Table::new(printer);
    table.push(&flow);
    table.write(&mut rows);
    for text in [compact, dict, rows] {
        assert!(text.contains("^[]0;x"), "{text:?}");
        assert!(!text.contains(['\x1b', '\r']), "{text:?}");
    }
}
