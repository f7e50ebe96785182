//! Octets that are taken from the front, with QUIC's integers (RFC 9000 §16).

/// What is left of them. Each step is `None` where it would lead beyond the end.
#[derive(Clone, Copy)]
pub(super) struct Octets<'a>(pub(super) &'a [u8]);

impl<'a> Octets<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn word(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// An integer of one, two, four or eight octets.
    pub(super) fn number(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let rest = self.take((1 << (first >> 6)) - 1)?;
        let start = u64::from(first & 0x3f);
        Some(
            rest.iter()
                .fold(start, |number, byte| number << 8 | u64::from(*byte)),
        )
    }

    /// What an integer announces.
    pub(super) fn by_number(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// What one octet announces.
    pub(super) fn by_byte(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(usize::from(length))
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
