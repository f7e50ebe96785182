//! Compressed names and record skeletons, read in place from raw bytes.

use crate::limits::POINTER_JUMPS_MAX;
use crate::question::{HEADER_OCTETS, NAME_OCTETS_MAX};

/// Type, class, TTL and RDLENGTH of a record.
const FIXED_OCTETS: usize = 10;

/// A record or a name that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// An uncompressed name on the stack, lower-cased unless the spelling is wanted; serves one message.
pub(crate) struct NameBuf {
    octets: [u8; NAME_OCTETS_MAX],
    len: usize,
    keeps_case: bool,
    /// The pointer that the name in it was read from, if it was nothing but a pointer. The records
    /// of an answer mostly share one, and then need not be read again.
    pointer: Option<[u8; 2]>,
}

impl NameBuf {
    pub(crate) const fn new() -> Self {
        Self {
            octets: [0; NAME_OCTETS_MAX],
            len: 0,
            keeps_case: false,
            pointer: None,
        }
    }

    /// One that keeps names as they are spelt.
    pub(crate) const fn spelled() -> Self {
        Self {
            keeps_case: true,
            ..Self::new()
        }
    }

    /// The name in wire form.
    pub(crate) fn as_wire(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or(&[])
    }

    /// Reads the name at `at`, following pointers; gives where it ends in the message.
    ///
    /// Each pointer must lead strictly before the place that the last one led to (the first:
    /// before the name itself), so no loop is possible; and never into the header.
    pub(crate) fn read(&mut self, message: &[u8], at: usize) -> Result<usize, Malformed> {
        let pointer = message
            .get(at..)
            .and_then(|rest| rest.first_chunk::<2>().copied())
            .filter(|[high, _]| *high >= 0xC0);
        if pointer.is_some() && pointer == self.pointer {
            return Ok(at + 2);
        }
        self.pointer = None;
        let end = self.expand(message, at)?;
        self.pointer = pointer;
        Ok(end)
    }

    fn expand(&mut self, message: &[u8], at: usize) -> Result<usize, Malformed> {
        self.len = 0;
        let mut floor = at;
        let mut at = at;
        let mut end = None;
        for _ in 0..=POINTER_JUMPS_MAX {
            let (stop, pointer) = self.read_labels(message, at)?;
            let Some(target) = pointer else {
                return Ok(end.unwrap_or(stop));
            };
            if target >= floor || target < HEADER_OCTETS {
                return Err(Malformed);
            }
            end = end.or(Some(stop));
            floor = target;
            at = target;
        }
        Err(Malformed)
    }

    /// Reads labels up to a root byte or a pointer; gives where they end, and the pointer's target.
    fn read_labels(
        &mut self,
        message: &[u8],
        mut at: usize,
    ) -> Result<(usize, Option<usize>), Malformed> {
        loop {
            let len = *message.get(at).ok_or(Malformed)?;
            match len & 0xC0 {
                0xC0 => {
                    let low = *message.get(at + 1).ok_or(Malformed)?;
                    let target = usize::from(u16::from_be_bytes([len & 0x3F, low]));
                    return Ok((at + 2, Some(target)));
                }
                0x00 => {}
                _ => return Err(Malformed),
            }
            let next = at + 1 + usize::from(len);
            let label = message.get(at..next).ok_or(Malformed)?;
            let grown = self.len + label.len();
            let target = self.octets.get_mut(self.len..grown).ok_or(Malformed)?;
            target.copy_from_slice(label);
            if !self.keeps_case {
                target.make_ascii_lowercase();
            }
            self.len = grown;
            at = next;
            if len == 0 {
                return Ok((at, None));
            }
        }
    }
}

/// A record from its type on; its owner was read before it.
pub(crate) struct Record<'a> {
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    /// The TTL field as it stands; an OPT keeps other things in it.
    pub(crate) ttl_field: u32,
    pub(crate) rdata: &'a [u8],
    /// Where the data stands in the message.
    pub(crate) rdata_at: usize,
    /// Where the next record begins.
    pub(crate) end: usize,
}

impl<'a> Record<'a> {
    /// Reads the record at `at`, its owner into `owner`.
    pub(crate) fn read(
        message: &'a [u8],
        at: usize,
        owner: &mut NameBuf,
    ) -> Result<Self, Malformed> {
        let owner_end = owner.read(message, at)?;
        Self::after_owner(message, owner_end)
    }

    /// Reads what follows an owner that ends at `at`.
    pub(crate) fn after_owner(message: &'a [u8], at: usize) -> Result<Self, Malformed> {
        let fixed = message.get(at..).ok_or(Malformed)?;
        let [t0, t1, c0, c1, l0, l1, l2, l3, d0, d1] =
            *fixed.first_chunk::<FIXED_OCTETS>().ok_or(Malformed)?;
        let rdata_at = at + FIXED_OCTETS;
        let end = rdata_at + usize::from(u16::from_be_bytes([d0, d1]));
        Ok(Self {
            rtype: u16::from_be_bytes([t0, t1]),
            class: u16::from_be_bytes([c0, c1]),
            ttl_field: u32::from_be_bytes([l0, l1, l2, l3]),
            rdata: message.get(rdata_at..end).ok_or(Malformed)?,
            rdata_at,
            end,
        })
    }

    /// The TTL, 0 where the top bit is set (RFC 2181 §8): for a permission the smaller reading is
    /// right.
    pub(crate) const fn ttl_secs(&self) -> u32 {
        if self.ttl_field >> 31 == 1 {
            0
        } else {
            self.ttl_field
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Malformed, NameBuf};
    use crate::limits::POINTER_JUMPS_MAX;

    #[test]
    fn a_pointer_must_lead_before_the_last_one() {
        let rows: [(&[u8], Result<usize, Malformed>); 6] = [
            (b"\x01a\0", Ok(15)),
            (b"\xC0\x0C", Err(Malformed)),
            (b"\x01a\xC0\x0C", Err(Malformed)),
            (b"\xC0\x0B", Err(Malformed)),
            (b"\xC0", Err(Malformed)),
            (b"\x41a\0", Err(Malformed)),
        ];
        for (name, expected) in rows {
            let message = [&[0; 12], name].concat();
            assert_eq!(NameBuf::new().read(&message, 12), expected, "{name:?}");
        }
    }

    #[test]
    fn a_name_takes_so_many_jumps_and_no_more() {
        // A root name behind a header, then pointers that each lead to the one before.
        let mut message = vec![0; 13];
        let mut target = 12u16;
        for jumps in 1..=POINTER_JUMPS_MAX + 1 {
            let at = message.len();
            message.extend_from_slice(&(0xC000 | target).to_be_bytes());
            target = u16::try_from(at).unwrap();
            let read = NameBuf::new().read(&message, at);
            let expected = if jumps > POINTER_JUMPS_MAX {
                Err(Malformed)
            } else {
                Ok(at + 2)
            };
            assert_eq!(read, expected, "{jumps}");
        }
    }
}
