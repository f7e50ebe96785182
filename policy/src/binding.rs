//! Name binding: whether what only `toFQDNs` lets be reached must be called by a name that it allows.

use std::net::IpAddr;

use fqdn::Name;

use crate::RuleId;

/// What becomes of a connection that only `toFQDNs` allows and whose server name or host is none of the
/// names. A later one is stricter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NameBinding {
    /// Nobody looks: the kernel lets it pass.
    #[default]
    Off,
    /// It passes, and is told.
    Audit,
    /// It is refused.
    Enforce,
}

impl NameBinding {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Off, Self::Audit, Self::Enforce];

    /// The word in options, annotations and events.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }

    /// What a word stands for; case matters.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.word() == word)
    }
}

/// What was found of a connection that is bound to names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bound {
    /// How strictly.
    pub mode: NameBinding,
    /// Whether it is called by one of the names.
    pub fits: bool,
}

impl Bound {
    /// What is told of what the least strict rule allows; of one that binds nothing, nothing.
    pub(crate) fn found(mode: NameBinding, fits: bool) -> Option<Self> {
        (mode > NameBinding::Off).then_some(Self { mode, fits })
    }
}

/// The proof that policy lets a TLS connection go on, by what its client says. Only a verdict makes it.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsPermit {
    rule: RuleId,
    bound: Option<Bound>,
}

/// Why TLS may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsDenied {
    /// The name is not among those that may be named (`serverNames`).
    Name,
    /// The name, or the want of one, is none of `toFQDNs`, and nothing else allows the address.
    NotBound,
    /// There are rules for requests, which can't be read.
    Requests,
}

impl TlsPermit {
    pub(crate) const fn new(rule: RuleId, bound: Option<Bound>) -> Self {
        Self { rule, bound }
    }

    /// The rule that allows it.
    #[must_use]
    pub const fn rule(&self) -> RuleId {
        self.rule
    }

    /// What was found, where it is bound to names.
    #[must_use]
    pub const fn bound(&self) -> Option<Bound> {
        self.bound
    }
}

/// The name that a server name or a host (with its port or without) says; an address is none.
pub(crate) fn name_in(host: &str) -> Option<Name> {
    let name = host.split(':').next().unwrap_or_default();
    let is_address = host.starts_with('[') || name.parse::<IpAddr>().is_ok();
    if is_address {
        return None;
    }
    Name::from_text(name)
        .ok()
        .filter(|name| *name != Name::root())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_what_it_stands_for() {
        for one in NameBinding::ALL {
            assert_eq!(NameBinding::from_word(one.word()), Some(one));
        }
        assert_eq!(NameBinding::from_word("Audit"), None);
        assert!(NameBinding::Off < NameBinding::Audit && NameBinding::Audit < NameBinding::Enforce);
    }

    #[test]
    fn a_host_says_a_name_or_none() {
        for (host, expected) in [
            ("ok.test", Some("ok.test.")),
            ("OK.Test.", Some("ok.test.")),
            ("ok.test:8443", Some("ok.test.")),
            ("_a.test", Some("_a.test.")),
            ("192.0.2.7", None),
            ("192.0.2.7:80", None),
            ("[2001:db8::1]", None),
            ("[2001:db8::1]:80", None),
            ("ok.test..", None),
            (".", None),
            (":80", None),
            ("", None),
        ] {
            let found = name_in(host).map(|name| name.to_string());
            assert_eq!(found.as_deref(), expected, "{host}");
        }
    }
}
