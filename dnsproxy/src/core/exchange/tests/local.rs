//! What is answered here though policy allows it, and what a scrubbed query carries.

use std::sync::Arc;

use fqdn::{Name, PatternSet};
use policy::{Denial, DenialReason, DenyAnswer, DnsPermit, L4Protocol};

use super::bench::{Bench, Datapath, good_answer, origin, read_own, udp};
use crate::core::exchange::{Action, Exchange};
use crate::core::local::Remark;
use crate::core::record::Outcome;
use crate::core::step::{Case, Encrypted, Settings};
use crate::core::tunnels::{TunnelMode, Tunnels};
use crate::gate_query;
use crate::limits::TUNNEL_NAMES_MAX;
use crate::question::Rcode;
use crate::testing::{A, AAAA, Draft, TSIG, permit_for, wire};

const DENIED: Denial = Denial {
    reason: DenialReason::NameNotAllowed,
    answer: DenyAnswer::NxDomain,
};

/// Judges a query; gives what was answered, `None` if it goes on, and what was remarked.
fn judged(
    settings: Settings,
    query: &Draft,
    verdict: Result<(), Denial>,
) -> (Option<(Rcode, Option<u16>)>, Option<Remark>) {
    let mut bench = Bench::new();
    bench.settings = settings;
    let parsed = gate_query(&query.0, L4Protocol::Udp).unwrap();
    let verdict: Result<DnsPermit, Denial> =
        verdict.map(|()| permit_for(udp(), parsed.question.clone()));
    let (action, bytes) =
        bench.step(|_, step| Exchange::open(udp(), parsed, step).judge(verdict, step));
    match action {
        Action::Reply(_) => {
            let told = bench.told().remove(0);
            if let Outcome::Local(rcode) = told.outcome {
                assert_eq!(rcode, read_own(&bytes).0);
                assert_eq!(told.allowed_by, None, "nothing left the node");
            }
            (Some(read_own(&bytes)), told.remark)
        }
        Action::Forward(forward) => {
            drop(forward);
            (None, bench.told().remove(0).remark)
        }
        Action::Drop => panic!("nothing is silent here"),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn names_are_answered_here_where_an_option_says_so() {
    use Encrypted::{Allow, Block, Report};
    let nodata = Some((Rcode::NO_ERROR, None));
    let nxdomain = Some((Rcode::NX_DOMAIN, None));
    let (no_aaaa, discovery) = (Some(Remark::NoAaaa), Some(Remark::Discovery));
    let (canary, resolver) = (Some(Remark::Canary), Some(Remark::EncryptedResolver));
    for (name, qtype, (aaaa, encrypted), verdict, expected) in [
        ("gOod.com", AAAA, (false, Allow), Ok(()), (None, None)),
        ("gOod.com", AAAA, (true, Allow), Ok(()), (nodata, no_aaaa)),
        ("gOod.com", A, (true, Block), Ok(()), (None, None)),
        // Of a name that may not be asked both kinds of address have one answer.
        (
            "evil.com",
            AAAA,
            (true, Allow),
            Err(DENIED),
            (nxdomain, no_aaaa),
        ),
        (
            "_dns.Resolver.arpa",
            64,
            (false, Allow),
            Ok(()),
            (nodata, discovery),
        ),
        (
            "_dns.resolver.arpa",
            64,
            (false, Allow),
            Err(DENIED),
            (nodata, discovery),
        ),
        (
            "use-application-dns.net",
            A,
            (false, Allow),
            Ok(()),
            (None, None),
        ),
        (
            "use-application-dns.net",
            A,
            (false, Report),
            Ok(()),
            (None, canary),
        ),
        (
            "use-application-dns.net",
            A,
            (false, Block),
            Ok(()),
            (nxdomain, canary),
        ),
        ("dns.google", A, (false, Report), Ok(()), (None, resolver)),
        (
            "dns.google",
            A,
            (false, Block),
            Ok(()),
            (nxdomain, resolver),
        ),
        (
            "dns.google",
            A,
            (false, Block),
            Err(DENIED),
            (nxdomain, resolver),
        ),
    ] {
        let mut resolvers = PatternSet::new();
        resolvers.insert_exact(&Name::from_text("dns.google").unwrap(), ());
        let settings = Settings {
            no_aaaa: aaaa,
            encrypted,
            resolvers: Arc::new(resolvers),
            ..Settings::default()
        };
        let found = judged(settings, &Draft::query(7, name, qtype), verdict);
        assert_eq!(found, expected, "{name} {qtype} {aaaa} {encrypted:?}");
    }
    // Without a policy for the endpoint nothing is known, this neither.
    let unknown = Denial {
        reason: DenialReason::UnknownEndpoint,
        answer: DenyAnswer::ServFail,
    };
    let query = Draft::query(7, "_dns.resolver.arpa", 64);
    let (answer, _) = judged(Settings::default(), &query, Err(unknown));
    assert_eq!(answer.unwrap().0, Rcode::SERV_FAIL);
}

#[test]
fn a_scrubbed_query_is_the_same_whatever_its_client_wrote_into_it() {
    let (udp, tcp) = (L4Protocol::Udp, L4Protocol::Tcp);
    let cookie: &[u8] = &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let asked = |name: &str, flags: u16| Draft::query(7, name, A).with(2, flags);
    let plain = Draft::query(0, "good.com", A);
    let with_opt = |dnssec_ok| plain.clone().opt(1232, dnssec_ok, &[]);
    for (case, query, protocol, expected) in [
        ("plain", asked("good.com", 0x0100), udp, plain.clone()),
        ("case", asked("gOOd.cOm", 0x0100), udp, plain.clone()),
        // RD and CD stay; AD, Z, TC and RA do not.
        ("flags", asked("good.com", 0x03e0), udp, plain.clone()),
        (
            "cd",
            asked("good.com", 0x0110),
            udp,
            plain.clone().with(2, 0x0110),
        ),
        (
            "no rd",
            asked("good.com", 0x0000),
            udp,
            plain.clone().with(2, 0),
        ),
        (
            "opt",
            asked("gOod.com", 0x0120).opt(4096, true, cookie),
            udp,
            with_opt(true),
        ),
        (
            "size",
            asked("good.com", 0x0100).opt(512, false, &[]),
            udp,
            with_opt(false),
        ),
        (
            "tcp",
            asked("good.com", 0x0100).opt(4096, false, cookie),
            tcp,
            with_opt(false),
        ),
        (
            "signed",
            asked("good.com", 0x0100).additional(&wire("key"), TSIG, &[0; 8]),
            udp,
            plain.clone(),
        ),
    ] {
        let mut bench = Bench::new();
        bench.settings.scrub = true;
        let (sent, bytes) = bench.forward(origin(protocol), &query);
        assert_eq!(bytes, expected.with(0, sent.unwrap().key.id).0, "{case}");
    }
}

#[test]
fn the_answer_to_a_scrubbed_query_has_the_clients_letters() {
    let mut bench = Bench::new();
    bench.settings.scrub = true;
    bench.settings.case = Case::Strict;
    let datapath = Datapath::default();
    let id = bench.ask();
    // What was not sent is no answer, whatever the client wrote.
    let (reply, _) = bench.hear(&good_answer(id).0, &datapath);
    assert_eq!(reply, None);
    assert_eq!(bench.count("dns_upstream_rejected_total", "case"), 1);
    let answer = Draft::answer(id, "good.com", A).address(60, "192.0.2.1");
    let (reply, bytes) = bench.hear(&answer.0, &datapath);
    assert!(reply.is_some());
    assert_eq!(bytes, good_answer(7).0);
    assert_eq!(bench.count("dns_quirks_total", "case-changed"), 0);
}

#[test]
fn a_tunnel_that_is_closed_gets_no_further() {
    let mut bench = Bench::new();
    bench.settings.tunnels = TunnelMode::Enforce;
    let tunnels = Tunnels::default();
    for n in 0..=TUNNEL_NAMES_MAX + 1 {
        let query = Draft::query(7, &format!("n{n}.good.com"), A);
        let forward = bench.permitted(udp(), &query);
        let (watched, bytes) = bench.step(|_, step| forward.watch(&tunnels, step));
        let told = match watched {
            Ok(forward) => {
                assert!(bytes.is_empty() && n <= TUNNEL_NAMES_MAX);
                drop(forward);
                bench.told().remove(0)
            }
            Err(_) => {
                assert_eq!(n, TUNNEL_NAMES_MAX + 1);
                assert_eq!(read_own(&bytes), (Rcode::NX_DOMAIN, None));
                let told = bench.told().remove(0);
                assert_eq!(told.outcome, Outcome::Local(Rcode::NX_DOMAIN));
                assert_eq!(told.allowed_by, None, "nothing left the node");
                told
            }
        };
        let is_told = told.remark == Some(Remark::TunnelSuspected);
        assert_eq!(is_told, n >= TUNNEL_NAMES_MAX, "{n}");
    }
    assert_eq!(bench.count("dns_quirks_total", "tunnel-suspected"), 1);
    assert_eq!(bench.count("dns_remarks_total", "dns-tunnel-suspected"), 2);
}
