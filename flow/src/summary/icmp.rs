//! Names of ICMP types and codes, as Hubble's packet library spells them.

/// `ICMPv4 EchoRequest`, `ICMPv4 DestinationUnreachable(Port)`.
pub(crate) fn v4(kind: u8, code: u8) -> String {
    text("ICMPv4", (kind, code), v4_names(kind))
}

/// `ICMPv6 EchoRequest`, `ICMPv6 TimeExceeded(HopLimitExceeded)`.
pub(crate) fn v6(kind: u8, code: u8) -> String {
    text("ICMPv6", (kind, code), v6_names(kind))
}

/// A type with its codes by number; no codes at all for a type that has only code 0.
type Names = Option<(&'static str, &'static [&'static str])>;

fn text(protocol: &str, (kind, code): (u8, u8), names: Names) -> String {
    let Some((name, codes)) = names else {
        return format!("{protocol} {kind}({code})");
    };
    match codes.get(usize::from(code)) {
        Some(code) => format!("{protocol} {name}({code})"),
        None if codes.is_empty() && code == 0 => format!("{protocol} {name}"),
        None => format!("{protocol} {name}(Code: {code})"),
    }
}

fn v4_names(kind: u8) -> Names {
    Some(match kind {
        0 => ("EchoReply", &[]),
        3 => ("DestinationUnreachable", V4_UNREACHABLE),
        4 => ("SourceQuench", &[]),
        5 => ("Redirect", &["Net", "Host", "TOS+Net", "TOS+Host"]),
        8 => ("EchoRequest", &[]),
        9 => ("RouterAdvertisement", &[]),
        10 => ("RouterSolicitation", &[]),
        11 => (
            "TimeExceeded",
            &["TTLExceeded", "FragmentReassemblyTimeExceeded"],
        ),
        12 => (
            "ParameterProblem",
            &["PointerIndicatesError", "MissingOption", "BadLength"],
        ),
        13 => ("TimestampRequest", &[]),
        14 => ("TimestampReply", &[]),
        15 => ("InfoRequest", &[]),
        16 => ("InfoReply", &[]),
        17 => ("AddressMaskRequest", &[]),
        18 => ("AddressMaskReply", &[]),
        _ => return None,
    })
}

fn v6_names(kind: u8) -> Names {
    Some(match kind {
        1 => ("DestinationUnreachable", V6_UNREACHABLE),
        2 => ("PacketTooBig", &[]),
        3 => (
            "TimeExceeded",
            &["HopLimitExceeded", "FragmentReassemblyTimeExceeded"],
        ),
        4 => {
            let codes = &[
                "ErroneousHeaderField",
                "UnrecognizedNextHeader",
                "UnrecognizedIPv6Option",
            ];
            ("ParameterProblem", codes)
        }
        128 => ("EchoRequest", &[]),
        129 => ("EchoReply", &[]),
        133 => ("RouterSolicitation", &[]),
        134 => ("RouterAdvertisement", &[]),
        135 => ("NeighborSolicitation", &[]),
        136 => ("NeighborAdvertisement", &[]),
        137 => ("Redirect", &[]),
        _ => return None,
    })
}

const V4_UNREACHABLE: &[&str] = &[
    "Net",
    "Host",
    "Protocol",
    "Port",
    "FragmentationNeeded",
    "SourceRoutingFailed",
    "NetUnknown",
    "HostUnknown",
    "SourceIsolated",
    "NetAdminProhibited",
    "HostAdminProhibited",
    "NetTOS",
    "HostTOS",
    "CommAdminProhibited",
    "HostPrecedence",
    "PrecedenceCutoff",
];

const V6_UNREACHABLE: &[&str] = &[
    "NoRouteToDst",
    "AdminProhibited",
    "BeyondScopeOfSrc",
    "AddressUnreachable",
    "PortUnreachable",
    "SrcAddressFailedPolicy",
    "RejectRouteToDst",
];
