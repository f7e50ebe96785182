//! HPACK (RFC 7541): the fields of a header block, as a second pair of eyes reads them.
//!
//! What is read is compared with what rules for requests need and the HTTP/2 engine hides; nothing is
//! forwarded from here. So names and values are shown one by one, and only the table is kept.

mod huffman;

use std::collections::VecDeque;

use crate::limits::HTTP2_TABLE_OCTETS_MAX;

/// The table of one direction of a connection.
#[derive(Debug)]
pub(crate) struct Hpack {
    entries: VecDeque<Entry>,
    /// As RFC 7541 §4.1 counts them.
    octets: usize,
    max: usize,
}

/// A name and a value.
type Entry = (Box<[u8]>, Box<[u8]>);

/// A header block that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadBlock;

/// What an entry takes beside its octets.
const ENTRY_OCTETS: usize = 32;

impl Default for Hpack {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            octets: 0,
            max: HTTP2_TABLE_OCTETS_MAX,
        }
    }
}

impl Hpack {
    /// Reads a block, and shows each field.
    ///
    /// # Errors
    /// If it is none; then the table is no longer the other side's.
    pub(crate) fn read(
        &mut self,
        block: &[u8],
        mut see: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), BadBlock> {
        let mut rest = block;
        let mut may_resize = true;
        let (mut name, mut value) = (Vec::new(), Vec::new());
        while let Some(first) = rest.first().copied() {
            if first & 0xe0 == 0x20 {
                let max = number(&mut rest, 5)?;
                if !may_resize || max > HTTP2_TABLE_OCTETS_MAX {
                    return Err(BadBlock);
                }
                self.max = max;
                self.evict(0);
                continue;
            }
            may_resize = false;
            if first & 0x80 != 0 {
                let (name, value) = self.entry(number(&mut rest, 7)?)?;
                see(name, value);
                continue;
            }
            let is_kept = first & 0x40 != 0;
            let index = number(&mut rest, if is_kept { 6 } else { 4 })?;
            match index {
                0 => string(&mut rest, &mut name)?,
                index => {
                    name.clear();
                    name.extend_from_slice(self.entry(index)?.0);
                }
            }
            string(&mut rest, &mut value)?;
            see(&name, &value);
            if is_kept {
                self.keep(&name, &value);
            }
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), BadBlock> {
        let index = index.checked_sub(1).ok_or(BadBlock)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let entry = self.entries.get(index - STATIC.len()).ok_or(BadBlock)?;
        Ok((&entry.0, &entry.1))
    }

    /// Keeps an entry. One that has no room empties the table (§4.4).
    fn keep(&mut self, name: &[u8], value: &[u8]) {
        let octets = name.len() + value.len() + ENTRY_OCTETS;
        self.evict(octets);
        if octets <= self.max {
            self.octets += octets;
            self.entries.push_front((name.into(), value.into()));
        }
    }

    fn evict(&mut self, wanted: usize) {
        while self.octets + wanted > self.max {
            let Some((name, value)) = self.entries.pop_back() else {
                return;
            };
            self.octets -= name.len() + value.len() + ENTRY_OCTETS;
        }
    }
}

/// A number whose first octet has so many bits of it (§5.1).
fn number(rest: &mut &[u8], bits: u32) -> Result<usize, BadBlock> {
    let (first, mut left) = rest.split_first().ok_or(BadBlock)?;
    let mask = (1usize << bits) - 1;
    let mut number = usize::from(*first) & mask;
    if number == mask {
        let mut shift = 0;
        loop {
            let (octet, after) = left.split_first().ok_or(BadBlock)?;
            left = after;
            number += usize::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return Err(BadBlock);
            }
        }
    }
    *rest = left;
    Ok(number)
}

/// A string (§5.2), in place of what `out` has.
fn string(rest: &mut &[u8], out: &mut Vec<u8>) -> Result<(), BadBlock> {
    let is_coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = number(rest, 7)?;
    let (text, after) = rest.split_at_checked(length).ok_or(BadBlock)?;
    *rest = after;
    out.clear();
    match is_coded {
        true => huffman::read(text, out).ok_or(BadBlock),
        false => {
            out.extend_from_slice(text);
            Ok(())
        }
    }
}

/// Appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests;
