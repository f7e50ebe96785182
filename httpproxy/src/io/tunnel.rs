//! Octets both ways, as they come.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use transport::{Follows, send};

use super::lane::{Lane, Moving, Pipes};
use super::stream::{Stream, drained};
use crate::core::client_hello::second::{Follow, SecondHello};
use crate::limits::{RECORD_OCTETS_MAX, TUNNEL_BULK_AFTER_OCTETS, TUNNEL_OCTETS_MAX};
use crate::told::TunnelEnded;

/// Turns without waiting, after which others of the same thread have theirs.
pub(super) const TURNS_MAX: usize = 16;
/// How much is read at a time while it is looked at.
const WATCHED_ROOM_OCTETS: usize = 4_096;
/// In so many steps the time is measured for which nothing moves.
const IDLE_STEPS: u32 = 8;

/// How many octets went which way.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) up: AtomicU64,
    pub(super) down: AtomicU64,
}

impl Moved {
    fn sum(&self) -> u64 {
        self.up.load(Ordering::Relaxed) + self.down.load(Ordering::Relaxed)
    }
}

/// What goes to the server before all others.
#[derive(Debug)]
pub(super) struct Beginning<'a> {
    /// What was judged.
    pub(super) judged: &'a [u8],
    /// What came with it.
    pub(super) rest: &'a [u8],
    /// Who looks at what follows.
    pub(super) second: Option<SecondHello>,
}

/// Moves octets until both sides have ended, or nothing has moved for `idle`. Each end of one direction is
/// handed on by itself. What has not ended in order is to be reset.
pub(super) async fn run(
    sides: (&mut Stream, &mut Stream),
    beginning: Beginning<'_>,
    (moved, idle, pipes): (&Moved, Duration, &Pipes),
) -> TunnelEnded {
    let both = async {
        if let (Some(client), Some(server)) = (sides.0.as_plain(), sides.1.as_plain()) {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            return tokio::try_join!(
                up((from_client, to_server), beginning, (&moved.up, pipes)),
                pump((from_server, to_client), (&moved.down, pipes)),
            );
        }
        let (from_client, to_client) = tokio::io::split(sides.0);
        let (from_server, to_server) = tokio::io::split(sides.1);
        tokio::try_join!(
            pump_content((from_client, to_server), beginning.judged, &moved.up),
            pump_content((from_server, to_client), &[], &moved.down),
        )
    };
    tokio::select! {
        ended = both => match ended {
            Ok(_) => TunnelEnded::Closed,
            Err(error) if error.kind() == OTHER_NAME => TunnelEnded::OtherName,
            Err(_) => TunnelEnded::Gone,
        },
        () = rest(moved, idle) => TunnelEnded::Idle,
    }
}

/// The kind of error that a second ClientHello for another server is; no socket has it.
const OTHER_NAME: io::ErrorKind = io::ErrorKind::InvalidData;

/// To the server: what was judged, then what comes as long as it may, then all.
async fn up(
    (from, mut to): (ReadHalf<'_>, WriteHalf<'_>),
    beginning: Beginning<'_>,
    (moved, pipes): (&AtomicU64, &Pipes),
) -> io::Result<()> {
    to.write_all(beginning.judged).await?;
    moved.fetch_add(beginning.judged.len() as u64, Ordering::Relaxed);
    let mut held = beginning.rest.to_vec();
    let mut second = beginning.second;
    let mut fresh = 0;
    let mut has_ended = false;
    loop {
        let new = held.get(fresh..).unwrap_or_default();
        let follow = second
            .as_mut()
            .map_or(Follow::Over, |second| second.push(new));
        match follow {
            Follow::Cut => return Err(OTHER_NAME.into()),
            // Half a ClientHello is none.
            Follow::Hold if !has_ended => {}
            Follow::Hold | Follow::Pass | Follow::Over => {
                to.write_all(&held).await?;
                moved.fetch_add(held.len() as u64, Ordering::Relaxed);
                held.clear();
            }
        }
        if has_ended {
            return to.shutdown().await;
        }
        if follow == Follow::Over {
            break;
        }
        fresh = held.len();
        from.readable().await?;
        held.reserve(WATCHED_ROOM_OCTETS);
        let room = held.capacity() - held.len();
        match drained(from.as_ref(), room, from.try_read_buf(&mut held)) {
            Ok(count) => has_ended = count == 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    drop(held);
    pump((from, to), (moved, pipes)).await
}

async fn pump(
    (from, mut to): (ReadHalf<'_>, WriteHalf<'_>),
    (moved, pipes): (&AtomicU64, &Pipes),
) -> io::Result<()> {
    loop {
        let ready = from.ready(Interest::READABLE | Interest::ERROR).await?;
        // What is there is the last of it: the end goes with it. A reset would take it away.
        let follows = match ready.is_read_closed() && !ready.is_error() {
            true => Follows::More,
            false => Follows::Unknown,
        };
        let is_long = moved.load(Ordering::Relaxed) >= TUNNEL_BULK_AFTER_OCTETS;
        let has_ended = match is_long.then(|| pipes.lane()).flatten() {
            Some(lane) => by_pipe(lane, (from.as_ref(), to.as_ref()), moved).await?,
            None => copy((from.as_ref(), to.as_ref()), follows, moved).await?,
        };
        if has_ended {
            return to.shutdown().await;
        }
    }
}

/// Copies what there is. Says whether the sender has ended.
async fn copy(
    (from, to): (&TcpStream, &TcpStream),
    follows: Follows,
    moved: &AtomicU64,
) -> io::Result<bool> {
    // Only while there is something to move: an idle tunnel holds no room for octets.
    let mut room = Room::take();
    let octets = &mut room.0;
    for _ in 0..TURNS_MAX {
        octets.clear();
        let most = octets.capacity();
        match drained(from, most, from.try_read_buf(octets)) {
            Ok(0) => return Ok(true),
            Ok(count) => {
                send_all(to, octets, follows).await?;
                moved.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

thread_local! {
    /// What the thread's last tunnel left.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Room for octets on their way. The thread keeps one; a tunnel whose receiver is slow has it meanwhile, and the
/// next one makes another.
struct Room(Vec<u8>);

impl Room {
    fn take() -> Self {
        let mut octets = ROOM.take();
        octets.clear();
        octets.reserve_exact(TUNNEL_OCTETS_MAX);
        Self(octets)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        ROOM.set(std::mem::take(&mut self.0));
    }
}

async fn send_all(to: &TcpStream, octets: &[u8], follows: Follows) -> io::Result<()> {
    let mut rest = octets;
    while !rest.is_empty() {
        let sent = to.try_io(Interest::WRITABLE, || send(to.as_fd(), rest, follows));
        match sent {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The same through a pipe.
async fn by_pipe(
    mut lane: Lane,
    (from, to): (&TcpStream, &TcpStream),
    moved: &AtomicU64,
) -> io::Result<bool> {
    let mut turns = 0;
    loop {
        match lane.turn(from, to, u64::MAX) {
            Moving::Wrote(count) => {
                moved.fetch_add(count, Ordering::Relaxed);
                turns += 1;
                if turns % TURNS_MAX == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Moving::Nothing if lane.held() == 0 => return Ok(false),
            Moving::Held | Moving::Nothing => to.writable().await?,
            Moving::Ended => return Ok(true),
            Moving::NoSender | Moving::NoReceiver => {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
    }
}

/// Both where one side is TLS that ends here: it hides nothing, and no second ClientHello is in it.
async fn pump_content(
    (mut from, mut to): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    first: &[u8],
    moved: &AtomicU64,
) -> io::Result<()> {
    to.write_all(first).await?;
    to.flush().await?;
    moved.fetch_add(first.len() as u64, Ordering::Relaxed);
    let mut octets = vec![0; RECORD_OCTETS_MAX];
    loop {
        let count = from.read(&mut octets).await?;
        let read = octets.get(..count).unwrap_or_default();
        if read.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(read).await?;
        to.flush().await?;
        moved.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Ends once nothing has moved for so long, or up to a step longer.
async fn rest(moved: &Moved, idle: Duration) {
    let (mut before, mut quiet) = (moved.sum(), 0);
    while quiet < IDLE_STEPS {
        tokio::time::sleep(idle / IDLE_STEPS).await;
        let now = moved.sum();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::limits::{PIPES_MAX, TUNNEL_IDLE};
    use crate::testing::{Hello, pair};

    /// A tunnel's two sockets, with a client and a server at their other ends.
    struct Ends {
        client: TcpStream,
        inner: (Stream, Stream),
        server: TcpStream,
    }

    impl Ends {
        async fn new() -> Self {
            let ((client, to_client), (to_server, server)) = tokio::join!(pair(), pair());
            Self {
                client,
                inner: (Stream::plain(to_client), Stream::plain(to_server)),
                server,
            }
        }
    }

    fn nothing() -> Beginning<'static> {
        Beginning {
            judged: &[],
            rest: &[],
            second: None,
        }
    }

    fn octets(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at / 3 % 251) as u8).collect()
    }

    #[tokio::test]
    async fn each_octet_arrives_both_ways_and_each_end_by_itself() {
        const OCTETS: usize = 9 << 20;
        let Ends {
            mut client,
            mut inner,
            mut server,
        } = Ends::new().await;
        let (moved, pipes) = (Moved::default(), Pipes::default());
        let beginning = Beginning {
            judged: b"judged",
            rest: b", rest",
            ..nothing()
        };
        let run = run(
            (&mut inner.0, &mut inner.1),
            beginning,
            (&moved, TUNNEL_IDLE, &pipes),
        );
        let talk = async {
            let sent = octets(OCTETS);
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            assert!(got == sent, "downwards");
        };
        let echo = async {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            assert!(got.starts_with(b"judged, rest"));
            let said = &got[12..];
            assert!(said == octets(OCTETS), "upwards");
            server.write_all(said).await.unwrap();
            server.shutdown().await.unwrap();
        };
        let (end, (), ()) = tokio::join!(run, talk, echo);
        assert_eq!(end, TunnelEnded::Closed);
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert_eq!(count(&moved.up), 12 + OCTETS as u64);
        assert_eq!(count(&moved.down), OCTETS as u64);
    }

    #[tokio::test]
    async fn what_was_said_before_a_reset_arrives_before_it() {
        let Ends {
            mut client,
            mut inner,
            mut server,
        } = Ends::new().await;
        server.write_all(b"last").await.unwrap();
        transport::reset_at_end(server.as_fd()).unwrap();
        drop(server);
        // Both are there, as where the proxy was busy meanwhile.
        let far = inner.1.socket();
        while !far.ready(Interest::ERROR).await.unwrap().is_error() {}
        let (moved, pipes) = (Moved::default(), Pipes::default());
        let limits = (&moved, TUNNEL_IDLE, &pipes);
        let end = run((&mut inner.0, &mut inner.1), nothing(), limits).await;
        assert_eq!(end, TunnelEnded::Gone);
        transport::reset_at_end(inner.0.socket().as_fd()).unwrap();
        drop(inner);
        let mut got = Vec::new();
        let _ = client.read_to_end(&mut got).await;
        assert_eq!(got, b"last");
    }

    #[tokio::test]
    async fn little_is_held_for_a_side_that_takes_nothing() {
        let Ends {
            mut client,
            mut inner,
            mut server,
        } = Ends::new().await;
        let (moved, pipes) = (Moved::default(), Pipes::default());
        // Without pipes it copies.
        let _lanes: Vec<Lane> = (0..PIPES_MAX).map(|_| pipes.lane().unwrap()).collect();
        let mut sent = 0;
        let limits = (&moved, TUNNEL_IDLE, &pipes);
        let run = run((&mut inner.0, &mut inner.1), nothing(), limits);
        let send = async {
            let piece = octets(64 << 10);
            let write = async |client: &mut TcpStream| client.write(&piece).await.unwrap();
            let rest = Duration::from_millis(300);
            while let Ok(count) = tokio::time::timeout(rest, write(&mut client)).await {
                sent += count;
            }
        };
        tokio::select! {
            _ = run => panic!("it goes on"),
            () = send => {}
        }
        assert!(sent > 1 << 20, "{sent}: the kernel holds that much");
        drop(client);
        let mut left = Vec::new();
        inner.0.read_to_end(&mut left).await.unwrap();
        drop(inner);
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        let held = sent - got.len() - left.len();
        assert!(held <= TUNNEL_OCTETS_MAX, "{held}");
        assert!(held > 0, "what was read when the other side was full");
    }

    #[tokio::test]
    async fn one_that_rests_too_long_ends() {
        let Ends {
            mut client,
            mut inner,
            server: _server,
        } = Ends::new().await;
        let (moved, pipes) = (Moved::default(), Pipes::default());
        let idle = Duration::from_millis(400);
        let run = run(
            (&mut inner.0, &mut inner.1),
            nothing(),
            (&moved, idle, &pipes),
        );
        let busy = async {
            for _ in 0..8 {
                tokio::time::sleep(idle / 2).await;
                client.write_all(b"x").await.unwrap();
            }
        };
        tokio::pin!(run);
        tokio::select! {
            _ = &mut run => panic!("it is in use"),
            () = busy => {}
        }
        let begin = tokio::time::Instant::now();
        assert_eq!(run.await, TunnelEnded::Idle);
        assert!(begin.elapsed() >= idle * 7 / 8, "{:?}", begin.elapsed());
        assert_eq!(moved.sum(), 8);
    }

    #[tokio::test]
    async fn a_second_hello_for_another_server_is_not_sent() {
        let hello = |name: &[u8]| Hello::default().name(name).one_record();
        for (name, is_cut) in [(&b"a.test"[..], false), (b"evil.test", true)] {
            let Ends {
                mut client,
                mut inner,
                mut server,
            } = Ends::new().await;
            let (moved, pipes) = (Moved::default(), Pipes::default());
            let first = hello(b"a.test");
            let beginning = Beginning {
                judged: &first,
                rest: &[20, 3, 3, 0, 1, 1],
                second: Some(SecondHello::new(Some("a.test"))),
            };
            let limits = (&moved, TUNNEL_IDLE, &pipes);
            let second = hello(name);
            let talk = async {
                for piece in second.chunks(7) {
                    client.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                client.shutdown().await.unwrap();
                server.shutdown().await.unwrap();
            };
            let run = run((&mut inner.0, &mut inner.1), beginning, limits);
            let (end, ()) = tokio::join!(run, talk);
            drop(inner);
            let mut got = Vec::new();
            let _ = server.read_to_end(&mut got).await;
            let all = first.len() + 6 + second.len();
            match is_cut {
                true => {
                    assert_eq!(end, TunnelEnded::OtherName);
                    assert_eq!(got.len(), first.len() + 6, "nothing of it");
                }
                false => assert_eq!((end, got.len()), (TunnelEnded::Closed, all)),
            }
        }
    }
}
