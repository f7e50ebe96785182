use std::time::Duration;

use super::bench::{
    Bench, Datapath, MEMBER, edns_query, endpoint, good_answer, read_own, servfail, udp,
};
use crate::core::learn::NotInstalled;
use crate::core::pending::Via;
use crate::core::record::Outcome;
use crate::core::step::{Fault, Origin};
use crate::limits::{
    EQUAL_OUTSTANDING_MAX, ID_DRAWS_MAX, OUTSTANDING_PER_ENDPOINT_MAX, OUTSTANDING_PER_NODE_MAX,
    TCP_UPSTREAM_WAIT_MAX,
};
use crate::testing::{A, AAAA, Dice, Draft};

#[test]
fn of_equal_queries_the_oldest_is_dropped() {
    let mut bench = Bench::new();
    let first = bench.ask();
    // The same id with another question, and the same question with another id, are not equal.
    let others = [
        Draft::query(7, "gOod.com", AAAA),
        Draft::query(8, "gOod.com", A),
    ];
    for other in &others {
        assert!(bench.forward(udp(), other).0.is_ok());
    }
    // Nor are those of another endpoint, which may have the same address.
    let twin = Origin {
        endpoint: endpoint(6),
        ..udp()
    };
    let same = Draft::query(7, "gOod.com", A);
    assert!(bench.forward(twin, &same).0.is_ok());
    for _ in 1..EQUAL_OUTSTANDING_MAX {
        bench.ask();
    }
    assert!(bench.told().is_empty());
    bench.ask();
    assert_eq!(bench.outcome(), Outcome::Superseded);
    assert_eq!(
        bench.pending.len(),
        EQUAL_OUTSTANDING_MAX + others.len() + 1
    );
    assert_eq!(
        bench.hear(&good_answer(first).0, &Datapath::default()).0,
        None
    );
    let newest = good_answer(bench.next_id);
    assert!(bench.hear(&newest.0, &Datapath::default()).0.is_some());
    bench.ask();
    assert_eq!(bench.told().len(), 1, "an answered one makes room");
}

#[test]
fn an_endpoint_at_its_limit_gets_servfail_until_a_query_ends() {
    let mut bench = Bench::new();
    let query = |id: u16| Draft::query(id, "gOod.com", A).opt(1232, false, &[]);
    for id in 0..u16::try_from(OUTSTANDING_PER_ENDPOINT_MAX).unwrap() {
        assert!(bench.forward(udp(), &query(id + 100)).0.is_ok());
    }
    let (sent, bytes) = bench.forward(udp(), &query(7));
    assert!(sent.is_err());
    assert_eq!(read_own(&bytes), servfail(14));
    assert_eq!(bench.outcome(), Outcome::ServFail(Fault::Outstanding));
    let other = Origin {
        endpoint: endpoint(6),
        ..udp()
    };
    assert!(bench.forward(other, &query(7)).0.is_ok());
    drop(bench.pending.take_from(MEMBER));
    assert!(bench.forward(udp(), &query(7)).0.is_ok());
    assert_eq!(bench.told().len(), 1, "a dropped exchange is told too");
    assert_eq!(bench.pending.take_of(endpoint(5)).len(), 2048);
    assert_eq!((bench.pending.len(), bench.pending.len_of(MEMBER)), (1, 1));
}

/// At the node's limit whoever has most is refused, below a limit of its own, and the others are not.
#[test]
fn a_full_node_answers_servfail_to_whom_asks_most_and_asks_for_the_others() {
    let mut bench = Bench::new();
    let query = |id: u16| Draft::query(id, "gOod.com", A).opt(1232, false, &[]);
    let of = |number| Origin {
        endpoint: endpoint(number),
        ..udp()
    };
    const BUSY: u32 = OUTSTANDING_PER_ENDPOINT_MAX - 48;
    let quiet = OUTSTANDING_PER_NODE_MAX - 4 * BUSY;
    for (number, count) in [(1, BUSY), (2, BUSY), (3, BUSY), (4, BUSY), (5, quiet)] {
        for id in 100..u16::try_from(100 + count).unwrap() {
            let forwarded = bench.forward(of(number), &query(id));
            assert!(forwarded.0.is_ok(), "{number}: {id}");
        }
    }
    let (sent, bytes) = bench.forward(of(1), &query(7));
    assert!(sent.is_err());
    assert_eq!(read_own(&bytes), servfail(14));
    assert_eq!(bench.outcome(), Outcome::ServFail(Fault::Outstanding));
    for number in [5, 6] {
        let forwarded = bench.forward(of(number), &query(7));
        assert!(forwarded.0.is_ok(), "the quiet {number}");
    }
    drop(bench.pending.take_of(endpoint(4)));
    assert!(bench.forward(of(1), &query(7)).0.is_ok(), "room again");
}

#[test]
fn an_id_is_drawn_until_it_is_free_and_not_for_ever() {
    let mut bench = Bench::new();
    let taken = bench.ask();
    let query = edns_query();
    for (ids, is_sent) in [(vec![taken, taken, 9], true), (vec![taken], false)] {
        let forward = bench.permitted(udp(), &query);
        let mut ids = ids.into_iter().cycle();
        let mut draws = 0;
        let mut draw = || {
            draws += 1;
            ids.next().unwrap()
        };
        let (sent, _) = bench.step(|pending, step| {
            let via = Via {
                member: MEMBER,
                draw: &mut draw,
            };
            forward.send(pending, via, step)
        });
        assert_eq!(sent.is_ok_and(|upstream| upstream.key.id == 9), is_sent);
        assert_eq!(draws, if is_sent { 3 } else { ID_DRAWS_MAX });
    }
    assert_eq!(bench.outcome(), Outcome::ServFail(Fault::NoId));
}

#[test]
fn every_exchange_is_told_once_and_no_address_is_released_unlearned() {
    let mut bench = Bench::new();
    let mut dice = Dice(77);
    let (mut opened, mut told, mut outstanding) = (0, 0, Vec::new());
    for round in 0..20_000u16 {
        let query = Draft::query(round, "gOod.com", A);
        match dice.roll(6) {
            0 | 1 => {
                opened += 1;
                outstanding.extend(bench.forward(udp(), &query).0);
            }
            2 => {
                opened += 1;
                drop(bench.permitted(udp(), &query));
            }
            3 | 4 if !outstanding.is_empty() => {
                let upstream = outstanding.swap_remove(dice.roll(outstanding.len()));
                let datapath = Datapath {
                    failure: (dice.roll(3) == 0).then_some(NotInstalled::MapFull),
                    ..Datapath::default()
                };
                let mut answer = good_answer(upstream.key.id).0;
                if dice.roll(3) == 0 {
                    dice.mutate(&mut answer);
                }
                let (_, bytes) = bench.hear(&answer, &datapath);
                let released = crate::read_answer(&bytes).map_or(0, |read| read.addresses.len());
                let learned = datapath.lessons.borrow();
                assert_eq!(
                    released,
                    learned.first().map_or(0, |lesson| lesson.addresses.len())
                );
            }
            _ => {
                bench.now += Duration::from_millis(40);
                while let (Some(_), _) =
                    bench.step(|pending, step| Some(pending.expire(step.now)?.time_out(step)))
                {
                }
            }
        }
        told += bench.told().len();
    }
    bench.now += TCP_UPSTREAM_WAIT_MAX;
    while bench.pending.expire(bench.now).is_some() {}
    told += bench.told().len();
    assert_eq!(opened, told);
    assert!(bench.pending.is_empty());
}
