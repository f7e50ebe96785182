use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::{Denial, DenialReason, DenyAnswer, DnsPermit, EndpointId, L4Protocol, Question};

use super::{Action, Exchange, Forward, Upstream};
use crate::core::learn::{Learn, Lesson, NotInstalled};
use crate::core::outstanding::Outstanding;
use crate::core::pending::{Member, Pending, Via};
use crate::core::record::{Ending, Outcome, Records, Told};
use crate::core::release::{Arrived, Heard, Learned};
use crate::core::step::{Case, DenyResponse, Fault, Origin, Reply, Settings, Step};
use crate::core::tally::Counters;
use crate::gate_query;
use crate::limits::{
    EQUAL_OUTSTANDING_MAX, OUTSTANDING_PER_ENDPOINT_MAX, REJECTED_PER_EXCHANGE_MAX,
    TCP_UPSTREAM_WAIT_MAX, UDP_ANSWER_OCTETS_MAX, UDP_UPSTREAM_WAIT_MAX,
};
use crate::question::{Header, Rcode};
use crate::testing::{A, AAAA, Dice, Draft, TSIG, wire};

const MEMBER: Member = Member(3);

fn endpoint(number: u32) -> EndpointId {
    EndpointId::new(number).unwrap()
}

fn origin(protocol: L4Protocol) -> Origin {
    Origin {
        endpoint: endpoint(5),
        client: "10.0.0.5:40000".parse().unwrap(),
        server: "10.96.0.10:53".parse().unwrap(),
        protocol,
    }
}

fn udp() -> Origin {
    origin(L4Protocol::Udp)
}

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way"
)]
fn start() -> Instant {
    Instant::now()
}

/// One worker's state, with a clock that tests turn.
struct Bench {
    now: Instant,
    settings: Settings,
    records: Records,
    pending: Pending,
    next_id: u16,
    out: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
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
    fn step<T>(&mut self, run: impl FnOnce(&mut Pending, &mut Step<'_>) -> T) -> (T, Vec<u8>) {
        self.out.clear();
        let mut step = Step {
            now: self.now,
            settings: &self.settings,
            records: &self.records,
            out: &mut self.out,
        };
        let given = run(&mut self.pending, &mut step);
        (given, self.out.clone())
    }

    /// Judges a query with a permit for it.
    fn permitted<'a>(&mut self, origin: Origin, query: &'a Draft) -> Forward<'a> {
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
    fn forward(&mut self, origin: Origin, query: &Draft) -> (Result<Upstream, Reply>, Vec<u8>) {
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
    fn ask(&mut self) -> u16 {
        let (sent, _) = self.forward(udp(), &Draft::query(7, "gOod.com", A));
        sent.unwrap().key.id
    }

    fn hear(&mut self, bytes: &[u8], learner: &Datapath) -> (Option<Reply>, Vec<u8>) {
        let arrived = from_server(bytes);
        self.hear_from(&arrived, learner)
    }

    fn hear_from(&mut self, arrived: &Arrived<'_>, learner: &Datapath) -> (Option<Reply>, Vec<u8>) {
        self.step(|pending, step| match pending.hear(arrived, step) {
            Heard::Ignored(_) => None,
            Heard::Reply(reply) => Some(reply),
            Heard::Lesson(untaught) => match untaught.learn(step.now, learner) {
                Learned::Taught(taught) => Some(taught.release(step)),
                Learned::Withheld(withheld) => withheld.answer(step),
            },
        })
    }

    fn told(&self) -> Vec<Told> {
        let mut told = Vec::new();
        self.records.drain(&mut told);
        told
    }

    fn outcome(&self) -> Outcome {
        let mut told = self.told();
        assert_eq!(told.len(), 1, "{told:?}");
        told.remove(0).outcome
    }

    fn count(&self, name: &str, reason: &str) -> u64 {
        let mut all = self.records.counters().iter();
        all.find(|(n, r, _)| (*n, *r) == (name, reason)).unwrap().2
    }
}

fn permit_for(origin: Origin, question: Question) -> DnsPermit {
    DnsPermit::forged(origin.endpoint, origin.server, origin.protocol, question)
}

fn from_server(bytes: &[u8]) -> Arrived<'_> {
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
struct Datapath {
    failure: Option<NotInstalled>,
    lessons: RefCell<Vec<Lesson>>,
}

impl Datapath {
    fn failing(failure: NotInstalled) -> Self {
        Self {
            failure: Some(failure),
            ..Self::default()
        }
    }
}

struct Installed;

impl Learn for Datapath {
    type Installed = Installed;

    fn learn(&self, _: Instant, lesson: Lesson) -> Result<Installed, NotInstalled> {
        self.failure.map_or(Ok(()), Err)?;
        self.lessons.borrow_mut().push(lesson);
        Ok(Installed)
    }
}

/// The rcode, and the EDE code behind the question if there is an OPT.
fn read_own(bytes: &[u8]) -> (Rcode, Option<u16>) {
    let header = Header::read(bytes).unwrap();
    assert_eq!((header.id, header.questions, header.answers), (7, 1, 0));
    let opt_at = crate::RawQuestion::read(bytes).unwrap().end;
    let ede = bytes
        .get(opt_at + 15..opt_at + 17)
        .map(|code| u16::from_be_bytes([code[0], code[1]]));
    (header.flags.rcode(), ede)
}

fn servfail(ede: u16) -> (Rcode, Option<u16>) {
    (Rcode::SERV_FAIL, Some(ede))
}

fn good_answer(id: u16) -> Draft {
    Draft::answer(id, "gOod.com", A).address(60, "192.0.2.1")
}

/// A query that asks for extended errors.
fn edns_query() -> Draft {
    Draft::query(7, "gOod.com", A).opt(1232, true, &[])
}

#[test]
fn a_denied_name_never_goes_upstream() {
    use DenyAnswer::{NoData, NxDomain, ServFail};
    use DenyResponse as By;
    let rows = [
        (By::Auto, NxDomain, Some((Rcode::NX_DOMAIN, 17))),
        (By::Auto, NoData, Some((Rcode::NO_ERROR, 17))),
        (By::Auto, ServFail, Some((Rcode::SERV_FAIL, 14))),
        (By::Refused, NxDomain, Some((Rcode::REFUSED, 18))),
        (By::Refused, NoData, Some((Rcode::REFUSED, 18))),
        (By::Refused, ServFail, Some((Rcode::SERV_FAIL, 14))),
        (By::NxDomain, NoData, Some((Rcode::NX_DOMAIN, 17))),
        (By::NoData, NxDomain, Some((Rcode::NO_ERROR, 17))),
        (By::Drop, NxDomain, None),
        (By::Drop, ServFail, Some((Rcode::SERV_FAIL, 14))),
    ];
    for (deny_response, answer, expected) in rows {
        for query in [edns_query(), Draft::query(7, "gOod.com", A)] {
            let mut bench = Bench::new();
            bench.settings.deny_response = deny_response;
            let has_opt = Header::read(&query.0).unwrap().additionals == 1;
            let parsed = gate_query(&query.0, L4Protocol::Udp).unwrap();
            let reason = DenialReason::NameNotAllowed;
            let (action, bytes) = bench.step(|_, step| {
                Exchange::open(udp(), parsed, step).judge(Err(Denial { reason, answer }), step)
            });
            match (action, expected) {
                (Action::Reply(reply), Some((rcode, ede))) => {
                    assert_eq!(reply.origin, udp());
                    assert_eq!(read_own(&bytes), (rcode, has_opt.then_some(ede)));
                    assert!(bytes.len() <= query.0.len() + 50);
                }
                (Action::Drop, None) => assert!(bytes.is_empty()),
                (action, _) => panic!("{deny_response:?} {answer:?}: {action:?}"),
            }
            assert!(bench.pending.is_empty());
            let denied = Outcome::Denied {
                reason,
                rcode: expected.map(|(rcode, _)| rcode),
            };
            let fault = Outcome::ServFail(Fault::NoPolicy);
            let is_fault = answer == ServFail;
            assert_eq!(bench.outcome(), if is_fault { fault } else { denied });
        }
    }
}

#[test]
fn a_permit_for_anything_else_is_worth_nothing() {
    let query = edns_query();
    let asked = || gate_query(&query.0, L4Protocol::Udp).unwrap().question;
    let other_name = Question {
        name: fqdn::Name::root(),
        ..asked()
    };
    let elsewhere: SocketAddr = "8.8.8.8:53".parse().unwrap();
    let rows = [
        permit_for(
            Origin {
                endpoint: endpoint(6),
                ..udp()
            },
            asked(),
        ),
        permit_for(
            Origin {
                server: elsewhere,
                ..udp()
            },
            asked(),
        ),
        permit_for(origin(L4Protocol::Tcp), asked()),
        permit_for(udp(), other_name),
        permit_for(
            udp(),
            Question {
                qtype: AAAA,
                ..asked()
            },
        ),
        permit_for(
            udp(),
            Question {
                qclass: 3,
                ..asked()
            },
        ),
    ];
    for permit in rows {
        let mut bench = Bench::new();
        let parsed = gate_query(&query.0, L4Protocol::Udp).unwrap();
        let (action, bytes) =
            bench.step(|_, step| Exchange::open(udp(), parsed, step).judge(Ok(permit), step));
        assert!(matches!(action, Action::Reply(_)), "{action:?}");
        assert_eq!(read_own(&bytes), servfail(14));
        assert_eq!(bench.outcome(), Outcome::ServFail(Fault::PermitMismatch));
    }
}

#[test]
fn a_query_goes_upstream_with_a_new_id_and_a_clamped_size_and_nothing_else_changed() {
    let (tcp, udp) = (L4Protocol::Tcp, L4Protocol::Udp);
    let with_opt = |size| Draft::query(7, "gOod.com", A).opt(size, true, &[0, 10, 0, 1, 9]);
    let signed = || with_opt(4096).additional(&wire("key"), TSIG, &[0; 8]);
    let clamp = Some(UDP_ANSWER_OCTETS_MAX);
    let rows = [
        ("no opt", Draft::query(7, "gOod.com", A), udp, clamp, None),
        ("4096", with_opt(4096), udp, clamp, Some(1232)),
        ("1233", with_opt(1233), udp, clamp, Some(1232)),
        ("1232", with_opt(1232), udp, clamp, Some(1232)),
        ("512", with_opt(512), udp, clamp, Some(512)),
        ("signed", signed(), udp, clamp, Some(4096)),
        ("tcp", with_opt(4096), tcp, clamp, Some(4096)),
        ("no clamp", with_opt(4096), udp, None, Some(4096)),
    ];
    for (case, query, protocol, clamp_size, size) in rows {
        let mut bench = Bench::new();
        bench.settings.clamp_size = clamp_size;
        let (sent, bytes) = bench.forward(origin(protocol), &query);
        let id = sent.unwrap().key.id;
        let mut expected = query.with(0, id).0;
        if let (Some(size), Some(opt)) = (
            size,
            gate_query(&expected.clone(), protocol).unwrap().message.opt,
        ) {
            super::overwrite(&mut expected, opt.size_at, size);
        }
        assert_eq!(bytes, expected, "{case}");
    }
}

#[test]
fn an_answer_is_released_as_it_came_once_its_addresses_are_installed() {
    let mut bench = Bench::new();
    let id = bench.ask();
    let datapath = Datapath::default();
    bench.now += Duration::from_millis(3);
    let answer = good_answer(id).opt(4096, false, &[0, 3, 0, 1, 1]);
    let (reply, bytes) = bench.hear(&answer.0, &datapath);
    assert_eq!(reply, Some(Reply { origin: udp() }));
    assert_eq!(bytes, answer.with(0, 7).0);
    let lesson = datapath.lessons.borrow()[0].clone();
    assert_eq!(lesson.name, fqdn::Name::from_text("good.com").unwrap());
    assert_eq!(
        (lesson.endpoint, lesson.server),
        (udp().endpoint, udp().server)
    );
    assert_eq!(lesson.addresses[0].ip.to_string(), "192.0.2.1");
    let told = bench.told().remove(0);
    assert_eq!(told.latency, Some(Duration::from_millis(3)));
    assert_eq!(told.allowed_by.unwrap().1, 1);
    assert_eq!(told.outcome.ending(), Ending::Answered);
    assert!(bench.pending.is_empty());
}

#[test]
fn an_answer_whose_addresses_are_not_installed_is_withheld() {
    let rows = [
        (NotInstalled::Late, Some(Fault::InstallTimeout)),
        (NotInstalled::MapFull, Some(Fault::MapFull)),
        (NotInstalled::TooMany, Some(Fault::TooMany)),
        (NotInstalled::Kernel, Some(Fault::Kernel)),
        (NotInstalled::NoPolicy, Some(Fault::NoPolicy)),
        (NotInstalled::EndpointGone, None),
    ];
    for (failure, fault) in rows {
        let mut bench = Bench::new();
        let (sent, _) = bench.forward(udp(), &edns_query());
        let answer = good_answer(sent.unwrap().key.id);
        let (reply, bytes) = bench.hear(&answer.0, &Datapath::failing(failure));
        match fault {
            Some(fault) => {
                assert!(reply.is_some());
                assert_eq!(read_own(&bytes), servfail(14));
                assert_eq!(bench.outcome(), Outcome::ServFail(fault));
                assert_eq!(bench.count("dns_faults_total", fault.word()), 1);
            }
            None => {
                assert_eq!((reply, bytes.len()), (None, 0));
                assert_eq!(bench.outcome(), Outcome::EndpointGone);
            }
        }
    }
}

#[test]
fn an_answer_that_can_not_be_read_is_servfail() {
    let many = |id| {
        (0..1001u16).fold(Draft::answer(id, "gOod.com", A), |message, index| {
            message.address(1, &format!("10.0.{}.{}", index >> 8, index & 255))
        })
    };
    type Make = fn(u16) -> Draft;
    let rows: [(Make, Fault, u16); 2] = [
        (|id| good_answer(id).with(6, 2), Fault::InvalidAnswer, 24),
        (
            |id| good_answer(id).record(&[0xC0, 12], A, 1, &[1]),
            Fault::InvalidAnswer,
            24,
        ),
    ];
    for (make, fault, ede) in rows {
        let mut bench = Bench::new();
        let (sent, _) = bench.forward(udp(), &edns_query());
        let (_, bytes) = bench.hear(&make(sent.unwrap().key.id).0, &Datapath::default());
        assert_eq!(read_own(&bytes), servfail(ede));
        assert_eq!(bench.outcome(), Outcome::ServFail(fault));
    }
    let mut bench = Bench::new();
    let id = bench.ask();
    let datapath = Datapath::default();
    bench.hear(&many(id).0, &datapath);
    assert_eq!(bench.outcome(), Outcome::ServFail(Fault::TooMany));
    assert!(datapath.lessons.borrow().is_empty());
}

#[test]
fn only_the_answer_ends_an_exchange() {
    type Change = fn(&mut Arrived<'_>);
    let rows: [(&str, Change); 5] = [
        ("source", |arrived| arrived.server.set_port(5353)),
        ("source", |arrived| {
            arrived.local = Some([10, 0, 0, 6].into())
        }),
        ("source", |arrived| arrived.endpoint = EndpointId::new(6)),
        ("id", |arrived| arrived.member = Member(4)),
        ("short", |arrived| arrived.bytes = &[0; 11]),
    ];
    for (reason, change) in rows {
        let mut bench = Bench::new();
        let answer = good_answer(bench.ask());
        let mut arrived = from_server(&answer.0);
        change(&mut arrived);
        let (reply, bytes) = bench.hear_from(&arrived, &Datapath::default());
        assert_eq!((reply, bytes.len()), (None, 0), "{reason}");
        assert_eq!(bench.count("dns_upstream_rejected_total", reason), 1);
        assert!(
            bench.hear(&answer.0, &Datapath::default()).0.is_some(),
            "{reason}"
        );
    }
}

#[test]
fn an_answer_in_other_case_counts_unless_the_option_is_strict() {
    for (case, is_released) in [(Case::Any, true), (Case::Strict, false)] {
        let mut bench = Bench::new();
        bench.settings.case = case;
        let answer = Draft::answer(bench.ask(), "good.com", A).address(1, "192.0.2.1");
        let (reply, _) = bench.hear(&answer.0, &Datapath::default());
        assert_eq!(reply.is_some(), is_released);
        assert_eq!(
            bench.count("dns_quirks_total", "case-changed"),
            u64::from(is_released)
        );
    }
}

#[test]
fn ten_rejected_answers_end_an_exchange() {
    let mut bench = Bench::new();
    let (sent, _) = bench.forward(udp(), &edns_query());
    let wrong = Draft::answer(sent.unwrap().key.id, "evil.com", A).address(1, "192.0.2.1");
    for _ in 1..REJECTED_PER_EXCHANGE_MAX {
        assert_eq!(bench.hear(&wrong.0, &Datapath::default()).0, None);
    }
    let (reply, bytes) = bench.hear(&wrong.0, &Datapath::default());
    assert!(reply.is_some());
    assert_eq!(read_own(&bytes), servfail(24));
    assert_eq!(bench.outcome(), Outcome::ServFail(Fault::Guessing));
}

#[test]
fn a_refusal_that_is_only_a_header_gets_its_question_back() {
    let mut bench = Bench::new();
    let (sent, _) = bench.forward(udp(), &edns_query());
    let header = Draft::empty(sent.unwrap().key.id, 0x8185);
    let (reply, bytes) = bench.hear(&header.0, &Datapath::default());
    assert!(reply.is_some());
    assert_eq!(read_own(&bytes), (Rcode::REFUSED, None));
    assert_eq!(bytes[12..], [wire("gOod.com"), vec![0, 1, 0, 1]].concat());
}

#[test]
fn an_answer_too_large_for_its_client_becomes_tc() {
    let large = |id| {
        (0..40u8).fold(Draft::answer(id, "gOod.com", A), |message, index| {
            message.address(1, &format!("10.0.0.{index}"))
        })
    };
    let rows = [
        (Draft::query(7, "gOod.com", A), L4Protocol::Udp, true),
        (
            Draft::query(7, "gOod.com", A).opt(100, false, &[]),
            L4Protocol::Udp,
            true,
        ),
        (
            Draft::query(7, "gOod.com", A).opt(4096, false, &[]),
            L4Protocol::Udp,
            false,
        ),
        (Draft::query(7, "gOod.com", A), L4Protocol::Tcp, false),
    ];
    for (query, protocol, is_cut) in rows {
        let mut bench = Bench::new();
        let (sent, _) = bench.forward(origin(protocol), &query);
        let answer = large(sent.unwrap().key.id);
        assert!(answer.0.len() > 512 && answer.0.len() < 1232);
        let (_, bytes) = bench.hear(&answer.0, &Datapath::default());
        if is_cut {
            assert!(Header::read(&bytes).unwrap().flags.is_truncated());
            assert_eq!(read_own(&bytes).0, Rcode::NO_ERROR);
        } else {
            assert_eq!(bytes, answer.with(0, 7).0);
        }
    }
}

#[test]
fn a_server_that_does_not_answer_is_servfail_at_the_deadline() {
    let rows = [
        (L4Protocol::Udp, UDP_UPSTREAM_WAIT_MAX),
        (L4Protocol::Tcp, TCP_UPSTREAM_WAIT_MAX),
    ];
    for (protocol, wait) in rows {
        let mut bench = Bench::new();
        let (sent, _) = bench.forward(origin(protocol), &edns_query());
        let due = bench.now + wait;
        assert_eq!(bench.pending.next_deadline(), Some(due));
        assert!(
            bench
                .pending
                .expire(due - Duration::from_millis(1))
                .is_none()
        );
        bench.now = due;
        let late = good_answer(sent.unwrap().key.id);
        assert_eq!(bench.hear(&late.0, &Datapath::default()).0, None);
        assert_eq!(bench.count("dns_upstream_rejected_total", "late"), 1);
        let (_, bytes) = bench.step(|pending, step| {
            let held = pending.expire(step.now).unwrap();
            held.fail(Fault::Timeout, step)
        });
        assert_eq!(read_own(&bytes), servfail(22));
        assert_eq!(bench.outcome(), Outcome::Timeout);
        assert!(bench.pending.expire(due).is_none());
        assert_eq!(bench.pending.next_deadline(), None);
    }
}

#[test]
fn an_error_from_the_network_is_servfail_at_once() {
    let mut bench = Bench::new();
    let (sent, bytes) = bench.forward(udp(), &edns_query());
    assert!(sent.is_ok());
    let elsewhere = Arrived {
        server: "8.8.8.8:53".parse().unwrap(),
        ..from_server(&bytes)
    };
    let other = Draft::query(bench.next_id, "evil.com", A);
    for ignored in [elsewhere, from_server(&other.0), from_server(&bytes[..11])] {
        let (reply, _) = bench.step(|pending, step| pending.hear_error(&ignored, step));
        assert_eq!(reply, None);
    }
    let quoted = from_server(&bytes[..16]);
    let (reply, own) = bench.step(|pending, step| pending.hear_error(&quoted, step));
    assert!(reply.is_some());
    assert_eq!(read_own(&own), servfail(23));
    assert_eq!(bench.outcome(), Outcome::ServFail(Fault::Unreachable));
}

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
    for _ in 1..EQUAL_OUTSTANDING_MAX {
        bench.ask();
    }
    assert!(bench.told().is_empty());
    bench.ask();
    assert_eq!(bench.outcome(), Outcome::Superseded);
    assert_eq!(bench.pending.len(), EQUAL_OUTSTANDING_MAX + others.len());
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

#[test]
fn an_id_is_drawn_until_it_is_free_and_not_for_ever() {
    let mut bench = Bench::new();
    let taken = bench.ask();
    let query = edns_query();
    for (draws, is_sent) in [(vec![taken, taken, 9], true), (vec![taken], false)] {
        let forward = bench.permitted(udp(), &query);
        let mut draws = draws.into_iter().cycle();
        let (sent, _) = bench.step(|pending, step| {
            let via = Via {
                member: MEMBER,
                draw: &mut || draws.next().unwrap(),
            };
            forward.send(pending, via, step)
        });
        assert_eq!(sent.is_ok_and(|upstream| upstream.key.id == 9), is_sent);
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
                while let (Some(_), _) = bench.step(|pending, step| {
                    Some(pending.expire(step.now)?.fail(Fault::Timeout, step))
                }) {}
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
