//! ICMP errors: those about a flow that passes belong to it, all others are judged.

use std::net::IpAddr;

use bpf_redirect::Hook;
use bpf_redirect_common::{CtValue, Drop, Verdict};

use crate::common::{GATEWAY_MAC, Packet, WORKLOAD_MAC, icmp_error, out, v4, v6};
use crate::table::Want::{By, Quiet, Unmatched};
use crate::table::*;

/// Types that are errors, and some that are not.
fn kinds(peer: IpAddr) -> (&'static [u8], &'static [u8]) {
    match peer {
        IpAddr::V4(_) => (&[3, 11, 12], &[0, 4, 5, 8, 9, 10, 13, 17]),
        IpAddr::V6(_) => (&[1, 2, 3, 4], &[0, 5, 100, 127, 128, 129, 138]),
    }
}

pub(crate) fn stories() -> Vec<Topic> {
    let peers = [v4(PEER), v6(PEER.into())];
    let mut topics = Vec::new();
    for peer in peers {
        topics.extend([
            began_here(peer),
            began_there(peer),
            quotes(peer),
            proxied(peer),
        ]);
    }
    topics.push(too_big());
    topics
}

#[test]
fn an_icmp_error_about_a_flow_that_passes_belongs_to_it_and_others_are_judged() {
    let mut kernel = Kernel::new();
    for story in stories() {
        kernel.check_in_turn(&story);
        kernel.bench.datapath.sweep_flows(|_, _| true).unwrap();
    }
}

/// It may be forged: it makes no entry, and none lives longer by it or changes.
#[test]
fn an_icmp_error_leaves_the_table_of_flows_as_it_was() {
    for peer in [v4(PEER), v6(PEER.into())] {
        let mut kernel = Kernel::new();
        let syn = out(peer, TCP, 80);
        let open = Topic::new(&one_port(), vec![sent("SYN", &syn, allowed(1))]);
        kernel.check_in_turn(&open);
        let flows = |kernel: &Kernel| {
            let seen = std::cell::RefCell::new(Vec::new());
            let look = |_: &_, value: &CtValue| {
                seen.borrow_mut().push(*value);
                false
            };
            kernel.bench.datapath.sweep_flows(look).unwrap();
            seen.into_inner()
        };
        let before = flows(&kernel);
        assert_eq!(before.len(), 1);
        // Longer than a time stamp is good for.
        std::thread::sleep(std::time::Duration::from_millis(2_600));
        for kind in kinds(peer).0 {
            let error = to_it("error", icmp_error(&syn, *kind), Quiet);
            kernel.check_in_turn(&Topic::new(&one_port(), vec![error]));
        }
        assert_eq!(flows(&kernel), before, "{peer}");
        let more = sent("more", &syn.flags(0x10), Quiet);
        kernel.check_in_turn(&Topic::new(&one_port(), vec![more]));
        assert_ne!(flows(&kernel), before, "what the workload sends does count");
    }
}

fn to_it(what: impl Into<String>, frame: Vec<u8>, want: Want) -> Row {
    Row {
        hook: Hook::ToEndpoint,
        ..raw(what, frame, want)
    }
}

/// From the workload, to the peer.
fn from_it(what: impl Into<String>, about: &Packet, kind: u8, want: Want) -> Row {
    raw(what, from_workload(about, kind), want)
}

fn from_workload(about: &Packet, kind: u8) -> Vec<u8> {
    let mut frame = icmp_error(about, kind);
    frame[..6].copy_from_slice(&GATEWAY_MAC);
    frame[6..12].copy_from_slice(&WORKLOAD_MAC);
    // The outer source: its own address.
    match about.destination {
        IpAddr::V4(own) => frame[26..30].copy_from_slice(&own.octets()),
        IpAddr::V6(own) => frame[22..38].copy_from_slice(&own.octets()),
    }
    frame
}

fn echo(peer: IpAddr) -> Packet {
    match peer {
        IpAddr::V4(_) => out(peer, ICMP, 8),
        IpAddr::V6(_) => out(peer, ICMPV6, 128),
    }
}

fn policy() -> Vec<Entry> {
    let mut entries = one_port();
    for direction in [egress, ingress] {
        entries.push(direction(SERVER, (ICMP, 8, 16), (Verdict::Allow, 1)));
        entries.push(direction(SERVER, (ICMPV6, 128, 16), (Verdict::Allow, 1)));
    }
    entries
}

/// What the workload begins: routers may tell it of what it sent, and it may tell the server of what that
/// sent.
fn began_here(peer: IpAddr) -> Topic {
    let mut rows = Vec::new();
    let (errors, others) = kinds(peer);
    for packet in [
        out(peer, TCP, 80),
        out(peer, UDP, 80),
        out(peer, SCTP, 80),
        echo(peer),
    ] {
        let what = format!("{} of {peer}", packet.protocol);
        for kind in errors {
            let early = format!("{what}: {kind} before it began");
            rows.push(to_it(early, icmp_error(&packet, *kind), DENIED));
        }
        rows.push(sent(format!("{what}: begins"), &packet, allowed(1)));
        for kind in errors {
            let name = format!("{what}: {kind}");
            rows.push(to_it(&name, icmp_error(&packet, *kind), Quiet));
            rows.push(from_it(&name, &packet.answer(), *kind, Quiet));
            let other = packet.clone().with_port(9);
            let strange = format!("{name} about another flow");
            rows.push(to_it(&strange, icmp_error(&other, *kind), DENIED));
            rows.push(from_it(&strange, &other.answer(), *kind, DENIED));
        }
        for kind in others.iter().filter(|kind| !matches!(kind, 8 | 128)) {
            let name = format!("{what}: {kind} is no error");
            rows.push(to_it(name, icmp_error(&packet, *kind), DENIED));
        }
    }
    Topic::new(&policy(), rows)
}

/// What a peer begins.
fn began_there(peer: IpAddr) -> Topic {
    let mut rows = Vec::new();
    let echo = echo(peer);
    for (protocol, port) in [
        (TCP, 80),
        (UDP, 80),
        (SCTP, 80),
        (echo.protocol, echo.ports.1),
    ] {
        let request = into(peer, protocol, port);
        let what = format!("{protocol} from {peer}");
        for kind in kinds(peer).0 {
            let early = format!("{what}: {kind} before it began");
            rows.push(from_it(early, &request, *kind, DENIED));
        }
        rows.push(received(format!("{what}: begins"), &request, allowed(1)));
        for kind in kinds(peer).0 {
            let name = format!("{what}: {kind}");
            rows.push(from_it(&name, &request, *kind, Quiet));
            rows.push(to_it(&name, icmp_error(&request.answer(), *kind), Quiet));
            // It is for who sent what it quotes, and for nobody else.
            let mut elsewhere = from_workload(&request, *kind);
            let at = if peer.is_ipv4() { 33 } else { 53 };
            elsewhere[at] ^= 0x40;
            let name = format!("{name} to another one");
            rows.push(raw(name, elsewhere, DENIED));
        }
    }
    Topic::new(&policy(), rows)
}

/// What an error may quote in place of a whole packet.
fn quotes(peer: IpAddr) -> Topic {
    let sent_before = out(peer, UDP, 80);
    let kind = kinds(peer).0[0];
    let mut rows = vec![sent("begins", &sent_before, allowed(1))];
    let whole = icmp_error(&sent_before, kind);
    let outer = if peer.is_ipv4() { 14 + 28 } else { 14 + 48 };
    let ports = outer + if peer.is_ipv4() { 20 } else { 40 };
    for length in outer..whole.len() {
        let want = if length < ports + 4 { DENIED } else { Quiet };
        let cut = whole[..length].to_vec();
        rows.push(to_it(format!("cut to {length}"), cut, want));
    }
    let changed = |at: usize, to: u8| {
        let mut frame = whole.clone();
        frame[at] = to;
        frame
    };
    let own_source = if peer.is_ipv4() { 12 + 3 } else { 8 + 15 };
    let another = changed(outer + own_source, 77);
    rows.push(to_it("what another address sent", another, DENIED));
    rows.push(to_it("another version", changed(outer, 0x55), DENIED));
    let fragment = |offset: u16| match peer {
        IpAddr::V4(_) => sent_before.clone().fragment((offset / 8) | 0x2000),
        IpAddr::V6(_) => {
            let [high, low] = (offset | 1).to_be_bytes();
            sent_before
                .clone()
                .with(44, &[UDP, 0, high, low, 0, 0, 0, 7])
        }
    };
    let first = icmp_error(&fragment(0), kind);
    rows.push(to_it("a first fragment", first, Quiet));
    let later = icmp_error(&fragment(64), kind);
    rows.push(to_it("a later one", later, DENIED));
    let extra =
        |kind_of: u8, bytes: &[u8]| icmp_error(&sent_before.clone().with(kind_of, bytes), kind);
    if peer.is_ipv4() {
        rows.push(to_it("options", extra(0, &[1; 12]), Quiet));
        for length in 0..5 {
            let short = changed(outer, 0x40 | length);
            rows.push(to_it(format!("{length} words of header"), short, DENIED));
        }
        // The ports would lie beyond the end.
        rows.push(to_it("15 words of header", changed(outer, 0x4f), DENIED));
    } else {
        let options = extra(60, &[UDP, 0, 1, 4, 0, 0, 0, 0]);
        rows.push(to_it("an extension header", options, DENIED));
    }
    let mut outer_part = whole.clone();
    if peer.is_ipv4() {
        outer_part[20] = 0x20;
        rows.push(to_it("itself a fragment", outer_part.clone(), DENIED));
        outer_part[20] = 0;
        outer_part[21] = 2;
        let later = Unmatched(Drop::FragmentNotFound);
        rows.push(to_it("itself a later fragment", outer_part, later));
    }
    // A quote of a quote: an error about an error is none about a flow.
    let mut twice = sent_before.clone();
    twice.protocol = if peer.is_ipv4() { ICMP } else { ICMPV6 };
    twice.ports = (40_000, kind.into());
    rows.push(to_it("about an error", icmp_error(&twice, kind), DENIED));
    Topic::new(&one_port(), rows)
}

/// "Fragmentation needed" passes to the workload, whatever it is about: nothing else tells of a path that is too
/// small for what has no flow.
fn too_big() -> Topic {
    let unknown = out(v4(PEER), 47, 0);
    let with_code = |kind: u8, code: u8| {
        let mut frame = icmp_error(&unknown, kind);
        frame[14 + 20 + 1] = code;
        frame
    };
    let mut rows = vec![to_it("fragmentation needed", with_code(3, 4), Quiet)];
    for (kind, code) in [
        (3, 0),
        (3, 3),
        (3, 5),
        (3, 13),
        (4, 4),
        (5, 4),
        (11, 4),
        (12, 4),
    ] {
        rows.push(to_it(
            format!("{kind}/{code}"),
            with_code(kind, code),
            DENIED,
        ));
    }
    let mut elsewhere = with_code(3, 4);
    elsewhere[33] = 77;
    let not_its = Want::Drop(Drop::NotForEndpoint);
    rows.push(to_it("to another one", elsewhere, not_its));
    let mut own = with_code(3, 4);
    own[..6].copy_from_slice(&GATEWAY_MAC);
    own[6..12].copy_from_slice(&WORKLOAD_MAC);
    own[26..30].copy_from_slice(&[10, 0, 0, 2]);
    own[30..34].copy_from_slice(&[10, 0, 0, PEER]);
    rows.push(raw("sent by the workload", own, DENIED));
    let v6 = icmp_error(&out(v6(PEER.into()), 47, 0), 2);
    rows.push(to_it("too big, by IPv6", v6, DENIED));
    Topic::new(&one_port(), rows)
}

/// What the proxy has is between it and the workload: the network knows nothing of it.
fn proxied(peer: IpAddr) -> Topic {
    let entries = [egress(SERVER, (TCP, 53, 16), (Verdict::Redirect, 4))];
    let query = out(peer, TCP, 53);
    let kind = kinds(peer).0[0];
    let begins = By(Verdict::Redirect, bpf_redirect_common::Match::L3L4, 4);
    let rows = vec![
        sent("begins", &query, begins),
        to_it("about it", icmp_error(&query, kind), DENIED),
        from_it("of it", &query.answer(), kind, DENIED),
    ];
    Topic::new(&entries, rows)
}
