//! The bounds of the maps, each by hitting it: what then happens, and that what was there stays.

#![expect(clippy::unwrap_used, reason = "a test may die")]

mod common;

use std::net::{IpAddr, Ipv4Addr};

use bpf_redirect::{Change, Datapath, EndpointEntry, Hook, HookMode, TableError};
use bpf_redirect_common::{
    Address, ENDPOINTS_MAX, GATE_MAC, Kind, LEARNED, LEARNED_MAX, Mark, NEXT_HOPS_MAX, POLICY,
    POLICY_ENTRIES_MAX, POLICY_SLOTS_MIN, PREFIXES_MAX, UPSTREAM_TCP_MAX, UPSTREAM_UDP_MAX,
    Verdict,
};
use common::{Bench, ENDPOINT, NEXT, REDIRECT, SHOT, entry, need_root, out, v4};

const TCP: u8 = 6;
const UDP: u8 = 17;
const IDENTITY: u32 = 16_777_300;

/// The `index`th of many addresses.
fn many(index: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + u32::try_from(index).unwrap()))
}

#[test]
fn a_full_table_of_learned_addresses_refuses_the_whole_answer_and_keeps_the_rest() {
    let mut bench = Bench::new(&[]);
    let open = |index| Change {
        address: Address::from(many(index)),
        identity: Some(IDENTITY),
    };
    let entries = |_| vec![entry(IDENTITY, 0, 0, Verdict::Allow)];
    let all: Vec<Change> = (0..LEARNED_MAX - 1).map(open).collect();
    bench.ledger.install(&all, entries).unwrap();
    let error = bench
        .ledger
        .install(&[open(LEARNED_MAX), open(LEARNED_MAX + 1)], entries)
        .unwrap_err();
    assert!(matches!(error.source, TableError::Full(LEARNED)), "{error}");
    for index in [LEARNED_MAX, LEARNED_MAX + 1] {
        let (code, _, _) = bench
            .datapath
            .try_packet(Hook::FromEndpoint, &out(many(index), TCP, 80).bytes(), 0)
            .unwrap();
        assert_eq!(code, SHOT, "no half of an answer");
    }
    let (code, _, _) = bench
        .datapath
        .try_packet(Hook::FromEndpoint, &out(many(7), TCP, 80).bytes(), 0)
        .unwrap();
    assert_eq!(code, NEXT, "what was open stays open");
}

/// Where many addresses change at once the kernel takes them in one call, and stops where it is full.
#[test]
fn a_table_that_fills_in_the_middle_opens_only_what_the_ledger_knows() {
    const ROOM: usize = 5_000;
    const WANTED: usize = 9_000;
    let mut bench = Bench::new(&[]);
    let entries = |_| vec![entry(IDENTITY, 0, 0, Verdict::Allow)];
    let open = |index| Change {
        address: Address::from(many(index)),
        identity: Some(IDENTITY),
    };
    let mut other = bench.another(ENDPOINT + 1);
    let all: Vec<Change> = (0..LEARNED_MAX - ROOM).map(open).collect();
    other.settle(&all, entries);
    assert_eq!(other.addresses().count(), all.len());

    let wanted: Vec<Change> = (0..WANTED).map(open).collect();
    bench.ledger.settle(&wanted, entries);
    let known: Vec<usize> = (0..WANTED)
        .filter(|index| {
            bench
                .ledger
                .identity_of(Address::from(many(*index)))
                .is_some()
        })
        .collect();
    assert_eq!(known, (0..ROOM).collect::<Vec<_>>());
    for (index, code) in [
        (0, NEXT),
        (4_095, NEXT),
        (ROOM - 1, NEXT),
        (ROOM, SHOT),
        (WANTED - 1, SHOT),
    ] {
        let packet = out(many(index), TCP, 80).bytes();
        let run = bench.datapath.try_packet(Hook::FromEndpoint, &packet, 0);
        assert_eq!(run.unwrap().0, code, "{index}");
    }

    // One that goes makes room for one.
    let away = Change {
        address: Address::from(many(7)),
        identity: None,
    };
    other.settle(&[away], entries);
    bench.ledger.settle(&[open(ROOM), open(ROOM + 1)], entries);
    let is_open = |index| {
        bench
            .ledger
            .identity_of(Address::from(many(index)))
            .is_some()
    };
    assert_eq!([ROOM, ROOM + 1].map(is_open), [true, false]);
}

#[test]
fn a_policy_with_more_entries_than_fit_is_refused_and_the_old_one_holds() {
    let mut bench = Bench::new(&[entry(0, TCP, 80, Verdict::Allow)]);
    let too_many: Vec<_> = (0..=POLICY_ENTRIES_MAX)
        .map(|index| entry(u32::try_from(index).unwrap() + 1_000, 0, 0, Verdict::Allow))
        .collect();
    let error = bench
        .ledger
        .reload(too_many, &[], |_| Vec::new())
        .unwrap_err();
    assert!(matches!(error.source, TableError::Full(POLICY)), "{error}");
    let (code, _, _) = bench
        .datapath
        .try_packet(Hook::FromEndpoint, &out(v4(3), TCP, 80).bytes(), 0)
        .unwrap();
    assert_eq!(code, NEXT);
}

/// A map is as large as it needs to be, and nothing that is in force is lost as it grows.
#[test]
fn a_policy_map_grows_with_what_is_learned_up_to_its_bound() {
    let mut bench = Bench::new(&[entry(0, TCP, 80, Verdict::Allow)]);
    let small = policy_memory();
    assert!(small < 16 * 1_024, "{small}");
    let learn = |bench: &mut Bench, index: u32| {
        let change = Change {
            address: Address::from(many(index as usize)),
            identity: Some(IDENTITY + index),
        };
        let entries = |identity| vec![entry(identity, TCP, 443, Verdict::Allow)];
        bench.ledger.install(&[change], entries)
    };
    let judged = |bench: &mut Bench, destination, port| {
        let packet = out(destination, TCP, port).bytes();
        let run = bench.datapath.try_packet(Hook::FromEndpoint, &packet, 0);
        run.unwrap().0
    };
    // Two are of the policy itself.
    let most = u32::try_from(POLICY_ENTRIES_MAX).unwrap() - 2;
    for index in 0..most {
        learn(&mut bench, index).unwrap();
        let size = usize::try_from(index).unwrap();
        if size.is_power_of_two() || size + POLICY_SLOTS_MIN == POLICY_ENTRIES_MAX {
            for known in [0, index / 2, index] {
                let peer = many(known as usize);
                assert_eq!(judged(&mut bench, peer, 443), NEXT, "{known} of {index}");
            }
            assert_eq!(judged(&mut bench, v4(3), 80), NEXT, "{index}");
            assert_eq!(judged(&mut bench, v4(3), 81), SHOT, "{index}");
        }
    }
    let error = learn(&mut bench, most).unwrap_err();
    assert!(matches!(error.source, TableError::Full(POLICY)), "{error}");
    assert_eq!(judged(&mut bench, many(most as usize), 443), SHOT);
    assert_eq!(judged(&mut bench, many(most as usize - 1), 443), NEXT);
    // A new policy gives back what it doesn't need.
    let policy = vec![entry(0, TCP, 80, Verdict::Allow)];
    bench.ledger.reload(policy, &[], |_| Vec::new()).unwrap();
    assert!(policy_memory() < 16 * 1_024, "{}", policy_memory());
}

/// What the kernel says that this process' maps of a policy take: a hash with keys and values of 8 octets.
fn policy_memory() -> usize {
    let mut total = 0;
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap() {
        // The folder's own descriptor is gone by now.
        let Ok(text) = std::fs::read_to_string(entry.unwrap().path()) else {
            continue;
        };
        let field = |name: &str| -> Option<usize> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        let of = ["map_type:", "key_size:", "value_size:"].map(field);
        // The list of cgroups is such a hash too; no policy's map has its size here when it is measured.
        let is_list = field("max_entries:") == Some(ENDPOINTS_MAX);
        if of == [Some(1), Some(8), Some(8)] && !is_list {
            total += field("memlock:").unwrap();
        }
    }
    total
}

#[test]
fn one_endpoint_or_prefix_more_than_fits_is_an_error() {
    need_root();
    let mut datapath = Datapath::load(99, HookMode::Tcx, None).unwrap();
    let endpoint = |number: usize| {
        let number = u32::try_from(number).unwrap();
        EndpointEntry {
            endpoint: number,
            ifindex: number,
            workload_mac: [2; 6],
            host_mac: [2; 6],
            addresses: vec![v4(2)],
        }
    };
    for number in 1..=ENDPOINTS_MAX {
        datapath.set_endpoint(&endpoint(number)).unwrap();
    }
    datapath
        .set_endpoint(&endpoint(ENDPOINTS_MAX + 1))
        .unwrap_err();
    let prefixes: Vec<(IpAddr, u8, u32)> = (0..=PREFIXES_MAX)
        .map(|index| (many(index), 32, 9))
        .collect();
    datapath.set_prefixes(&prefixes[..PREFIXES_MAX]).unwrap();
    datapath.set_prefixes(&prefixes).unwrap_err();
}

/// Beyond these bounds the least recently used entry is forgotten, and the newest always works.
#[test]
fn upstream_flows_and_next_hops_forget_the_oldest() {
    for (protocol, most) in [(UDP, UPSTREAM_UDP_MAX), (TCP, UPSTREAM_TCP_MAX)] {
        let mut bench = Bench::new(&[entry(0, protocol, 53, Verdict::Redirect)]);
        let mark = Mark::new(Kind::Upstream, ENDPOINT).unwrap();
        // Also more next hops than are remembered.
        assert!(most >= NEXT_HOPS_MAX);
        for index in 0..most + 512 {
            let query = out(many(index), protocol, 53);
            if index < NEXT_HOPS_MAX + 512 {
                bench
                    .datapath
                    .try_packet(Hook::FromEndpoint, &query.bytes(), 0)
                    .unwrap();
            }
            let mut frame = query.bytes();
            frame[..6].copy_from_slice(&GATE_MAC);
            frame[6..12].copy_from_slice(&mark.to_mac());
            let (code, _, _) = bench.datapath.try_packet(Hook::NodeEnd, &frame, 0).unwrap();
            assert_eq!(
                code, REDIRECT,
                "{index}: the last unicast next hop stands in"
            );
        }
        let newest = out(many(most + 511), protocol, 53).answer();
        let (code, _, _) = bench
            .datapath
            .try_packet(Hook::ToEndpoint, &newest.bytes(), 0)
            .unwrap();
        assert_eq!((code, bench.count("caught")), (REDIRECT, 1));
    }
}

/// What the verifier may walk through of each program: a quarter of what it takes, and far less where that is
/// enough. A program that reaches its number is looked at before the number is raised. An older verifier knows
/// fewer states for equal and walks further: on Linux 6.1 [`WALKED_FURTHER_MAX`] times as far.
const WALKED_MAX: [(Hook, u32); 5] = [
    (Hook::FromEndpoint, 20_000),
    (Hook::ToEndpoint, 25_000),
    (Hook::NodeEnd, 7_000),
    (Hook::GateIn, 5_000),
    (Hook::GateOut, 500),
];

const WALKED_FURTHER_MAX: u32 = 2;

#[test]
fn every_program_is_verified_within_its_budget() {
    need_root();
    let mode = HookMode::probe().unwrap();
    let factor = match mode {
        HookMode::Tcx => 1,
        HookMode::Clsact => WALKED_FURTHER_MAX,
    };
    let mut datapath = Datapath::load(99, mode, None).unwrap();
    for (hook, most) in WALKED_MAX {
        let walked = datapath.verified_instructions(hook).unwrap().unwrap();
        println!("{hook:?}: {walked} of {most}, times {factor}");
        assert!(walked < most * factor, "{hook:?}: {walked} of {most}");
    }
    for (name, walked) in datapath.verified_for_cgroups().unwrap() {
        let most = match name {
            "ng_cg_egress" | "ng_cg_ingress" => 12_000,
            _ if name.contains("connect") || name.contains("sendmsg") => 10_000,
            _ => 1_000,
        };
        let walked = walked.unwrap();
        println!("{name}: {walked} of {most}, times {factor}");
        assert!(walked < most * factor, "{name}: {walked} of {most}");
    }
}
