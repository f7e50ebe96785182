//! Names of many lists, looked up together.
//!
//! A long list has a set of its own, which every endpoint, port and revision that the list is in
//! shares; short lists are poured into one set for each group of lists. So a look-up costs one step
//! for each long list and one for all short ones, and one more endpoint under a long list costs
//! nothing that grows with the list. Where there would be many steps, all lists of a group are poured
//! into one set, once for the group.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use fqdn::{Name, PatternSet};

use crate::rule::FqdnSelector;

/// From how many names on a list has a set of its own.
const LONG_LIST_MIN: usize = 64;

/// How many sets are asked for a name beside the one of short lists.
const LONG_LISTS_MAX: usize = 4;

/// A list of names as a rule holds it, and its set once somebody needed it.
#[derive(Debug)]
pub(super) struct NameList {
    names: Box<[FqdnSelector]>,
    set: OnceLock<PatternSet<u32>>,
    texts: OnceLock<HashSet<Arc<str>>>,
}

/// Lists that are looked up together; a list is known by its index.
#[derive(Debug, Default)]
pub(super) struct NameLists {
    lists: Vec<Arc<NameList>>,
    /// The indices of the lists with a set of their own.
    long: Vec<u32>,
    /// All names of the lists that have no set of their own here, each with the list and its index there.
    short: PatternSet<(u32, u32)>,
    /// Which of those lists hold a name, by its text.
    short_by_text: HashMap<Arc<str>, Vec<u32>>,
}

impl NameList {
    pub(super) fn new(names: Vec<FqdnSelector>) -> Self {
        Self {
            names: names.into(),
            set: OnceLock::new(),
            texts: OnceLock::new(),
        }
    }

    fn is_long(&self) -> bool {
        self.names.len() >= LONG_LIST_MIN
    }

    fn numbered(&self) -> impl Iterator<Item = (u32, &FqdnSelector)> {
        (0..).zip(&self.names)
    }

    fn set(&self) -> &PatternSet<u32> {
        self.set.get_or_init(|| {
            let mut set = PatternSet::new();
            for (index, name) in self.numbered() {
                set.insert(&name.pattern, index);
            }
            set
        })
    }

    fn has_text(&self, text: &str) -> bool {
        let texts = || {
            self.names
                .iter()
                .map(|name| Arc::clone(&name.text))
                .collect()
        };
        self.texts.get_or_init(texts).contains(text)
    }
}

impl NameLists {
    pub(super) fn new(lists: Vec<Arc<NameList>>) -> Self {
        let mut all = Self::default();
        let long = lists.iter().filter(|list| list.is_long()).count();
        for (index, list) in (0..).zip(&lists) {
            if list.is_long() && long <= LONG_LISTS_MAX {
                list.set();
                all.long.push(index);
                continue;
            }
            for (at, name) in list.numbered() {
                all.short.insert(&name.pattern, (index, at));
                let holders = all.short_by_text.entry(Arc::clone(&name.text)).or_default();
                if holders.last() != Some(&index) {
                    holders.push(index);
                }
            }
        }
        all.lists = lists;
        all
    }

    fn list(&self, index: u32) -> Option<&NameList> {
        let index = usize::try_from(index).ok()?;
        self.lists.get(index).map(|list| &**list)
    }

    fn long(&self) -> impl Iterator<Item = (u32, &NameList)> {
        self.long
            .iter()
            .filter_map(|index| Some((*index, self.list(*index)?)))
    }

    /// A list with a name that stands for this one.
    pub(super) fn first_match(&self, name: &Name) -> Option<u32> {
        let wire = name.as_wire();
        let short = self.short.first_match(wire).map(|(list, _)| list);
        short.or_else(|| {
            self.long()
                .find(|(_, list)| list.set().first_match(wire).is_some())
                .map(|(index, _)| index)
        })
    }

    /// Whether names that some list allows lie below this one.
    pub(super) fn is_ancestor_of_some(&self, name: &Name) -> bool {
        self.short.is_ancestor_of_some(name)
            || self
                .long()
                .any(|(_, list)| list.set().is_ancestor_of_some(name))
    }

    /// The texts of all names that stand for this one, in no order, doubles possible.
    pub(super) fn texts_for(&self, name: &Name, texts: &mut Vec<Arc<str>>) {
        let mut take = |list: u32, at: u32| {
            let names = self.list(list).map(|list| &list.names);
            let name = usize::try_from(at)
                .ok()
                .and_then(|at| names.and_then(|names| names.get(at)));
            texts.extend(name.map(|name| Arc::clone(&name.text)));
        };
        let _: ControlFlow<()> = self.short.visit(name.as_wire(), |(list, at)| {
            take(list, at);
            ControlFlow::Continue(())
        });
        for (index, list) in self.long() {
            let _: ControlFlow<()> = list.set().visit(name.as_wire(), |at| {
                take(index, at);
                ControlFlow::Continue(())
            });
        }
    }

    /// The lists that hold a name with this text, in no order.
    pub(super) fn holders<'a>(&'a self, text: &'a str) -> impl Iterator<Item = u32> + 'a {
        let short = self.short_by_text.get(text).into_iter().flatten().copied();
        let long = self.long().filter(move |(_, list)| list.has_text(text));
        short.chain(long.map(|(index, _)| index))
    }
}

#[cfg(test)]
mod tests {
    use fqdn::{Everything, Pattern};

    use super::*;

    fn list(texts: impl Iterator<Item = String>) -> Arc<NameList> {
        let name = |text: String| FqdnSelector {
            pattern: Pattern::parse(&text, Everything::AnyName).unwrap(),
            text: text.into(),
        };
        Arc::new(NameList::new(texts.map(name).collect()))
    }

    #[test]
    fn long_and_short_lists_answer_alike() {
        for count in [LONG_LIST_MIN - 1, LONG_LIST_MIN] {
            let many = list((0..count).map(|i| format!("*.n{i}.example.com")));
            let lists = NameLists::new(vec![list(["a.io".to_owned()].into_iter()), many]);
            let name = |text: &str| Name::from_text(text).unwrap();
            assert_eq!(lists.first_match(&name("x.n7.example.com")), Some(1));
            assert_eq!(lists.first_match(&name("a.io")), Some(0));
            assert_eq!(lists.first_match(&name("n7.example.com")), None);
            assert!(lists.is_ancestor_of_some(&name("n7.example.com")));
            assert!(!lists.is_ancestor_of_some(&name("b.io")));
            let mut texts = Vec::new();
            lists.texts_for(&name("x.n7.example.com"), &mut texts);
            assert_eq!(texts, ["*.n7.example.com".into()]);
            assert_eq!(lists.holders("*.n7.example.com").collect::<Vec<_>>(), [1]);
            assert_eq!(lists.holders("a.io").collect::<Vec<_>>(), [0]);
            assert_eq!(lists.holders("b.io").count(), 0);
        }
    }

    #[test]
    fn many_long_lists_are_asked_in_one_step() {
        let long =
            |from: usize| list((from..from + LONG_LIST_MIN).map(|i| format!("*.n{i}.example.com")));
        for count in [LONG_LISTS_MAX, LONG_LISTS_MAX + 1] {
            let lists = (0..count)
                .map(|index| long(index * LONG_LIST_MIN))
                .collect();
            let lists = NameLists::new(lists);
            assert_eq!(lists.long.len(), count % (LONG_LISTS_MAX + 1));
            for index in 0..u32::try_from(count).unwrap() {
                let text = format!("*.n{}.example.com", 64 * index + 63);
                let asked = Name::from_text(&text.replace('*', "x")).unwrap();
                assert_eq!(lists.first_match(&asked), Some(index));
                assert_eq!(lists.holders(&text).collect::<Vec<_>>(), [index]);
            }
        }
    }
}
