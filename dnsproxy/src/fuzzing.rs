//! Doors for fuzzers: whatever the bytes, these return, and hold what the readers promise.

use policy::L4Protocol;

use crate::core::gates::gate_query;
use crate::frames::Frames;
use crate::question::{HEADER_OCTETS, Header};
use crate::refuse::write_answer;

/// A query: gated, and answered if it is refused.
///
/// # Panics
/// If a promise does not hold.
pub fn question(bytes: &[u8]) {
    for transport in [L4Protocol::Udp, L4Protocol::Tcp] {
        let refusal = match gate_query(bytes, transport) {
            Ok(query) => {
                assert!(query.message.question_end <= bytes.len());
                continue;
            }
            Err(refusal) => refusal,
        };
        let Some((repeated, answer)) = refusal.answer() else {
            continue;
        };
        let mut out = Vec::new();
        write_answer(&repeated, answer, &mut out);
        assert!(out.len() <= bytes.len() + crate::limits::OWN_ANSWER_GROWTH_MAX);
    }
}

/// An answer: matched against its own question, and read.
///
/// # Panics
/// If a promise does not hold.
pub fn answer(bytes: &[u8]) {
    if let Ok(reading) = crate::answer::read_answer(bytes) {
        assert!(reading.addresses.len() <= crate::limits::ADDRESSES_PER_ANSWER_MAX);
        assert!(reading.aliases.len() <= crate::limits::CHAIN_NAMES_MAX);
    }
    let (Some(header), Ok(raw)) = (Header::read(bytes), crate::RawQuestion::read(bytes)) else {
        return;
    };
    let sent = crate::Sent {
        id: header.id,
        question: bytes.get(HEADER_OCTETS..raw.end).unwrap_or(&[]),
    };
    let is_answer = header.flags.is_answer() && header.flags.opcode() == 0;
    if is_answer && header.questions == 1 {
        assert!(crate::matches(&sent, bytes).is_ok());
    }
}

/// A stream: cut in one piece and octet by octet, with the same messages.
///
/// # Panics
/// If a promise does not hold.
pub fn frames(bytes: &[u8]) {
    let whole = cut(bytes, bytes.len().max(1));
    assert_eq!(whole, cut(bytes, 1));
}

/// The messages of a stream that comes in pieces, and whether it ended in an error.
fn cut(bytes: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut frames = Frames::default();
    let mut messages = Vec::new();
    for octets in bytes.chunks(piece) {
        if frames.push(octets).is_err() {
            return (messages, true);
        }
        loop {
            match frames.next_message() {
                Ok(Some(message)) => messages.push(message.to_vec()),
                Ok(None) => break,
                Err(_) => return (messages, true),
            }
        }
    }
    (messages, false)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Dice, corpus_dir};

    #[test]
    fn the_doors_hold_for_the_corpus_and_for_what_is_near_it() {
        type Door = fn(&[u8]);
        let doors: [(&str, Door); 3] = [
            ("question", super::question),
            ("answer", super::answer),
            ("frames", super::frames),
        ];
        let mut dice = Dice(4711);
        for (target, door) in doors {
            let files: Vec<_> = std::fs::read_dir(corpus_dir(target)).unwrap().collect();
            assert!(files.len() >= 6, "{target}");
            for file in files {
                let bytes = std::fs::read(file.unwrap().path()).unwrap();
                door(&bytes);
                for _ in 0..200 {
                    let mut near = bytes.clone();
                    if !near.is_empty() {
                        dice.mutate(&mut near);
                    }
                    door(&near);
                }
            }
        }
    }
}
