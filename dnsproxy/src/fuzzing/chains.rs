//! Scripts of answers for the door `chain`, and a plain model of what they teach.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::answer::Invalid;
use crate::limits::CHAIN_NAMES_MAX;

/// How many names there are: more than a chain may have.
const NAMES: u8 = 24;

/// One record of the answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Record {
    /// A name is another one.
    Cname(u8, u8),
    /// What is below a zone is below another one.
    Dname(u8, u8),
    /// A name has an address.
    Address(u8, u8),
}

/// What is known of an address: its TTL, and how many aliases lead to it.
type Taught = BTreeMap<IpAddr, (u32, u8)>;

/// Two zones with the names of even and odd numbers: a name is `nI.zK`.
pub(super) fn record(octets: &[u8]) -> Record {
    let [kind, owner, target] = *octets else {
        return Record::Address(0, 0);
    };
    match kind % 4 {
        0 => Record::Cname(owner % NAMES, target % NAMES),
        1 => Record::Dname(owner % 2, target % 2),
        _ => Record::Address(owner % NAMES, target % 8),
    }
}

fn name(number: u8) -> String {
    format!("n{number}.z{}", number % 2)
}

fn zone(number: u8) -> String {
    format!("z{number}")
}

/// The TTL of the record at a place.
fn ttl(place: usize) -> u32 {
    u32::try_from(place * 7 % 50).unwrap_or(0) + 1
}

fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').map(str::as_bytes);
    let octets = labels.flat_map(|label| {
        let len = u8::try_from(label.len()).unwrap_or(0);
        std::iter::once(len).chain(label.iter().copied())
    });
    octets.chain([0]).collect()
}

/// The answer to a question for the first name.
pub(super) fn message(records: &[Record]) -> Vec<u8> {
    let count = u16::try_from(records.len()).unwrap_or(u16::MAX);
    let [high, low] = count.to_be_bytes();
    let mut bytes = vec![0, 7, 0x81, 0x80, 0, 1, high, low, 0, 0, 0, 0];
    bytes.extend(wire(&name(0)));
    bytes.extend([0, 1, 0, 1]);
    for (place, record) in records.iter().take(usize::from(count)).enumerate() {
        let (owner, rtype, data) = match *record {
            Record::Cname(owner, target) => (name(owner), 5u16, wire(&name(target))),
            Record::Dname(owner, target) => (zone(owner), 39, wire(&zone(target))),
            Record::Address(owner, last) => (name(owner), 1, vec![192, 0, 2, last]),
        };
        bytes.extend(wire(&owner));
        bytes.extend(rtype.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(ttl(place).to_be_bytes());
        bytes.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(data);
    }
    bytes
}

/// What the records teach, by words alone: each name of the chain in turn, until one was there before.
pub(super) fn expected(records: &[Record]) -> Result<Taught, Invalid> {
    let aliases = records
        .iter()
        .filter(|one| !matches!(one, Record::Address(..)));
    if aliases.count() > crate::limits::ALIASES_PER_ANSWER_MAX {
        return Err(Invalid::Chain);
    }
    let mut chain = vec![(name(0), u32::MAX)];
    while let Some((next, ttl)) = next_of(records, chain.last()) {
        if chain.iter().any(|(known, _)| *known == next) {
            break;
        }
        if chain.len() > CHAIN_NAMES_MAX {
            return Err(Invalid::Chain);
        }
        chain.push((next, ttl));
    }
    let mut taught = Taught::new();
    for (place, record) in records.iter().enumerate() {
        let Record::Address(owner, last) = *record else {
            continue;
        };
        let at = chain.iter().position(|(known, _)| *known == name(owner));
        let Some((at, (_, bound))) = at.and_then(|at| Some((at, chain.get(at)?))) else {
            continue;
        };
        let ip = Ipv4Addr::new(192, 0, 2, last).into();
        let chain_len = u8::try_from(at).unwrap_or(u8::MAX);
        let known = taught.entry(ip).or_insert((u32::MAX, 0));
        *known = (known.0.min(ttl(place)).min(*bound), known.1.max(chain_len));
    }
    Ok(taught)
}

/// Where a name leads, and for how long.
fn next_of(records: &[Record], from: Option<&(String, u32)>) -> Option<(String, u32)> {
    let (from, bound) = from?;
    let placed = || records.iter().enumerate();
    let cname = placed().find_map(|(place, record)| match *record {
        Record::Cname(owner, target) if name(owner) == *from => Some((name(target), ttl(place))),
        Record::Cname(..) | Record::Dname(..) | Record::Address(..) => None,
    });
    let dname = || {
        let (label, own) = from.split_once('.')?;
        placed().find_map(|(place, record)| match *record {
            Record::Dname(owner, target) if zone(owner) == own => {
                Some((format!("{label}.{}", zone(target)), ttl(place)))
            }
            Record::Cname(..) | Record::Dname(..) | Record::Address(..) => None,
        })
    };
    let (next, ttl) = cname.or_else(dname)?;
    Some((next, ttl.min(*bound)))
}
