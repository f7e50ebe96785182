//! What a connection is by its first octets (http.md §3), and what becomes of one that never says it.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::node::Node;
use super::stage::{Stage, read_until};
use crate::limits::{DETECT_WAIT_MAX, HEAD_WAIT, HELLO_WAIT_MAX};
use crate::rows::{FIRST, OK, Server, ok};
use crate::testing::RULES;

/// A server that answers all, and an HTTP/2 one that no row of HTTP/1 has.
const PLAIN: Server = Server {
    script: ok,
    is_hasty: false,
};
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Says something, and nothing more: after how long that ends, how, what the client got of it, and what
/// is told. The clock jumps to whatever comes next.
async fn silent_after(said: &[u8]) -> (Duration, Option<char>, Vec<u8>, Vec<String>) {
    let mut stage = Stage::new(Node::new(RULES)).await;
    let begin = Instant::now();
    stage.client.write_all(said).await.unwrap();
    let mut got = Vec::new();
    let waits = read_until(&mut stage.client, &mut got, |_| false);
    let ended = tokio::time::timeout(Duration::from_secs(60), waits).await;
    (begin.elapsed(), ended.unwrap(), got, stage.told().await)
}

#[tokio::test(start_paused = true)]
async fn who_never_says_what_it_speaks_is_closed_or_reset_in_time() {
    let silent = ["nothing-said-in-time".to_owned()];
    let slow = ["too slow", "408 proxy"].map(str::to_owned);
    let rows: [(&[u8], Duration, char, &[String]); 6] = [
        (b"", DETECT_WAIT_MAX, 'c', &silent),
        (b"P", DETECT_WAIT_MAX, 'c', &silent),
        (&PREFACE[..23], DETECT_WAIT_MAX, 'c', &silent),
        (b"\x16", HELLO_WAIT_MAX, 'R', &silent),
        (b"\x16\x03\x01\x01", HELLO_WAIT_MAX, 'R', &silent),
        // A head has a time of its own, and an answer.
        (b"GET /", HEAD_WAIT, 'c', &slow),
    ];
    for (said, wait, end, words) in rows {
        let (took, ended, got, told) = silent_after(said).await;
        assert_eq!((ended, &*told), (Some(end), words), "{said:?}");
        let is_so = took >= wait && took < wait + Duration::from_millis(500);
        assert!(is_so, "{said:?}: {took:?}");
        let is_answered = said == b"GET /";
        assert_eq!(got.starts_with(b"HTTP/1.1 408"), is_answered, "{said:?}");
        assert_eq!(got.is_empty(), !is_answered, "{said:?}");
    }
}

#[tokio::test]
async fn what_is_no_request_is_reset_and_an_early_end_is_counted() {
    for said in [
        &b"\0\x01\x02"[..],
        b"\x80\x2e\x01",
        b"{\"a\": 1}",
        b"\x16\x03\x01\0\x01\x02",
    ] {
        let mut stage = Stage::new(Node::new(RULES)).await;
        let (reached, recording) = stage.record(PLAIN);
        stage.client.write_all(said).await.unwrap();
        let mut got = Vec::new();
        let ended = read_until(&mut stage.client, &mut got, |_| false).await;
        assert_eq!((ended, got.as_slice()), (Some('R'), &b""[..]), "{said:?}");
        assert_eq!(recording.await.unwrap(), 'R', "{said:?}");
        assert!(reached.lock().unwrap().is_empty(), "{said:?}");
        assert_eq!(stage.told().await.len(), 1, "{said:?}");
    }
    // A FIN before any octet: both sides are closed. A reset: the same, counted apart.
    for (is_reset, word, end) in [(false, "empty", 'c'), (true, "gone", 'R')] {
        let mut stage = Stage::new(Node::new(RULES)).await;
        let (_, recording) = stage.record(PLAIN);
        // It is connected by then.
        tokio::time::sleep(Duration::from_millis(20)).await;
        match is_reset {
            false => stage.client.shutdown().await.unwrap(),
            true => transport::reset(std::os::fd::AsFd::as_fd(&stage.client)).unwrap(),
        }
        assert_eq!(recording.await.unwrap(), end, "{word}");
        let proxy = std::sync::Arc::clone(&stage.proxy);
        assert!(stage.told().await.is_empty(), "{word}");
        let counted = proxy.counters.iter().find(|(_, reason, _)| *reason == word);
        assert_eq!(counted.unwrap().2, 1, "{word}");
    }
}

/// Octets and then a FIN: what is there is judged, and answered.
#[tokio::test]
async fn a_client_may_say_all_and_end_before_it_is_known_what_it_speaks() {
    let mut stage = Stage::new(Node::new(RULES)).await;
    let (reached, recording) = stage.record(PLAIN);
    stage.client.write_all(FIRST.as_bytes()).await.unwrap();
    stage.client.shutdown().await.unwrap();
    let mut got = Vec::new();
    let ended = read_until(&mut stage.client, &mut got, |_| false).await;
    assert_eq!(ended, Some('c'), "B13: half-closed");
    assert_eq!(String::from_utf8_lossy(&got), OK);
    assert_eq!(recording.await.unwrap(), 'c');
    assert_eq!(&*reached.lock().unwrap(), FIRST.as_bytes());
    assert_eq!(stage.told().await, ["allowed", "200 server"]);
    // Half a preface is nothing.
    let mut stage = Stage::new(Node::new(RULES)).await;
    stage.client.write_all(&PREFACE[..9]).await.unwrap();
    stage.client.shutdown().await.unwrap();
    let ended = read_until(&mut stage.client, &mut Vec::new(), |_| false).await;
    assert_eq!(ended, Some('R'));
    assert_eq!(stage.told().await, ["neither-http-nor-tls"]);
}

/// X31: an HTTP/2 connection may begin in any pieces, and is one to the server too.
#[tokio::test]
async fn x31_a_preface_may_come_in_pieces() {
    for cuts in [vec![1], vec![3], vec![14], vec![23], (1..24).collect()] {
        let mut stage = Stage::new(Node::new(RULES)).await;
        let mut server = stage.server.take().unwrap();
        let said = [PREFACE, SETTINGS].concat();
        let mut at = 0;
        for cut in cuts.iter().copied().chain([said.len()]) {
            stage.client.write_all(&said[at..cut]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
            at = cut;
        }
        let mut got = Vec::new();
        let is_preface = |got: &[u8]| got.len() >= PREFACE.len();
        assert_eq!(
            read_until(&mut server, &mut got, is_preface).await,
            None,
            "{cuts:?}"
        );
        assert!(got.starts_with(PREFACE), "{cuts:?}: {got:?}");
        // Settings of the proxy's own come first of all.
        let mut got = Vec::new();
        let is_frame = |got: &[u8]| got.len() >= 9;
        server.write_all(SETTINGS).await.unwrap();
        assert_eq!(
            read_until(&mut stage.client, &mut got, is_frame).await,
            None,
            "{cuts:?}"
        );
        assert_eq!(got[3], 4, "{cuts:?}: {got:?}");
    }
}

/// The server speaks first, as those of SSH and SMTP do: refused at once, by its name.
#[tokio::test]
async fn a_server_that_speaks_first_is_refused_at_once() {
    let mut stage = Stage::new(Node::new(RULES)).await;
    let server = stage.server.as_mut().unwrap();
    server.write_all(b"220 smtp.test ESMTP\r\n").await.unwrap();
    let mut got = Vec::new();
    let ended = read_until(&mut stage.client, &mut got, |_| false).await;
    assert_eq!((ended, got.as_slice()), (Some('R'), &b""[..]));
    assert_eq!(stage.told().await, ["server-speaks-first"]);
}
