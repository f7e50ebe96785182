//! Doors for fuzzers: whatever the bytes, these return, and hold what the readers promise.

mod chains;

use fqdn::{Name, Spelled};
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

/// Whole names: what is read of the wire is told as text that reads back as the same name, and a text that
/// is a name is told as one.
///
/// # Panics
/// If a promise does not hold.
pub fn name(bytes: &[u8]) {
    if let Ok((name, len)) = Name::from_wire(bytes) {
        assert!(len <= bytes.len() && len == name.as_wire().len());
        let text = name.to_string();
        assert_eq!(Name::from_text(&text).as_ref(), Ok(&name), "{text}");
        let (again, _) = Name::from_wire(name.as_wire()).expect("it was read from there");
        assert_eq!(again, name);
        // Only letters of ASCII have another size.
        let spelled = Spelled(bytes).to_string();
        assert_eq!(spelled.to_ascii_lowercase(), text);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(name) = Name::from_text(text)
    {
        let told = name.to_string();
        assert_eq!(Name::from_text(&told), Ok(name), "{text} {told}");
    }
}

/// A chain: the octets are a script of records among few names, whose answer must teach what a plain model
/// says, address by address.
///
/// # Panics
/// If it does not.
pub fn chain(script: &[u8]) {
    let records: Vec<chains::Record> = script.chunks_exact(3).map(chains::record).collect();
    let reading = crate::answer::read_answer(&chains::message(&records));
    let reading = reading.map(|answer| {
        let addresses = answer.addresses.iter();
        let addresses = addresses.map(|one| (one.ip, (one.ttl_secs, one.chain_len)));
        addresses.collect()
    });
    assert_eq!(reading, chains::expected(&records), "{records:?}");
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
    use crate::testing::{Dice, check_corpus, corpus_dir};

    #[test]
    fn names_and_chains_are_the_corpus() {
        let names: [(&str, &[u8]); 10] = [
            ("plain", b"\x03www\x04good\x03com\0"),
            ("capitals", b"\x03WwW\x04gOOd\x03CoM\0"),
            ("dot in a label", b"\x08www.good\x03com\0"),
            ("zero in a label", b"\x04good\x04com\0\0"),
            ("utf-8", b"\x05g\xd0\xbeod\x03com\0"),
            ("special characters", b"\x08\"(;@$)\\ \0"),
            ("root", b"\0"),
            ("pointer", b"\x01a\xc0\x0c"),
            ("text", b"www\\.good.com\\000."),
            ("text with a digit escape", b"\\256.com"),
        ];
        check_corpus("name", names);
        // A kind, an owner and a target each.
        let cname = |owner: u8, target: u8| [0, owner, target];
        let long: Vec<u8> = (0..17).flat_map(|at| cname(at, at + 1)).collect();
        let chains: [(&str, &[u8]); 8] = [
            ("address", &[2, 0, 1]),
            ("address before its alias", &[2, 1, 1, 0, 0, 1]),
            ("loop", &[0, 0, 1, 0, 1, 0, 2, 1, 1]),
            (
                "second alias of one owner",
                &[0, 0, 1, 0, 0, 2, 2, 2, 1, 2, 1, 2],
            ),
            ("out of the chain", &[2, 3, 1]),
            ("owner and alias share one", &[2, 0, 1, 0, 0, 1, 2, 1, 1]),
            ("dname", &[1, 0, 1, 2, 20, 1]),
            ("too long", &long),
        ];
        check_corpus("chain", chains);
    }

    #[test]
    fn the_doors_hold_for_the_corpus_and_for_what_is_near_it() {
        type Door = fn(&[u8]);
        let doors: [(&str, Door); 5] = [
            ("question", super::question),
            ("answer", super::answer),
            ("name", super::name),
            ("chain", super::chain),
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
