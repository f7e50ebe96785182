use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::{DNSClass, RData};

use super::{Invalid, LearnedAddr, Matched, Reading, Reject, Sent, matches, read_answer};
use crate::limits::{ADDRESSES_PER_ANSWER_MAX, ALIASES_PER_ANSWER_MAX, CHAIN_NAMES_MAX};
use crate::testing::{A, AAAA, CNAME, DNAME, Dice, Draft, IN, QNAME, check_corpus, wire};

fn answer() -> Draft {
    Draft::answer(7, "good.com", A)
}

/// What an answer teaches, as text: `ip ttl`, comma-separated.
fn taught(reading: &Reading) -> String {
    let text = |learned: &LearnedAddr| format!("{} {}", learned.ip, learned.ttl_secs);
    let all: Vec<String> = reading.addresses.iter().map(text).collect();
    all.join(", ")
}

fn check(case: &str, answer: &Draft, expected: Result<&str, Invalid>) {
    let reading = read_answer(&answer.0);
    let text = reading.as_ref().map(taught);
    assert_eq!(
        text.as_deref().map_err(|invalid| **invalid),
        expected,
        "{case}"
    );
}

fn chain_of(links: usize) -> Draft {
    let mut message = Draft::answer(7, "n0", A);
    for link in 0..links {
        message = message.cname(&format!("n{link}"), 60, &format!("n{}", link + 1));
    }
    message.address_of(&wire(&format!("n{links}")), 60, "192.0.2.1")
}

fn addresses(count: usize) -> Draft {
    (0..count).fold(answer(), |message, index| {
        message.address(60, &format!("10.0.{}.{}", index / 256, index % 256))
    })
}

type Rows = Vec<(&'static str, Draft, Result<&'static str, Invalid>)>;

/// The rules of learning that look at sections, types and sizes.
fn section_rows() -> Rows {
    let other = |case, rtype, rdata: &[u8]| {
        (
            case,
            answer().record(&QNAME, rtype, 60, rdata),
            Err(Invalid::Malformed),
        )
    };
    vec![
        (
            "an address",
            answer().address(60, "192.0.2.1"),
            Ok("192.0.2.1 60"),
        ),
        ("no data", answer(), Ok("")),
        (
            "02 nxdomain with an address",
            answer().with(2, 0x8183).address(60, "192.0.2.1"),
            Ok(""),
        ),
        (
            "03 tc with an address",
            answer().with(2, 0x8380).address(60, "192.0.2.1"),
            Ok("192.0.2.1 60"),
        ),
        (
            "04 glue",
            answer()
                .raw_record(&QNAME, [A, IN], 60, &[192, 0, 2, 1])
                .with(10, 1),
            Ok(""),
        ),
        (
            "04 authority",
            answer()
                .raw_record(&QNAME, [A, IN], 60, &[192, 0, 2, 1])
                .with(8, 1),
            Ok(""),
        ),
        (
            "05 class chaos",
            answer()
                .raw_record(&QNAME, [A, 3], 60, &[192, 0, 2, 1])
                .with(6, 1),
            Ok(""),
        ),
        other("08 a of 5", A, &[192, 0, 2, 1, 0]),
        other("08 a of 3", A, &[192, 0, 2]),
        other("08 a of 0", A, &[]),
        other("08 aaaa of 4", AAAA, &[192, 0, 2, 1]),
        other("08 cname with rest", CNAME, b"\x01a\0\0"),
        other("08 cname cut", CNAME, b"\x01"),
        other("08 cname pointer loop", CNAME, &[0xC0, 0x26]),
        other("08 cname into header", CNAME, &[0xC0, 0x02]),
        (
            "11 a to an aaaa question",
            Draft::answer(7, "good.com", AAAA).address(60, "192.0.2.1"),
            Ok("192.0.2.1 60"),
        ),
        (
            "11 both to any",
            Draft::answer(7, "good.com", 255)
                .address(9, "2001:db8::1")
                .address(8, "192.0.2.1"),
            Ok("2001:db8::1 9, 192.0.2.1 8"),
        ),
        (
            "unknown type passes",
            answer().record(&QNAME, 65_280, 60, &[0xC0; 9]),
            Ok(""),
        ),
        (
            "authority garbage passes",
            answer().address(60, "192.0.2.1").with(8, 9).raw(&[0xFF; 7]),
            Ok("192.0.2.1 60"),
        ),
        (
            "count too high",
            answer().address(60, "192.0.2.1").with(6, 2),
            Err(Invalid::Malformed),
        ),
        (
            "65535 answers in a header",
            Draft::empty(7, 0x8180).with(6, 65_535),
            Err(Invalid::Malformed),
        ),
        (
            "owner is a pointer to itself",
            answer().record(&[0xC0, 0x1A], A, 60, &[192, 0, 2, 1]),
            Err(Invalid::Malformed),
        ),
        (
            "owner of reserved type",
            answer().record(&[0x80, 0], A, 60, &[192, 0, 2, 1]),
            Err(Invalid::Malformed),
        ),
        (
            "owner in other case",
            answer().address_of(&wire("GOOD.com"), 60, "192.0.2.1"),
            Ok("192.0.2.1 60"),
        ),
        (
            "two addresses",
            addresses(2),
            Ok("10.0.0.0 60, 10.0.0.1 60"),
        ),
        ("ttl 0", answer().address(0, "192.0.2.1"), Ok("192.0.2.1 0")),
        (
            "ttl with top bit",
            answer().address(0x8000_0000, "192.0.2.1"),
            Ok("192.0.2.1 0"),
        ),
        (
            "ttl largest",
            answer().address(0x7FFF_FFFF, "192.0.2.1"),
            Ok("192.0.2.1 2147483647"),
        ),
        (
            "ttl for each address",
            answer().address(10, "192.0.2.1").address(300, "192.0.2.2"),
            Ok("192.0.2.1 10, 192.0.2.2 300"),
        ),
        (
            "same address twice",
            answer()
                .address(300, "192.0.2.9")
                .address(9, "192.0.2.1")
                .address(10, "192.0.2.9"),
            Ok("192.0.2.9 10, 192.0.2.1 9"),
        ),
    ]
}

/// The rules of learning that follow aliases.
fn chain_rows() -> Rows {
    let dname =
        |message: Draft, owner, target| message.record(&wire(owner), DNAME, 30, &wire(target));
    let below = || Draft::answer(7, "a.b.good.com", A);
    vec![
        (
            "06 chain",
            answer()
                .cname("good.com", 5, "x.net")
                .cname("x.net", 300, "y.net")
                .address_of(&wire("y.net"), 60, "192.0.2.1"),
            Ok("192.0.2.1 5"),
        ),
        (
            "06 address before its cname",
            answer()
                .address_of(&wire("x.net"), 60, "192.0.2.1")
                .cname("good.com", 9, "x.net"),
            Ok("192.0.2.1 9"),
        ),
        (
            "06 loop",
            answer().cname("good.com", 5, "b").cname("b", 5, "good.com"),
            Ok(""),
        ),
        (
            "06 loop to itself",
            answer()
                .cname("good.com", 5, "good.com")
                .address(60, "192.0.2.1"),
            Ok("192.0.2.1 60"),
        ),
        (
            "06 sixteen links",
            chain_of(CHAIN_NAMES_MAX),
            Ok("192.0.2.1 60"),
        ),
        (
            "06 seventeen links",
            chain_of(CHAIN_NAMES_MAX + 1),
            Err(Invalid::Chain),
        ),
        (
            "06 second cname of an owner",
            answer()
                .cname("good.com", 5, "x")
                .cname("good.com", 5, "y")
                .address_of(&wire("y"), 60, "192.0.2.1"),
            Ok(""),
        ),
        (
            "06 aliases off the chain",
            (0..=ALIASES_PER_ANSWER_MAX).fold(answer(), |message, _| message.cname("a", 1, "b")),
            Err(Invalid::Chain),
        ),
        (
            "07 dname and its cname",
            dname(below(), "good.com", "x.net")
                .cname("a.b.good.com", 7, "a.b.x.net")
                .address_of(&wire("a.b.x.net"), 60, "192.0.2.1"),
            Ok("192.0.2.1 7"),
        ),
        (
            "07 dname alone",
            dname(below(), "good.com", "x.net").address_of(&wire("a.b.x.net"), 60, "192.0.2.1"),
            Ok("192.0.2.1 30"),
        ),
        (
            "07 dname at the name itself",
            dname(answer(), "good.com", "x.net").address_of(&wire("x.net"), 60, "192.0.2.1"),
            Ok(""),
        ),
        (
            "07 dname across a label",
            dname(Draft::answer(7, "notgood.com", A), "good.com", "x").address_of(
                &wire("notx"),
                60,
                "192.0.2.1",
            ),
            Ok(""),
        ),
        (
            "07 dname to a name too long",
            dname(
                below(),
                "good.com",
                &format!("{0}.{0}.{0}.{0}", "l".repeat(62)),
            ),
            Ok(""),
        ),
        (
            "09 out of the chain",
            answer()
                .address(60, "192.0.2.1")
                .address_of(&wire("evil.com"), 60, "203.0.113.1"),
            Ok("192.0.2.1 60"),
        ),
        (
            "09 the same labels cut otherwise",
            answer().address_of(b"\x08good.com\0", 60, "192.0.2.1"),
            Ok(""),
        ),
        (
            "compressed targets",
            answer()
                .record(&QNAME, CNAME, 50, b"\x03www\xC0\x0C")
                .address_of(&[0xC0, 0x26], 60, "192.0.2.1"),
            Ok("192.0.2.1 50"),
        ),
    ]
}

#[test]
fn each_row_of_learning_holds() {
    for (case, message, expected) in section_rows().into_iter().chain(chain_rows()) {
        check(case, &message, expected);
    }
}

#[test]
fn the_rows_are_the_corpus() {
    let rows: Vec<_> = section_rows().into_iter().chain(chain_rows()).collect();
    check_corpus(
        "answer",
        rows.iter()
            .map(|(case, message, _)| (*case, &message.0[..])),
    );
}

#[test]
fn a_thousand_addresses_are_learned_and_one_more_is_too_many() {
    let reading = read_answer(&addresses(ADDRESSES_PER_ANSWER_MAX).0).unwrap();
    assert_eq!(reading.addresses.len(), ADDRESSES_PER_ANSWER_MAX);
    let reading = read_answer(&addresses(ADDRESSES_PER_ANSWER_MAX + 1).0);
    assert_eq!(reading, Err(Invalid::TooMany));
}

#[test]
fn aliases_are_told_in_the_order_of_the_chain() {
    let message = answer().cname("x", 1, "y").cname("good.com", 1, "x");
    let aliases = read_answer(&message.0).unwrap().aliases;
    let text: Vec<String> = aliases.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["x.", "y."]);
}

#[test]
fn an_answer_is_invalid_until_its_answer_section_is_whole() {
    let message =
        answer()
            .cname("good.com", 5, "x.net")
            .address_of(&wire("x.net"), 60, "192.0.2.1");
    let whole = message.0.len();
    let message = message.opt(1232, false, &[]).0;
    for len in 0..whole {
        assert_eq!(
            read_answer(&message[..len]),
            Err(Invalid::Malformed),
            "{len}"
        );
    }
    for len in whole..=message.len() {
        assert_eq!(
            read_answer(&message[..len]).unwrap().addresses.len(),
            1,
            "{len}"
        );
    }
}

#[test]
fn only_the_answer_to_what_was_sent_matches() {
    let question = [wire("gOOd.com"), vec![0, 1, 0, 1]].concat();
    let exact = || Draft::answer(7, "gOOd.com", A);
    let bare = |flags| Draft::empty(7, flags);
    let rows = [
        ("exact", exact(), Ok(Matched::Exact)),
        ("other case", answer(), Ok(Matched::CaseChanged)),
        (
            "eleven octets",
            Draft(exact().0[..11].to_vec()),
            Err(Reject::Short),
        ),
        ("a query", exact().with(2, 0x0100), Err(Reject::NotAnAnswer)),
        ("a notify", exact().with(2, 0xA180), Err(Reject::Opcode)),
        ("other id", exact().with(0, 8), Err(Reject::Id)),
        (
            "other name",
            Draft::answer(7, "gOOe.com", A),
            Err(Reject::Question),
        ),
        (
            "longer name",
            Draft::answer(7, "gOOd.com.x", A),
            Err(Reject::Question),
        ),
        (
            "other type",
            Draft::answer(7, "gOOd.com", AAAA),
            Err(Reject::Question),
        ),
        (
            "type in other case",
            Draft::answer(7, "gOOd.com", 0x21),
            Err(Reject::Question),
        ),
        (
            "other class",
            bare(0x8180).question(&wire("gOOd.com"), A, 3),
            Err(Reject::Question),
        ),
        (
            "two questions",
            exact().question(&wire("a"), A, IN),
            Err(Reject::Question),
        ),
        (
            "cut in the question",
            Draft(exact().0[..20].to_vec()),
            Err(Reject::Question),
        ),
        ("header with refused", bare(0x8185), Ok(Matched::HeaderOnly)),
        ("header with formerr", bare(0x8181), Ok(Matched::HeaderOnly)),
        ("header with noerror", bare(0x8180), Err(Reject::Question)),
        (
            "no question but an answer",
            bare(0x8185).address_of(&[0], 1, "192.0.2.1"),
            Err(Reject::Question),
        ),
    ];
    for (case, message, expected) in rows {
        let sent = Sent {
            id: 7,
            question: &question,
        };
        assert_eq!(matches(&sent, &message.0), expected, "{case}");
    }
}

/// What hickory's records teach, by a plain reading of the rules.
fn reference(theirs: &Message) -> Option<BTreeMap<IpAddr, u32>> {
    let lower = |name: &hickory_proto::rr::Name| fqdn::Name::from_labels(name.iter()).unwrap();
    let least = |ttl: u32| if ttl >> 31 == 1 { 0 } else { ttl };
    let mut bounds = BTreeMap::from([(lower(theirs.queries[0].name()), u32::MAX)]);
    let mut followed = BTreeSet::new();
    let records = || {
        theirs
            .answers
            .iter()
            .filter(|record| record.dns_class == DNSClass::IN)
    };
    while let Some((owner, bound, target, ttl)) = records().find_map(|record| match &record.data {
        RData::CNAME(target) => {
            let owner = lower(&record.name);
            let bound = *bounds.get(&owner)?;
            (!followed.contains(&owner))
                .then(|| (owner, bound, lower(&target.0), least(record.ttl)))
        }
        _ => None,
    }) {
        followed.insert(owner);
        bounds.entry(target).or_insert(bound.min(ttl));
        if bounds.len() > CHAIN_NAMES_MAX + 1 {
            return None;
        }
    }
    let mut taught = BTreeMap::new();
    for record in records() {
        let ip = match &record.data {
            RData::A(a) => IpAddr::V4(a.0),
            RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
            _ => continue,
        };
        if let Some(bound) = bounds.get(&lower(&record.name)) {
            let ttl = least(record.ttl).min(*bound);
            taught
                .entry(ip)
                .and_modify(|old: &mut u32| *old = ttl.min(*old))
                .or_insert(ttl);
        }
    }
    Some(taught)
}

#[test]
fn what_is_learned_is_what_hickory_reads() {
    let mut dice = Dice(0x2545_F491_4F6C_DD1D);
    let seeds: Vec<Vec<u8>> = section_rows()
        .into_iter()
        .chain(chain_rows())
        .filter(|(case, _, expected)| expected.is_ok() && !case.contains("dname"))
        .map(|(_, message, _)| message.0)
        .collect();
    let mut both = 0;
    for round in 0..60_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        if round >= seeds.len() {
            dice.mutate(&mut bytes);
        }
        let Ok(reading) = read_answer(&bytes) else {
            continue;
        };
        let Ok(theirs) = Message::from_vec(&bytes) else {
            continue;
        };
        // It reads other opcodes and counts as other things; gates stand before both.
        if theirs.queries.len() != 1 || bytes[2] & 0x78 != 0 {
            continue;
        }
        both += 1;
        let ours: BTreeMap<IpAddr, u32> = reading
            .addresses
            .iter()
            .map(|learned| (learned.ip, learned.ttl_secs))
            .collect();
        assert_eq!(ours.len(), reading.addresses.len());
        if reading.rcode.get() != 0 {
            assert!(ours.is_empty());
            continue;
        }
        let has_dname = theirs
            .answers
            .iter()
            .any(|record| u16::from(record.record_type()) == DNAME);
        if !has_dname {
            assert_eq!(Some(ours), reference(&theirs), "{bytes:02x?}");
        }
    }
    assert!(both > 10_000, "{both}");
}

#[test]
fn what_hickory_rejects_for_its_framing_is_invalid_here() {
    let mut dice = Dice(0xDEAD_BEEF_CAFE_F00D);
    let plain = [A, AAAA, CNAME];
    let whole = answer()
        .cname("good.com", 5, "x.net")
        .address_of(&wire("x.net"), 60, "192.0.2.1")
        .0;
    for _ in 0..40_000 {
        let mut bytes = whole.clone();
        dice.mutate(&mut bytes);
        let is_ours = read_answer(&bytes).is_ok();
        let only_answers = bytes.len() >= 12
            && bytes[4..6] == [0, 1]
            && bytes[8..12] == [0; 4]
            && bytes[2] & 0x78 == 0;
        if !is_ours || !only_answers || Message::from_vec(&bytes).is_ok() {
            continue;
        }
        // It reads into the data of types and classes that teach nothing; we do not.
        let mut owner = crate::walk::NameBuf::new();
        let mut at = crate::question::RawQuestion::read(&bytes).unwrap().end;
        let mut is_foreign = false;
        for _ in 0..bytes[7] {
            let record = crate::walk::Record::read(&bytes, at, &mut owner).unwrap();
            is_foreign |= !plain.contains(&record.rtype) || record.class != IN;
            at = record.end;
        }
        assert!(is_foreign, "{bytes:02x?}: {:?}", Message::from_vec(&bytes));
    }
}
