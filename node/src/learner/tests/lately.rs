//! What a daemon that is killed right after an answer leaves to the next one.

use super::*;
use bpf_redirect_common::{CtKey, CtValue, EGRESS, Verdict};

use crate::lately::Note;
use crate::live::Review;
use crate::remembered::Remembered;

const OWNER: &str = "default/a1";

impl Scene {
    /// One endpoint, whose answers are noted.
    fn noting() -> (Self, Arc<Lately>) {
        let scene = Self::empty();
        let (lately, _) = Lately::open(None).unwrap();
        let lately = Arc::new(lately);
        scene.learner.note_in(Arc::clone(&lately));
        scene.adopt(&Heritage {
            owner: OWNER.to_owned(),
            ..Heritage::default()
        });
        (scene, lately)
    }

    fn adopt(&self, heritage: &Heritage) {
        let mut table = self.kernel.table();
        let held = heritage.addresses.iter();
        table.addresses = held.map(|(one, number)| (one.octets(), *number)).collect();
        self.learner.adopt(endpoint(1), table, heritage).unwrap();
    }

    /// What the kernel holds.
    fn addresses(&self) -> Vec<(Address, u32)> {
        self.look(1, |knowledge| knowledge.ledger.addresses().collect())
    }

    /// The next daemon, under a policy: it finds notes, what the kernel holds, and no file.
    fn after(&self, notes: Vec<Note>, policy: &str) -> Self {
        self.long_after(Duration::ZERO, notes, policy)
    }

    fn long_after(&self, away: Duration, notes: Vec<Note>, policy: &str) -> Self {
        let (addresses, passed) = (self.addresses(), CLOCK_MS.get());
        let mut next = Self::empty();
        pass(Duration::from_millis(passed) + away);
        let boot_ns = crate::clock::boot_ns() + u64::try_from(away.as_nanos()).unwrap();
        let left = Remembered::default().with_notes(notes, (clock(), boot_ns));
        next.learner.with_identities(|identities| {
            left.number(identities);
            let last = addresses.iter().map(|(_, number)| *number).max();
            identities.pass_over(last.unwrap_or(0));
        });
        next.swap(policy);
        next.at_start = next.identities();
        let heritage = Heritage {
            owner: OWNER.to_owned(),
            pairs: left.of_endpoint(OWNER, (std::time::SystemTime::UNIX_EPOCH, clock())),
            addresses,
        };
        next.adopt(&heritage);
        next
    }
}

/// A connection that was opened by a name.
fn flow(to: u8, port: u16, identity: u32) -> (CtKey, CtValue) {
    let key = CtKey {
        endpoint: 1,
        local_port: 40_000,
        peer_port: port.to_be(),
        local: Address::from(IpAddr::from([10, 2, 0, 1])),
        peer: Address::from(ip(to)),
        protocol: 6,
        asker: 0,
        reserved: 0,
    };
    let value = CtValue {
        last_seen: 0,
        identity,
        rule: 1, // of another run: here it may stand for anything
        verdict: Verdict::Allow as u8,
        state: CtValue::ANSWERED,
        direction: EGRESS,
        flags: 0,
        ticks: [0; 2],
    };
    (key, value)
}

/// A connection outlives its name whether that ends before, while or after a daemon is away, and no rule that
/// is gone.
#[test]
fn a_connection_lives_on_what_opened_it_though_its_name_ended_while_no_daemon_ran() {
    let (scene, lately) = Scene::noting();
    scene.ask("x.example", &[1]).unwrap();
    scene.ask("y.example", &[2]).unwrap();
    let [x, y] = [1, 2].map(|last| scene.open(last).unwrap());
    let lives = |scene: &Scene, (key, value): (CtKey, CtValue)| {
        let snapshot = scene.learner.snapshot();
        !Review::new(&scene.learner, &snapshot).ends(&key, &value)
    };
    for away in [Duration::ZERO, Duration::from_secs(91)] {
        let next = scene.long_after(away, left(&lately), POLICY);
        pass(Duration::from_secs(91));
        next.learner.expire(clock());
        assert_eq!((next.open(1), next.open(2)), (None, None), "ended");
        assert!(lives(&next, flow(1, 9_999, x)), "away for {away:?}");
        assert!(lives(&next, flow(2, 443, y)));
        assert!(!lives(&next, flow(2, 80, y)), "no rule ever let it");
        let other = scene.long_after(away, left(&lately), "{toFQDNs: [{matchName: y.example}]}");
        assert!(!lives(&other, flow(1, 9_999, x)), "its rule is gone");
        assert!(lives(&other, flow(2, 80, y)), "which has no ports there");
    }
}

fn left(lately: &Lately) -> Vec<Note> {
    Lately::open(Some(lately.descriptor().unwrap())).unwrap().1
}

#[test]
fn what_was_answered_just_before_a_kill_stays_open_under_its_number_until_its_end() {
    let (scene, lately) = Scene::noting();
    scene.ask("x.example", &[1, 2]).unwrap();
    scene.ask("y.example", &[2]).unwrap();
    let next = scene.after(left(&lately), POLICY);
    assert_eq!(next.addresses(), scene.addresses(), "the same numbers");
    assert_eq!(next.ports(2), [0, 443], "by both of its names");
    pass(Duration::from_secs(88));
    next.learner.expire(clock());
    assert!(next.open(1).is_some() && next.open(2).is_some());
    pass(Duration::from_secs(2));
    next.learner.expire(clock());
    assert!(next.open(1).is_none() && next.open(2).is_none());
    assert_eq!(next.identities(), next.at_start);
}

#[test]
fn what_the_next_policy_does_not_name_is_closed_whatever_was_noted() {
    let (scene, lately) = Scene::noting();
    scene.ask("x.example", &[1]).unwrap();
    scene.ask("y.example", &[2]).unwrap();
    let next = scene.after(left(&lately), "{toFQDNs: [{matchName: y.example}]}");
    assert_eq!((next.open(1), next.open(2).is_some()), (None, true));
    // What nobody noted has no name that a policy could judge.
    let next = scene.after(Vec::new(), POLICY);
    assert!(next.addresses().is_empty());
}

#[test]
fn a_refresh_is_noted_where_a_kill_would_take_what_its_ttl_promised() {
    let (scene, lately) = Scene::noting();
    let noted = || left(&lately).len();
    scene.ask("x.example", &[1]).unwrap();
    scene.ask("of.nobody.example", &[3]).unwrap();
    assert_eq!(noted(), 1, "what opens nothing needs no note");
    pass(Duration::from_secs(10));
    scene.ask("x.example", &[1]).unwrap();
    assert_eq!(noted(), 1, "the grace covers it");
    pass(Duration::from_secs(11));
    scene.ask("x.example", &[1]).unwrap();
    assert_eq!(noted(), 2);
    let terms = Terms {
        lifetimes: Lifetimes {
            grace: Duration::ZERO,
            ..Lifetimes::default()
        },
        ..scene.learner.terms.load().as_ref().clone()
    };
    scene.learner.set_terms(terms);
    pass(Duration::from_secs(31));
    scene.ask("x.example", &[1]).unwrap();
    assert_eq!(noted(), 3, "without a grace each that puts an end off");
    scene.ask("x.example", &[1]).unwrap();
    assert_eq!(noted(), 3);
    pass(Duration::from_secs(59));
    let next = scene.after(left(&lately), POLICY);
    next.learner.expire(clock());
    assert!(next.open(1).is_some());
}

#[test]
fn answers_without_room_are_counted_and_released() {
    let (scene, lately) = Scene::noting();
    scene.ask("x.example", &[1]).unwrap();
    let notes = left(&lately);
    while lately.note(&notes[0]) {}
    let full = left(&lately).len();
    scene.ask("y.example", &[2]).unwrap();
    let unnoted = || scene.learner.counts.unnoted.load(SeqCst);
    assert_eq!((unnoted(), left(&lately).len()), (1, full));
    lately.turn();
    scene.ask("y.example", &[3]).unwrap();
    assert_eq!((unnoted(), left(&lately).len()), (1, full + 1));
}
