//! What takes turns of both sides, and so is no row: tunnels, pieces, slow readers, a policy that goes.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::node::Node;
use super::stage::{PATIENCE, Stage, read, read_until};
use crate::core::step::Settings;
use crate::limits::BODY_BUFFER_OCTETS_MAX;
use crate::rows::{FIRST, OK, PORT};
use crate::testing::RULES;

const GET: &str = "GET /public/a HTTP/1.1\r\nHost: shop.test\r\n\r\n";

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// Reads as many octets as are expected, which must be these.
async fn expect(stream: &mut TcpStream, expected: &str, name: &str) {
    let mut got = Vec::new();
    let ended = read_until(stream, &mut got, |got| got.len() >= expected.len()).await;
    assert_eq!((text(&got), ended), (expected.to_owned(), None), "{name}");
}

/// Lets some requests be answered before.
async fn first(stage: &mut Stage, before: usize) {
    for _ in 0..before {
        stage.client.write_all(FIRST.as_bytes()).await.unwrap();
        expect(stage.server.as_mut().unwrap(), FIRST, "before").await;
        let server = stage.server.as_mut().unwrap();
        server.write_all(OK.as_bytes()).await.unwrap();
        expect(&mut stage.client, OK, "before").await;
    }
}

/// B01, and CONNECT: whole, at three cuts, and after three requests.
#[tokio::test]
async fn a_tunnel_opens_by_the_servers_answer_and_each_side_ends_by_itself() {
    let upgrade = "GET /public/a HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switches =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let connect = format!("CONNECT 192.0.2.7:{PORT} HTTP/1.1\r\nHost: 192.0.2.7:{PORT}\r\n\r\n");
    let established = "HTTP/1.1 200 Established\r\n\r\n";
    let with_connect = "[{method: CONNECT}, {method: GET, path: /public/.*}]";
    for (head, answer, rules, status) in [
        (upgrade, switches, RULES, "101"),
        (&connect, established, with_connect, "200"),
    ] {
        // What follows at once is held back until there is a tunnel: it may be meant as a request.
        let sent = format!("{head}GET /no early");
        for cut in [head.len() / 2, head.len(), head.len() + 3, sent.len()] {
            for before in [0, 3] {
                let name = format!("{} cut at {cut} after {before}", &head[..7]);
                let mut stage = Stage::new(Node::new(rules)).await;
                first(&mut stage, before).await;
                let (one, other) = sent.split_at(cut);
                stage.client.write_all(one.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
                stage.client.write_all(other.as_bytes()).await.unwrap();
                let mut server = stage.server.take().unwrap();
                expect(&mut server, head, &name).await;
                let mut room = [0; 64];
                let early = read(&mut server, &mut room);
                let early = tokio::time::timeout(Duration::from_millis(30), early).await;
                assert!(early.is_err(), "{name}: {early:?}");
                let hello = format!("{answer}hello");
                server.write_all(hello.as_bytes()).await.unwrap();
                expect(&mut stage.client, &hello, &name).await;
                expect(&mut server, "GET /no early", &name).await;
                stage.client.write_all(b"\0ping").await.unwrap();
                expect(&mut server, "\0ping", &name).await;
                stage.client.shutdown().await.unwrap();
                let ended = read_until(&mut server, &mut Vec::new(), |_| false).await;
                assert_eq!(ended, Some('c'), "{name}: the client's end");
                server.write_all(b"bye").await.unwrap();
                expect(&mut stage.client, "bye", &name).await;
                server.shutdown().await.unwrap();
                let ended = read_until(&mut stage.client, &mut Vec::new(), |_| false).await;
                assert_eq!(ended, Some('c'), "{name}: the server's end");
                let mut told = ["allowed", "200 server"].repeat(before);
                let last = format!("{status} server");
                told.extend(["allowed", &last, "ended TunnelClosed"]);
                assert_eq!(stage.told().await, told, "{name}");
            }
        }
    }
}

/// B10: each piece of a response is passed on when it comes.
#[tokio::test]
async fn b10_a_piece_waits_for_no_other() {
    let mut stage = Stage::new(Node::new(RULES)).await;
    stage.client.write_all(GET.as_bytes()).await.unwrap();
    let mut server = stage.server.take().unwrap();
    expect(&mut server, GET, "B10").await;
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for piece in [head, "2\r\nab\r\n", "1\r\nc\r\n", "0\r\n\r\n"] {
        server.write_all(piece.as_bytes()).await.unwrap();
        let began = tokio::time::Instant::now();
        expect(&mut stage.client, piece, "B10").await;
        assert!(
            began.elapsed() < Duration::from_millis(200),
            "{:?}",
            began.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// B13: the client has said all, and ends; the answer takes its time and still arrives.
#[tokio::test]
async fn b13_who_has_said_all_is_still_answered() {
    for before in [0, 3] {
        let mut stage = Stage::new(Node::new(RULES)).await;
        first(&mut stage, before).await;
        stage.client.write_all(GET.as_bytes()).await.unwrap();
        stage.client.shutdown().await.unwrap();
        let mut server = stage.server.take().unwrap();
        expect(&mut server, GET, "B13").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.write_all(OK.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        let ended = read_until(&mut stage.client, &mut got, |_| false).await;
        assert_eq!((text(&got), ended), (OK.to_owned(), Some('c')));
    }
}

/// Without a policy for the endpoint there is nobody to say no either: 503, and the end.
#[tokio::test]
async fn without_a_policy_to_ask_a_request_is_answered_503() {
    let mut stage = Stage::new(Node::new(RULES)).await;
    first(&mut stage, 1).await;
    stage.proxy.host.forget_endpoint();
    stage.proxy.policy_changed();
    stage.client.write_all(GET.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let ended = read_until(&mut stage.client, &mut got, |_| false).await;
    assert!(text(&got).starts_with("HTTP/1.1 503 "), "{}", text(&got));
    assert!(
        text(&got).contains("\r\nconnection: close\r\n"),
        "{}",
        text(&got)
    );
    assert_eq!(ended, Some('c'));
    let mut server = stage.server.take().unwrap();
    let mut reached = Vec::new();
    read_until(&mut server, &mut reached, |_| false).await;
    assert!(reached.is_empty(), "{}", text(&reached));
    let told = ["allowed", "200 server", "denied", "503 proxy"];
    assert_eq!(stage.told().await, told);
}

/// Octets that each socket of a slow exchange may hold; the kernel doubles it.
const SOCKET_OCTETS: u32 = 16 << 10;

/// Both ends of a connection whose sockets hold little.
async fn small_pair() -> (TcpStream, TcpStream) {
    let small = || {
        let socket = TcpSocket::new_v6().unwrap();
        socket.set_recv_buffer_size(SOCKET_OCTETS).unwrap();
        socket.set_send_buffer_size(SOCKET_OCTETS).unwrap();
        socket
    };
    let listening = small();
    listening.bind("[::1]:0".parse().unwrap()).unwrap();
    let listener: TcpListener = listening.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let (one, other) = tokio::join!(small().connect(address), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

/// A client that takes one octet a second: its server is held up, and what lies between is bounded.
#[tokio::test]
async fn a_slow_reader_holds_up_its_server_and_no_more_than_a_buffer() {
    let (client, server) = (small_pair().await, small_pair().await);
    let node = Node::new(RULES);
    let mut stage = Stage::between(node, (client, server), Settings::default());
    stage.client.write_all(GET.as_bytes()).await.unwrap();
    let mut server = stage.server.take().unwrap();
    expect(&mut server, GET, "slow").await;
    // Chunks, so that it passes the core; as much as ever goes.
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    server.write_all(head.as_bytes()).await.unwrap();
    let chunk = [b"1000\r\n", &[b'x'; 0x1000][..], b"\r\n"].concat();
    let mut pushed = 0;
    let pushing = async {
        loop {
            pushed += chunk.len();
            server.write_all(&chunk).await.unwrap();
        }
    };
    let mut taken = 0;
    let taking = async {
        loop {
            taken += read(&mut stage.client, &mut [0]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = async { tokio::join!(pushing, taking); } => {}
        () = tokio::time::sleep(Duration::from_millis(2_500)) => {}
    }
    assert_eq!(taken, 3);
    // Of each socket twice what was asked for, and once in the proxy for each direction of its copying.
    let most = 4 * 2 * 2 * SOCKET_OCTETS as usize + 2 * BODY_BUFFER_OCTETS_MAX;
    assert!(
        pushed > BODY_BUFFER_OCTETS_MAX && pushed < most,
        "{pushed} of {most}"
    );
    // Another one is served meanwhile, and this one comes to its end when its client goes.
    let mut other = Stage::new(Node::new(RULES)).await;
    first(&mut other, 1).await;
    drop(stage.client);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, read_until(&mut server, &mut rest, |_| false));
    assert_eq!(ended.await.unwrap(), Some('R'));
}
