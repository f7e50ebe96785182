//! Every row of HTTP/1 over real sockets: whole, at three cuts, and each of these after three requests
//! that were allowed. What the server gets is compared octet by octet.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::node::Node;
use super::stage::{Stage, read_until};
use crate::rows::{FIRST, OK, PORT, Row, end_of_head};
use crate::testing::{RULES, snapshot};

/// Plays at a time: each holds four sockets.
const PLAYS_MAX: usize = 48;
/// Between two pieces, so that they are read one by one.
const PAUSE: Duration = Duration::from_millis(10);
/// A request that only a connection which was kept answers.
const LAST: &str = "GET /public/last HTTP/1.1\r\nHost: shop.test\r\n\r\n";

/// Where a row is cut: in its head, at the end of that, and in its body, or what else is behind.
fn cuts(sent: &[u8]) -> [usize; 3] {
    let len = sent.len();
    match end_of_head(sent) {
        Some(end) if end < len => [end / 2, end, usize::midpoint(end, len)],
        // Between the last two line ends, too.
        _ => [len / 2, len - 2, len - 1],
    }
}

async fn play(row: &Row, node: Node, redirected: crate::Redirected, (cut, before): (usize, usize)) {
    let name = format!("{} cut at {cut} after {before}", row.id);
    let mut stage = Stage::new((node, redirected)).await;
    let (reached, recording) = stage.record(row.server);
    let (first, rest) = row.sent.split_at(cut);
    // In one segment with what is before.
    let first = [FIRST.repeat(before).as_bytes(), first].concat();
    // It may be refused before it is all said.
    let _ = stage.client.write_all(&first).await;
    if !rest.is_empty() {
        tokio::time::sleep(PAUSE).await;
        let _ = stage.client.write_all(rest).await;
    }
    let mut got = Vec::new();
    let text = |got: &[u8]| String::from_utf8_lossy(got).into_owned();
    if !row.then.is_empty() {
        let ended = read_until(&mut stage.client, &mut got, |got| {
            got.len() > before * OK.len()
        });
        assert_eq!(ended.await, None, "{name}: {}", text(&got));
        stage.client.write_all(row.then).await.unwrap();
    }
    let (client_end, server_end) = row.ends;
    let mut last = "";
    if client_end == 'k' {
        let ended = read_until(&mut stage.client, &mut got, |got| row.has_got(before, got));
        assert_eq!(ended.await, None, "{name}: {}", text(&got));
        last = LAST;
        stage.client.write_all(last.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = read_until(&mut stage.client, &mut answer, |got| got.len() >= OK.len());
        assert_eq!(ended.await, None, "{name}: it is not kept");
        assert_eq!(text(&answer), OK, "{name}");
    } else {
        let ended = read_until(&mut stage.client, &mut got, |_| false).await;
        assert!(row.has_got(before, &got), "{name}: {}", text(&got));
        assert_eq!(ended, Some(client_end), "{name}");
    }
    let mut told = row.told_after(before);
    if !last.is_empty() {
        told.extend(["allowed".to_owned(), "200 server".to_owned()]);
    }
    assert_eq!(stage.told().await, told, "{name}");
    let ended = recording.await.unwrap();
    let expected = if server_end == 'k' { 'c' } else { server_end };
    assert_eq!(ended, expected, "{name}: how the server's side ended");
    let reached = reached.lock().unwrap();
    let reached = reached.strip_suffix(last.as_bytes());
    let reached = reached.unwrap_or_else(|| panic!("{name}: the last request did not go"));
    row.check_forwarded(before, reached, &name);
}

#[tokio::test]
async fn every_row_holds_over_sockets_whole_and_at_three_cuts() {
    let rows: Vec<Arc<Row>> = crate::rows::all().into_iter().map(Arc::new).collect();
    assert!(rows.len() > 130, "{}", rows.len());
    let judged = snapshot(RULES, PORT);
    let places = Arc::new(Semaphore::new(PLAYS_MAX));
    let mut plays = JoinSet::new();
    for row in &rows {
        for cut in cuts(&row.sent).into_iter().chain([row.sent.len()]) {
            for before in [0, 3] {
                let (row, places) = (Arc::clone(row), Arc::clone(&places));
                let (node, redirected) = Node::of((Arc::clone(&judged.0), judged.1));
                plays.spawn(async move {
                    let _place = places.acquire().await.unwrap();
                    play(&row, node, redirected, (cut, before)).await;
                });
            }
        }
    }
    while let Some(played) = plays.join_next().await {
        played.unwrap();
    }
}
