use std::time::Duration;

use policy::{EndpointId, L4Protocol};

use super::bench::{
    Bench, Datapath, edns_query, from_server, good_answer, origin, read_own, servfail, udp,
};
use crate::core::learn::NotInstalled;
use crate::core::pending::Member;
use crate::core::record::{Ending, Outcome};
use crate::core::release::Arrived;
use crate::core::step::{Case, Fault, OnTimeout, Reply};
use crate::limits::{
    REJECTED_PER_EXCHANGE_MAX, TCP_UPSTREAM_WAIT_MAX, UDP_PAYLOAD_OCTETS_MAX, UDP_UPSTREAM_WAIT_MAX,
};
use crate::question::{Header, Rcode};
use crate::testing::{A, Draft, wire};

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
    assert_eq!(told.allowed_by.unwrap().revision, 1);
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
fn an_answer_too_large_for_a_datagram_becomes_tc() {
    for (octets, is_cut) in [
        (UDP_PAYLOAD_OCTETS_MAX, false),
        (UDP_PAYLOAD_OCTETS_MAX + 1, true),
    ] {
        let mut bench = Bench::new();
        let query = Draft::query(7, "gOod.com", A).opt(u16::MAX, false, &[]);
        let (sent, _) = bench.forward(udp(), &query);
        let answer = good_answer(sent.unwrap().key.id);
        let rest = vec![0; octets - answer.0.len()];
        let (_, bytes) = bench.hear(&answer.raw(&rest).0, &Datapath::default());
        assert_eq!(Header::read(&bytes).unwrap().flags.is_truncated(), is_cut);
        assert_eq!(bytes.len() == octets, !is_cut);
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
            held.time_out(step)
        });
        assert_eq!(read_own(&bytes), servfail(22));
        assert_eq!(bench.outcome(), Outcome::Timeout { answered: true });
        assert!(bench.pending.expire(due).is_none());
        assert_eq!(bench.pending.next_deadline(), None);
    }
}

#[test]
fn a_timeout_is_silent_where_the_option_says_so() {
    let mut bench = Bench::new();
    bench.settings.on_timeout = OnTimeout::Silence;
    bench.ask();
    bench.now += UDP_UPSTREAM_WAIT_MAX;
    let (reply, bytes) = bench.step(|pending, step| {
        let held = pending.expire(step.now).unwrap();
        held.time_out(step)
    });
    assert_eq!((reply, bytes.len()), (None, 0));
    assert_eq!(bench.outcome(), Outcome::Timeout { answered: false });
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
