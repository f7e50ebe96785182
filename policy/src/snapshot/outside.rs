//! The prefixes that are named, and what an address of each stands for; kept from one revision to the
//! next, so that a change costs what it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::table::Known;
use crate::{Family, LabelSet};

/// By prefix, in order: an outer one comes before those inside it.
#[derive(Debug, Default)]
pub(super) struct Outside(BTreeMap<IpNet, Arc<Known>>);

impl Outside {
    /// What these prefixes stand for, in their order.
    pub(super) fn follow(
        &mut self,
        named: BTreeSet<IpNet>,
    ) -> impl Iterator<Item = (IpNet, &Arc<Known>)> {
        if !self.0.keys().eq(&named) {
            self.change(named);
        }
        self.0.iter().map(|(prefix, known)| (*prefix, known))
    }

    fn change(&mut self, named: BTreeSet<IpNet>) {
        let mut old = std::mem::take(&mut self.0);
        let mut holding: Vec<IpNet> = Vec::new();
        for prefix in named {
            holding.retain(|outer| outer.contains(&prefix));
            holding.push(prefix);
            let family = Family::of(prefix.addr());
            let set = LabelSet::new(family, holding.clone(), Vec::new());
            let kept = old.remove(&prefix);
            let kept = kept.filter(|known| known.outside.as_ref() == Some(&set));
            let known = kept.unwrap_or_else(|| Arc::new(Known::outside(set)));
            self.0.insert(prefix, known);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::prefix::tests::prefix;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_prefix_stands_for_all_that_hold_it(revisions in vec(vec(prefix(), 0..30), 1..4)) {
            let mut outside = Outside::default();
            for revision in revisions {
                let named: BTreeSet<IpNet> = revision.iter().map(IpNet::trunc).collect();
                let expected: Vec<_> = named
                    .iter()
                    .map(|prefix| {
                        let holding = named.iter().filter(|outer| outer.contains(prefix));
                        let family = Family::of(prefix.addr());
                        let set = LabelSet::new(family, holding.copied().collect(), Vec::new());
                        (*prefix, Arc::new(Known::outside(set)))
                    })
                    .collect();
                let got = outside.follow(named);
                let got: Vec<_> = got.map(|(prefix, known)| (prefix, Arc::clone(known))).collect();
                prop_assert_eq!(got, expected);
            }
        }
    }

    #[test]
    fn what_a_change_leaves_alone_is_kept() {
        let mut outside = Outside::default();
        let mut follow = |texts: &[&str]| -> Vec<Arc<Known>> {
            let named = texts.iter().map(|text| text.parse().unwrap()).collect();
            let all = outside.follow(named);
            all.map(|(_, known)| Arc::clone(known)).collect()
        };
        let before = follow(&["10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16"]);
        let after = follow(&["10.1.0.0/16", "10.1.2.0/24", "10.1.2.0/23", "10.2.0.0/16"]);
        let kept = |one: &Arc<Known>| before.iter().any(|old| Arc::ptr_eq(old, one));
        let kept: Vec<bool> = after.iter().map(kept).collect();
        assert_eq!(kept, [true, false, false, true]);
    }
}
