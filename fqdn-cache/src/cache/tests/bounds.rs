//! What goes at a bound, and what does not.

use super::*;

fn firm(now: usize) -> Given {
    Given {
        now: at(now),
        firm_until: at(now + 60),
        by: None,
    }
}

#[test]
fn no_address_of_a_name_goes_for_another_within_its_floor() {
    let mut cache = small();
    let four = until(90, 1..5);
    learn_firm(&mut cache, firm(0), &name(1), &four).unwrap();
    let known = relation(&cache);
    let answer = until(150, [5]);
    for _ in 0..2 {
        let refused = learn_firm(&mut cache, firm(59), &name(1), &answer);
        assert_eq!(refused, Err(Full::Firm));
    }
    assert_eq!(relation(&cache), known, "nothing changed");
    // What is there already has room.
    let again = learn_firm(&mut cache, firm(0), &name(1), &four);
    assert!(again.unwrap().is_empty());
    let learned = learn_firm(&mut cache, firm(60), &name(1), &answer).unwrap();
    assert_eq!(learned.evicted, [address(1)]);
    check(&cache);
}

#[test]
fn at_the_other_bounds_what_was_answered_within_its_floor_goes_last() {
    // Each bound in turn: what is there, when it was answered and when it ends; what comes at 70 s.
    type Answer<'a> = (usize, &'a [usize], usize, usize);
    type Row<'a> = (&'a [Answer<'a>], (usize, &'a [usize]), &'a [usize]);
    let rows: [Row<'_>; 6] = [
        // The end comes later, yet the floor is over.
        (
            &[(1, &[1], 20, 90), (2, &[2], 5, 200), (3, &[3], 20, 90)],
            (4, &[4]),
            &[2],
        ),
        (
            &[(1, &[1, 2, 3], 20, 90), (2, &[4, 5], 5, 200)],
            (2, &[6]),
            &[4],
        ),
        // All floors last: the one goes that was answered longest ago, whenever it ends.
        (
            &[(1, &[1], 20, 90), (2, &[2], 15, 200), (3, &[3], 20, 90)],
            (4, &[4]),
            &[2],
        ),
        (
            &[(1, &[1, 2, 3], 20, 90), (2, &[4, 5], 15, 200)],
            (1, &[6]),
            &[4],
        ),
        (
            &[(1, &[1, 2, 3, 4], 15, 90), (2, &[1, 2, 3], 20, 80)],
            (2, &[4]),
            &[1],
        ),
        // Answered again it is the last one.
        (
            &[
                (1, &[1], 15, 90),
                (2, &[2], 20, 200),
                (3, &[3], 25, 90),
                (1, &[1], 30, 90),
            ],
            (4, &[4]),
            &[2],
        ),
    ];
    for (before, (of, answer), evicted) in rows {
        let mut cache = small();
        for (of, answer, then, end) in before {
            let answer = until(*end, answer.iter().copied());
            learn_firm(&mut cache, firm(*then), &name(*of), &answer).unwrap();
        }
        let answer = until(150, answer.iter().copied());
        let learned = learn_firm(&mut cache, firm(70), &name(of), &answer).unwrap();
        let evicted: Vec<IpAddr> = evicted.iter().map(|one| address(*one)).collect();
        assert_eq!(learned.evicted, evicted, "{before:?}");
        check(&cache);
    }
}

/// A flood of new names under one floor: each has its place, and the last ones are there.
#[test]
fn ever_new_names_within_one_floor_take_the_place_of_the_oldest() {
    let mut cache = Cache::new();
    for index in 0..2 * NAMES_MAX {
        let answer = until(10_000 + index, [index]);
        let given = Given {
            now: at(0),
            firm_until: at(60 + index),
            by: None,
        };
        let learned = learn_firm(&mut cache, given, &name(index), &answer).unwrap();
        assert_eq!(learned.evicted.len(), usize::from(index >= NAMES_MAX));
    }
    assert_eq!(cache.name_count(), NAMES_MAX);
    let last =
        (NAMES_MAX..2 * NAMES_MAX).all(|one| cache.expiry(&name(one), address(one)).is_some());
    assert!(last, "the oldest went");
    check(&cache);
}

/// Thirty answers a second, each eight others of ten thousand addresses: none of them goes within its floor.
#[test]
fn a_name_with_ten_thousand_addresses_keeps_each_for_its_floor() {
    const ANSWERS_PER_SEC: usize = 30;
    let mut cache = Cache::new();
    let own = name(0);
    let mut seed = 1u32;
    let mut answered: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for index in 0..200 * ANSWERS_PER_SEC {
        let now = index / ANSWERS_PER_SEC;
        let picks = (0..8).map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            address((seed >> 8) as usize % 10_000)
        });
        let answer: Vec<_> = picks.map(|one| (one, at(now + 90))).collect();
        let firm = Given {
            now: at(now),
            firm_until: at(now + 60),
            by: None,
        };
        expire_all(&mut cache, now);
        learn_firm(&mut cache, firm, &own, &answer).unwrap();
        answered.extend(answer.iter().map(|(one, _)| (*one, now)));
        if index % 500 == 0 {
            for (one, then) in &answered {
                let is_open = cache.expiry(&own, *one).is_some();
                assert!(
                    is_open || now - then >= 60,
                    "{one} was answered at {then}, it is {now}"
                );
            }
        }
    }
    assert!(cache.address_count() > 7_000, "{}", cache.address_count());
    check(&cache);
}

/// Ever-new names, as many a second as make a million an hour, each with an address of its own and a life of
/// 90 s; expired as the daemon does it. A quarter of that hour: an unoptimized build takes 16 s of a processor
/// for all of it, in which nothing happens that has not by then.
#[test]
fn ever_new_names_leave_the_size_as_it_is() {
    const SECONDS: usize = 900;
    const A_SECOND: usize = 278;
    const LIFE: usize = 90;
    let mut cache = Cache::new();
    let mut sizes = Vec::new();
    for second in 0..SECONDS {
        while cache.next_expiry().is_some_and(|next| next <= at(second)) {
            cache.expire(at(second), 256);
        }
        for index in second * A_SECOND..(second + 1) * A_SECOND {
            let own = [(address(index), at(second + LIFE))];
            learn_firm(&mut cache, firm(second), &name(index), &own).unwrap();
        }
        sizes.push([
            cache.names.slot_count(),
            cache.addresses.slot_count(),
            cache.by_name.len(),
            cache.by_address.len(),
            cache.pair_count(),
            cache.name_ends.len(),
            cache.address_ends.len(),
        ]);
    }
    // From when the first have ended on it is as large as it was.
    assert_eq!(cache.name_count(), NAMES_MAX);
    for later in sizes.iter().skip(2 * LIFE).step_by(60) {
        assert_eq!(*later, sizes[2 * LIFE]);
    }
    let capacities = [cache.by_name.capacity(), cache.by_address.capacity()];
    assert!(
        capacities.iter().all(|one| *one <= 4 * NAMES_MAX),
        "{capacities:?}"
    );
    assert!(sizes[2 * LIFE][0] <= NAMES_MAX + 1 && sizes[2 * LIFE][1] <= ADDRESSES_MAX + 1);
    check(&cache);
}
