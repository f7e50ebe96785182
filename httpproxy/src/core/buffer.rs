//! Bytes between a socket and the core.

/// Bytes that came in at the end and leave at the front.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// What holds them; longer than what is in use.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// The first room that a buffer gets, and what it keeps while it rests.
const ROOM_OCTETS: usize = 2048;

impl Buffer {
    /// What is in it.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) const fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Takes octets from the front.
    pub(crate) fn take(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Puts octets at the end.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        if self.bytes.len() - self.end < bytes.len() {
            self.compact();
            let needed = self.end + bytes.len();
            if needed > self.bytes.len() {
                self.bytes.resize(needed.max(ROOM_OCTETS), 0);
            }
        }
        if let Some(room) = self.bytes.get_mut(self.end..self.end + bytes.len()) {
            room.copy_from_slice(bytes);
            self.end += bytes.len();
        }
    }

    /// Room to read into, so that no more than `max` octets are held; it grows as it is used up.
    pub(crate) fn room(&mut self, max: usize) -> &mut [u8] {
        let free = max.saturating_sub(self.len());
        if free == 0 {
            return &mut [];
        }
        if self.bytes.len() == self.end {
            self.compact();
            if self.bytes.len() == self.end {
                let size = (self.bytes.len() * 2).clamp(ROOM_OCTETS, max.max(ROOM_OCTETS));
                self.bytes.resize(size, 0);
            }
        }
        let end = self.bytes.len().min(self.end + free);
        self.bytes.get_mut(self.end..end).unwrap_or_default()
    }

    /// Octets were read into the room.
    pub(crate) fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// Gives memory back, where nothing is held and nothing is to come soon.
    pub(crate) fn rest(&mut self) {
        if self.is_empty() && self.bytes.len() > ROOM_OCTETS {
            self.bytes = Vec::new();
        }
    }

    /// Gives all memory back, where nothing is held.
    pub(crate) fn free(&mut self) {
        if self.is_empty() {
            self.bytes = Vec::new();
        }
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out_and_no_more_is_held_than_allowed() {
        let mut buffer = Buffer::default();
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for round in 0..500_u32 {
            let max = 10_000;
            let room = buffer.room(max);
            let count = room.len().min((round as usize * 37) % 3000);
            for slot in &mut room[..count] {
                *slot = round.to_le_bytes()[0];
            }
            buffer.filled(count);
            sent.extend(std::iter::repeat_n(round.to_le_bytes()[0], count));
            assert!(buffer.len() <= max);
            if round % 7 == 0 {
                buffer.put(b"more");
                sent.extend(b"more");
            }
            let taken = buffer.len().min((round as usize * 53) % 2500);
            got.extend_from_slice(&buffer.bytes()[..taken]);
            buffer.take(taken);
        }
        got.extend_from_slice(buffer.bytes());
        assert!(sent == got);
        buffer.take(buffer.len());
        buffer.rest();
        assert!(buffer.bytes.capacity() <= ROOM_OCTETS);
    }
}
