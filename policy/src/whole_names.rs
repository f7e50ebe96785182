//! The whole names that the rules of a set have: what can be compared with what DNS says of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use fqdn::Name;

use crate::Direction;
use crate::l4::PortRule;
use crate::names::{NameList, NameLists};
use crate::problem::{Code, Problem};
use crate::rule::{Effect, Item, Policy, PolicySet};

/// The types of records that bring addresses: A and AAAA.
const ADDRESS_TYPES: [u16; 2] = [1, 28];

/// The whole names of a set, each once, and what its DNS rules let be asked.
#[derive(Debug)]
pub struct WholeNames<'a> {
    names: BTreeMap<Name, WholeName<'a>>,
    askable: NameLists,
}

/// A name that a rule names whole, at the first place where it stands; `toFQDNs` before DNS rules.
#[derive(Debug)]
pub struct WholeName<'a> {
    policy: &'a Policy,
    item: &'a Item,
    /// The path of the field that holds it.
    field: String,
    opens: bool,
    types: Vec<u16>,
}

impl PolicySet {
    /// Its whole names.
    #[must_use]
    pub fn whole_names(&self) -> WholeNames<'_> {
        let mut names = BTreeMap::new();
        let allows =
            |item: &&Arc<Item>| item.direction == Direction::Egress && item.effect == Effect::Allow;
        let items = || self.items().map(|(policy, _, item)| (policy, item));
        for (policy, item) in items().filter(|(_, item)| allows(item)) {
            for (index, name) in item.names().into_iter().flat_map(|list| whole(list)) {
                names.entry(name).or_insert_with(|| WholeName {
                    policy,
                    item,
                    field: format!("{}.toFQDNs[{index}].matchName", item.path),
                    opens: true,
                    types: ADDRESS_TYPES.into(),
                });
            }
        }
        let mut lists: Vec<&Arc<NameList>> = Vec::new();
        for (policy, item) in items() {
            for list in item.port_list().iter().filter_map(PortRule::dns) {
                if lists.last().is_some_and(|last| Arc::ptr_eq(last, list)) {
                    continue; // another port of the same entry
                }
                lists.push(list);
                for (index, name) in whole(list) {
                    names.entry(name).or_insert_with(|| WholeName {
                        policy,
                        item,
                        field: format!("{}.toPorts", item.path),
                        opens: false,
                        types: asked_for(list.types_of(index)),
                    });
                }
            }
        }
        if lists.is_empty() {
            let ports = self.lookup_items().flat_map(|(_, item)| item.port_list());
            lists.extend(ports.filter_map(PortRule::dns));
        }
        let askable = NameLists::new(lists.into_iter().map(Arc::clone).collect());
        WholeNames { names, askable }
    }
}

/// The whole names of a list with their indices; the rest are patterns.
fn whole(list: &NameList) -> impl Iterator<Item = (u32, Name)> {
    let texts = (0..).zip(list.texts());
    let texts = texts.filter(|(_, text)| !text.contains('*'));
    texts.filter_map(|(index, text)| Some((index, Name::from_text(text).ok()?)))
}

/// What is asked for where a rule allows these types, none standing for all.
fn asked_for(types: &[u16]) -> Vec<u16> {
    let addresses = ADDRESS_TYPES.into_iter();
    let addresses = addresses.filter(|one| types.is_empty() || types.contains(one));
    let addresses: Vec<u16> = addresses.collect();
    match addresses.is_empty() {
        true => types.iter().copied().take(1).collect(),
        false => addresses,
    }
}

impl WholeNames<'_> {
    /// The names in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Name, &WholeName<'_>)> {
        self.names.iter()
    }

    /// Whether some DNS rule of the set lets a name be asked, of whatever server. Where no DNS rule stands
    /// in the set, the option that stands in for one may.
    #[must_use]
    pub fn may_be_asked(&self, name: &Name) -> bool {
        self.askable.first_match(name).is_some()
    }
}

impl WholeName<'_> {
    /// Whether its addresses are opened: it stands in `toFQDNs`.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.opens
    }

    /// The types of records that tell most about it: those of addresses, unless the rule allows none of them.
    #[must_use]
    pub fn types(&self) -> &[u16] {
        &self.types
    }

    /// A problem of the place where it stands.
    #[must_use]
    pub fn problem(&self, (code, message): (Code, String), help: &str) -> Problem {
        Problem {
            field: self.field.clone(),
            help: Some(help.to_owned()),
            ..Problem::of_item(self.policy, self.item, code, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, load};

    const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {}
  egress:
  - toEndpoints: [{matchLabels: {app: dns}}]
    toPorts:
    - ports: [{port: '53', protocol: UDP}, {port: '53', protocol: TCP}]
      rules:
        dns: [{matchName: A.io}, {matchName: t.io, types: [TXT, MX]}, {matchName: six.io, types: [AAAA, TXT]},
          {matchPattern: '*.b.io'}]
  - toFQDNs: [{matchPattern: '*.b.io'}, {matchName: a.io.}]
";

    #[test]
    fn each_whole_name_is_told_once_with_its_place_and_what_is_asked_for() {
        let loaded = load(&[Source {
            path: "p.yaml".to_owned(),
            text: POLICY.to_owned(),
        }]);
        let names = loaded.set.whole_names();
        let told: Vec<_> = names
            .iter()
            .map(|(name, one)| {
                let problem = one.problem((Code::NoEffect, String::new()), "");
                let place = (problem.line, problem.field);
                (name.to_string(), one.opens(), one.types().to_vec(), place)
            })
            .collect();
        let dns = (8, "spec.egress[0].toPorts".to_owned());
        let fqdns = (14, "spec.egress[1].toFQDNs[1].matchName".to_owned());
        let expected = [
            ("a.io.", true, vec![1, 28], fqdns),
            ("t.io.", false, vec![15], dns.clone()),
            ("six.io.", false, vec![28], dns),
        ];
        assert_eq!(told.len(), expected.len());
        for one in expected {
            let one = (one.0.to_owned(), one.1, one.2, one.3);
            assert!(told.contains(&one), "{one:?} {told:?}");
        }
        for (name, is_askable) in [("x.b.io", true), ("a.io", true), ("b.io", false)] {
            let name = Name::from_text(name).unwrap();
            assert_eq!(names.may_be_asked(&name), is_askable, "{name}");
        }
    }
}
