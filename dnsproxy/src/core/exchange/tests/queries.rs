use std::net::SocketAddr;

use policy::{Denial, DenialReason, DenyAnswer, L4Protocol, Question};

use super::bench::{Bench, edns_query, endpoint, origin, read_own, servfail, udp};
use crate::core::exchange::{Action, Exchange, overwrite};
use crate::core::record::Outcome;
use crate::core::step::{DenyResponse, Fault, Origin};
use crate::gate_query;
use crate::limits::UDP_ANSWER_OCTETS_MAX;
use crate::question::{Header, Rcode};
use crate::testing::{A, AAAA, Draft, TSIG, permit_for, wire};

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
            overwrite(&mut expected, opt.size_at, size);
        }
        assert_eq!(bytes, expected, "{case}");
    }
}
