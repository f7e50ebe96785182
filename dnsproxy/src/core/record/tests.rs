use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Guard;
use policy::{EndpointId, L4Protocol, Question};

use super::{ErrorAnswers, Outcome, Records};
use crate::core::gates::{GateReason, gate_query};
use crate::core::step::{Origin, Settings, Step};
use crate::core::tally::Counters;
use crate::limits::{ENDPOINTS_MAX, ERROR_ANSWERS_PER_SEC_MAX, TOLD_WAITING_MAX};
use crate::testing::{A, Draft};

fn endpoint(number: u32) -> EndpointId {
    EndpointId::new(number).unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way"
)]
fn start() -> Instant {
    Instant::now()
}

fn records() -> Records {
    Records::new(Arc::new(Counters::default()))
}

fn origin() -> Origin {
    Origin {
        endpoint: endpoint(1),
        client: "10.0.0.5:40000".parse().unwrap(),
        server: "10.96.0.10:53".parse().unwrap(),
        protocol: L4Protocol::Udp,
    }
}

fn counted(records: &Records, name: &str) -> u64 {
    let counters = records.counters().iter();
    counters
        .filter(|(counter, ..)| *counter == name)
        .map(|(.., value)| value)
        .sum()
}

#[test]
fn the_queue_of_the_told_is_bounded_and_losses_are_counted() {
    let records = records();
    let question = Question {
        name: fqdn::Name::root(),
        qtype: A,
        qclass: 1,
    };
    let now = start();
    for _ in 0..=TOLD_WAITING_MAX {
        records
            .open(now, origin(), question.clone())
            .finish(now, Outcome::Timeout { answered: true });
    }
    let mut told = Vec::new();
    records.drain(&mut told);
    assert_eq!(told.len(), TOLD_WAITING_MAX);
    assert_eq!(counted(&records, "dns_quirks_total"), 1);
    assert_eq!(counted(&records, "dns_exchanges_total"), 65_537);
}

#[test]
fn error_answers_are_limited_per_endpoint_and_second() {
    let limit = ErrorAnswers::default();
    let now = start();
    for _ in 0..ERROR_ANSWERS_PER_SEC_MAX {
        assert!(limit.admit(now, endpoint(1)));
    }
    assert!(!limit.admit(now, endpoint(1)));
    assert!(limit.admit(now, endpoint(2)));
    assert!(!limit.admit(now + Duration::from_millis(999), endpoint(1)));
    assert!(limit.admit(now + Duration::from_secs(1), endpoint(1)));
}

#[test]
fn endpoints_with_error_answers_are_bounded() {
    let limit = ErrorAnswers::default();
    let now = start();
    let max = ENDPOINTS_MAX;
    assert!((1..=max).all(|number| limit.admit(now, endpoint(number))));
    assert!(!limit.admit(now, endpoint(max + 1)));
    assert!(limit.admit(now + Duration::from_secs(1), endpoint(max + 1)));
}

#[test]
fn a_refused_query_is_counted_and_told_if_its_question_was_read() {
    let named = Draft::query(7, "good.com", A).raw(&[0]);
    let bare = Draft::query(7, "good.com", A).with(4, 2);
    let silent = Draft::answer(7, "good.com", A);
    let rows = [
        (named, true, true),
        (bare, true, false),
        (silent, false, false),
    ];
    let (records, settings) = (records(), Arc::new(Settings::default()));
    let limit = ErrorAnswers::default();
    for (message, is_answered, is_told) in rows {
        let mut out = Vec::new();
        let mut step = Step {
            now: start(),
            settings: Guard::from_inner(Arc::clone(&settings)),
            records: &records,
            out: &mut out,
        };
        let refusal = gate_query(&message.0, L4Protocol::Udp).unwrap_err();
        let reply = refusal.conclude(origin(), &limit, &mut step);
        assert_eq!(
            (reply.is_some(), out.is_empty()),
            (is_answered, !is_answered)
        );
        let mut told = Vec::new();
        records.drain(&mut told);
        let outcome = told.pop().map(|told| told.outcome);
        assert_eq!(
            outcome,
            is_told.then_some(Outcome::Malformed(GateReason::Trailing))
        );
    }
    assert_eq!(counted(&records, "dns_malformed_total"), 3);
}

#[test]
fn error_answers_beyond_the_limit_are_silent_and_counted() {
    let message = Draft::query(7, "good.com", A).with(4, 2);
    let (records, settings, now) = (records(), Arc::new(Settings::default()), start());
    let limit = ErrorAnswers::default();
    let mut out = Vec::new();
    let mut answered = 0;
    for _ in 0..150 {
        let mut step = Step {
            now,
            settings: Guard::from_inner(Arc::clone(&settings)),
            records: &records,
            out: &mut out,
        };
        let refusal = gate_query(&message.0, L4Protocol::Udp).unwrap_err();
        answered += u32::from(refusal.conclude(origin(), &limit, &mut step).is_some());
    }
    assert_eq!(answered, ERROR_ANSWERS_PER_SEC_MAX);
    assert_eq!(counted(&records, "dns_quirks_total"), 50);
}
