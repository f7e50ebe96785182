//! The order in which slots were last touched: a list threaded through an array, so that a touch
//! costs the same for few and for many, and allocates nothing.

/// A list over small numbers, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Order {
    links: Vec<Link>,
    oldest: Option<u32>,
    newest: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    older: Option<u32>,
    newer: Option<u32>,
}

impl Order {
    /// Puts a slot that is not in the list at its newest end.
    pub(crate) fn push(&mut self, slot: u32) {
        let index = index(slot);
        if self.links.len() <= index {
            self.links.resize(index + 1, Link::default());
        }
        let older = self.newest.replace(slot);
        if let Some(link) = self.links.get_mut(index) {
            *link = Link { older, newer: None };
        }
        match older {
            Some(older) => self.link(older).newer = Some(slot),
            None => self.oldest = Some(slot),
        }
    }

    /// Takes a slot that is in the list out of it.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Link { older, newer } = *self.link(slot);
        match older {
            Some(older) => self.link(older).newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.link(newer).older = older,
            None => self.newest = older,
        }
    }

    /// Makes a slot that is in the list the newest.
    pub(crate) fn touch(&mut self, slot: u32) {
        if self.newest != Some(slot) {
            self.remove(slot);
            self.push(slot);
        }
    }

    /// The slots, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        std::iter::successors(self.oldest, |slot| {
            self.links.get(index(*slot)).and_then(|link| link.newer)
        })
    }

    /// The link of a slot that was pushed once.
    fn link(&mut self, slot: u32) -> &mut Link {
        let index = index(slot);
        if self.links.len() <= index {
            self.links.resize(index + 1, Link::default());
        }
        #[expect(clippy::indexing_slicing, reason = "resized above")]
        &mut self.links[index]
    }
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_keeps_the_order_of_touches() {
        let mut order = Order::default();
        for slot in 0..5 {
            order.push(slot);
        }
        let slots = |order: &Order| order.iter().collect::<Vec<_>>();
        order.touch(0);
        order.touch(3);
        order.touch(3);
        assert_eq!(slots(&order), [1, 2, 4, 0, 3]);
        order.remove(4);
        order.remove(1);
        order.remove(3);
        assert_eq!(slots(&order), [2, 0]);
        order.remove(2);
        order.remove(0);
        assert_eq!(slots(&order), []);
        order.push(4);
        assert_eq!(slots(&order), [4]);
    }
}
