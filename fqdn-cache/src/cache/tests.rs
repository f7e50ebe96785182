use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limits::{
    ADDRESSES_MAX, ADDRESSES_PER_NAME_MAX, CONNECTED_MAX, CONNECTED_NAMES_MAX, ENDED_MAX,
    NAMES_MAX, PAIRS_MAX,
};
use crate::plan::{Full, Given};

mod bounds;

fn name(index: usize) -> Name {
    Name::from_text(&format!("n{index}.example.com")).unwrap()
}

fn address(index: usize) -> IpAddr {
    let index = u32::try_from(index).unwrap();
    IpAddr::from((0x0A00_0000 + index).to_be_bytes())
}

/// So many seconds after time began.
#[expect(clippy::disallowed_methods, reason = "where a test's time begins")]
fn at(secs: usize) -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now) + Duration::from_secs(secs as u64)
}

/// Addresses that all end at the same time.
fn until(secs: usize, indices: impl IntoIterator<Item = usize>) -> Vec<(IpAddr, Instant)> {
    let indices = indices.into_iter();
    indices.map(|index| (address(index), at(secs))).collect()
}

/// Of an answer that anything may push out, and that may push out anything.
fn loose() -> Given {
    Given {
        now: at(0),
        firm_until: at(0),
        by: None,
    }
}

fn learn(cache: &mut Cache, name: &Name, addresses: &[(IpAddr, Instant)]) -> Result<Learned, Full> {
    learn_firm(cache, loose(), name, addresses)
}

fn learn_firm(
    cache: &mut Cache,
    given: Given,
    name: &Name,
    addresses: &[(IpAddr, Instant)],
) -> Result<Learned, Full> {
    let plan = cache.plan(name, addresses, given)?;
    let learned = cache.commit(plan);
    Ok(learned.unwrap_or_else(|stale| panic!("{stale}")))
}

fn names_of(cache: &Cache, of: IpAddr) -> Vec<String> {
    cache.names_of(of).map(ToString::to_string).collect()
}

/// Expires all that has ended by then.
fn expire_all(cache: &mut Cache, secs: usize) -> Vec<IpAddr> {
    let mut losing = Vec::new();
    while cache.next_expiry().is_some_and(|next| next <= at(secs)) {
        losing.extend(cache.expire(at(secs), 7));
    }
    losing
}

#[test]
fn what_ended_is_remembered_for_a_while() {
    let mut cache = Cache::new();
    learn(&mut cache, &name(1), &until(3, [1])).unwrap();
    learn(&mut cache, &name(2), &until(5, [1, 2])).unwrap();
    learn(&mut cache, &name(3), &until(5, [3])).unwrap();
    assert!(cache.ended(address(1)).is_empty());
    cache.forget(&name(3));
    expire_all(&mut cache, 5);
    let (one, two) = (name(1), name(2));
    assert_eq!(cache.ended(address(1)), [(&two, at(5)), (&one, at(3))]);
    assert_eq!(cache.ended(address(2)), [(&two, at(5))]);
    assert!(cache.ended(address(3)).is_empty(), "it was forgotten");
    // The last end counts; the name is told once.
    learn(&mut cache, &name(1), &until(9, [1])).unwrap();
    expire_all(&mut cache, 9);
    assert_eq!(cache.ended(address(1)), [(&one, at(9)), (&two, at(5))]);
    // The bound takes the oldest away: two pairs of the first name, two of the second.
    for index in 0..ENDED_MAX - 3 {
        learn(&mut cache, &name(4), &until(10 + index, [9])).unwrap();
        expire_all(&mut cache, 10 + index);
    }
    assert_eq!(cache.ended(address(1)), [(&one, at(9)), (&two, at(5))]);
    learn(&mut cache, &name(4), &until(9_999, [9])).unwrap();
    expire_all(&mut cache, 9_999);
    learn(&mut cache, &name(4), &until(10_000, [9])).unwrap();
    expire_all(&mut cache, 10_000);
    assert_eq!(cache.ended(address(1)), [(&one, at(9))]);
    assert!(cache.ended(address(2)).is_empty());
}

#[test]
fn what_a_connection_was_opened_by_is_remembered_as_long_as_it_lives() {
    let mut cache = Cache::new();
    let (one, two) = (name(1), name(2));
    let churn = |cache: &mut Cache, from: usize| {
        for index in from..from + ENDED_MAX {
            learn(cache, &name(9), &until(index, [9])).unwrap();
            expire_all(cache, index);
        }
    };
    learn(&mut cache, &one, &until(3, [1, 3])).unwrap();
    learn(&mut cache, &two, &until(5, [1, 2])).unwrap();
    cache.note_connected([address(1)]);
    expire_all(&mut cache, 5);
    // The last look was before this one's connection.
    cache.note_connected([address(1), address(2)]);
    churn(&mut cache, 10);
    assert_eq!(cache.ended(address(1)), [(&two, at(5)), (&one, at(3))]);
    assert_eq!(cache.ended(address(2)), [(&two, at(5))]);
    assert!(cache.ended(address(3)).is_empty(), "nobody is connected");
    // Another look; and the name comes again, and ends again.
    learn(&mut cache, &one, &until(1_000, [1])).unwrap();
    expire_all(&mut cache, 1_000);
    cache.note_connected([address(1)]);
    churn(&mut cache, 1_010);
    assert_eq!(cache.ended(address(1)), [(&one, at(1_000)), (&two, at(5))]);
    assert!(cache.ended(address(2)).is_empty(), "it is closed");
    // At the bounds: of names, and of addresses.
    for index in 0..=CONNECTED_NAMES_MAX {
        learn(&mut cache, &name(20 + index), &until(2_000 + index, [1])).unwrap();
        expire_all(&mut cache, 2_000 + index);
    }
    churn(&mut cache, 3_000);
    let kept = cache.ended(address(1));
    assert_eq!(kept.len(), CONNECTED_NAMES_MAX);
    let last = name(20 + CONNECTED_NAMES_MAX);
    assert_eq!(kept[0], (&last, at(2_000 + CONNECTED_NAMES_MAX)));
    let many = (1_000..).map(address).take(CONNECTED_MAX);
    cache.note_connected(many.chain([address(1)]));
    assert!(cache.ended(address(1)).is_empty(), "one too many");
}

#[test]
fn a_name_that_is_forgotten_leaves_what_others_gave() {
    let mut cache = Cache::new();
    learn(&mut cache, &name(1), &until(30, [1, 2])).unwrap();
    learn(&mut cache, &name(2), &until(60, [2, 3])).unwrap();
    assert!(cache.forget(&name(9)).is_empty());
    assert_eq!(cache.forget(&name(1)), [address(1), address(2)]);
    check(&cache);
    assert_eq!((cache.name_count(), cache.address_count()), (1, 2));
    assert_eq!(names_of(&cache, address(2)), ["n2.example.com."]);
    assert!(expire_all(&mut cache, 30).is_empty());
    learn(&mut cache, &name(1), &until(90, [1])).unwrap();
    assert_eq!(cache.expiry(&name(1), address(1)), Some(at(90)));
    check(&cache);
}

/// All invariants that no caller can see broken.
fn check(cache: &Cache) {
    let bounds = cache.bounds;
    assert!(cache.name_count() <= bounds.names && cache.address_count() <= bounds.addresses);
    assert!(cache.pair_count() <= bounds.pairs);
    assert_eq!(cache.names().count(), cache.name_count());
    assert_eq!(cache.addresses().count(), cache.address_count());
    assert_eq!(cache.name_ends.len(), cache.name_count());
    assert_eq!(cache.address_ends.len(), cache.address_count());
    let of_each = cache.names().map(|name| cache.addresses_of(name).count());
    let forth: usize = of_each
        .inspect(|count| assert!((1..=bounds.addresses_per_name).contains(count)))
        .sum();
    let of_each = cache.addresses().map(|one| cache.names_of(one).count());
    let back: usize = of_each.inspect(|count| assert!(*count > 0)).sum();
    assert_eq!((forth, back), (cache.pair_count(), cache.pair_count()));
}

#[test]
fn a_name_has_addresses_and_an_address_names() {
    let mut cache = Cache::new();
    let (one, two) = (name(1), name(2));
    let learned = learn(&mut cache, &one, &until(9, [1, 2, 1])).unwrap();
    assert_eq!(learned.fresh, [address(1), address(2)]);
    let learned = learn(&mut cache, &two, &until(9, [2, 3])).unwrap();
    assert_eq!(learned.fresh, [address(2), address(3)]);
    assert!(learned.evicted.is_empty());
    assert_eq!(
        names_of(&cache, address(2)),
        ["n1.example.com.", "n2.example.com."]
    );
    assert_eq!(names_of(&cache, address(9)), [""; 0]);
    assert!(cache.addresses_of(&two).eq([address(2), address(3)]));
    assert_eq!(
        (
            cache.name_count(),
            cache.address_count(),
            cache.pair_count()
        ),
        (2, 3, 4)
    );
    assert!(learn(&mut cache, &two, &[]).unwrap().is_empty());
    assert!(learn(&mut cache, &name(3), &[]).unwrap().is_empty());
    assert_eq!(cache.name_count(), 2);
    check(&cache);
}

#[test]
fn a_refresh_puts_the_end_off_and_nothing_else() {
    let mut cache = Cache::new();
    learn(&mut cache, &name(1), &until(10, 0..2)).unwrap();
    let (refresh, shorter) = (until(20, 0..1), until(5, 0..2));
    for (answer, ends) in [(refresh, [20, 10]), (shorter, [20, 10])] {
        let learned = learn(&mut cache, &name(1), &answer).unwrap();
        assert!(learned.is_empty());
        let capacities = (learned.fresh.capacity(), learned.evicted.capacity());
        assert_eq!(capacities, (0, 0));
        let got = [0, 1].map(|index| cache.expiry(&name(1), address(index)));
        assert_eq!(got, ends.map(|end| Some(at(end))));
    }
    assert_eq!(cache.expire(at(10), 9), [address(1)]);
    assert!(cache.expire(at(19), 9).is_empty());
    assert_eq!(cache.next_expiry(), Some(at(20)));
    assert_eq!(cache.expire(at(20), 9), [address(0)]);
    assert_eq!((cache.next_expiry(), cache.pair_count()), (None, 0));
    check(&cache);
}

#[test]
fn an_address_twice_in_one_answer_ends_with_the_later() {
    let mut cache = Cache::new();
    let twice = [(address(1), at(7)), (address(1), at(5))];
    learn(&mut cache, &name(1), &twice).unwrap();
    assert_eq!(cache.expiry(&name(1), address(1)), Some(at(7)));
    check(&cache);
}

#[test]
fn an_address_outlives_the_first_of_its_names() {
    let mut cache = Cache::new();
    learn(&mut cache, &name(1), &until(10, [1, 2])).unwrap();
    learn(&mut cache, &name(2), &until(20, [1])).unwrap();
    assert_eq!(cache.expire(at(10), 9), [address(1), address(2)]);
    assert_eq!(names_of(&cache, address(1)), ["n2.example.com."]);
    assert_eq!(names_of(&cache, address(2)), [""; 0]);
    assert_eq!((cache.name_count(), cache.address_count()), (1, 1));
    check(&cache);
}

#[test]
fn ten_thousand_end_in_bounded_steps() {
    let mut cache = Cache::new();
    for index in 0..20 {
        let own = 500 * index..500 * (index + 1);
        learn(&mut cache, &name(index), &until(10, own)).unwrap();
    }
    // Half of them were seen again: a look each, and no more until they end.
    for index in 0..10 {
        let own = 500 * index..500 * (index + 1);
        learn(&mut cache, &name(index), &until(30, own)).unwrap();
    }
    let steps = |cache: &mut Cache, secs| {
        let mut steps = Vec::new();
        while cache.next_expiry().is_some_and(|next| next <= at(secs)) {
            steps.push(cache.expire(at(secs), 250).len());
            check(cache);
        }
        (steps.len(), steps.iter().sum())
    };
    assert_eq!(steps(&mut cache, 20), (40, 5_000));
    assert_eq!(steps(&mut cache, 29), (0, 0));
    assert_eq!(steps(&mut cache, 30), (20, 5_000));
    assert_eq!((cache.pair_count(), cache.name_count()), (0, 0));
}

#[test]
fn a_plan_alone_changes_nothing_and_grows_stale() {
    let mut cache = Cache::new();
    let (one, two) = (name(1), name(2));
    learn(&mut cache, &one, &until(9, [1])).unwrap();
    let answer = until(9, [1, 2]);
    let failed = cache.plan(&two, &answer, loose()).unwrap();
    assert_eq!(failed.changes().fresh, [address(1), address(2)]);
    let after: Vec<&Name> = failed.names_after(&cache, address(1)).collect();
    assert_eq!(after, [&one, &two]);
    assert!(failed.names_after(&cache, address(2)).eq([&two]));
    drop(failed);
    assert_eq!(names_of(&cache, address(1)), ["n1.example.com."]);
    assert_eq!(cache.address_count(), 1);
    let stale = cache.plan(&two, &answer, loose()).unwrap();
    learn(&mut cache, &one, &until(9, [1])).unwrap();
    assert_eq!(cache.commit(stale), Err(Stale));
    let stale = cache.plan(&two, &answer, loose()).unwrap();
    assert_eq!(cache.expire(at(9), 9), [address(1)]);
    assert_eq!(cache.commit(stale), Err(Stale));
    assert_eq!(cache.name_count(), 0);
    check(&cache);
}

#[test]
fn a_name_with_too_many_addresses_loses_those_that_end_first() {
    let mut cache = Cache::new();
    let own = name(0);
    let ends = (0..ADDRESSES_PER_NAME_MAX).map(|index| (address(index), at(100 + index)));
    let full: Vec<_> = ends.collect();
    learn(&mut cache, &own, &full).unwrap();
    learn(&mut cache, &name(1), &until(900, [1])).unwrap();
    // What the answer names stays, also where it ends first.
    let extra = until(50, [50_000, 50_001, 0]);
    let plan = cache.plan(&own, &extra, loose()).unwrap();
    assert!(plan.names_after(&cache, address(1)).eq([&name(1)]));
    assert!(plan.names_after(&cache, address(2)).next().is_none());
    let learned = cache.commit(plan).unwrap();
    assert_eq!(learned.fresh, [address(50_000), address(50_001)]);
    assert_eq!(learned.evicted, [address(1), address(2)]);
    assert_eq!(names_of(&cache, address(1)), ["n1.example.com."]);
    assert_eq!(cache.addresses_of(&own).count(), ADDRESSES_PER_NAME_MAX);
    let too_many = until(99, 0..ADDRESSES_PER_NAME_MAX + 1);
    let (count, max) = (too_many.len(), ADDRESSES_PER_NAME_MAX);
    assert_eq!(
        learn(&mut cache, &own, &too_many),
        Err(Full::Answer { count, max })
    );
    check(&cache);
}

#[test]
fn one_name_too_many_takes_the_one_away_that_ends_first() {
    let mut cache = Cache::new();
    for index in 0..NAMES_MAX {
        let own = until(100 + index, [index / 2]);
        learn(&mut cache, &name(index), &own).unwrap();
    }
    learn(&mut cache, &name(0), &until(90_000, [0])).unwrap();
    let more = learn(&mut cache, &name(NAMES_MAX), &until(90_000, [0])).unwrap();
    assert_eq!(more.fresh, [address(0)], "it lost n1 and got another");
    assert!(more.evicted.is_empty());
    assert_eq!(
        names_of(&cache, address(0)),
        ["n0.example.com.", "n20000.example.com."]
    );
    let more = learn(&mut cache, &name(NAMES_MAX + 1), &until(90_000, [0]));
    assert_eq!(more.unwrap().evicted, [address(1)]);
    assert_eq!(names_of(&cache, address(1)), ["n3.example.com."]);
    assert_eq!(cache.name_count(), NAMES_MAX);
    check(&cache);
}

#[test]
fn one_address_too_many_takes_the_one_away_that_ends_first() {
    let mut cache = Cache::new();
    for index in 0..ADDRESSES_MAX / 500 {
        let own = 500 * index..500 * (index + 1);
        let own: Vec<_> = own.map(|one| (address(one), at(100 + one))).collect();
        learn(&mut cache, &name(index), &own).unwrap();
    }
    learn(&mut cache, &name(1), &until(90_000, [2])).unwrap();
    learn(&mut cache, &name(0), &until(90_000, [0])).unwrap();
    let answer = until(50, [1, 90_000, 90_001]);
    let learned = learn(&mut cache, &name(99), &answer).unwrap();
    assert_eq!(
        learned.fresh,
        [address(1), address(90_000), address(90_001)]
    );
    assert_eq!(learned.evicted, [address(3), address(4)]);
    assert_eq!(cache.address_count(), ADDRESSES_MAX);
    check(&cache);
}

#[test]
fn many_names_on_the_same_addresses_are_bounded_too() {
    let mut cache = Cache::new();
    let rounds = PAIRS_MAX / ADDRESSES_PER_NAME_MAX;
    for index in 0..rounds {
        let all = until(100 + index, 0..ADDRESSES_PER_NAME_MAX);
        learn(&mut cache, &name(index), &all).unwrap();
    }
    assert_eq!(cache.pair_count(), PAIRS_MAX);
    let learned = learn(&mut cache, &name(rounds), &until(50, [1, 2, 90_000]));
    let learned = learned.unwrap();
    assert_eq!(learned.fresh, [address(1), address(2), address(90_000)]);
    let first = names_of(&cache, address(3));
    assert_eq!((first.len(), learned.evicted.len()), (rounds, 1));
    assert_eq!(cache.pair_count(), PAIRS_MAX);
    check(&cache);
}

/// Which names are known, at most bounds of 4 addresses of a name, 3 names, 5 addresses and 7 pairs.
fn small() -> Cache {
    let bounds = Bounds {
        addresses_per_name: 4,
        names: 3,
        addresses: 5,
        pairs: 7,
    };
    Cache {
        bounds,
        ..Cache::default()
    }
}

#[test]
fn whoever_walks_through_the_names_by_parts_sees_what_stays() {
    let mut cache = Cache::new();
    for index in 0..10 {
        learn(&mut cache, &name(index), &until(index, [index])).unwrap();
    }
    let part = |cache: &Cache, first| {
        let names = cache.names_in(first, 4)?;
        Some(names.map(ToString::to_string).collect::<Vec<_>>())
    };
    let mut seen = part(&cache, 0).unwrap();
    // Two go and one comes, into a place that is over.
    expire_all(&mut cache, 1);
    learn(&mut cache, &name(20), &until(90, [20])).unwrap();
    for first in [4, 8] {
        seen.extend(part(&cache, first).unwrap());
    }
    assert_eq!(part(&cache, 12), None);
    let stayed = (2..10).map(|index| name(index).to_string());
    assert!(
        stayed.into_iter().all(|name| seen.contains(&name)),
        "{seen:?}"
    );
    assert!(Cache::new().names_in(0, 4).is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Learn(usize, Vec<(usize, usize)>),
    Expire { later: usize, at_most: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let answer = prop::collection::vec((0..8usize, 1..30usize), 0..4);
    let learn = (0..6usize, answer).prop_map(|(of, answer)| Step::Learn(of, answer));
    let expire =
        (0..12usize, 1..5usize).prop_map(|(later, at_most)| Step::Expire { later, at_most });
    prop::collection::vec(prop_oneof![3 => learn, 1 => expire], 0..60)
}

/// Which names each address has.
fn relation(cache: &Cache) -> BTreeMap<IpAddr, Vec<String>> {
    let all = cache.addresses();
    all.map(|one| (one, names_of(cache, one))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Below the bounds the cache is a set of pairs with ends.
    #[test]
    fn it_is_a_relation_with_ends(steps in steps()) {
        let mut cache = Cache::new();
        let mut model: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Learn(of, answer) => {
                    let lesson: Vec<_> = answer.iter().map(|(one, ttl)| (address(*one), at(now + ttl))).collect();
                    let learned = learn(&mut cache, &name(of), &lesson).unwrap();
                    let mut fresh: Vec<IpAddr> = Vec::new();
                    for (one, ttl) in answer {
                        if !model.contains_key(&(one, of)) {
                            fresh.push(address(one));
                        }
                        let end = model.entry((one, of)).or_default();
                        *end = (*end).max(now + ttl);
                    }
                    prop_assert_eq!(learned, Learned { fresh, evicted: Vec::new() });
                }
                Step::Expire { later, at_most } => {
                    now += later;
                    let mut lost = BTreeSet::new();
                    while cache.next_expiry().is_some_and(|next| next <= at(now)) {
                        let step = cache.expire(at(now), at_most);
                        prop_assert!(step.len() <= at_most);
                        lost.extend(step);
                    }
                    let ended = model.iter().filter(|(_, end)| **end <= now);
                    let expected: BTreeSet<IpAddr> = ended.map(|((one, _), _)| address(*one)).collect();
                    prop_assert_eq!(lost, expected);
                    model.retain(|_, end| *end > now);
                }
            }
            check(&cache);
            prop_assert_eq!(cache.pair_count(), model.len());
            for ((one, of), end) in &model {
                prop_assert_eq!(cache.expiry(&name(*of), address(*one)), Some(at(*end)));
            }
            // It wakes nobody late.
            let first = model.values().min().map(|end| at(*end));
            prop_assert!(cache.next_expiry() <= first && cache.next_expiry().is_some() == first.is_some());
        }
    }

    /// At the bounds an answer gets its place if something may go, and what changed by that is said, no more
    /// and no less.
    #[test]
    fn what_bounds_take_is_told(steps in steps(), floor in 0..9usize) {
        let mut cache = small();
        let mut now = 0;
        for step in steps {
            let before = relation(&cache);
            let (told, answer) = match step {
                Step::Learn(of, answer) => {
                    let lesson: Vec<_> = answer.iter().map(|(one, ttl)| (address(*one), at(now + ttl))).collect();
                    let own = name(of);
                    let firm = Given { now: at(now), firm_until: at(now + floor), by: None };
                    let Ok(plan) = cache.plan(&own, &lesson, firm) else {
                        prop_assert!(floor > 0, "something may always go");
                        let all: BTreeSet<IpAddr> = lesson.iter().map(|(one, _)| *one).chain(cache.addresses_of(&own)).collect();
                        prop_assert!(all.len() > 4, "only a name's own addresses are kept for their floor in any case");
                        prop_assert_eq!(relation(&cache), before);
                        continue;
                    };
                    let changed = plan.changes().clone();
                    let changed: Vec<IpAddr> = changed.fresh.into_iter().chain(changed.evicted).collect();
                    let after: BTreeMap<IpAddr, Vec<String>> = changed.iter().map(|one| {
                        (*one, plan.names_after(&cache, *one).map(ToString::to_string).collect())
                    }).collect();
                    cache.commit(plan).unwrap();
                    for (one, names) in after {
                        prop_assert_eq!(names, names_of(&cache, one), "the plan was kept");
                    }
                    for (one, end) in &lesson {
                        prop_assert!(cache.expiry(&name(of), *one) >= Some(*end));
                    }
                    (changed, lesson)
                }
                Step::Expire { later, .. } => {
                    now += later;
                    (expire_all(&mut cache, now), Vec::new())
                }
            };
            check(&cache);
            let after = relation(&cache);
            let all: BTreeSet<IpAddr> = before.keys().chain(after.keys()).copied().collect();
            let different: BTreeSet<IpAddr> = all.into_iter().filter(|one| before.get(one) != after.get(one)).collect();
            let told: BTreeSet<IpAddr> = told.into_iter().collect();
            // An answer's own address may lose one name and get another: told, as it should be.
            prop_assert_eq!(&different, &told, "{:?}", answer);
        }
    }
}
