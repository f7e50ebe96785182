//! Takes the keys of Encrypted Client Hello out of HTTPS and SVCB records (RFC 9460 §14.3, RFC 9848), where
//! an option wants names of TLS to be seen. No octet is added or dropped, so that no pointer of the message
//! goes astray: the key goes behind all others and gets a number of which no client knows anything.

use crate::answer::{TYPE_HTTPS, TYPE_SVCB};
use crate::question::{HEADER_OCTETS, Header, NAME_OCTETS_MAX, RawQuestion};
use crate::walk::{NameBuf, Record};

const KEY_ECH: u16 = 5;
/// The last one for private use (RFC 9460 §14.3.2).
const KEY_PRIVATE: u16 = 65_534;
/// A key and the length of its value.
const PARAM_HEAD: usize = 4;

/// Takes them out of all records of a message; says how many there were. What stands behind a record that
/// can't be read stays: no client reads it either.
pub(crate) fn remove(message: &mut [u8]) -> usize {
    let mut removed = 0;
    let Some((mut at, records)) = beginning(message) else {
        return 0;
    };
    let mut owner = NameBuf::new();
    for _ in 0..records {
        let Ok(record) = Record::read(message, at, &mut owner) else {
            break;
        };
        at = record.end;
        let (is_service, range) = (
            matches!(record.rtype, TYPE_SVCB | TYPE_HTTPS),
            record.rdata_at..record.end,
        );
        if is_service && let Some(rdata) = message.get_mut(range) {
            removed += usize::from(hide(rdata));
        }
    }
    removed
}

/// Where the first record stands, and how many there are.
fn beginning(message: &[u8]) -> Option<(usize, usize)> {
    let header = Header::read(message)?;
    let at = match header.questions {
        0 => HEADER_OCTETS,
        _ => RawQuestion::read(message).ok()?.end,
    };
    let counts = [header.answers, header.authorities, header.additionals];
    Some((at, counts.map(usize::from).iter().sum()))
}

/// Hides the key of one record; says whether it had one.
fn hide(rdata: &mut [u8]) -> bool {
    let mut target = [0u8; NAME_OCTETS_MAX];
    let Some(rest) = rdata.get(2..) else {
        return false;
    };
    let Ok(target_len) = fqdn::Name::read_wire(rest, &mut target) else {
        return false;
    };
    let mut at = 2 + target_len;
    while let Some([k0, k1, l0, l1]) = rdata.get(at..).and_then(|rest| rest.first_chunk()) {
        let key = u16::from_be_bytes([*k0, *k1]);
        let end = at + PARAM_HEAD + usize::from(u16::from_be_bytes([*l0, *l1]));
        if key != KEY_ECH {
            at = end;
            continue;
        }
        let Some(params) = rdata
            .get_mut(at..)
            .filter(|params| params.len() >= end - at)
        else {
            return false;
        };
        params.rotate_left(end - at);
        let hidden = params.len() - (end - at);
        if let Some(place) = params.get_mut(hidden..hidden + 2) {
            place.copy_from_slice(&KEY_PRIVATE.to_be_bytes());
        }
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Draft, wire};

    /// A record's data: priority, the root as target, and parameters.
    fn rdata(priority: u16, params: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = [&priority.to_be_bytes()[..], &[0]].concat();
        for (key, value) in params {
            bytes.extend(key.to_be_bytes());
            bytes.extend((value.len() as u16).to_be_bytes());
            bytes.extend(*value);
        }
        bytes
    }

    fn check(case: &str, before: &[u8], after: &[u8], count: usize) {
        let message = |rdata: &[u8]| {
            let answer = Draft::answer(7, "good.com", TYPE_HTTPS);
            answer
                .record(&wire("good.com"), TYPE_HTTPS, 60, rdata)
                .record(&wire("good.com"), 16, 60, b"\x02hi")
                .additional(&wire("x"), TYPE_SVCB, rdata)
        };
        let mut bytes = message(before).0;
        assert_eq!(remove(&mut bytes), count, "{case}");
        assert_eq!(bytes, message(after).0, "{case}");
    }

    #[test]
    fn the_key_gets_a_number_that_says_nothing_and_the_order_holds() {
        let (alpn, hint): (&[u8], &[u8]) = (b"\x02h2", &[192, 0, 2, 1]);
        let with = rdata(1, &[(1, alpn), (5, b"key"), (4, hint), (6, &[1; 16])]);
        let without = rdata(
            1,
            &[(1, alpn), (4, hint), (6, &[1; 16]), (KEY_PRIVATE, b"key")],
        );
        check("among others", &with, &without, 2);
        let with = rdata(1, &[(5, b"")]);
        check(
            "alone and empty",
            &with,
            &rdata(1, &[(KEY_PRIVATE, b"")]),
            2,
        );
        let none = rdata(1, &[(1, alpn), (4, hint)]);
        check("none", &none, &none, 0);
        check("no parameters", &rdata(0, &[]), &rdata(0, &[]), 0);
        // What can't be read stays as it is, for clients to refuse.
        let cut = [&rdata(1, &[])[..], &[0, 5, 0, 9, 1]].concat();
        check("cut off", &cut, &cut, 0);
        check("nothing", &[], &[], 0);
    }

    #[test]
    fn a_message_that_cannot_be_read_is_left_alone() {
        for bytes in [&[][..], &[0xff; 11], &[0xff; 40]] {
            let mut message = bytes.to_vec();
            assert_eq!(remove(&mut message), 0);
            assert_eq!(message, bytes);
        }
    }
}
