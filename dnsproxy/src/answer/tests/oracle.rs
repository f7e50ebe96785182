use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::{DNSClass, RData};

use super::rows::{answer, rows};
use crate::answer::read_answer;
use crate::limits::CHAIN_NAMES_MAX;
use crate::testing::{A, AAAA, CNAME, DNAME, Dice, IN, wire};

/// What hickory's records teach, by a plain reading of the rules.
#[expect(clippy::wildcard_enum_match_arm, reason = "hickory's enum may grow")]
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
        let bound = bound.min(ttl);
        bounds.entry(target).or_insert(bound);
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
    let seeds: Vec<Vec<u8>> = rows()
        .into_iter()
        .filter(|(case, _, expected)| {
            expected.is_ok() && !case.contains("dname") && !case.starts_with("10")
        })
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
