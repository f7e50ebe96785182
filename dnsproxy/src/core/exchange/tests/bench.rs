use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::Guard;
use policy::{EndpointId, L4Protocol};

use crate::core::exchange::{Action, Exchange, Forward, Upstream};
use crate::core::learn::{Learn, Lesson, NotInstalled};
use crate::core::outstanding::Outstanding;
use crate::core::pending::{Member, Pending, Via};
use crate::core::record::{Outcome, Records, Told};
use crate::core::release::{Arrived, Heard, Learned};
use crate::core::step::{Origin, Reply, Settings, Step};
use crate::core::tally::Counters;
use crate::gate_query;
use crate::question::{Header, Rcode};
use crate::testing::{A, Draft, permit_for};

pub(super) const MEMBER: Member = Member(3);

pub(super) fn endpoint(number: u32) -> EndpointId {
    EndpointId::new(number).unwrap()
}

pub(super) fn origin(protocol: L4Protocol) -> Origin {
    Origin {
        endpoint: endpoint(5),
        client: "10.0.0.5:40000".parse().unwrap(),
        server: "10.96.0.10:53".parse().unwrap(),
        protocol,
    }
}

pub(super) fn udp() -> Origin {
    origin(L4Protocol::Udp)
}

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way"
)]
pub(super) fn start() -> Instant {
    Instant::now()
}

/// One worker's state, with a clock that tests turn.
pub(super) struct Bench {
    pub(super) now: Instant,
    pub(super) settings: Settings,
    pub(super) records: Records,
    pub(super) pending: Pending,
    pub(super) next_id: u16,
    pub(super) out: Vec<u8>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self {
            now: start(),
            settings: Settings::default(),
            records: Records::new(Arc::new(Counters::default())),
            pending: Pending::new(Arc::new(Outstanding::default())),
            next_id: 1000,
            out: Vec::new(),
        }
    }

    /// Runs one step; gives what it gives and the bytes that it appended.
    pub(super) fn step<T>(
        &mut self,
        run: impl FnOnce(&mut Pending, &mut Step<'_>) -> T,
    ) -> (T, Vec<u8>) {
        self.out.clear();
        let mut step = Step {
            now: self.now,
            settings: Guard::from_inner(Arc::new(self.settings.clone())),
            records: &self.records,
            out: &mut self.out,
        };
        let given = run(&mut self.pending, &mut step);
        (given, self.out.clone())
    }

    /// Judges a query with a permit for it.
    pub(super) fn permitted<'a>(&mut self, origin: Origin, query: &'a Draft) -> Forward<'a> {
        let query = gate_query(&query.0, origin.protocol).unwrap();
        let (action, bytes) = self.step(|_, step| {
            let permit = permit_for(origin, query.question.clone());
            Exchange::open(origin, query, step).judge(Ok(permit), step)
        });
        assert!(
            bytes.is_empty(),
            "nothing is sent before the permit is consumed"
        );
        let Action::Forward(forward) = action else {
            panic!("{action:?}");
        };
        forward
    }

    /// Forwards a query; gives where it goes and its bytes.
    pub(super) fn forward(
        &mut self,
        origin: Origin,
        query: &Draft,
    ) -> (Result<Upstream, Reply>, Vec<u8>) {
        let forward = self.permitted(origin, query);
        self.next_id += 1;
        let id = self.next_id;
        self.step(|pending, step| {
            let via = Via {
                member: MEMBER,
                draw: &mut || id,
            };
            forward.send(pending, via, step)
        })
    }

    /// Forwards the usual query; gives its id upstream.
    pub(super) fn ask(&mut self) -> u16 {
        let (sent, _) = self.forward(udp(), &Draft::query(7, "gOod.com", A));
        sent.unwrap().key.id
    }

    pub(super) fn hear(&mut self, bytes: &[u8], learner: &Datapath) -> (Option<Reply>, Vec<u8>) {
        let arrived = from_server(bytes);
        self.hear_from(&arrived, learner)
    }

    pub(super) fn hear_from(
        &mut self,
        arrived: &Arrived<'_>,
        learner: &Datapath,
    ) -> (Option<Reply>, Vec<u8>) {
        self.step(|pending, step| match pending.hear(arrived, step) {
            Heard::Ignored(_) => None,
            Heard::Reply(reply) => Some(reply),
            Heard::Lesson(untaught) => match untaught.learn(step.now, learner) {
                Learned::Taught(taught) => Some(taught.release(step)),
                Learned::Withheld(withheld) => withheld.answer(step),
            },
        })
    }

    pub(super) fn told(&self) -> Vec<Told> {
        let mut told = Vec::new();
        self.records.drain(&mut told);
        told
    }

    pub(super) fn outcome(&self) -> Outcome {
        let mut told = self.told();
        assert_eq!(told.len(), 1, "{told:?}");
        told.remove(0).outcome
    }

    pub(super) fn count(&self, name: &str, reason: &str) -> u64 {
        let mut all = self.records.counters().iter();
        all.find(|(n, r, _)| (*n, *r) == (name, reason)).unwrap().2
    }
}

pub(super) fn from_server(bytes: &[u8]) -> Arrived<'_> {
    Arrived {
        member: MEMBER,
        server: udp().server,
        local: Some(udp().client.ip()),
        endpoint: Some(udp().endpoint),
        bytes,
    }
}

/// A datapath that keeps what it learns, or fails.
#[derive(Default)]
pub(super) struct Datapath {
    pub(super) failure: Option<NotInstalled>,
    pub(super) lessons: RefCell<Vec<Lesson>>,
}

impl Datapath {
    pub(super) fn failing(failure: NotInstalled) -> Self {
        Self {
            failure: Some(failure),
            ..Self::default()
        }
    }
}

pub(super) struct Installed;

impl Learn for Datapath {
    type Installed = Installed;

    fn learn(&self, _: Instant, lesson: Lesson) -> Result<Installed, NotInstalled> {
        self.failure.map_or(Ok(()), Err)?;
        self.lessons.borrow_mut().push(lesson);
        Ok(Installed)
    }
}

/// The rcode, and the EDE code behind the question if there is an OPT.
pub(super) fn read_own(bytes: &[u8]) -> (Rcode, Option<u16>) {
    let header = Header::read(bytes).unwrap();
    assert_eq!((header.id, header.questions, header.answers), (7, 1, 0));
    let opt_at = crate::RawQuestion::read(bytes).unwrap().end;
    let ede = bytes
        .get(opt_at + 15..opt_at + 17)
        .map(|code| u16::from_be_bytes([code[0], code[1]]));
    (header.flags.rcode(), ede)
}

pub(super) fn servfail(ede: u16) -> (Rcode, Option<u16>) {
    (Rcode::SERV_FAIL, Some(ede))
}

pub(super) fn good_answer(id: u16) -> Draft {
    Draft::answer(id, "gOod.com", A).address(60, "192.0.2.1")
}

/// A query that asks for extended errors.
pub(super) fn edns_query() -> Draft {
    Draft::query(7, "gOod.com", A).opt(1232, true, &[])
}
