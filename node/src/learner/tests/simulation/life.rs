//! One life: what happens, in which order, and what is checked after each step.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::sync::Arc;

use arc_swap::Guard;
use dnsproxy::limits::OUTSTANDING_PER_ENDPOINT_MAX;
use dnsproxy::{
    Counters, Ending, Origin, Outcome, Outstanding, Pending, Records, Settings, Slot, Step, Told,
};

use super::super::*;
use super::model::{Message, Model, POLICIES};

/// Queries of one life.
const QUERIES: usize = 14;

/// Random numbers that repeat: xorshift64.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }

    pub(super) fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    pub(super) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len() as u64) as usize]
    }
}

/// What may happen.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Ask,
    Arrive(Message),
    /// The network says of what was sent that it can't be delivered.
    Undelivered(Message),
    /// A client closes its connection.
    Close(u32),
    Remove(u32),
    Adopt(u32),
    /// The other policy comes.
    Swap,
    Reload(u32),
    Expire,
}

/// How often what happened.
#[derive(Default)]
pub(super) struct Seen {
    endings: BTreeMap<&'static str, u64>,
    steps: u64,
    pub(super) ignored: u64,
    pub(super) opened: u64,
}

impl Seen {
    pub(super) fn add(&mut self, other: &Self) {
        for (word, count) in &other.endings {
            *self.endings.entry(word).or_default() += count;
        }
        self.steps += other.steps;
        self.ignored += other.ignored;
        self.opened += other.opened;
    }

    /// A simulation in which nothing goes wrong shows nothing.
    pub(super) fn assert_that_all_happened(&self) {
        let all = [
            "denied",
            "answered",
            "timeout",
            "superseded",
            "client-gone",
            "endpoint-gone",
            "outstanding",
            "no-id",
            "send-failed",
            "unreachable",
            "guessing",
            "invalid-answer",
            "install-timeout",
            "map-full",
        ];
        for word in all {
            let count = self.endings.get(word).copied().unwrap_or(0);
            assert!(count >= 20, "{word}: {self}");
        }
        assert!(self.ignored > 1_000 && self.opened > 1_000, "{self}");
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            steps,
            ignored,
            opened,
            endings,
        } = self;
        write!(
            f,
            "{steps} steps, {ignored} messages ignored, {opened} addresses opened, {endings:?}"
        )
    }
}

/// A proxy, its kernel and its network, and what the model says of them.
pub(super) struct Life {
    pub(super) dice: Dice,
    is_loud: bool,
    pub(super) scene: Scene,
    pub(super) policies: Arc<[policy::Loaded; 2]>,
    /// Whether something may have been written since the maps were looked at.
    pub(super) is_written: bool,
    pub(super) settings: Settings,
    pub(super) records: Records,
    pub(super) outstanding: Arc<Outstanding>,
    pub(super) pending: Pending,
    /// Places that queries of nobody hold.
    pub(super) held: Vec<Slot>,
    pub(super) out: Vec<u8>,
    queue: BinaryHeap<Reverse<(u64, usize)>>,
    events: Vec<Event>,
    /// Of how many queries one is new; the others are the last one again.
    pub(super) stubborn: u64,
    /// How many ids there are to draw from.
    pub(super) ids: u64,
    pub(super) last_query: Option<(Origin, Vec<u8>, usize)>,
    /// Endpoints whose maps are yet to follow the last policy.
    pub(super) reloads: u32,
    pub(super) is_full: bool,
    pub(super) model: Model,
    pub(super) seen: Seen,
}

/// What lives have in common: made once, since reading policies takes longer than a life.
pub(super) struct Stage {
    pub(super) scene: Scene,
    pub(super) policies: Arc<[policy::Loaded; 2]>,
}

impl Stage {
    pub(super) fn new() -> Self {
        let policies = Arc::new([0, 1].map(|policy| read(&egress(policy))));
        let mut identities = Identities::new();
        let mut compiler = Compiler::new();
        let first = (&policies[0].set, &cast(), Options::default());
        let first = compiler.build(1, first, &mut identities).unwrap();
        let mut scene = Scene {
            learner: Learner::new(first, identities, Lifetimes::default(), clock),
            kernel: Kernel::default(),
            compiler,
            revision: 1,
            at_start: 0,
        };
        scene.at_start = scene.identities();
        Self { scene, policies }
    }
}

pub(super) fn now_ms() -> u64 {
    CLOCK_MS.get()
}

impl Life {
    pub(super) fn new((seed, is_loud): (u64, bool), stage: Stage) -> Self {
        CLOCK_MS.set(0);
        for id in [1, 2] {
            let table = stage.scene.kernel.table();
            let adopted = stage
                .scene
                .learner
                .adopt(endpoint(id), table, &Heritage::default());
            adopted.unwrap();
        }
        let outstanding = Arc::<Outstanding>::default();
        let mut dice = Dice((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let stubborn = dice.of(&[2, 2, 2, 8]);
        let ids = dice.of(&[2, 12, 12, 12]);
        // Now and then an endpoint has nearly all that it may have.
        let held = match dice.roll(50) {
            0 => OUTSTANDING_PER_ENDPOINT_MAX - 2,
            _ => 0,
        };
        let held = (0..held)
            .map(|_| outstanding.admit(endpoint(1)).unwrap())
            .collect();
        let mut life = Self {
            dice,
            is_loud,
            scene: stage.scene,
            policies: stage.policies,
            is_written: true,
            settings: Settings::default(),
            records: Records::new(Arc::new(Counters::default())),
            pending: Pending::new(Arc::clone(&outstanding)),
            outstanding,
            held,
            out: Vec::new(),
            queue: BinaryHeap::new(),
            events: Vec::new(),
            stubborn,
            ids,
            last_query: None,
            reloads: 0,
            is_full: false,
            model: Model::default(),
            seen: Seen::default(),
        };
        life.plan();
        life
    }

    /// When queries come, and what else happens.
    fn plan(&mut self) {
        let mut at = 0;
        for _ in 0..QUERIES {
            at += match self.dice.roll(8) {
                0 => self.dice.roll(100_000),
                1 => self.dice.roll(5_000),
                _ => self.dice.roll(30),
            };
            self.schedule(at, Event::Ask);
            let id = self.dice.of(&[1, 2]);
            let near = at + self.dice.roll(200);
            match self.dice.roll(20) {
                0 => self.schedule(near, Event::Swap),
                1 => self.schedule(near, Event::Close(id)),
                2 => {
                    self.schedule(near, Event::Remove(id));
                    let again = near + self.dice.roll(2_000);
                    self.schedule(again, Event::Adopt(id));
                }
                3..=6 => self.schedule(near, Event::Expire),
                _ => {}
            }
        }
    }

    pub(super) fn schedule(&mut self, at_ms: u64, event: Event) {
        self.queue.push(Reverse((at_ms, self.events.len())));
        self.events.push(event);
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.is_loud {
            println!("{:>9} {}", now_ms(), what());
        }
    }

    /// Lives it to its end.
    pub(super) fn live(mut self) -> (Seen, Stage) {
        loop {
            let event_ms = self.queue.peek().map(|Reverse((at, _))| *at);
            let deadline = self.pending.next_deadline();
            let deadline_ms =
                deadline.map(|at| now_ms() + millis(at.saturating_duration_since(clock())));
            let Some(next) = [event_ms, deadline_ms].into_iter().flatten().min() else {
                break;
            };
            CLOCK_MS.set(now_ms().max(next));
            if event_ms.is_some_and(|at| at <= now_ms())
                && let Some(Reverse((_, index))) = self.queue.pop()
            {
                let event = self.events[index].clone();
                self.say(|| format!("{event:?}"));
                self.happen(event);
            }
            self.time_out();
            self.check();
        }
        self.end()
    }

    fn happen(&mut self, event: Event) {
        // What may write; that nothing else does is seen at the next one.
        self.is_written |= matches!(
            event,
            Event::Remove(_) | Event::Adopt(_) | Event::Reload(_) | Event::Expire
        );
        match event {
            Event::Ask => self.ask(),
            Event::Arrive(message) => self.arrive(&message),
            Event::Undelivered(message) => self.undelivered(&message),
            Event::Close(id) => self.close(id),
            Event::Remove(id) => self.remove(id),
            Event::Adopt(id) => self.adopt(id),
            Event::Swap => self.swap(),
            Event::Reload(id) => self.reload(id),
            Event::Expire => self.expire(),
        }
    }

    /// One step of the core; what it appended is in `out`.
    pub(super) fn step<T>(
        &mut self,
        run: impl FnOnce(&mut Pending, &Learner<FakeTable>, &mut Step<'_>) -> T,
    ) -> T {
        self.out.clear();
        let mut step = Step {
            now: clock(),
            settings: Guard::from_inner(Arc::new(self.settings.clone())),
            records: &self.records,
            out: &mut self.out,
        };
        run(&mut self.pending, &self.scene.learner, &mut step)
    }

    /// What must hold after each step.
    fn check(&mut self) {
        let mut told = Vec::new();
        self.records.drain(&mut told);
        let mut endings: Vec<&str> = told
            .iter()
            .map(|told: &Told| told.outcome.ending().word())
            .collect();
        let mut expected: Vec<&str> = self.model.ended.drain(..).map(Ending::word).collect();
        endings.sort_unstable();
        expected.sort_unstable();
        assert_eq!(endings, expected, "one exchange, one record");
        for told in &told {
            let word = if let Outcome::ServFail(fault) = &told.outcome {
                fault.word()
            } else {
                told.outcome.ending().word()
            };
            *self.seen.endings.entry(word).or_default() += 1;
        }
        self.seen.steps += 1;
        assert_eq!(self.pending.len(), self.model.open.len());
        assert_eq!(
            self.outstanding.total() as usize,
            self.model.open.len() + self.held.len()
        );
        if std::mem::take(&mut self.is_written) {
            for id in [1, 2] {
                self.check_maps(endpoint(id));
            }
        }
    }

    fn check_maps(&mut self, endpoint: EndpointId) {
        if self.model.known(endpoint).is_gone {
            let is_there = self
                .scene
                .learner
                .with_knowledge(endpoint, |_| ())
                .is_some();
            return assert!(!is_there);
        }
        let mut expected = self.model.known(endpoint).open();
        // What a full map closed is closed until it is asked for again.
        let closed = self
            .scene
            .look(endpoint.get(), |knowledge| knowledge.unsettled.clone());
        expected.retain(|last, _| !closed.contains(&ip(*last)));
        assert_eq!(self.held_by_kernel(endpoint), expected, "{endpoint:?}");
    }

    /// What the kernel opens for an endpoint: ports by address.
    pub(super) fn held_by_kernel(&self, endpoint: EndpointId) -> BTreeMap<u8, BTreeSet<u16>> {
        self.scene.look(endpoint.get(), |knowledge| {
            let table = knowledge.ledger.table();
            let ports = |identity: u32| {
                let of_it = table.entries.keys().filter(move |key| key.0 == identity);
                of_it.map(|key| key.2).collect()
            };
            let held = table.addresses.iter();
            held.map(|(octets, identity)| (octets[15], ports(*identity)))
                .collect()
        })
    }

    /// Once all is over nothing is left of it.
    fn end(mut self) -> (Seen, Stage) {
        self.scene.kernel.has_room();
        CLOCK_MS.set(now_ms() + 2 * 24 * 3_600_000);
        self.expire();
        self.is_written = true;
        self.check();
        assert!(self.model.open.is_empty() && self.pending.is_empty());
        assert_eq!(self.outstanding.total() as usize, self.held.len());
        for id in [1, 2] {
            let left = self
                .scene
                .learner
                .with_knowledge(endpoint(id), |knowledge| {
                    let open = knowledge.ledger.addresses().count();
                    (
                        open,
                        knowledge.cache.pair_count(),
                        knowledge.ledger.identities().count(),
                    )
                });
            assert!(left.is_none_or(|left| left == (0, 0, 0)), "{left:?}");
        }
        if self.model.policy != 0 {
            self.swap();
        }
        for id in [1, 2] {
            self.scene.learner.remove(endpoint(id));
        }
        assert_eq!(self.scene.identities(), self.scene.at_start, "identities");
        let stage = Stage {
            scene: self.scene,
            policies: self.policies,
        };
        (self.seen, stage)
    }
}

fn egress(policy: usize) -> String {
    let policy = &POLICIES[policy];
    let named = ask("10.4.0.53/32", policy.asks);
    let all = ask("203.0.0.0/16", "{matchPattern: '*'}");
    format!("{named}, {all}, {}", policy.fqdns)
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}
