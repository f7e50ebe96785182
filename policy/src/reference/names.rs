//! What lists of names say.

use fqdn::Name;

use crate::names::NameList;

/// Whether one of the patterns stands for a name.
pub(super) fn stands_for(names: &NameList, name: &Name) -> bool {
    names.patterns().any(|(_, pattern)| pattern.matches(name))
}

/// Whether one of them does that may be asked for a type of record.
pub(super) fn lets_ask(names: &NameList, (name, qtype): (&Name, u16)) -> bool {
    names.patterns().any(|(at, pattern)| {
        let types = names.types_of(at);
        pattern.matches(name) && (types.is_empty() || types.contains(&qtype))
    })
}
