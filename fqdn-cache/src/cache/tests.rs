use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn name(index: usize) -> Name {
    Name::from_text(&format!("n{index}.example.com")).unwrap()
}

fn address(index: usize) -> IpAddr {
    let index = u32::try_from(index).unwrap();
    IpAddr::from((0x0A00_0000 + index).to_be_bytes())
}

fn addresses(range: std::ops::Range<usize>) -> Vec<IpAddr> {
    range.map(address).collect()
}

fn names_of(cache: &Cache, of: IpAddr) -> Vec<String> {
    cache.names_of(of).map(ToString::to_string).collect()
}

/// All invariants that no caller can see broken.
fn check(cache: &Cache) {
    assert!(cache.name_count() <= NAMES_MAX && cache.address_count() <= ADDRESSES_MAX);
    assert_eq!(cache.names().count(), cache.name_count());
    assert_eq!(cache.addresses().count(), cache.address_count());
    let forth: usize = cache
        .names()
        .map(|name| cache.addresses_of(name).count())
        .sum();
    let back: usize = cache
        .addresses()
        .map(|one| cache.names_of(one).count())
        .sum();
    assert_eq!((forth, back), (cache.pair_count(), cache.pair_count()));
}

#[test]
fn a_name_has_addresses_and_an_address_names() {
    let mut cache = Cache::new();
    let (one, two) = (name(1), name(2));
    let learned = cache
        .learn(&one, &[address(1), address(2), address(1)])
        .unwrap();
    assert_eq!(learned.fresh, [address(1), address(2)]);
    let learned = cache.learn(&two, &[address(2), address(3)]).unwrap();
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
    assert!(cache.learn(&two, &[]).unwrap().is_empty());
    assert!(cache.learn(&name(3), &[]).unwrap().is_empty());
    assert_eq!(cache.name_count(), 2);
    check(&cache);
}

#[test]
fn a_refresh_changes_nothing_but_the_order() {
    let mut cache = Cache::new();
    cache.learn(&name(1), &addresses(0..2)).unwrap();
    cache.learn(&name(2), &addresses(2..4)).unwrap();
    let learned = cache.learn(&name(1), &addresses(0..1)).unwrap();
    assert!(learned.is_empty());
    assert_eq!(
        (learned.fresh.capacity(), learned.evicted.capacity()),
        (0, 0)
    );
    assert!(cache.addresses().eq([1, 2, 3, 0].map(address)));
    assert!(cache.names().eq([&name(2), &name(1)]));
}

#[test]
fn a_plan_alone_changes_nothing_and_grows_stale() {
    let mut cache = Cache::new();
    let (one, two) = (name(1), name(2));
    cache.learn(&one, &[address(1)]).unwrap();
    let answer = [address(1), address(2)];
    let failed = cache.plan(&two, &answer).unwrap();
    assert_eq!(failed.changes().fresh, answer);
    let after: Vec<&Name> = failed.names_after(&cache, address(1)).collect();
    assert_eq!(after, [&one, &two]);
    assert!(failed.names_after(&cache, address(2)).eq([&two]));
    drop(failed);
    assert_eq!(names_of(&cache, address(1)), ["n1.example.com."]);
    assert_eq!(cache.address_count(), 1);
    let stale = cache.plan(&two, &answer).unwrap();
    cache.learn(&one, &[address(1)]).unwrap();
    assert_eq!(cache.commit(stale), Err(Stale));
    assert_eq!(cache.name_count(), 1);
    check(&cache);
}

#[test]
fn a_name_with_too_many_addresses_loses_its_oldest() {
    let mut cache = Cache::new();
    let own = name(0);
    cache
        .learn(&own, &addresses(0..ADDRESSES_PER_NAME_MAX))
        .unwrap();
    cache.learn(&name(1), &[address(1)]).unwrap();
    cache.learn(&own, &[address(0)]).unwrap();
    let extra = [address(5000), address(5001), address(0)];
    let plan = cache.plan(&own, &extra).unwrap();
    assert!(plan.names_after(&cache, address(1)).eq([&name(1)]));
    assert!(plan.names_after(&cache, address(2)).next().is_none());
    let learned = cache.commit(plan).unwrap();
    assert_eq!(learned.fresh, [address(5000), address(5001)]);
    assert_eq!(learned.evicted, [address(1), address(2)]);
    assert_eq!(names_of(&cache, address(1)), ["n1.example.com."]);
    assert_eq!(cache.addresses_of(&own).count(), ADDRESSES_PER_NAME_MAX);
    let too_many = addresses(0..ADDRESSES_PER_NAME_MAX + 1);
    let count = too_many.len();
    assert_eq!(cache.learn(&own, &too_many), Err(Full { count }));
    check(&cache);
}

#[test]
fn one_name_too_many_takes_the_oldest_away() {
    let mut cache = Cache::new();
    for index in 0..NAMES_MAX {
        cache.learn(&name(index), &[address(index / 2)]).unwrap();
    }
    cache.learn(&name(0), &[address(0)]).unwrap();
    let learned = cache.learn(&name(NAMES_MAX), &[address(0)]).unwrap();
    assert_eq!(learned.fresh, [address(0)], "it lost n1 and got another");
    assert!(learned.evicted.is_empty());
    assert_eq!(
        names_of(&cache, address(0)),
        ["n0.example.com.", "n10000.example.com."]
    );
    let learned = cache.learn(&name(NAMES_MAX + 1), &[address(0)]).unwrap();
    assert_eq!(learned.evicted, [address(1)]);
    assert_eq!(names_of(&cache, address(1)), ["n3.example.com."]);
    assert_eq!(cache.name_count(), NAMES_MAX);
    check(&cache);
}

#[test]
fn one_address_too_many_takes_the_oldest_away() {
    let mut cache = Cache::new();
    for index in 0..ADDRESSES_MAX / 500 {
        cache
            .learn(&name(index), &addresses(index * 500..(index + 1) * 500))
            .unwrap();
    }
    cache.learn(&name(1), &[address(2)]).unwrap();
    cache.learn(&name(0), &[address(0)]).unwrap();
    let learned = cache
        .learn(&name(99), &[address(1), address(90_000), address(90_001)])
        .unwrap();
    assert_eq!(
        learned.fresh,
        [address(1), address(90_000), address(90_001)]
    );
    assert_eq!(learned.evicted, [address(3), address(4)]);
    assert_eq!(cache.address_count(), ADDRESSES_MAX);
    check(&cache);
}

#[test]
fn ever_new_names_leave_the_size_as_it_is() {
    let mut cache = Cache::new();
    for index in 0..3 * NAMES_MAX {
        cache
            .learn(&name(index), &[address(index), address(index + 1)])
            .unwrap();
    }
    assert_eq!(cache.name_count(), NAMES_MAX);
    assert!(cache.names.slot_count() <= NAMES_MAX + 1);
    assert!(cache.addresses.slot_count() <= ADDRESSES_MAX + 2);
    check(&cache);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Below the bounds the cache is a set of pairs.
    #[test]
    fn it_is_a_relation(answers in prop::collection::vec((0..6usize, prop::collection::vec(0..8usize, 0..5)), 0..40)) {
        let mut cache = Cache::new();
        let mut model: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (of, indices) in answers {
            let answer: Vec<IpAddr> = indices.iter().map(|index| address(*index)).collect();
            let learned = cache.learn(&name(of), &answer).unwrap();
            let mut fresh: Vec<IpAddr> = Vec::new();
            for index in indices {
                if model.entry(index).or_default().insert(of) {
                    fresh.push(address(index));
                }
            }
            prop_assert_eq!(learned, Learned { fresh, evicted: Vec::new() });
            check(&cache);
        }
        for (index, names) in model {
            let mut got = names_of(&cache, address(index));
            got.sort_unstable();
            let expected: Vec<String> = names.iter().map(|of| name(*of).to_string()).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
