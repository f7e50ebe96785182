//! A DNS query or answer as an event tells it.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::message::MessageKind;

/// The TTL of an answer that has no address and no alias.
pub const NO_TTL: u32 = u32::MAX;

/// A DNS message that a proxy saw. A request has only the query, its types and the observation
/// source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dns {
    /// Request or response.
    pub kind: MessageKind,
    /// From the request's arrival to the response; 0 for requests.
    pub latency_ns: u64,
    /// The name asked for: lower case, final dot, presentation form.
    pub query: Arc<str>,
    /// A and AAAA data in answer order.
    pub ips: Vec<IpAddr>,
    /// The smallest TTL among A, AAAA and CNAME answers; [`NO_TTL`] without any, 0 for requests.
    pub ttl: u32,
    /// Aliases in chain order, with final dot, as the server spelt them.
    pub cnames: Vec<Arc<str>>,
    /// Who saw it: `proxy`; Cilium also has `agent`.
    pub observation_source: Cow<'static, str>,
    /// The response code; 0 for requests.
    pub rcode: u32,
    /// One type for each question.
    pub qtypes: Vec<RecordType>,
    /// The type of every answer record, in order; empty for requests.
    pub rrtypes: Vec<RecordType>,
}

impl Dns {
    /// A request that the proxy saw.
    #[must_use]
    pub fn request(query: Arc<str>, qtype: RecordType) -> Self {
        Self {
            kind: MessageKind::Request,
            latency_ns: 0,
            query,
            ips: Vec::new(),
            ttl: 0,
            cnames: Vec::new(),
            observation_source: Cow::Borrowed("proxy"),
            rcode: 0,
            qtypes: vec![qtype],
            rrtypes: Vec::new(),
        }
    }

    /// A response that the proxy saw, with nothing in it as yet.
    #[must_use]
    pub fn response(query: Arc<str>, qtype: RecordType, rcode: u32) -> Self {
        Self {
            kind: MessageKind::Response,
            ttl: NO_TTL,
            rcode,
            ..Self::request(query, qtype)
        }
    }
}

/// The type of a DNS question or record.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum RecordType {
    /// By number; written with IANA's mnemonic, `TYPE65280` where there is none.
    Number(u16),
    /// By a name that is no mnemonic, as other servers write for types that they don't know.
    Name(Arc<str>),
}

impl RecordType {
    /// The type of this name, whatever it is.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        if let Some((number, _)) = MNEMONICS.iter().find(|(_, mnemonic)| *mnemonic == name) {
            return Self::Number(*number);
        }
        let number = name
            .strip_prefix("TYPE")
            .and_then(|digits| digits.parse().ok());
        match number.map(Self::Number) {
            Some(known) if known.to_string() == name => known,
            Some(_) | None => Self::Name(name.into()),
        }
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = match self {
            Self::Number(number) => number,
            Self::Name(name) => return f.write_str(name),
        };
        match MNEMONICS.binary_search_by_key(number, |(number, _)| *number) {
            Ok(at) => f.write_str(MNEMONICS.get(at).map_or("", |(_, mnemonic)| *mnemonic)),
            Err(_) => write!(f, "TYPE{number}"),
        }
    }
}

/// The words for a response code other than 0.
#[must_use]
pub const fn rcode_text(rcode: u32) -> &'static str {
    match rcode {
        1 => "Format Error",
        2 => "Server Failure",
        3 => "Non-Existent Domain",
        4 => "Not Implemented",
        5 => "Query Refused",
        6 => "Name Exists when it should not",
        7 => "RR Set Exists when it should not",
        8 => "RR Set that should exist does not",
        9 => "Server Not Authoritative for zone",
        10 => "Name not contained in zone",
        16 => "Bad OPT Version",
        17 => "Key not recognized",
        18 => "Signature out of time window",
        19 => "Bad TKEY Mode",
        20 => "Duplicate key name",
        21 => "Algorithm not supported",
        22 => "Bad Truncation",
        23 => "Bad Cookie",
        _ => "Unknown",
    }
}

/// IANA's registry of types, sorted by number. Hubble names fewer; a superset trips no reader.
#[rustfmt::skip]
const MNEMONICS: &[(u16, &str)] = &[
    (1, "A"), (2, "NS"), (3, "MD"), (4, "MF"), (5, "CNAME"), (6, "SOA"), (7, "MB"), (8, "MG"),
    (9, "MR"), (10, "NULL"), (11, "WKS"), (12, "PTR"), (13, "HINFO"), (14, "MINFO"), (15, "MX"),
    (16, "TXT"), (17, "RP"), (18, "AFSDB"), (19, "X25"), (20, "ISDN"), (21, "RT"), (22, "NSAP"),
    (23, "NSAP-PTR"), (24, "SIG"), (25, "KEY"), (26, "PX"), (27, "GPOS"), (28, "AAAA"),
    (29, "LOC"), (30, "NXT"), (31, "EID"), (32, "NIMLOC"), (33, "SRV"), (34, "ATMA"),
    (35, "NAPTR"), (36, "KX"), (37, "CERT"), (38, "A6"), (39, "DNAME"), (40, "SINK"), (41, "OPT"),
    (42, "APL"), (43, "DS"), (44, "SSHFP"), (45, "IPSECKEY"), (46, "RRSIG"), (47, "NSEC"),
    (48, "DNSKEY"), (49, "DHCID"), (50, "NSEC3"), (51, "NSEC3PARAM"), (52, "TLSA"),
    (53, "SMIMEA"), (55, "HIP"), (56, "NINFO"), (57, "RKEY"), (58, "TALINK"), (59, "CDS"),
    (60, "CDNSKEY"), (61, "OPENPGPKEY"), (62, "CSYNC"), (63, "ZONEMD"), (64, "SVCB"),
    (65, "HTTPS"), (66, "DSYNC"), (67, "HHIT"), (68, "BRID"), (99, "SPF"), (100, "UINFO"),
    (101, "UID"), (102, "GID"), (103, "UNSPEC"), (104, "NID"), (105, "L32"), (106, "L64"),
    (107, "LP"), (108, "EUI48"), (109, "EUI64"), (128, "NXNAME"), (249, "TKEY"), (250, "TSIG"),
    (251, "IXFR"), (252, "AXFR"), (253, "MAILB"), (254, "MAILA"), (255, "ANY"), (256, "URI"),
    (257, "CAA"), (258, "AVC"), (259, "DOA"), (260, "AMTRELAY"), (261, "RESINFO"),
    (262, "WALLET"), (263, "CLA"), (264, "IPN"), (32768, "TA"), (32769, "DLV"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mnemonics_are_sorted_so_that_they_can_be_searched() {
        assert!(MNEMONICS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn every_type_comes_back_from_its_name() {
        for number in 0..=u16::MAX {
            let name = RecordType::Number(number).to_string();
            assert_eq!(
                RecordType::from_name(&name),
                RecordType::Number(number),
                "{name}"
            );
        }
        for name in ["Unknown", "TYPE", "TYPE1", "TYPE065280", "TYPE70000", ""] {
            assert_eq!(RecordType::from_name(name), RecordType::Name(name.into()));
        }
    }
}
