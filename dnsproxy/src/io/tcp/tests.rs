#![expect(clippy::disallowed_methods, reason = "a client, a server and a clock")]

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use policy::{Denial, DnsPermit, Question};

use super::*;
use crate::testing::{A, Draft, permit_for};
use crate::{Learn, Lesson, NotInstalled, Settings, Told};

/// What it takes to learn, more than half of what an answer may wait.
const LEARNING: Duration = Duration::from_millis(60);

/// A node on which everybody may ask everything, and whose clock moves only while it learns.
struct Node {
    server: SocketAddr,
    start: Instant,
    millis: AtomicU64,
    waits: Mutex<Vec<Duration>>,
}

impl Learn for Node {
    type Installed = ();

    fn learn(&self, began: Instant, _: Lesson) -> Result<(), NotInstalled> {
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

/// Answers that come together wait for each other; that is no reason to withhold the later ones.
#[test]
fn each_answer_of_a_batch_has_the_datapaths_time_for_itself() {
    const COUNT: u16 = 5;
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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime
            .block_on(server.run(stopped, Duration::from_secs(1)))
            .unwrap();
    });
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = upstream.accept().unwrap();
        let ids = (0..COUNT).map(|_| {
            let query = read_frame(&mut stream);
            u16::from_be_bytes([query[0], query[1]])
        });
        let ids: Vec<u16> = ids.collect();
        let answer = |id| Draft::answer(id, "good.com", A).address(60, "192.0.2.1");
        stream
            .write_all(&frames(ids.into_iter().map(answer)))
            .unwrap();
        // Until the proxy is done with it.
        let _ = stream.read(&mut [0]);
    });
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let query = |id| Draft::query(id, "good.com", A);
    client.write_all(&frames((0..COUNT).map(query))).unwrap();
    for _ in 0..COUNT {
        let answer = read_frame(&mut client);
        assert_eq!(answer[3] & 0x0f, 0, "{answer:?}");
    }
    assert_eq!(
        *proxy.host.waits.lock().unwrap(),
        [LEARNING; COUNT as usize]
    );
    drop(client);
    stop.cancel();
    serving.join().unwrap();
    answering.join().unwrap();
}
