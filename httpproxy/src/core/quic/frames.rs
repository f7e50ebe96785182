//! The frames of an Initial packet (RFC 9000 §17.2.2, §19).

use super::octets::Octets;

/// Octets of the handshake and where they stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crypto<'a> {
    pub(crate) at: u64,
    pub(crate) octets: &'a [u8],
}

const PADDING: u64 = 0x00;
const PING: u64 = 0x01;
const ACK: u64 = 0x02;
const ACK_WITH_ECN: u64 = 0x03;
const CRYPTO: u64 = 0x06;
const CONNECTION_CLOSE: u64 = 0x1c;

/// The CRYPTO frames of a packet. `None` if there is no frame at all, or one that is malformed or
/// not allowed in an Initial (RFC 9000 §12.4).
pub(crate) fn cryptos_of(frames: &[u8]) -> Option<Vec<Crypto<'_>>> {
    let mut rest = Octets(frames);
    let mut cryptos = Vec::new();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let before = rest.0.len();
        let kind = rest.number()?;
        // A kind is written as short as it can be (RFC 9000 §12.4).
        if before - rest.0.len() != 1 {
            return None;
        }
        match kind {
            PADDING | PING => {}
            ACK => take_ack(&mut rest)?,
            ACK_WITH_ECN => {
                take_ack(&mut rest)?;
                for _ in 0..3 {
                    rest.number()?;
                }
            }
            CRYPTO => {
                let at = rest.number()?;
                let octets = rest.by_number()?;
                cryptos.push(Crypto { at, octets });
            }
            CONNECTION_CLOSE => {
                rest.number()?; // why
                rest.number()?; // the frame that was wrong
                rest.by_number()?; // why, in words
            }
            _ => return None,
        }
    }
    Some(cryptos)
}

/// Takes what follows an ACK's kind: no packet number below zero (RFC 9000 §19.3.1).
fn take_ack(rest: &mut Octets<'_>) -> Option<()> {
    let largest = rest.number()?;
    rest.number()?; // the delay
    let ranges = rest.number()?;
    let mut smallest = largest.checked_sub(rest.number()?)?;
    for _ in 0..ranges {
        let gap = rest.number()?;
        let length = rest.number()?;
        smallest = smallest.checked_sub(gap)?.checked_sub(2)?;
        smallest = smallest.checked_sub(length)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_initial_may_hold_is_read() {
        let fits: [&[u8]; 6] = [
            &[0, 0, 1, 0],
            &[2, 9, 0, 0, 9],
            &[2, 9, 0, 1, 2, 0, 5],
            &[3, 9, 0, 0, 9, 1, 2, 3],
            &[0x1c, 0x40, 0x41, 6, 3, b'w', b'h', b'y'],
            &[6, 0, 0],
        ];
        for frames in fits {
            let none = frames.first() == Some(&6);
            let cryptos = cryptos_of(frames).unwrap();
            assert_eq!(cryptos.len(), usize::from(none), "{frames:02x?}");
        }
        let frame = [6, 0x40, 0x07, 2, b'h', b'i', 0];
        let octets = b"hi";
        assert_eq!(cryptos_of(&frame), Some(vec![Crypto { at: 7, octets }]));
        let wrong: [&[u8]; 9] = [
            &[],
            &[2, 9, 0, 0, 10],
            &[2, 9, 0, 1, 2, 0, 6],
            &[3, 9, 0, 0, 9, 1, 2],
            &[6, 0, 3, 1, 2],
            &[0x40, 1],
            &[0x40, 6, 0, 0],
            &[0x1c, 0, 0, 1],
            &[6, 0],
        ];
        for frames in wrong {
            assert_eq!(cryptos_of(frames), None, "{frames:02x?}");
        }
        let allowed = [0, 1, 2, 3, 6, 0x1c];
        for kind in (0..64).filter(|kind| !allowed.contains(kind)) {
            let frames = [&[kind][..], &[0; 40]].concat();
            assert_eq!(cryptos_of(&frames), None, "{kind:02x}");
        }
    }
}
