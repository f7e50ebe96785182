//! Groups of name lists, shared by all endpoints and revisions that have the same lists together.

use std::collections::HashMap;
use std::sync::Arc;

use crate::names::{NameList, NameLists};

/// Groups by the addresses of their lists; a group keeps its lists alive, so no address comes again.
#[derive(Debug, Default)]
pub(super) struct NameCache {
    groups: HashMap<Vec<usize>, (Arc<NameLists>, u64)>,
    revision: u64,
}

impl NameCache {
    /// The group of these lists, in this order.
    pub(super) fn group(&mut self, lists: Vec<Arc<NameList>>) -> Arc<NameLists> {
        let key = lists.iter().map(|list| Arc::as_ptr(list).addr()).collect();
        let revision = self.revision;
        let (group, used) = self
            .groups
            .entry(key)
            .or_insert_with(|| (Arc::new(NameLists::new(lists)), revision));
        *used = revision;
        Arc::clone(group)
    }

    /// Forgets groups that nobody asked for since the last call, unless somebody still has them.
    pub(super) fn trim(&mut self) {
        let revision = self.revision;
        self.groups
            .retain(|_, (group, used)| *used == revision || Arc::strong_count(group) > 1);
        self.revision += 1;
    }
}
