//! What a query costs in the steady state: no allocation, from the socket that it comes by to the socket
//! that its answer leaves by. A test of its own, since the allocator counts for the whole process.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a client's and a server's own sockets, and the real clock"
)]

use std::alloc::System;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dnsproxy::{Host, Learn, Lesson, NotInstalled, Proxy, Settings, Told, UdpWorker};
use policy::{
    Cast, Compiler, Denial, DnsPermit, EndpointId, Identities, L4Protocol, Labels, LocalEndpoint,
    NamedPorts, Options, Question, Snapshot, Source, Workload,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ALLOWED: &[u8] = b"\x03web\x07example\x03com\0";
const DENIED: &[u8] = b"\x04evil\x07example\x03com\0";
const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const NO_ERROR: u8 = 0;
const NX_DOMAIN: u8 = 3;

/// A node with one workload that asks one server.
struct Node {
    snapshot: Snapshot,
    endpoint: EndpointId,
    server: SocketAddr,
    learned: Arc<AtomicU64>,
    told: Arc<AtomicU64>,
}

impl Learn for Node {
    type Installed = ();

    fn learn(&self, _: Instant, lesson: Lesson) -> Result<(), NotInstalled> {
        let addresses = lesson.addresses.len() as u64;
        self.learned.fetch_add(addresses, Ordering::Relaxed);
        Ok(())
    }
}

impl Host for Node {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn boot_ns(&self) -> u64 {
        1
    }

    fn judge(
        &self,
        endpoint: EndpointId,
        (server, protocol): (SocketAddr, L4Protocol),
        question: &Question,
    ) -> Result<DnsPermit, Denial> {
        self.snapshot
            .judge_dns(endpoint, server, protocol, question)
    }

    fn asker(&self, _: SocketAddr, _: L4Protocol, _: [u8; 2]) -> Option<(EndpointId, SocketAddr)> {
        Some((self.endpoint, self.server))
    }

    fn tell(&self, _: Told) {
        self.told.fetch_add(1, Ordering::Relaxed);
    }
}

fn snapshot(endpoint: EndpointId, server: SocketAddr) -> Snapshot {
    let text = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p}}\nspec: {{endpointSelector: {{}}, egress: [{{toCIDR: [127.0.0.1/32], toPorts: [{{ports: [{{port: \"{}\", protocol: ANY}}], rules: {{dns: [{{matchName: web.example.com}}]}}}}]}}]}}\n",
        server.port()
    );
    let loaded = policy::load(&[Source {
        path: "p.yaml".into(),
        text,
    }]);
    assert!(!loaded.has_errors(), "{:?}", loaded.problems);
    let cast = Cast {
        endpoints: vec![LocalEndpoint {
            id: endpoint,
            workload: Workload {
                namespace: "default".into(),
                name: "client".into(),
                labels: Labels::default(),
                ports: NamedPorts::new(),
                owner: None,
            },
            addresses: vec!["10.0.0.2".parse().unwrap()],
            audit: false,
            is_redirectable: true,
        }],
        ..Cast::default()
    };
    let input = (&loaded.set, &cast, Options::default());
    let mut compiler = Compiler::new();
    compiler.build(1, input, &mut Identities::new()).unwrap()
}

/// Answers every query with two addresses.
fn serve(server: &UdpSocket) {
    let mut buffer = [0; 512];
    loop {
        let (len, from) = server.recv_from(&mut buffer).unwrap();
        buffer[2] |= 0x80;
        buffer[7] = 2;
        let mut end = len;
        for last in [1, 2] {
            let record = [
                0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 198, 51, 100, last,
            ];
            buffer[end..end + record.len()].copy_from_slice(&record);
            end += record.len();
        }
        server.send_to(&buffer[..end], from).unwrap();
    }
}

/// Asks so often, one after the other.
fn ask(client: &UdpSocket, (name, rcode): (&[u8], u8), count: u16) {
    let mut query = [0; 64];
    let mut answer = [0; 512];
    for id in 0..count {
        query[..2].copy_from_slice(&id.to_be_bytes());
        query[2..6].copy_from_slice(&[1, 0, 0, 1]);
        query[12..12 + name.len()].copy_from_slice(name);
        let end = 12 + name.len() + 4;
        query[end - 4..end].copy_from_slice(&[0, 1, 0, 1]);
        client.send(&query[..end]).unwrap();
        client.recv(&mut answer).unwrap();
        assert_eq!(answer[..2], query[..2]);
        assert_eq!(answer[3] & 15, rcode);
    }
}

#[test]
fn a_query_allocates_nothing_once_all_is_warm() {
    const COUNT: u16 = 1_000;
    let server = UdpSocket::bind((LOCALHOST, 0)).unwrap();
    let address = server.local_addr().unwrap();
    std::thread::spawn(move || serve(&server));
    let endpoint = EndpointId::new(7).unwrap();
    let (learned, told) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
    let node = Node {
        snapshot: snapshot(endpoint, address),
        endpoint,
        server: address,
        learned: Arc::clone(&learned),
        told: Arc::clone(&told),
    };
    let proxy = Arc::new(Proxy::new(node, Settings::default(), 0));
    let worker = UdpWorker::open_on_node(proxy, SocketAddr::new(LOCALHOST, 0)).unwrap();
    let (port, stop) = (worker.port(), worker.stopper());
    let worker = std::thread::spawn(move || worker.run(Duration::ZERO));
    let client = UdpSocket::bind((LOCALHOST, 0)).unwrap();
    client.connect((LOCALHOST, port)).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();

    for asked in [(ALLOWED, NO_ERROR), (DENIED, NX_DOMAIN)] {
        ask(&client, asked, COUNT);
        let region = Region::new(ALLOCATOR);
        ask(&client, asked, COUNT);
        let change = region.change();
        let count = change.allocations + change.reallocations;
        assert_eq!(count, 0, "in {COUNT} queries for {asked:?}: {change:?}");
    }
    stop.stop();
    worker.join().unwrap().unwrap();
    assert_eq!(learned.load(Ordering::Relaxed), 2 * 2 * u64::from(COUNT));
    assert_eq!(told.load(Ordering::Relaxed), 4 * u64::from(COUNT));
}
