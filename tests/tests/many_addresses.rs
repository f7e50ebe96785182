//! A name with ever other addresses, as stores in the cloud have: each that was answered works, as long as
//! the floor says, and the bound refuses what is new before it closes what is not. And ever new names, as
//! crawlers ask for: each is answered and works, and beyond the bound those close that were answered longest ago.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a workload's own sockets; the floor is a time"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use namegate_tests::{Answers, Asking, Daemon, Node, TcpEcho, Workload, patience, policy};

/// Addresses in one answer.
const EACH: u32 = 8;
/// What `few` has, and what a name may have.
const ADDRESSES: u32 = 10_000;

/// What an endpoint may have.
const NAMES: u32 = 20_000;

/// How long a test waits for what will come.
const PATIENCE: Duration = Duration::from_secs(30);

fn address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + index)
}

/// Eight addresses with a TTL of 5 s; `few` has ten thousand in an order of no use, `more` ever new ones, of
/// which any other name has eight too.
fn eight(query: &[u8], asked: &AtomicU32) -> Vec<u8> {
    let turn = asked.fetch_add(1, Ordering::Relaxed);
    let of = |place: u32| match query[12] {
        3 => (turn * EACH + place).wrapping_mul(7_919) % ADDRESSES,
        _ => ADDRESSES + (turn * EACH + place) % 40_000,
    };
    let mut out = query[..2].to_vec();
    out.extend([0x84, 0, 0, 1, 0, 8, 0, 0, 0, 0]);
    out.extend(&query[12..]);
    for place in 0..EACH {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
        out.extend(address(of(place)).octets());
    }
    out
}

/// The world with both names and all their addresses.
struct Scene {
    node: Node,
    alice: Workload,
    world: Workload,
    _names: Answers,
    _echo: TcpEcho,
}

impl Scene {
    fn new() -> Self {
        let node = Node::new().unwrap();
        let alice = node.workload("alice", 2).unwrap();
        let world = node.elsewhere().unwrap();
        let asked = AtomicU32::new(0);
        let names = Answers::serve(&world.ns, 53, move |query| vec![eight(query, &asked)]);
        Self {
            _names: names.unwrap(),
            _echo: TcpEcho::serve(&world.ns, 80).unwrap(),
            node,
            alice,
            world,
        }
    }

    /// One that guards alice, not started yet.
    fn daemon(&self) -> Daemon<'_> {
        let names = policy("alice", "[{matchPattern: '*.example.com'}]");
        Daemon::guarding(&self.node, &self.alice, &names).unwrap()
    }
}

/// The response code and the addresses.
fn ask(asking: &mut Asking, label: &str) -> (u8, Vec<IpAddr>) {
    let (question_octets, answer) = asking.ask(label).unwrap();
    let records = answer[question_octets..].chunks_exact(16);
    let addresses =
        records.map(|record| Ipv4Addr::new(record[12], record[13], record[14], record[15]));
    (answer[3] & 15, addresses.map(IpAddr::from).collect())
}

fn connect(from: &Workload, to: IpAddr) -> Option<TcpStream> {
    let to = SocketAddr::new(to, 80);
    let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(900) * patience()).ok();
    from.ns.run(connect).unwrap()
}

fn exchange(stream: &mut TcpStream) {
    let mut back = [0; 5];
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
}

#[test]
fn each_of_ten_thousand_addresses_works_for_its_floor_and_the_bound_closes_none() {
    let scene = Scene::new();
    let alice = &scene.alice;
    let mut daemon = scene.daemon();
    // A busy machine may be late: no SERVFAIL for that here. And no floor ends during the test.
    let flags = ["--dns-install-wait", "4s", "--dns-ttl-floor", "10m"];
    daemon.start(&flags).unwrap();
    let mut asking = Asking::new(alice, scene.world.v4.into(), PATIENCE).unwrap();

    let (code, first) = ask(&mut asking, "few");
    assert_eq!((code, first.len()), (0, EACH as usize));
    let mut kept = connect(alice, first[0]).unwrap();
    exchange(&mut kept);
    let identities = daemon.status().unwrap()["identities"].clone();
    let began = Instant::now();
    let mut all = first.clone();
    for turn in 1..ADDRESSES / EACH {
        let (code, answer) = ask(&mut asking, "few");
        assert_eq!((code, answer.len()), (0, EACH as usize), "answer {turn}");
        if turn % 10 == 0 {
            assert!(connect(alice, answer[7]).is_some(), "of answer {turn}");
        }
        all.extend(answer);
    }
    println!("{} addresses after {:?}", all.len(), began.elapsed());
    for ip in all.iter().step_by(53) {
        assert!(connect(alice, *ip).is_some(), "{ip} was answered");
    }
    let status = daemon.status().unwrap();
    assert_eq!(status["endpoints"][0]["open_addresses"], ADDRESSES);
    assert_eq!(status["identities"], identities, "one for all of them");
    assert_eq!(status["learning"]["evicted"], 0);

    // The name has as many as one may have: the next is refused, and said.
    let refused = (0..1 + ADDRESSES / EACH).map(|_| ask(&mut asking, "more").0);
    let refused: Vec<u8> = refused.collect();
    let taken = refused.iter().take_while(|code| **code == 0).count();
    assert_eq!(taken as u32, ADDRESSES / EACH, "{refused:?}");
    assert_eq!(refused.last(), Some(&2), "SERVFAIL");
    let status = daemon.status().unwrap();
    assert_eq!(
        status["dns"]["dns_faults_total"]["too-many"], 1,
        "{status:#}"
    );
    assert_eq!(status["learning"]["evicted"], 0);
    for ip in all.iter().step_by(211) {
        assert!(connect(alice, *ip).is_some(), "{ip} was answered");
    }
    exchange(&mut kept);
}

/// What is old enough goes when the bound is reached, and a connection to it lives on.
#[test]
fn what_the_bound_takes_is_old_and_its_connections_live() {
    let scene = Scene::new();
    let alice = &scene.alice;
    let mut daemon = scene.daemon();
    let flags = ["--dns-install-wait", "4s", "--dns-ttl-floor", "0s"];
    let long = [&flags[..], &["--dns-ttl-grace", "10m"]].concat();
    daemon.start(&long).unwrap();
    let mut asking = Asking::new(alice, scene.world.v4.into(), PATIENCE).unwrap();
    let (_, first) = ask(&mut asking, "more");
    let mut kept = connect(alice, first[0]).unwrap();
    exchange(&mut kept);
    for turn in 0..ADDRESSES / EACH {
        assert_eq!(ask(&mut asking, "more").0, 0, "answer {turn}");
    }
    let status = daemon.status().unwrap();
    assert_eq!(status["learning"]["evicted"], EACH, "{status:#}");
    assert!(connect(alice, first[1]).is_none(), "the oldest went");
    exchange(&mut kept);
}

/// A flood of names within one floor: none is refused, and each works for whoever connects at once.
#[test]
fn each_of_ever_new_names_is_answered_and_works() {
    const BEYOND: u32 = 40;
    let scene = Scene::new();
    let alice = &scene.alice;
    let mut daemon = scene.daemon();
    let flags = ["--dns-install-wait", "4s", "--dns-ttl-floor", "10m"];
    daemon.start(&flags).unwrap();
    let mut asking = Asking::new(alice, scene.world.v4.into(), PATIENCE).unwrap();
    let (_, first) = ask(&mut asking, "few");
    let mut kept = connect(alice, first[0]).unwrap();
    exchange(&mut kept);
    for turn in 1..NAMES + BEYOND {
        let (code, answer) = ask(&mut asking, &format!("name{turn}"));
        assert_eq!((code, answer.len()), (0, EACH as usize), "name {turn}");
        if turn % 500 == 0 || turn >= NAMES {
            assert!(connect(alice, answer[7]).is_some(), "of name {turn}");
        }
    }
    let status = daemon.status().unwrap();
    let evicted = status["learning"]["evicted"].as_u64();
    assert!(evicted > Some(NAMES.into()), "{status:#}");
    assert!(connect(alice, first[1]).is_none(), "the oldest went");
    exchange(&mut kept);
}
