//! Values in numbered slots; a slot is used again.

/// The slots.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    /// Empty where the slot is free.
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(slot) = self.free.pop()
            && let Some(place) = self.place(slot)
        {
            *place = Some(value);
            return slot;
        }
        self.slots.push(Some(value));
        // The bounds keep the count far below u32.
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        if let Some(place) = self.place(slot)
            && place.take().is_some()
        {
            self.free.push(slot);
        }
    }

    /// How many slots there are, free ones too.
    #[cfg(test)]
    pub(crate) fn slot_count(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(usize::try_from(slot).ok()?)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.place(slot)?.as_mut()
    }

    /// All values, in the order of their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    /// The values of so many slots from one on; `None` beyond the last one.
    pub(crate) fn part(&self, first: usize, count: usize) -> Option<impl Iterator<Item = &T>> {
        let rest = self.slots.get(first..).filter(|rest| !rest.is_empty())?;
        Some(rest.iter().take(count).flatten())
    }

    fn place(&mut self, slot: u32) -> Option<&mut Option<T>> {
        self.slots.get_mut(usize::try_from(slot).ok()?)
    }
}
