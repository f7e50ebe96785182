//! The lists of names that rules hold, and many of them looked up together.
//!
//! A list is read once and shared from then on: by the rule, by everybody whom the rule selects, by
//! all revisions. Its set of patterns is made when somebody first needs it; beside the set a list keeps
//! no more than what was written.
//!
//! Short lists are poured into one set for each group of lists. So a look-up costs one step for each
//! long list and one for all short ones, and one more endpoint under a long list costs nothing that
//! grows with the list. Where there would be many steps, all lists of a group are poured into one set,
//! once for the group.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use fqdn::{Everything, Name, Pattern, PatternSet};

use crate::record_type_word;

/// From how many names on a list has a set of its own.
const LONG_LIST_MIN: usize = 64;

/// How many sets are asked for a name beside the one of short lists.
const LONG_LISTS_MAX: usize = 4;

/// The names and patterns of one `toFQDNs` or `rules.dns`, in the order of the file.
pub(crate) struct NameList {
    /// As written: the identity label of a name in `toFQDNs` is `fqdn:` and this.
    texts: Texts,
    /// The types of records that each may be asked for, none for all; empty if no name is limited.
    types: Box<[Box<[u16]>]>,
    /// What stars alone mean in it.
    everything: Everything,
    /// Each pattern with its index.
    set: OnceLock<PatternSet<u32>>,
    /// The indices by text.
    by_text: OnceLock<Box<[u32]>>,
}

/// Many short texts in one.
#[derive(PartialEq, Eq)]
struct Texts {
    all: Box<str>,
    /// Where each ends.
    ends: Box<[u32]>,
}

/// Lists that are looked up together; a list is known by its index.
#[derive(Debug, Default)]
pub(crate) struct NameLists {
    lists: Vec<Arc<NameList>>,
    /// The indices of the lists with a set of their own.
    long: Vec<u32>,
    /// All names of the lists that have no set of their own here, each with the list and its index there.
    short: PatternSet<(u32, u32)>,
    /// The same, by text.
    short_by_text: Box<[(u32, u32)]>,
}

impl NameList {
    /// A list of texts that are patterns; what is none, the reader refused.
    pub(crate) fn new(texts: &[&str], everything: Everything) -> Self {
        Self {
            texts: Texts::new(texts),
            types: Box::default(),
            everything,
            set: OnceLock::new(),
            by_text: OnceLock::new(),
        }
    }

    /// The same with the types of records that each may be asked for, in the same order; none is all.
    pub(crate) fn with_types(mut self, types: Vec<Box<[u16]>>) -> Self {
        if types.iter().any(|types| !types.is_empty()) {
            self.types = types.into();
        }
        self
    }

    /// The types that a name may be asked for; none is all.
    pub(crate) fn types_of(&self, index: u32) -> &[u16] {
        let index = usize::try_from(index).ok();
        let types = index.and_then(|index| self.types.get(index));
        types.map_or(&[], |types| types)
    }

    /// Whether a name of the list may be asked for a type of record.
    pub(crate) fn allows(&self, index: u32, qtype: u16) -> bool {
        let types = self.types_of(index);
        types.is_empty() || types.contains(&qtype)
    }

    /// The names and patterns with their types, in words.
    pub(crate) fn described(&self) -> impl Iterator<Item = String> {
        let word = |types: &[u16]| {
            let types: Vec<String> = types.iter().copied().map(record_type_word).collect();
            types.join("/")
        };
        let texts = (0..).zip(self.texts());
        texts.map(move |(index, text)| match self.types_of(index) {
            [] => text.to_owned(),
            types => format!("{text} ({} only)", word(types)),
        })
    }

    /// The names and patterns as written.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        (0..).map_while(|index| self.texts.get(index))
    }

    /// Each with its index.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = (u32, Pattern)> {
        let texts = (0..).zip(self.texts());
        texts.filter_map(|(index, text)| Some((index, self.pattern(text)?)))
    }

    /// What one of the texts stands for.
    pub(crate) fn pattern(&self, text: &str) -> Option<Pattern> {
        Pattern::parse(text, self.everything).ok()
    }

    fn is_long(&self) -> bool {
        self.len() >= LONG_LIST_MIN
    }

    fn text(&self, index: u32) -> Option<&str> {
        self.texts.get(usize::try_from(index).ok()?)
    }

    fn set(&self) -> &PatternSet<u32> {
        self.set.get_or_init(|| self.make_set())
    }

    /// Its patterns, each with its index.
    pub(crate) fn make_set(&self) -> PatternSet<u32> {
        let mut set = PatternSet::new();
        for (index, pattern) in self.patterns() {
            set.insert(&pattern, index);
        }
        set
    }

    /// How many names and patterns there are.
    pub(crate) fn len(&self) -> usize {
        self.texts.ends.len()
    }

    /// Whether a name is among them.
    pub(crate) fn matches(&self, name: &Name) -> bool {
        self.set().first_match(name.as_wire()).is_some()
    }

    /// Whether it holds a name with this text.
    pub(crate) fn has_text(&self, text: &str) -> bool {
        let by_text = self.by_text.get_or_init(|| {
            let numbered = (0..).zip(self.texts());
            let mut indices: Box<[u32]> = numbered.map(|(index, _)| index).collect();
            indices.sort_unstable_by_key(|index| self.text(*index));
            indices
        });
        by_text
            .binary_search_by_key(&Some(text), |index| self.text(*index))
            .is_ok()
    }
}

impl Texts {
    fn new(texts: &[&str]) -> Self {
        let mut all = String::with_capacity(texts.iter().map(|text| text.len()).sum());
        let mut ends = Vec::with_capacity(texts.len());
        for text in texts {
            all.push_str(text);
            // A file is far shorter than that.
            ends.push(u32::try_from(all.len()).unwrap_or(u32::MAX));
        }
        Self {
            all: all.into(),
            ends: ends.into(),
        }
    }

    fn get(&self, index: usize) -> Option<&str> {
        let before = index
            .checked_sub(1)
            .map_or(Some(&0), |before| self.ends.get(before));
        let place = |end: &u32| usize::try_from(*end).ok();
        self.all.get(place(before?)?..place(self.ends.get(index)?)?)
    }
}

impl PartialEq for NameList {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
            && self.types == other.types
            && self.everything == other.everything
    }
}

impl Eq for NameList {}

impl fmt::Debug for NameList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.texts()).finish()
    }
}

impl NameLists {
    pub(crate) fn new(lists: Vec<Arc<NameList>>) -> Self {
        let mut all = Self::default();
        let mut short_by_text = Vec::new();
        let long = lists.iter().filter(|list| list.is_long()).count();
        for (index, list) in (0..).zip(&lists) {
            if list.is_long() && long <= LONG_LISTS_MAX {
                list.set();
                all.long.push(index);
                continue;
            }
            for (at, pattern) in list.patterns() {
                all.short.insert(&pattern, (index, at));
                short_by_text.push((index, at));
            }
        }
        all.lists = lists;
        short_by_text.sort_unstable_by_key(|place| all.text(*place));
        all.short_by_text = short_by_text.into();
        all
    }

    /// Whether no list has a name.
    pub(crate) fn is_empty(&self) -> bool {
        self.lists.iter().all(|list| list.len() == 0)
    }

    fn list(&self, index: u32) -> Option<&NameList> {
        let index = usize::try_from(index).ok()?;
        self.lists.get(index).map(|list| &**list)
    }

    fn text(&self, (list, at): (u32, u32)) -> Option<&str> {
        self.list(list)?.text(at)
    }

    fn long(&self) -> impl Iterator<Item = (u32, &NameList)> {
        self.long
            .iter()
            .filter_map(|index| Some((*index, self.list(*index)?)))
    }

    /// A list with a name that stands for this one.
    pub(crate) fn first_match(&self, name: &Name) -> Option<u32> {
        let wire = name.as_wire();
        let short = self.short.first_match(wire).map(|(list, _)| list);
        short.or_else(|| {
            self.long()
                .find(|(_, list)| list.set().first_match(wire).is_some())
                .map(|(index, _)| index)
        })
    }

    /// The first name that stands for this one and is such a one, by its list and its index there: of each
    /// list a whole name before patterns.
    pub(crate) fn find(
        &self,
        name: &Name,
        mut is_such: impl FnMut(&NameList, u32) -> bool,
    ) -> Option<(u32, u32)> {
        let wire = name.as_wire();
        let mut is_such =
            |list: u32, at: u32| self.list(list).is_some_and(|list| is_such(list, at));
        let short = self
            .short
            .visit(wire, |(list, at)| match is_such(list, at) {
                true => ControlFlow::Break((list, at)),
                false => ControlFlow::Continue(()),
            });
        let in_long = |(index, list): (u32, &NameList)| {
            let found = list.set().visit(wire, |at| match is_such(index, at) {
                true => ControlFlow::Break((index, at)),
                false => ControlFlow::Continue(()),
            });
            found.break_value()
        };
        short
            .break_value()
            .or_else(|| self.long().find_map(in_long))
    }

    /// How many labels end a name in every name that this stands for; `None` if it is a whole name.
    pub(crate) fn literal_labels(&self, place: (u32, u32)) -> Option<u8> {
        let (_, rest) = self.text(place)?.trim_end_matches('.').rsplit_once('*')?;
        let labels = rest.bytes().filter(|byte| *byte == b'.').count();
        u8::try_from(labels).ok()
    }

    /// Whether one of the lists with a name that stands for this one is such a list.
    pub(crate) fn any_match(&self, name: &Name, mut is_such: impl FnMut(u32) -> bool) -> bool {
        let wire = name.as_wire();
        let mut short = |(list, _)| match is_such(list) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        if self.short.visit(wire, &mut short).is_break() {
            return true;
        }
        self.long()
            .any(|(index, list)| list.set().first_match(wire).is_some() && is_such(index))
    }

    /// Whether names that some list allows lie below this one.
    pub(crate) fn is_ancestor_of_some(&self, name: &Name) -> bool {
        self.short.is_ancestor_of_some(name)
            || self
                .long()
                .any(|(_, list)| list.set().is_ancestor_of_some(name))
    }

    /// The texts of all names that stand for this one, in no order, doubles possible.
    pub(crate) fn texts_for(&self, name: &Name, texts: &mut Vec<Arc<str>>) {
        let mut take = |list: u32, at: u32| {
            let text = self.list(list).and_then(|list| list.text(at));
            texts.extend(text.map(Arc::from));
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

    /// The lists that hold a name with this text, in no order, doubles possible.
    pub(crate) fn holders<'a>(&'a self, text: &'a str) -> impl Iterator<Item = u32> + 'a {
        let by_text = &self.short_by_text;
        let first = by_text.partition_point(|place| self.text(*place) < Some(text));
        let short = by_text.iter().skip(first);
        let short = short.take_while(move |place| self.text(**place) == Some(text));
        let short = short.map(|(list, _)| *list);
        let long = self.long().filter(move |(_, list)| list.has_text(text));
        short.chain(long.map(|(index, _)| index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: impl Iterator<Item = String>) -> Arc<NameList> {
        let texts: Vec<String> = texts.collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Arc::new(NameList::new(&texts, Everything::AnyName))
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
            for (asked, list) in [("x.n7.example.com", 1), ("a.io", 0)] {
                assert!(lists.any_match(&name(asked), |one| one == list));
                assert!(!lists.any_match(&name(asked), |one| one != list));
            }
            assert!(!lists.any_match(&name("b.io"), |_| true));
            let mut texts = Vec::new();
            lists.texts_for(&name("x.n7.example.com"), &mut texts);
            assert_eq!(texts, ["*.n7.example.com".into()]);
            assert_eq!(lists.holders("*.n7.example.com").collect::<Vec<_>>(), [1]);
            assert_eq!(lists.holders("a.io").collect::<Vec<_>>(), [0]);
            assert_eq!(lists.holders("b.io").count(), 0);
        }
    }

    #[test]
    fn a_name_is_found_by_what_it_may_be_asked_for() {
        for fill in [0, LONG_LIST_MIN] {
            let more = (0..fill).map(|i| format!("n{i}.io"));
            let texts: Vec<String> = ["a.io", "*.io", "a.io", "**.b.io.", "x*y.c.io", "*"]
                .map(str::to_owned)
                .into_iter()
                .chain(more)
                .collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let types: [&[u16]; 3] = [&[1], &[28], &[16]];
            let types = types.map(Box::from).into();
            let list = NameList::new(&texts, Everything::AnyName).with_types(types);
            let lists = NameLists::new(vec![Arc::new(list)]);
            let find = |text: &str, qtype| {
                let name = Name::from_text(text).unwrap();
                lists.find(&name, |list, at| list.allows(at, qtype))
            };
            for (name, qtype, at) in [
                ("a.io", 1, 0),
                ("a.io", 16, 2),
                ("a.io", 28, 1),
                ("a.io", 15, 5),
                ("c.io", 28, 1),
            ] {
                assert_eq!(find(name, qtype), Some((0, at)), "{name} {qtype}");
            }
            let literal = [None, Some(1), None, Some(2), Some(2), Some(0)];
            let found: Vec<_> = (0..6).map(|at| lists.literal_labels((0, at))).collect();
            assert_eq!(found, literal);
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
