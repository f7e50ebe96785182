//! `icmps`: types of ICMP, by number or by name.

use super::cursor::{At, Known, Report};
use super::yaml::Value;
use crate::Family;
use crate::l4::{PortMatch, PortRule, RuleProtocol};
use crate::limits::ICMP_FIELDS_MAX;
use crate::problem::Code;

const ENTRY: Known = Known {
    object: "an `icmps` entry",
    read: &["fields"],
    refused: &[],
};

const FIELD: Known = Known {
    object: "an ICMP field",
    read: &["family", "type"],
    refused: &[],
};

const TYPES_V4: [(&str, u8); 14] = [
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

const TYPES_V6: [(&str, u8); 27] = [
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];

/// Reads the entries of `icmps`.
pub(super) fn read(entries: &[At<'_>], report: &mut Report<'_>) -> Vec<PortRule> {
    let mut rules = Vec::new();
    for entry in entries {
        let Some(mut fields) = entry.fields(report) else {
            continue;
        };
        let list = fields.take_list("fields", report);
        fields.finish(report, &ENTRY);
        let Some(list) = list else {
            continue;
        };
        if list.items.len() > ICMP_FIELDS_MAX {
            let count = list.items.len();
            let message = format!("{count} fields; an entry takes at most {ICMP_FIELDS_MAX}");
            report.note(&list.at, Code::Limit, message);
        }
        let items = list.items.iter();
        rules.extend(items.filter_map(|item| read_field(item, report)));
    }
    rules
}

fn read_field(at: &At<'_>, report: &mut Report<'_>) -> Option<PortRule> {
    let mut fields = at.fields(report)?;
    let family = match fields.take("family") {
        None => Some(Family::V4),
        Some(at) => at.text(report).and_then(|text| match text {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            other => {
                let message = format!("{other:?} is no family");
                let help = "the families are IPv4 and IPv6; absent is IPv4";
                report.note_with_help(&at, (Code::InvalidValue, message), help);
                None
            }
        }),
    };
    let kind = fields.take("type");
    if kind.is_none() {
        fields.note_missing(report, "no `type`");
    }
    fields.finish(report, &FIELD);
    let family = family?;
    let number = u16::from(read_type(&kind?, report, family)?);
    Some(PortRule {
        protocol: RuleProtocol::Icmp(family),
        port: PortMatch::Range(number, number),
        l7: None,
    })
}

fn read_type(at: &At<'_>, report: &mut Report<'_>, family: Family) -> Option<u8> {
    let text = match &at.node.value {
        Value::Number(text) | Value::Text(text) => text.as_str(),
        Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => {
            at.expected(report, "a number or a name of an ICMP type");
            return None;
        }
    };
    let (own, other, word, other_word): (&[_], &[_], _, _) = match family {
        Family::V4 => (&TYPES_V4, &TYPES_V6, "IPv4", "IPv6"),
        Family::V6 => (&TYPES_V6, &TYPES_V4, "IPv6", "IPv4"),
    };
    let named = own.iter().find(|(name, _)| *name == text);
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<u8>().ok().filter(|_| digits);
    if let Some(number) = named.map(|(_, number)| *number).or(number) {
        return Some(number);
    }
    let message = format!("{text:?} is no ICMP type of {word}");
    let alike = |(name, _): &&(&str, u8)| name.eq_ignore_ascii_case(text);
    let help = if other.iter().any(|(name, _)| *name == text) {
        format!("it is one of the other family: write `family: {other_word}`")
    } else if let Some((name, _)) = own.iter().find(alike) {
        format!("did you mean `{name}`?")
    } else {
        "a number from 0 to 255, or a name as EchoRequest".to_owned()
    };
    report.note_with_help(at, (Code::InvalidValue, message), help);
    None
}
