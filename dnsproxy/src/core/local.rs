//! Names that the gate answers itself, and those that it knows for ways round it: whoever speaks encrypted
//! DNS to a resolver is not seen here any more.

use policy::Question;

use super::step::{Encrypted, Https, Settings};
use crate::answer::{TYPE_AAAA, TYPE_HTTPS, TYPE_SVCB};
use crate::question::Rcode;
use crate::refuse::{Ede, OwnAnswer};
use crate::words::words;

words! {
    /// What is remarkable in a question, whether it is answered here or goes on.
    pub enum Remark {
        /// The option says that there are no IPv6 addresses.
        NoAaaa = "no-aaaa",
        /// The option says that there are no HTTPS and SVCB records.
        NoHttps = "no-https",
        /// A client asks whether it may use encrypted DNS (or Apple's relay) by itself.
        Canary = "canary",
        /// A client asks its resolver for an encrypted one (RFC 9462).
        Discovery = "resolver-discovery",
        /// The name of a resolver that speaks encrypted DNS.
        EncryptedResolver = "encrypted-resolver",
        /// The name carries what looks like data, or the pattern's names do together.
        TunnelSuspected = "dns-tunnel-suspected",
    }
}

/// Special names of resolvers (RFC 9462 §6.1): never asked of anybody else.
const DISCOVERY: &[u8] = b"\x08resolver\x04arpa\0";

/// Which answer other than addresses keeps Firefox from DoH, and Apple's devices from their relay.
const CANARIES: [&[u8]; 3] = [
    b"\x13use-application-dns\x03net\0",
    b"\x04mask\x06icloud\x03com\0",
    b"\x07mask-h2\x06icloud\x03com\0",
];

/// What is answered to a name that is part of a tunnel, where that is closed.
pub(super) const CLOSED: OwnAnswer = OwnAnswer {
    rcode: Rcode::NX_DOMAIN,
    ede: Some(Ede::Filtered),
};

impl Remark {
    /// What is remarkable in a question under these options.
    #[must_use]
    pub fn of(question: &Question, settings: &Settings) -> Option<Self> {
        let name = &question.name;
        if name.ends_with_wire(DISCOVERY) {
            return Some(Self::Discovery);
        }
        if settings.encrypted != Encrypted::Allow {
            if CANARIES.contains(&name.as_wire()) {
                return Some(Self::Canary);
            }
            if settings.resolvers.first_match(name.as_wire()).is_some() {
                return Some(Self::EncryptedResolver);
            }
        }
        match question.qtype {
            TYPE_AAAA => settings.no_aaaa.then_some(Self::NoAaaa),
            TYPE_SVCB | TYPE_HTTPS => (settings.https == Https::NoData).then_some(Self::NoHttps),
            _ => None,
        }
    }

    /// What is answered here to a question that policy allows; `None` lets it go on.
    pub(super) fn answer(self, settings: &Settings) -> Option<OwnAnswer> {
        let rcode = match self {
            // Of one name both kinds of address have the same rcode, or resolvers give up.
            Self::NoAaaa | Self::NoHttps | Self::Discovery => Rcode::NO_ERROR,
            // Found once the question is allowed; answered only where it is closed.
            Self::TunnelSuspected => return None,
            Self::Canary | Self::EncryptedResolver => match settings.encrypted {
                Encrypted::Block => Rcode::NX_DOMAIN,
                Encrypted::Allow | Encrypted::Report => return None,
            },
        };
        let ede = Some(Ede::Filtered);
        Some(OwnAnswer { rcode, ede })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fqdn::{Everything, Name, Pattern, PatternSet};
    use std::sync::Arc;

    fn resolvers(patterns: &[&str]) -> Arc<PatternSet<()>> {
        let mut set = PatternSet::new();
        for pattern in patterns {
            let pattern = Pattern::parse(pattern, Everything::AnyName).unwrap();
            set.insert(&pattern, ());
        }
        Arc::new(set)
    }

    fn remark(name: &str, qtype: u16, settings: &Settings) -> Option<Remark> {
        let question = Question {
            name: Name::from_text(name).unwrap(),
            qtype,
            qclass: 1,
        };
        Remark::of(&question, settings)
    }

    #[test]
    fn names_are_known_by_whole_labels() {
        let block = Settings {
            encrypted: Encrypted::Block,
            resolvers: resolvers(&["dns.google", "**.doh.example"]),
            ..Settings::default()
        };
        for (name, expected) in [
            ("_dns.resolver.arpa", Some(Remark::Discovery)),
            ("resolver.arpa", Some(Remark::Discovery)),
            ("xresolver.arpa", None),
            ("use-application-dns.net", Some(Remark::Canary)),
            ("www.use-application-dns.net", None),
            ("mask-h2.icloud.com", Some(Remark::Canary)),
            ("mask.icloud.com", Some(Remark::Canary)),
            ("icloud.com", None),
            ("dns.google", Some(Remark::EncryptedResolver)),
            ("dns64.dns.google", None),
            ("google", None),
            ("a.doh.example", Some(Remark::EncryptedResolver)),
            ("doh.example", None),
            ("example.com", None),
            (".", None),
        ] {
            assert_eq!(remark(name, 1, &block), expected, "{name}");
        }
        let usual = Settings::default();
        assert_eq!(remark("dns.google", 1, &usual), None);
        assert_eq!(remark("mask.icloud.com", 1, &usual), None);
        assert_eq!(
            remark("_dns.resolver.arpa", 64, &usual),
            Some(Remark::Discovery)
        );
        assert_eq!(remark("example.com", 28, &usual), None);
    }

    #[test]
    fn every_known_name_is_one() {
        for wire in CANARIES.iter().chain([&DISCOVERY]) {
            let (name, octets) = Name::from_wire(wire).unwrap();
            assert_eq!((name.as_wire(), octets), (*wire, wire.len()));
        }
    }

    #[test]
    fn what_is_reported_goes_on_and_what_is_blocked_is_answered() {
        let of = |encrypted, no_aaaa| Settings {
            encrypted,
            no_aaaa,
            ..Settings::default()
        };
        let rcode = |remark: Remark, settings: &Settings| Some(remark.answer(settings)?.rcode);
        let (block, report) = (of(Encrypted::Block, true), of(Encrypted::Report, true));
        for remark in [Remark::Canary, Remark::EncryptedResolver] {
            assert_eq!(rcode(remark, &block), Some(Rcode::NX_DOMAIN));
            assert_eq!(rcode(remark, &report), None);
        }
        assert_eq!(rcode(Remark::NoAaaa, &report), Some(Rcode::NO_ERROR));
        assert_eq!(rcode(Remark::Discovery, &report), Some(Rcode::NO_ERROR));
        assert_eq!(remark("example.com", 28, &report), Some(Remark::NoAaaa));
        assert_eq!(remark("example.com", 1, &report), None);
    }
}
