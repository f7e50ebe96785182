//! The static Huffman code of HPACK (RFC 7541, appendix B).
//!
//! The code is canonical: within one length, symbols in order have codes in order. So the lengths say
//! all of it.

const LENGTH_MAX: usize = 30;

/// The length of each symbol's code in bits; the last one is the end of string.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11,
    10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8,
    15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5,
    6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23,
    23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21,
    23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25,
    26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26,
    28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The codes, by their length.
struct Codes {
    /// The first code of each length.
    first: [u32; LENGTH_MAX + 1],
    /// How many there are of each length.
    count: [u32; LENGTH_MAX + 1],
    /// Where the symbols of each length begin.
    at: [u32; LENGTH_MAX + 1],
    symbols: [u16; 257],
}

static CODES: Codes = codes();

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "what is wrong here does not compile"
)]
const fn codes() -> Codes {
    let mut codes = Codes {
        first: [0; LENGTH_MAX + 1],
        count: [0; LENGTH_MAX + 1],
        at: [0; LENGTH_MAX + 1],
        symbols: [0; 257],
    };
    let (mut length, mut code, mut placed) = (1, 0, 0);
    while length <= LENGTH_MAX {
        code <<= 1;
        codes.first[length] = code;
        codes.at[length] = placed as u32;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                codes.symbols[placed] = symbol as u16;
                placed += 1;
                code += 1;
                codes.count[length] += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    codes
}

/// Reads a string, to the end of `out`. `None`: it is none.
pub(super) fn read(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (mut code, mut length) = (0, 0);
    for byte in bytes {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            let offset = code.checked_sub(*CODES.first.get(length)?);
            let Some(offset) = offset.filter(|offset| CODES.count.get(length) > Some(offset))
            else {
                continue;
            };
            let place = usize::try_from(CODES.at.get(length)? + offset).ok()?;
            let symbol = *CODES.symbols.get(place)?;
            out.push(u8::try_from(symbol).ok()?); // the end of string may not stand in one
            (code, length) = (0, 0);
        }
    }
    // What fills the last octet is the beginning of the end of string: ones, fewer than eight.
    let is_filled = length < 8 && code == (1 << length) - 1;
    is_filled.then_some(())
}

/// The same backwards, for tests.
#[cfg(test)]
pub(super) fn write(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut held, mut bits) = (Vec::new(), 0u64, 0);
    for byte in bytes {
        let length = usize::from(LENGTHS[usize::from(*byte)]);
        let place = CODES.symbols[CODES.at[length] as usize..]
            .iter()
            .position(|symbol| *symbol == u16::from(*byte))
            .unwrap();
        let code = u64::from(CODES.first[length]) + place as u64;
        (held, bits) = (held << length | code, bits + length);
        while bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(held >> bits & 0xff).unwrap());
        }
    }
    if bits > 0 {
        let filled = held << (8 - bits) | ((1 << (8 - bits)) - 1);
        out.push(u8::try_from(filled & 0xff).unwrap());
    }
    out
}
