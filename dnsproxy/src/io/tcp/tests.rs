#![expect(clippy::disallowed_methods, reason = "a client, a server and a clock")]

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use policy::{Denial, DenialReason, DenyAnswer, DnsPermit, Question};

use super::*;
use crate::testing::{A, Draft, permit_for};
use crate::{Learn, Lesson, NotInstalled, Settings, Told};

/// What it takes to learn, more than half of what an answer may wait.
const LEARNING: Duration = Duration::from_millis(60);

/// An address that never gets into the datapath in time.
const LATE: &str = "192.0.2.66";

/// A node on which everybody may ask everything but what begins with `denied`, and whose clock moves only
/// while it learns.
struct Node {
    server: SocketAddr,
    start: Instant,
    millis: AtomicU64,
    waits: Mutex<Vec<Duration>>,
}

impl Learn for Node {
    type Installed = ();

    fn learn(&self, began: Instant, lesson: Lesson) -> Result<(), NotInstalled> {
        let mut addresses = lesson.addresses.iter();
        if addresses.any(|one| one.ip.to_string() == LATE) {
            return Err(NotInstalled::Late);
        }
        self.millis
            .fetch_add(LEARNING.as_millis() as u64, Ordering::Relaxed);
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.push(self.now() - began);
        Ok(())
    }
}

impl Host for Node {
    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }

    fn boot_ns(&self) -> u64 {
        self.millis.load(Ordering::Relaxed) * 1_000_000
    }

    fn judge(
        &self,
        endpoint: EndpointId,
        (server, protocol): (SocketAddr, L4Protocol),
        question: &Question,
    ) -> Result<DnsPermit, Denial> {
        if question.name.to_string().starts_with("denied") {
            let (reason, answer) = (DenialReason::NameNotAllowed, DenyAnswer::NxDomain);
            return Err(Denial { reason, answer });
        }
        let client = SocketAddr::from(([127, 0, 0, 1], 1));
        let origin = Origin {
            endpoint,
            client,
            server,
            protocol,
        };
        Ok(permit_for(origin, question.clone()))
    }

    fn asker(&self, _: SocketAddr, _: L4Protocol, _: [u8; 2]) -> Option<(EndpointId, SocketAddr)> {
        Some((EndpointId::new(5)?, self.server))
    }

    fn tell(&self, _: Told) {}
}

fn read_frame(stream: &mut std::net::TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

fn frames(messages: impl IntoIterator<Item = Draft>) -> Vec<u8> {
    let frame = |Draft(bytes): Draft| [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
    messages.into_iter().flat_map(frame).collect()
}

/// A server of the proxy's on a thread, and the socket that it asks.
struct Stage {
    proxy: Arc<Proxy<Node>>,
    upstream: std::net::TcpListener,
    port: u16,
    stop: CancellationToken,
    serving: std::thread::JoinHandle<()>,
}

impl Stage {
    fn new() -> Self {
        let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let node = Node {
            server: upstream.local_addr().unwrap(),
            start: Instant::now(),
            millis: AtomicU64::new(0),
            waits: Mutex::default(),
        };
        let proxy = Arc::new(Proxy::new(node, Settings::default(), 1));
        let server = TcpServer::open_on_node(Arc::clone(&proxy), "127.0.0.1:0".parse().unwrap());
        let server = server.unwrap();
        let port = server.port().unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serving = std::thread::spawn(move || {
            // The runtime's own clock runs ahead whenever nothing else is to be done, so that the one of
            // the tests alone says what is over.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            runtime
                .block_on(server.run(stopped, Duration::from_secs(1)))
                .unwrap();
        });
        Self {
            proxy,
            upstream,
            port,
            stop,
            serving,
        }
    }

    fn connect(&self) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn pass(&self, millis: u64) {
        self.proxy.host.millis.fetch_add(millis, Ordering::Relaxed);
    }

    fn count(&self, family: &str, word: &str) -> u64 {
        let mut all = self.proxy.counters.iter();
        let found = all.find(|(name, reason, _)| *name == family && *reason == word);
        found.unwrap().2
    }

    fn end(self) {
        self.stop.cancel();
        self.serving.join().unwrap();
    }
}

/// How long a test waits for what will come.
const PATIENCE: Duration = Duration::from_secs(20);

fn query(id: u16) -> Draft {
    Draft::query(id, "good.com", A)
}

fn id_of(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

fn is_closed(stream: &mut std::net::TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

/// Answers that come together wait for each other; that is no reason to withhold the later ones.
#[test]
fn each_answer_of_a_batch_has_the_datapaths_time_for_itself() {
    const COUNT: u16 = 5;
    let stage = Stage::new();
    let mut client = stage.connect();
    client.write_all(&frames((0..COUNT).map(query))).unwrap();
    let (mut stream, _) = stage.upstream.accept().unwrap();
    let ids = (0..COUNT).map(|_| {
        let query = read_frame(&mut stream);
        u16::from_be_bytes([query[0], query[1]])
    });
    let ids: Vec<u16> = ids.collect();
    let answer = |id| Draft::answer(id, "good.com", A).address(60, "192.0.2.1");
    let answers = frames(ids.into_iter().map(answer));
    stream.write_all(&answers).unwrap();
    for _ in 0..COUNT {
        let answer = read_frame(&mut client);
        assert_eq!(answer[3] & 0x0f, 0, "{answer:?}");
    }
    assert_eq!(
        *stage.proxy.host.waits.lock().unwrap(),
        [LEARNING; COUNT as usize]
    );
    drop(client);
    stage.end();
}

#[test]
fn error_answers_are_limited_for_all_connections_of_an_endpoint_together() {
    let stage = Stage::new();
    let mut answered = 0;
    // Three malformed frames close a connection: so many that one limit each would be no limit.
    for _ in 0..50 {
        let mut client = stage.connect();
        let malformed = (0..3).map(|id| query(id).with(4, 2));
        client.write_all(&frames(malformed)).unwrap();
        let mut octets = Vec::new();
        let _ = client.read_to_end(&mut octets);
        answered += octets.len() / (2 + 12);
    }
    assert_eq!(answered, 100);
    assert_eq!(stage.count("dns_quirks_total", "error-answer-left-out"), 50);
    assert_eq!(stage.count("dns_quirks_total", "frames-malformed"), 50);
    stage.end();
}

/// Of equal queries four wait at most: the answers to the earlier ones come all the same.
#[test]
fn late_answers_to_queries_that_nobody_waits_for_are_no_babble() {
    let stage = Stage::new();
    let mut client = stage.connect();
    client
        .write_all(&frames((0..20).map(|_| query(7))))
        .unwrap();
    let (mut stream, _) = stage.upstream.accept().unwrap();
    let ids: Vec<u16> = (0..20)
        .map(|_| {
            let asked = read_frame(&mut stream);
            u16::from_be_bytes([asked[0], asked[1]])
        })
        .collect();
    let answers = ids.iter().map(|id| Draft::answer(*id, "good.com", A));
    stream.write_all(&frames(answers)).unwrap();
    for _ in 0..4 {
        assert_eq!(read_frame(&mut client)[3] & 0x0f, 0);
    }
    assert_eq!(stage.count("dns_quirks_total", "server-babbles"), 0);
    assert_eq!(stage.count("dns_upstream_rejected_total", "id"), 16);
    // What was never asked is.
    client.write_all(&frames([query(8)])).unwrap();
    let asked = read_frame(&mut stream);
    let wrong = Draft::answer(
        u16::from_be_bytes([asked[0], asked[1]]).wrapping_add(1),
        "good.com",
        A,
    );
    for _ in 0..10 {
        stream.write_all(&frames([Draft(wrong.0.clone())])).unwrap();
    }
    assert_eq!(read_frame(&mut client)[3] & 0x0f, 2, "SERVFAIL");
    assert_eq!(stage.count("dns_quirks_total", "server-babbles"), 1);
    drop(client);
    stage.end();
}

#[test]
fn a_frame_without_a_message_closes_and_is_counted() {
    let stage = Stage::new();
    for bytes in [&[0, 0][..], &[0, 5, 1, 2, 3, 4, 5]] {
        let mut client = stage.connect();
        client.write_all(bytes).unwrap();
        assert!(is_closed(&mut client));
    }
    assert_eq!(stage.count("dns_malformed_total", "short"), 2);
    stage.end();
}

#[test]
fn a_server_that_says_ten_things_that_answer_nothing_is_closed_and_the_client_stays() {
    let stage = Stage::new();
    let mut client = stage.connect();
    for turn in 0..2 {
        client.write_all(&frames([query(7)])).unwrap();
        let (mut stream, _) = stage.upstream.accept().unwrap();
        let asked = read_frame(&mut stream);
        let id = u16::from_be_bytes([asked[0], asked[1]]);
        let wrong = || Draft::answer(id.wrapping_add(1), "good.com", A);
        let right = || Draft::answer(id, "good.com", A);
        // Nine are borne; an answer begins the count anew.
        stream.write_all(&frames((0..9).map(|_| wrong()))).unwrap();
        stream.write_all(&frames([right()])).unwrap();
        assert_eq!(read_frame(&mut client)[3] & 0x0f, 0, "turn {turn}");
        client.write_all(&frames([query(8)])).unwrap();
        let asked = read_frame(&mut stream);
        let id = u16::from_be_bytes([asked[0], asked[1]]);
        let wrong = || Draft::answer(id.wrapping_add(1), "good.com", A);
        stream.write_all(&frames((0..9).map(|_| wrong()))).unwrap();
        client
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        assert!(client.read(&mut [0]).is_err(), "it waits");
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&frames([wrong()])).unwrap();
        assert_eq!(read_frame(&mut client)[3] & 0x0f, 2, "SERVFAIL");
        assert!(is_closed(&mut stream));
    }
    assert_eq!(stage.count("dns_quirks_total", "server-babbles"), 2);
    assert_eq!(stage.count("dns_upstream_rejected_total", "id"), 38);
    assert_eq!(stage.count("dns_faults_total", "guessing"), 2);
    drop(client);
    stage.end();
}

#[test]
fn a_connection_is_idle_as_long_as_its_server_says() {
    let secs = Duration::from_secs;
    assert_eq!(
        [secs(0), secs(50), secs(6_553)].map(idle_for),
        [secs(1), secs(50), secs(120)]
    );
    let stage = Stage::new();
    let mut client = stage.connect();
    client.write_all(&frames([query(7)])).unwrap();
    let (mut stream, _) = stage.upstream.accept().unwrap();
    let asked = read_frame(&mut stream);
    let id = u16::from_be_bytes([asked[0], asked[1]]);
    let answer = Draft::answer(id, "good.com", A).opt(1232, false, &[0, 11, 0, 2, 0, 10]);
    stream.write_all(&frames([answer.clone()])).unwrap();
    let told = read_frame(&mut client);
    assert_eq!(told[2..], answer.0[2..], "passed untouched");
    client
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut passed = Duration::ZERO;
    while client.read(&mut [0]).is_err() {
        stage.pass(200);
        passed += Duration::from_millis(200);
        assert!(passed < secs(20), "without a word it is 30 s");
    }
    stage.end();
}

mod bounds;
