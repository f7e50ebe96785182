use std::collections::BTreeMap;

use super::super::knowledge::{EXPIRE_STEP_MAX, RETRY_AFTER};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// The life of an answer of a small TTL: floor and grace.
const SHORTEST: Duration = Duration::from_secs(90);

impl Scene {
    fn ask_for(&self, name: &str, answer: &[(u8, u32)]) {
        let mut lesson = lesson(1, name, &[]);
        lesson.addresses = answer
            .iter()
            .map(|(last, ttl_secs)| LearnedAddr {
                ip: ip(*last),
                ttl_secs: *ttl_secs,
                chain_len: 0,
                is_hint: false,
            })
            .collect();
        self.learn(&lesson).unwrap();
    }

    /// Steps until nothing is due; how many it took.
    fn expire(&self) -> usize {
        let mut steps = 0;
        loop {
            steps += 1;
            let next = self.learner.expire(clock());
            if next.is_none_or(|next| next > clock()) {
                return steps;
            }
        }
    }

    fn is_open_after(&self, last: u8, time: Duration) -> bool {
        pass(time);
        self.expire();
        self.open(last).is_some()
    }

    fn is_empty(&self) -> bool {
        self.look(1, |knowledge| {
            knowledge.ledger.addresses().count() == 0
                && knowledge.cache.pair_count() == 0
                && knowledge.unsettled.is_empty()
        })
    }
}

#[test]
fn what_an_answer_opened_closes_with_its_ttl() {
    // (TTL, the last second in which it is open)
    let rows = [
        (0, 89),
        (1, 89),
        (30, 89),
        (300, 329),
        (2_147_483_647, 86_429),
    ];
    for (ttl_secs, last_second) in rows {
        let scene = Scene::new();
        scene.ask_for("x.example", &[(1, ttl_secs)]);
        let last = Duration::from_secs(last_second);
        assert!(scene.is_open_after(1, last), "TTL {ttl_secs}");
        assert!(!scene.is_open_after(1, SECOND), "TTL {ttl_secs}");
        assert!(scene.is_empty());
        assert_eq!(scene.identities(), scene.at_start);
        assert_eq!(scene.learner.counts.expired.load(SeqCst), 1);
        assert_eq!(scene.learner.expire(clock()), None);
    }
}

#[test]
fn each_address_has_an_end_of_its_own() {
    let scene = Scene::new();
    scene.ask_for("x.example", &[(1, 10), (2, 300)]);
    assert!(!scene.is_open_after(1, SHORTEST));
    assert!(scene.open(2).is_some());
    assert_eq!(
        scene.learner.expire(clock()),
        Some(clock() + Duration::from_secs(240))
    );
    assert!(!scene.is_open_after(2, Duration::from_secs(240)));
}

#[test]
fn what_is_promised_stays_and_what_is_seen_again_stays_longer() {
    let scene = Scene::new();
    scene.ask_for("x.example", &[(1, 300)]);
    scene.ask_for("x.example", &[(1, 0)]);
    assert!(scene.is_open_after(1, Duration::from_secs(329)));
    let writes = scene.writes();
    scene.ask_for("x.example", &[(1, 0)]);
    assert!(scene.is_open_after(1, SHORTEST - SECOND));
    assert_eq!(scene.writes(), writes, "a refresh is no write");
    assert!(!scene.is_open_after(1, SECOND));
}

#[test]
fn an_answer_that_came_between_the_end_and_its_step_keeps_the_address() {
    let scene = Scene::new();
    scene.ask_for("x.example", &[(1, 0)]);
    pass(2 * SHORTEST);
    scene.ask_for("x.example", &[(1, 0)]);
    let writes = scene.writes();
    assert!(scene.is_open_after(1, Duration::from_secs(3)));
    assert_eq!(scene.writes(), writes);
}

#[test]
fn one_of_two_names_ends_and_the_other_one_keeps_the_address_open() {
    let scene = Scene::new();
    scene.ask_for("x.example", &[(1, 0)]);
    scene.ask_for("y.example", &[(1, 300)]);
    assert_eq!(scene.ports(1), [0, 443]);
    let (both, writes) = (scene.open(1).unwrap(), scene.writes());
    pass(SHORTEST);
    assert_eq!(scene.expire(), 1);
    let one = scene.open(1).unwrap();
    assert_eq!(scene.ports(1), [443], "the permission of x is gone");
    let log = scene.look(1, |knowledge| {
        knowledge.ledger.table().log[writes..].to_vec()
    });
    let expected = [
        format!("entry {one}"),
        format!("address {one}"),
        format!("no entry {both}"),
        format!("no entry {both}"),
    ];
    assert_eq!(log, expected, "one overwrite, never closed");
    assert_eq!(scene.identities(), scene.at_start + 1);
    assert!(!scene.is_open_after(1, Duration::from_secs(240)));
}

#[test]
fn a_name_that_is_forgotten_closes_what_only_it_opened() {
    let scene = Scene::new();
    scene.ask_for("x.example", &[(1, 300), (2, 300)]);
    scene.ask_for("y.example", &[(2, 300)]);
    scene.ask_as(2, "x.example", &[1]).unwrap();
    let is_x = |name: &Name| *name == Name::from_text("x.example").unwrap();
    assert_eq!(scene.learner.forget(endpoint(1), is_x), 1);
    assert_eq!((scene.open(1), scene.ports(2)), (None, vec![443]));
    assert!(scene.open_for(2, ip(1)).is_some(), "another's");
    assert_eq!(scene.learner.forget(endpoint(1), is_x), 0);
    assert_eq!(scene.learner.forget(endpoint(9), is_x), 0);
    scene.ask_for("x.example", &[(1, 0)]);
    assert_eq!(scene.ports(1), [0], "and it comes again");
    assert_eq!(scene.learner.forget(endpoint(1), |_| true), 2);
    assert!(scene.is_empty());
    assert_eq!(scene.learner.counts.forgotten.load(SeqCst), 3);
}

#[test]
fn names_that_no_rule_selects_end_without_a_write() {
    let scene = Scene::new();
    scene.ask_for("z.example", &[(1, 0)]);
    let writes = scene.writes();
    assert!(!scene.is_open_after(1, SHORTEST));
    assert_eq!((scene.writes(), scene.is_empty()), (writes, true));
}

#[test]
fn ten_thousand_addresses_end_in_bounded_steps() {
    let scene = Scene::new();
    for (index, answer) in many(10_000).chunks(500).enumerate() {
        let name = format!("n{index}.many.example");
        scene.learn(&lesson(1, &name, answer)).unwrap();
    }
    pass(SHORTEST);
    let open = || scene.look(1, |knowledge| knowledge.ledger.addresses().count());
    let mut steps = 0;
    while open() > 0 {
        let (before, writes) = (open(), scene.writes());
        let next = scene.learner.expire(clock());
        steps += 1;
        let closed = before - open();
        assert!((1..=EXPIRE_STEP_MAX).contains(&closed));
        assert!(scene.writes() - writes <= EXPIRE_STEP_MAX + 1);
        assert_eq!(next.is_some(), open() > 0);
        // Between two steps an answer finds the lock free.
        scene.ask_for("x.example", &[]);
    }
    assert_eq!(steps, 10_000_usize.div_ceil(EXPIRE_STEP_MAX));
    assert_eq!(scene.identities(), scene.at_start);
    assert!(scene.is_empty());
}

#[test]
fn each_endpoint_ends_by_itself() {
    let scene = Scene::new();
    scene.ask_for("x.example", &[(1, 0)]);
    pass(SECOND);
    scene.ask_as(2, "x.example", &[1]).unwrap();
    assert_eq!(
        scene.learner.expire(clock()),
        Some(clock() + SHORTEST - SECOND)
    );
    assert!(!scene.is_open_after(1, SHORTEST - SECOND));
    assert!(scene.open_for(2, ip(1)).is_some());
    scene.learner.remove(endpoint(2));
    assert_eq!(scene.learner.expire(clock()), None);
    assert_eq!(scene.identities(), scene.at_start);
}

#[test]
fn what_the_kernel_does_not_let_go_is_tried_again() {
    let scene = Scene::new();
    scene.ask_for("x.example", &[(1, 0), (2, 0)]);
    scene.kernel.keeps.store(1, SeqCst);
    assert!(scene.is_open_after(1, SHORTEST));
    assert_eq!(
        scene.learner.expire(clock()),
        Some(clock() + RETRY_AFTER),
        "the cache has nothing left that ends"
    );
    assert_eq!(scene.identities(), scene.at_start + 1, "still held");
    // One of them is learned again meanwhile, and stays.
    scene.ask_for("x.example", &[(2, 0)]);
    scene.kernel.keeps.store(0, SeqCst);
    assert!(!scene.is_open_after(1, RETRY_AFTER));
    assert!(scene.open(2).is_some());
    assert!(!scene.is_open_after(2, SHORTEST));
    assert!(scene.is_empty());
    assert_eq!(scene.identities(), scene.at_start);
}

#[test]
fn what_the_kernel_does_not_let_go_goes_with_a_reload() {
    let mut scene = Scene::new();
    scene.ask_for("x.example", &[(1, 0)]);
    scene.kernel.keeps.store(1, SeqCst);
    assert!(scene.is_open_after(1, SHORTEST));
    scene.kernel.keeps.store(0, SeqCst);
    scene.swap(POLICY);
    scene.learner.reload(endpoint(1)).unwrap();
    assert_eq!(scene.open(1), None);
    assert!(scene.is_empty());
}

#[test]
fn an_address_with_no_room_for_what_it_has_left_closes_until_it_is_asked_for() {
    let scene = Scene::new();
    scene.ask_for("x.example", &[(1, 0)]);
    scene.ask_for("y.example", &[(1, 300)]);
    scene.kernel.leave_room(0);
    assert!(
        !scene.is_open_after(1, SHORTEST),
        "x must not be open by y's leave"
    );
    assert_eq!(
        scene.ask("y.example", &[1]),
        Err(NotInstalled::MapFull),
        "no answer before it works"
    );
    scene.kernel.has_room();
    scene.ask_for("y.example", &[(1, 0)]);
    assert_eq!(scene.ports(1), [443]);
}

#[test]
fn a_refused_policy_is_tried_again_by_and_by() {
    let mut scene = Scene::new();
    scene.ask_for("x.example", &[(1, 300)]);
    scene.swap("{toFQDNs: [{matchName: z.example}]}");
    scene.kernel.leave_room(0);
    assert!(scene.learner.reload(endpoint(1)).is_err());
    assert_eq!(scene.learner.expire(clock()), Some(clock() + RETRY_AFTER));
    assert!(scene.open(1).is_some(), "the old policy holds");
    scene.kernel.has_room();
    pass(RETRY_AFTER);
    scene.expire();
    assert_eq!(scene.open(1), None);
    assert_eq!(scene.ask("z.example", &[1]), Ok(()));
    assert!(scene.open(1).is_some());
}

/// A clock that two threads see.
fn shared_clock() -> Instant {
    clock() + Duration::from_secs(SHARED_SECS.load(SeqCst))
}

static SHARED_SECS: AtomicU64 = AtomicU64::new(0);

#[test]
fn no_answer_is_released_while_its_address_is_taken_away() {
    let mut scene = Scene::new();
    scene.learner.clock = shared_clock;
    let done = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while done.load(SeqCst) == 0 {
                scene.learner.expire(shared_clock());
            }
        });
        let names = ["x.example", "y.example"];
        let mut released = 0;
        let lessons = names.map(|name| lesson(1, name, &[ip(1)]));
        for (round, lesson) in lessons.iter().cycle().take(10_000).enumerate() {
            let taught = scene.learner.learn(shared_clock(), lesson);
            // Time stands: what was released must be there, whatever the other thread does.
            let ports = scene.look(1, |knowledge| {
                let table = knowledge.ledger.table();
                let identity = table.addresses.get(&Address::from(ip(1)).octets());
                let of_it = table
                    .entries
                    .keys()
                    .filter(|key| identity == Some(&key.0))
                    .map(|key| key.2);
                of_it.collect::<Vec<u16>>()
            });
            if taught.is_ok() {
                released += 1;
                let own = [0, 443][round % 2];
                assert!(ports.contains(&own), "{round}: {ports:?}");
            }
            // Now both names hold, now one, now none.
            let secs = [40, 89, 90, 200][round % 4];
            SHARED_SECS.fetch_add(secs, SeqCst);
        }
        done.store(1, SeqCst);
        assert!(released > 9_000, "{released}: the others were late");
    });
    SHARED_SECS.fetch_add(90, SeqCst);
    while scene.learner.expire(shared_clock()).is_some() {}
    assert!(scene.is_empty());
    assert_eq!(scene.identities(), scene.at_start);
}

/// A random walk with a kernel that is at times full or stubborn, beside a model that knows pairs
/// and ends: nothing is open that shouldn't be, and all that was released is.
#[test]
fn it_is_what_a_naive_model_says() {
    const NAMES: [(&str, u16); 3] = [("x.example", 0), ("y.example", 443), ("a.many.example", 0)];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..60 {
        let scene = Scene::new();
        // Ends, by address and name, in milliseconds of the clock.
        let mut model: BTreeMap<(u8, usize), u64> = BTreeMap::new();
        for _ in 0..60 {
            match random(8) {
                0..=3 => {
                    let (of, ttl) = (random(3) as usize, random(400) as u32);
                    let mut answer: Vec<u8> = (0..random(4)).map(|_| random(5) as u8).collect();
                    answer.sort_unstable();
                    answer.dedup();
                    let mut lesson = lesson(1, NAMES[of].0, &[]);
                    let addresses = answer.iter().map(|last| LearnedAddr {
                        ip: ip(*last),
                        ttl_secs: ttl,
                        chain_len: 0,
                        is_hint: false,
                    });
                    lesson.addresses = addresses.collect();
                    if scene.learn(&lesson).is_ok() {
                        for last in answer {
                            let end = CLOCK_MS.get() + 1000 * (u64::from(ttl).max(60) + 30);
                            let entry = model.entry((last, of)).or_default();
                            *entry = end.max(*entry);
                            let ports = scene.ports(last);
                            assert!(ports.contains(&NAMES[of].1), "it was released");
                        }
                    }
                }
                4 => scene.kernel.leave_room(random(4) as usize),
                5 => scene.kernel.has_room(),
                _ => {
                    pass(SECOND * random(200) as u32);
                    scene.expire();
                    model.retain(|_, end| *end > CLOCK_MS.get());
                }
            }
            for last in 0..5 {
                let names = model.keys().filter(|(of, _)| *of == last);
                let mut allowed: Vec<u16> = names.map(|(_, name)| NAMES[*name].1).collect();
                allowed.sort_unstable();
                allowed.dedup();
                let ports = scene.ports(last);
                let is_closed = scene.look(1, |knowledge| knowledge.unsettled.contains(&ip(last)));
                if is_closed {
                    assert!(ports.is_empty(), "full maps close");
                } else {
                    assert_eq!(ports, allowed);
                }
            }
        }
        scene.learner.remove(endpoint(1));
        assert_eq!(scene.identities(), scene.at_start);
    }
}
