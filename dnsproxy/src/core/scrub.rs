//! A query made anew, so that of what its client chose only the question and three flags reach the server.

use policy::Question;

use super::gates::Message;
use crate::question::TYPE_CLASS_OCTETS;
use crate::refuse::write_opt;

/// Appends a query for the same: name in small letters, type, class, RD, CD, and if the client speaks EDNS an
/// OPT with DO as asked and a size of ours. No other bit, no option, no signature.
pub(super) fn write_scrubbed(
    (message, question): (&Message<'_>, &Question),
    id: u16,
    out: &mut Vec<u8>,
) {
    let additionals = u16::from(message.opt.is_some());
    for word in [id, message.flags.scrubbed().bits(), 1, 0, 0, additionals] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(question.name.as_wire());
    for word in [question.qtype, question.qclass] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    if let Some(opt) = message.opt {
        write_opt(opt.dnssec_ok, None, out);
    }
}

/// A question in small letters, where it isn't yet.
pub(super) fn in_small_letters(question: &[u8]) -> Option<Box<[u8]>> {
    // Lengths of labels are below the letters; type and class are not.
    let name_octets = question.len().saturating_sub(TYPE_CLASS_OCTETS);
    let name = question.get(..name_octets)?;
    if !name.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let mut small: Box<[u8]> = question.into();
    small.get_mut(..name_octets)?.make_ascii_lowercase();
    Some(small)
}

/// A question, and behind it another one, which may be missing.
pub(super) fn split_questions(both: &[u8]) -> (&[u8], &[u8]) {
    let mut name_octets = 1_usize;
    while let Some(len) = both.get(name_octets - 1).filter(|len| **len > 0) {
        name_octets += 1 + usize::from(*len);
    }
    both.split_at_checked(name_octets + TYPE_CLASS_OCTETS)
        .unwrap_or((both, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_a_question_is_folded() {
        // Of type 65 and class 0x4142: capital letters, as octets.
        let asked = b"\x03WwW\x02io\0\x00\x41\x41\x42";
        let folded = in_small_letters(asked).unwrap();
        assert_eq!(*folded, *b"\x03www\x02io\0\x00\x41\x41\x42");
        assert_eq!(in_small_letters(&folded), None);
        assert_eq!(in_small_letters(b"\x41"), None);
        let both = [&asked[..], &folded].concat();
        assert_eq!(split_questions(&both), (&asked[..], &*folded));
        assert_eq!(split_questions(asked), (&asked[..], &[][..]));
        assert_eq!(split_questions(b"\x03w"), (&b"\x03w"[..], &[][..]));
    }
}
