//! HTTP/2: one connection to the client and one to the server, with an engine on each (h2, which is
//! hyper's), and each stream's request judged by itself.
//!
//! h2 and not hyper above it: that hides which stream a request came on, cannot pass interim responses,
//! cannot say why a connection ends, and offers extended CONNECT before the server's settings are known.

mod exchange;
mod pump;
#[cfg(test)]
mod tests;
mod watched;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Ping, PingPong, Reason, RecvStream};
use http::Request;
use policy::LabelSet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::access::{Access, Redirected};
use super::bound::Bound;
use super::connection::{Connection, End, tell_refused};
use super::detect::First;
use super::host::{Host, Proxy};
use super::http1::Trusted;
use crate::core::frames::{Abuse, Side, TICK};
use crate::core::record::Told;
use crate::core::step::Origin;
use crate::limits::{
    DRAIN_WAIT, HTTP2_CONNECTION_WINDOW_OCTETS, HTTP2_DATA_FRAMES_COST_MAX, HTTP2_FRAME_OCTETS_MAX,
    HTTP2_HEADER_LIST_OCTETS_MAX, HTTP2_STREAM_WINDOW_OCTETS, HTTP2_STREAMS_MAX,
};
use crate::told::{News, Refusal};
use exchange::Exchange;
use watched::{Frames, Watched};

/// What the streams of one connection share.
pub(super) struct Shared<H: Host> {
    proxy: Arc<Proxy<H>>,
    redirected: Redirected,
    origin: Origin,
    trusted: Trusted,
    access: Mutex<Arc<Access>>,
    /// Says that there is another one.
    reviews: watch::Sender<()>,
    client_frames: Frames,
    server_frames: Frames,
}

/// What a connection needs beside its two sides.
pub(super) struct Given<'c, H: Host> {
    pub(super) proxy: &'c Arc<Proxy<H>>,
    pub(super) redirected: Redirected,
    pub(super) origin: Origin,
    /// Where TLS is ended here or begun: to which server, and whether it has shown that it is the one.
    pub(super) bound: &'c Option<Arc<Bound>>,
    pub(super) trusted: Trusted,
    pub(super) seen: &'c mut Option<LabelSet>,
    pub(super) changes: &'c mut watch::Receiver<()>,
    /// When it is to end in order, and when at once.
    pub(super) stop: &'c CancellationToken,
    pub(super) cut: &'c CancellationToken,
}

/// What an engine says before anybody has answered, and more.
const UNHEARD_OCTETS: usize = 1_024;

impl<H: Host> Connection<H> {
    /// Serves HTTP/2 until the connection ends, with prior knowledge or agreed on in TLS. The server is
    /// connected at the latest now, since its settings are needed.
    pub(super) async fn http2(&mut self, first: First, trusted: Trusted) -> End {
        if trusted == Trusted::Yes
            && let Err(end) = self.reach().await
        {
            return end;
        }
        let given = Given {
            proxy: &self.proxy,
            redirected: self.redirected,
            origin: Origin {
                scheme: self.access.scheme(),
                original_destination: self.redirected.server,
            },
            bound: &self.bound,
            trusted,
            seen: &mut self.seen,
            changes: &mut self.changes,
            stop: &self.stop,
            cut: &self.cut,
        };
        let client = (&mut self.client, first.octets);
        match (&mut self.server.stream, trusted) {
            (Some(server), Trusted::Yes) => serve(given, client, server).await,
            (None, Trusted::Yes) => End::Reset,
            // It hears nothing of us; the engine that would speak to it has nobody to speak to.
            (_, Trusted::No) => {
                let (nobody, _silent) = tokio::io::duplex(UNHEARD_OCTETS);
                serve(given, client, nobody).await
            }
        }
    }
}

impl<H: Host> Shared<H> {
    fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn review(&self, access: Access) {
        *self.access.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
        self.reviews.send_replace(());
    }

    fn tell(&self, told: Told) {
        self.proxy.host.tell(News::Http(self.redirected, told));
    }
}

/// Serves a client that has said these octets first, over any two streams.
pub(super) async fn serve<H, C, S>(
    given: Given<'_, H>,
    (client, first): (C, Vec<u8>),
    server: S,
) -> End
where
    H: Host,
    C: AsyncRead + AsyncWrite + Unpin + Send,
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Given {
        proxy,
        redirected,
        origin,
        bound,
        trusted,
        seen,
        changes,
        stop,
        cut,
    } = given;
    let scope = proxy.host.scope(&redirected, seen);
    let shared = Arc::new(Shared {
        proxy: Arc::clone(proxy),
        redirected,
        origin,
        trusted,
        access: Mutex::new(Arc::new(Access::new(redirected, scope, bound.clone()))),
        reviews: watch::Sender::new(()),
        client_frames: Frames::new(Side::Client),
        server_frames: Frames::new(Side::Server),
    });
    let counters = Arc::clone(&proxy.counters);
    let client = Watched::new(client, shared.client_frames.clone(), Some(counters)).after(first);
    let server = Watched::new(server, shared.server_frames.clone(), None);
    let settings = Arc::clone(&proxy.settings);
    let begun = tokio::time::timeout(settings.head_wait, Engines::begin(client, server)).await;
    let Ok(Ok(engines)) = begun else {
        return End::Reset;
    };
    let mut session = Session::new(engines, shared);
    let period = TICK.min(settings.keepalive_idle).min(settings.ping.1);
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = loop {
        let happened = tokio::select! {
            happened = poll_fn(|cx| session.engines.poll(cx, &session.shared)) => happened,
            Some(_) = session.streams.join_next() => continue,
            _ = ticks.tick() => Happened::Tick,
            _ = changes.changed() => {
                let scope = proxy.host.scope(&redirected, seen);
                let access = Access::new(redirected, scope, bound.clone());
                if access.begins_tls() {
                    break End::Reset; // it must not go on without TLS
                }
                session.shared.review(access);
                continue;
            }
            () = cut.cancelled() => break End::Reset,
            () = stop.cancelled(), if !session.is_draining => Happened::Leaving,
        };
        session.tell_malformed();
        if let Some(end) = session.act(happened).await {
            break end;
        }
    };
    session.tell_malformed();
    session.finish().await;
    end
}

/// A connection that is served.
struct Session<H: Host, C, S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    shared: Arc<Shared<H>>,
    engines: Engines<C, S>,
    streams: JoinSet<()>,
    clock: Clock,
    is_draining: bool,
}

impl<H, C, S> Session<H, C, S>
where
    H: Host,
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn new(mut engines: Engines<C, S>, shared: Arc<Shared<H>>) -> Self {
        Self {
            clock: Clock::new(&shared, engines.client.ping_pong()),
            engines,
            shared,
            streams: JoinSet::new(),
            is_draining: false,
        }
    }

    async fn act(&mut self, happened: Happened) -> Option<End> {
        match happened {
            Happened::Request(stream) => {
                let (request, respond) = *stream;
                let (parts, body) = request.into_parts();
                let exchange = Exchange {
                    shared: Arc::clone(&self.shared),
                    body,
                    respond,
                };
                let sender = self.engines.sender.clone();
                self.streams.spawn(exchange.run(parts, sender));
                None
            }
            Happened::Leaving => {
                self.leave();
                None
            }
            Happened::Tick => match self.clock.tick(&self.shared, self.streams.len()) {
                Due::Nothing => None,
                Due::Leave => {
                    self.leave();
                    None
                }
                Due::Dead => Some(End::Reset),
            },
            Happened::Abuse(abuse) => {
                self.expel(abuse).await;
                Some(End::Refused(Refusal::Http2Abuse))
            }
            Happened::Ended(Ok(())) => Some(End::Closed),
            Happened::Ended(Err(error)) => {
                // What the engine itself does not take is the client's fault too.
                let has_gone = error.is_io() || error.is_go_away() && error.is_remote();
                Some(match has_gone {
                    true => End::Reset,
                    false => End::Refused(Refusal::Http2Abuse),
                })
            }
        }
    }

    /// Tells of requests that only the engine has seen.
    fn tell_malformed(&self) {
        let count = self.shared.client_frames.lock().take_malformed();
        for _ in 0..count {
            let refused = (Refusal::Http2Request, None, None);
            tell_refused(&self.shared.proxy, self.shared.redirected, refused);
        }
    }

    /// Says that no more streams are taken.
    fn leave(&mut self) {
        if !self.is_draining {
            self.is_draining = true;
            self.engines.client.graceful_shutdown();
        }
    }

    /// Says why the connection ends, and waits until that is said.
    async fn expel(&mut self, abuse: Abuse) {
        self.engines.client.abrupt_shutdown(match abuse {
            Abuse::Block => Reason::COMPRESSION_ERROR,
            Abuse::Control | Abuse::Resets | Abuse::Continuations | Abuse::Flaws | Abuse::Slow => {
                Reason::ENHANCE_YOUR_CALM
            }
        });
        let said = poll_fn(|cx| self.engines.client.poll_closed(cx));
        let _ = tokio::time::timeout(DRAIN_WAIT, said).await;
    }

    /// Each exchange sees that its client is gone, tells it, and lets the server know.
    async fn finish(self) {
        let (engines, mut streams) = (self.engines, self.streams);
        drop((engines.client, engines.sender));
        let mut upstream = engines.upstream;
        let ended = async { while streams.join_next().await.is_some() {} };
        let gone = poll_fn(|cx| upstream.poll(cx));
        let _ = tokio::time::timeout(DRAIN_WAIT, async { tokio::join!(ended, gone) }).await;
    }
}

/// The two engines.
struct Engines<C, S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    client: h2::server::Connection<Watched<C>, Bytes>,
    upstream: Upstream<S>,
    sender: SendRequest<Bytes>,
    /// Whether the client knows that the server has extended CONNECT.
    was_offered: bool,
    is_leaving: bool,
}

/// The engine towards the server, until that connection is over.
struct Upstream<S>(Option<h2::client::Connection<Watched<S>, Bytes>>)
where
    S: AsyncRead + AsyncWrite + Unpin;

/// What one of them came to.
enum Happened {
    Request(Box<(Request<RecvStream>, SendResponse<Bytes>)>),
    /// No more streams are to be begun.
    Leaving,
    Tick,
    Abuse(Abuse),
    /// The client's connection is over.
    Ended(Result<(), h2::Error>),
}

impl<C, S> Engines<C, S>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    async fn begin(client: Watched<C>, server: Watched<S>) -> Result<Self, h2::Error> {
        let (sender, upstream) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(HTTP2_STREAM_WINDOW_OCTETS)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_OCTETS)
            .max_frame_size(HTTP2_FRAME_OCTETS_MAX)
            .max_header_list_size(HTTP2_HEADER_LIST_OCTETS_MAX)
            .max_send_buffer_size(HTTP2_STREAM_WINDOW_OCTETS as usize)
            .data_frame_budget(HTTP2_DATA_FRAMES_COST_MAX)
            .handshake(server)
            .await?;
        let client = h2::server::Builder::new()
            .max_concurrent_streams(HTTP2_STREAMS_MAX)
            .initial_window_size(HTTP2_STREAM_WINDOW_OCTETS)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_OCTETS)
            .max_frame_size(HTTP2_FRAME_OCTETS_MAX)
            .max_header_list_size(HTTP2_HEADER_LIST_OCTETS_MAX)
            .max_send_buffer_size(HTTP2_STREAM_WINDOW_OCTETS as usize)
            .data_frame_budget(HTTP2_DATA_FRAMES_COST_MAX)
            .handshake(client)
            .await?;
        Ok(Self {
            client,
            upstream: Upstream(Some(upstream)),
            sender,
            was_offered: false,
            is_leaving: false,
        })
    }

    fn poll<H: Host>(&mut self, cx: &mut Context<'_>, shared: &Shared<H>) -> Poll<Happened> {
        let is_over = self.upstream.poll(cx).is_ready();
        let has_left = is_over || shared.server_frames.lock().is_leaving();
        if has_left && !self.is_leaving {
            self.is_leaving = true;
            return Poll::Ready(Happened::Leaving);
        }
        if self.upstream.0.is_some() && shared.server_frames.lock().abuse().is_some() {
            self.upstream.0 = None; // its streams are over, and so is the client's connection soon
            cx.waker().wake_by_ref();
        }
        let polled = self.client.poll_accept(cx);
        if let Some(abuse) = shared.client_frames.lock().abuse() {
            return Poll::Ready(Happened::Abuse(abuse));
        }
        if !self.was_offered && self.sender.is_extended_connect_protocol_enabled() {
            // It fails while the client has not seen the settings before these: then later.
            self.was_offered = self.client.enable_connect_protocol().is_ok();
            if self.was_offered {
                cx.waker().wake_by_ref();
            }
        }
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(stream))) => Poll::Ready(Happened::Request(Box::new(stream))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Happened::Ended(Err(error))),
            Poll::Ready(None) => Poll::Ready(Happened::Ended(Ok(()))),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Upstream<S> {
    /// Drives it; ready once it is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(engine) = &mut self.0 else {
            return Poll::Ready(());
        };
        let polled = Pin::new(engine).poll(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled.map(drop)
    }
}

/// What is done by time: idle connections end, and clients that say nothing are asked.
struct Clock {
    ping_pong: Option<PingPong>,
    /// Since when there was no stream.
    idle: Option<Instant>,
    /// When the client was asked last, or had answered.
    asked: Instant,
    is_waiting: bool,
}

enum Due {
    Nothing,
    Leave,
    Dead,
}

impl Clock {
    fn new<H: Host>(shared: &Shared<H>, ping_pong: Option<PingPong>) -> Self {
        let now = shared.proxy.host.now();
        Self {
            ping_pong,
            idle: Some(now),
            asked: now,
            is_waiting: false,
        }
    }

    fn tick<H: Host>(&mut self, shared: &Shared<H>, streams: usize) -> Due {
        let now = shared.proxy.host.now();
        let settings = &shared.proxy.settings;
        shared.client_frames.lock().tick();
        shared.server_frames.lock().tick();
        if streams > 0 {
            self.idle = None;
        } else {
            let leaves = *self.idle.get_or_insert(now) + settings.keepalive_idle;
            if leaves + settings.ping.1 <= now {
                return Due::Dead; // the engine asks before it leaves, and had no answer
            }
            if leaves <= now {
                return Due::Leave;
            }
        }
        let Some(ping_pong) = &mut self.ping_pong else {
            return Due::Nothing;
        };
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        if self.is_waiting && ping_pong.poll_pong(&mut nobody).is_ready() {
            self.is_waiting = false;
            self.asked = now;
        }
        let (every, wait) = settings.ping;
        match self.is_waiting {
            true if self.asked + wait <= now => return Due::Dead,
            true => {}
            false if streams > 0 && self.asked + every <= now => {
                self.is_waiting = ping_pong.send_ping(Ping::opaque()).is_ok();
                self.asked = now;
            }
            false => {}
        }
        Due::Nothing
    }
}
