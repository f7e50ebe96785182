//! One client's connection, with one to the server that is opened as soon as it is accepted.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bpf_redirect_common::{Kind, Mark};
use policy::{Direction, EndpointId, L4Protocol, LabelSet, RuleId, TlsDenied};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use transport::{
    Begin, FirstWord, GateListener, SourcePort, connect_as, connect_like, connect_on_node,
    reset_at_end, set_up,
};

use super::access::{Access, Opaque, Redirected};
use super::bound::{Bound, Client};
use super::detect::{First, Spoken};
use super::host::{Host, Proxy};
use super::http1::Trusted;
use super::places::Place;
use super::server::Ends;
use super::stream::Stream;
use super::tally::Count;
use super::terminate::{Alert, HTTP2};
use super::tunnel::{self, Beginning, Moved};
use crate::core::client_hello::ClientHello;
use crate::core::client_hello::second::SecondHello;
use crate::core::frames::{Frame, HEAD_OCTETS};
use crate::core::record::bounded;
use crate::core::step::{Connect, Source};
use crate::limits::TOLD_VALUE_OCTETS_MAX;
use crate::told::{News, Refusal, Refused, TunnelEnd, TunnelEnded};

/// After how long of silence a peer is asked whether it lives, and how often from then on.
pub(super) const KEEP_ALIVE: (Duration, Duration) =
    (Duration::from_secs(300), Duration::from_secs(75));

/// One client's connection.
pub(super) struct Connection<H: Host> {
    pub(super) proxy: Arc<Proxy<H>>,
    pub(super) redirected: Redirected,
    pub(super) client: Stream,
    pub(super) server: Server,
    pub(super) access: Access,
    /// Where TLS is ended here or begun: to which server.
    pub(super) bound: Option<Arc<Bound>>,
    /// What there is to say of how it ends, beside the word.
    pub(super) remark: Option<String>,
    pub(super) seen: Option<LabelSet>,
    pub(super) changes: watch::Receiver<()>,
    /// When it is to end in order, and when at once.
    pub(super) stop: CancellationToken,
    pub(super) cut: CancellationToken,
    _place: Place,
}

/// The connection to the server.
pub(super) struct Server {
    /// None before it is asked for.
    pub(super) stream: Option<Stream>,
    /// Whether the kernel has connected it.
    pub(super) is_up: bool,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// In order.
    Closed,
    /// Both sides are reset.
    Reset,
    /// The same, and told.
    Refused(Refusal),
    /// Told; and the client was told why in TLS, which a reset would take from it.
    Alerted(Refusal),
    /// Told; and closed without a word, as nothing was said.
    Dismissed(Refusal),
}

impl Server {
    /// Waits until it is connected, or, once it is, until it says something, if that is wanted.
    pub(super) async fn moves(&mut self, may_speak: bool) {
        match (&mut self.stream, self.is_up) {
            (Some(stream), true) if may_speak => stream.ready(true, false).await,
            // An error shows when it is looked at.
            (Some(stream), false) => _ = stream.socket().writable().await,
            (Some(_), true) | (None, _) => std::future::pending().await,
        }
    }

    /// Looks whether the kernel has connected it by now: the reactor has heard that it can be written then.
    ///
    /// # Errors
    /// If it can't.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        let Some(stream) = &self.stream else {
            return Ok(());
        };
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(ready) = pin!(stream.socket().ready(Interest::WRITABLE)).poll(&mut context)
        else {
            return Ok(());
        };
        if ready?.is_write_closed() {
            let error = stream.socket().take_error()?;
            return Err(error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
        }
        self.is_up = true;
        Ok(())
    }

    /// Whether it begins HTTP/2, which it may do before its client: in TLS that was agreed on. What it
    /// says stays unread, for the engine.
    ///
    /// # Errors
    /// If it was reset.
    pub(super) async fn begins_http2(&self) -> io::Result<bool> {
        let Some(stream) = &self.stream else {
            return Ok(false);
        };
        if !stream.is_plain() {
            return Ok(stream.alpn() == Some(HTTP2));
        }
        let mut head = [0; HEAD_OCTETS];
        let count = stream.socket().peek(&mut head).await?;
        Ok(count == head.len() && Frame::begins_connection(head))
    }

    /// Whether it was begun and is not there yet.
    pub(super) const fn is_coming(&self) -> bool {
        self.stream.is_some() && !self.is_up
    }

    /// Waits until it may be there, if it is coming.
    pub(super) async fn is_near(&self) {
        match self.stream.as_ref().filter(|_| self.is_coming()) {
            // An error shows when it settles.
            Some(stream) => _ = stream.socket().writable().await,
            None => std::future::pending().await,
        }
    }
}

impl<H: Host> Connection<H> {
    /// Takes a connection in, and begins the one to the server, if it is eager. Whatever can't be is reset.
    pub(super) fn open(
        proxy: &Arc<Proxy<H>>,
        (client, from): (TcpStream, SocketAddr),
        ends: &Ends,
    ) -> Option<Self> {
        let redirected = meaning(&client, from);
        let client = match &redirected {
            Ok(redirected) if !proxy.host.admits(redirected) => {
                let _ = reset_at_end(client.as_fd());
                return None;
            }
            Ok(redirected) => proxy.host.divert(redirected, client)?,
            Err(_) => client,
        };
        proxy.counters.count(Count::Accepted);
        let opened = redirected.and_then(|redirected| {
            let place = Self::take_in(proxy, redirected)?;
            Ok((redirected, place))
        });
        let opened = match opened {
            Ok(parts) => parts,
            Err(what) => {
                proxy.counters.count(what);
                let _ = reset_at_end(client.as_fd());
                return None;
            }
        };
        let mut connection = Self::new(proxy, opened, (client, None), ends);
        if proxy.settings.connect == Connect::Eager && connection.call().is_err() {
            proxy.counters.count(Count::Unreachable);
            let _ = reset_at_end(connection.client.socket().as_fd());
            return None;
        }
        Some(connection)
    }

    /// One that was taken in, with the connection to its server if that was begun.
    pub(super) fn new(
        proxy: &Arc<Proxy<H>>,
        (redirected, place): (Redirected, Place),
        (client, server): (TcpStream, Option<Stream>),
        ends: &Ends,
    ) -> Self {
        // Before policy is asked: a change that comes in between is seen.
        let changes = proxy.changes();
        let mut seen = None;
        let scope = proxy.host.scope(&redirected, &mut seen);
        Self {
            access: Access::new(redirected, scope, None),
            bound: None,
            remark: None,
            seen,
            server: Server {
                stream: server,
                is_up: false,
            },
            proxy: Arc::clone(proxy),
            redirected,
            client: Stream::plain(client),
            changes,
            stop: ends.stop.clone(),
            cut: ends.cut.clone(),
            _place: place,
        }
    }

    fn take_in(proxy: &Proxy<H>, redirected: Redirected) -> Result<Place, Count> {
        proxy.places.take(redirected.endpoint).ok_or_else(|| {
            tell_refused(proxy, redirected, (Refusal::Full, None, None));
            Count::Full
        })
    }

    pub(super) async fn run(mut self) {
        let mut first = First::default();
        let mut server_name = None;
        let spoken = match self.access.opaque() {
            Opaque::Bound(..) => Box::pin(self.listen(&mut first)).await,
            Opaque::Allowed | Opaque::Denied => self.detect(&mut first).await,
        };
        // It may have waited long.
        self.look_again_if_changed();
        let end = match spoken {
            Err(end) => end,
            Ok(Spoken::Tls(hello)) => {
                server_name.clone_from(&hello.server_name);
                Box::pin(self.tls(first, &hello)).await
            }
            Ok(spoken @ (Spoken::Http1 | Spoken::Http2)) if self.access.begins_tls() => {
                Box::pin(self.begin(spoken, first)).await
            }
            Ok(spoken) => self.speak(spoken, first).await,
        };
        if let End::Refused(refusal) | End::Alerted(refusal) | End::Dismissed(refusal) = end {
            let remark = self.remark.take();
            self.refuse((refusal, server_name, remark));
        }
        if matches!(end, End::Reset | End::Refused(_)) {
            let _ = reset_at_end(self.client.socket().as_fd());
        }
        if !matches!(end, End::Closed | End::Dismissed(_))
            && let Some(server) = &self.server.stream
        {
            let _ = reset_at_end(server.socket().as_fd());
        }
    }

    /// Goes on with what is spoken, in TLS or not. What most connections don't do has room of its own, so
    /// that one that rests over HTTP/1 holds none for it.
    pub(super) async fn speak(&mut self, spoken: Spoken, first: First) -> End {
        let is_opaque = self.access.opaque() == Opaque::Allowed;
        // In TLS both sides speak what they have agreed on; without a word of it, HTTP/1.
        let is_http2 = self.client.alpn() == Some(HTTP2);
        match spoken {
            Spoken::Http1 if is_http2 => End::Refused(Refusal::Protocol),
            Spoken::Http1 => self.http1(first, Trusted::Yes).await,
            Spoken::Http2 if self.bound.is_some() && !is_http2 => End::Refused(Refusal::Protocol),
            Spoken::Http2 => Box::pin(self.http2(first, Trusted::Yes)).await,
            Spoken::Tls(_) if !is_opaque => End::Refused(Refusal::Protocol),
            Spoken::Opaque | Spoken::Tls(_) => Box::pin(self.opaque(&first.octets)).await,
        }
    }

    async fn tls(&mut self, first: First, hello: &ClientHello) -> End {
        let mut rules = self.access.tls_rules().iter();
        let ends = rules.any(|rule| rule.terminating.is_some());
        let name = hello.server_name.as_deref();
        if ends && let Some(bound) = self.choose(Client::Tls, name) {
            return self.terminate((first, hello), bound).await;
        }
        if self.access.may_hide(hello.ech, self.proxy.settings.ech) {
            return match self.unfit(Refusal::HiddenName) {
                Ok(_) => Box::pin(self.opaque(&first.octets)).await,
                Err(end) => end,
            };
        }
        match self.access.tls(name) {
            Ok(permit) => {
                self.tell_named(&permit, name);
                let rule = permit.rule();
                let allowed = |access: &Access| access.tls(name).is_ok();
                let (judged, rest) = first.around_hello();
                let beginning = Beginning {
                    judged,
                    rest,
                    second: Some(SecondHello::new(name)),
                };
                self.tunnel(beginning, (rule, Some(hello)), allowed).await
            }
            Err(TlsDenied::NotBound) => self.not_bound(name),
            Err(TlsDenied::Name) => End::Refused(Refusal::ServerName),
            Err(TlsDenied::Requests) if ends => self.alert(Alert::UnrecognizedName),
            Err(TlsDenied::Requests) => End::Refused(Refusal::TlsForHttp),
        }
    }

    /// Counts and tells a refusal.
    pub(super) fn refuse(
        &self,
        (refusal, server_name, remark): (Refusal, Option<String>, Option<String>),
    ) {
        // An error of TLS may hold as many names as a certificate has.
        let remark = remark.map(|text| bounded(text.as_bytes(), TOLD_VALUE_OCTETS_MAX));
        tell_refused(&self.proxy, self.redirected, (refusal, server_name, remark));
    }

    /// Begins the connection to the server, if that was not done yet.
    ///
    /// # Errors
    /// If the kernel refuses at once.
    pub(super) fn call(&mut self) -> io::Result<()> {
        if self.server.stream.is_none() {
            // Where each of them is to be known, a server hears nothing before its client has spoken.
            let first = match self.access.opaque() {
                Opaque::Denied => FirstWord::Ours,
                Opaque::Allowed | Opaque::Bound(..) => FirstWord::Anyones,
            };
            self.server.stream = Some(connect(&self.proxy, &self.redirected, first)?);
        }
        Ok(())
    }

    /// The same, and waits until it is there.
    ///
    /// # Errors
    /// If it doesn't come.
    pub(super) async fn reach(&mut self) -> Result<(), End> {
        let wait = self.proxy.settings.connect_wait;
        let reached = async {
            self.call()?;
            while self.server.is_coming() {
                self.server.is_near().await;
                self.server.settle()?;
            }
            Ok::<_, io::Error>(())
        };
        match tokio::time::timeout(wait, reached).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(self.unreachable()),
        }
    }

    /// What no rule looks into.
    async fn opaque(&mut self, octets: &[u8]) -> End {
        let rule = match self.access.opaque() {
            Opaque::Bound(rule, _) => rule,
            Opaque::Allowed | Opaque::Denied => self.access.opened_by().unwrap_or(RuleId::NONE),
        };
        let allowed = |access: &Access| access.opaque() != Opaque::Denied;
        let beginning = Beginning {
            judged: octets,
            rest: &[],
            second: None,
        };
        self.tunnel(beginning, (rule, None), allowed).await
    }

    /// Asks the policy that is in force now.
    pub(super) fn look_again(&mut self) {
        let scope = self.proxy.host.scope(&self.redirected, &mut self.seen);
        self.access = Access::new(self.redirected, scope, self.bound.clone());
    }

    /// The same, if there is another since. Whoever waits for changes still sees it.
    pub(super) fn look_again_if_changed(&mut self) {
        if self.changes.has_changed().unwrap_or(false) {
            self.look_again();
        }
    }

    /// Moves octets both ways, as long as policy allows it.
    pub(super) async fn tunnel(
        &mut self,
        beginning: Beginning<'_>,
        (rule, hello): (RuleId, Option<&ClientHello>),
        allowed: impl Fn(&Access) -> bool,
    ) -> End {
        if let Err(end) = self.reach().await {
            return end;
        }
        self.proxy.counters.count(Count::Tunnel);
        let begin = self.proxy.host.now();
        let moved = Moved::default();
        let end = self.moving(beginning, &moved, allowed).await;
        self.proxy.host.tell(News::Tunnel(Box::new(TunnelEnd {
            at: self.proxy.host.now(),
            begin,
            redirected: self.redirected,
            rule,
            server_name: hello.and_then(|hello| hello.server_name.clone()),
            has_ech: hello.is_some_and(|hello| hello.ech),
            end,
            sent: moved.up.load(Ordering::Relaxed),
            received: moved.down.load(Ordering::Relaxed),
        })));
        match end {
            TunnelEnded::Closed => End::Closed,
            TunnelEnded::Revoked | TunnelEnded::OtherName => {
                self.proxy.counters.count(Count::Cut);
                End::Reset
            }
            TunnelEnded::Gone | TunnelEnded::Idle | TunnelEnded::Stopped => End::Reset,
        }
    }

    async fn moving(
        &mut self,
        beginning: Beginning<'_>,
        moved: &Moved,
        allowed: impl Fn(&Access) -> bool,
    ) -> TunnelEnded {
        let Self {
            proxy,
            redirected,
            client,
            server,
            bound,
            seen,
            changes,
            cut,
            ..
        } = self;
        let idle = proxy.settings.tunnel_idle;
        let Some(server) = &mut server.stream else {
            return TunnelEnded::Gone;
        };
        let streams = (client, server);
        let run = tunnel::run(streams, beginning, (moved, idle, &proxy.pipes));
        tokio::pin!(run);
        loop {
            tokio::select! {
                ended = &mut run => return ended,
                changed = changes.changed() => {
                    let scope = proxy.host.scope(redirected, seen);
                    if changed.is_ok() && !allowed(&Access::new(*redirected, scope, bound.clone())) {
                        return TunnelEnded::Revoked;
                    }
                }
                () = cut.cancelled() => return TunnelEnded::Stopped,
            }
        }
    }
}

/// Whose connection it is, from whom and to whom.
fn meaning(client: &TcpStream, from: SocketAddr) -> Result<Redirected, Count> {
    let (from, to, near) =
        GateListener::meaning_of(client.as_fd(), from).map_err(|_| Count::Unreachable)?;
    Ok(Redirected {
        endpoint: EndpointId::new(near.endpoint()).ok_or(Count::Unreachable)?,
        // The leg to the endpoint is the client's: what it begins is egress.
        direction: match near.kind() {
            Kind::Client => Direction::Egress,
            Kind::Upstream => Direction::Ingress,
        },
        protocol: L4Protocol::Tcp,
        client: from.0,
        server: to.0,
    })
}

fn connect<H: Host>(
    proxy: &Proxy<H>,
    redirected: &Redirected,
    first: FirstWord,
) -> io::Result<Stream> {
    let Redirected {
        direction, server, ..
    } = *redirected;
    let is_neighbour = direction == Direction::Egress && proxy.host.is_endpoint(server.ip());
    let is_of_gate = direction == Direction::Ingress || is_neighbour;
    let in_gate = || connect_in_gate(proxy, redirected, (is_neighbour, first));
    match (&proxy.settings.source, &proxy.gate) {
        (Source::Client, _) => in_gate().and_then(finish),
        (Source::Node(_), Some(gate)) if is_of_gate => gate.run(in_gate)?.and_then(finish),
        (Source::Node(closed), _) => match closed.called_for(server) {
            Some(called) => finish(connect_on_node(called, first)?),
            None => Err(io::ErrorKind::PermissionDenied.into()),
        },
    }
}

/// In the client's name; the calling thread must be in the gate.
fn connect_in_gate<H: Host>(
    proxy: &Proxy<H>,
    redirected: &Redirected,
    (is_neighbour, first): (bool, FirstWord),
) -> io::Result<std::net::TcpStream> {
    let (client, server) = (redirected.client, redirected.server);
    let kind = match redirected.direction {
        Direction::Egress => Kind::Upstream,
        Direction::Ingress => Kind::Client,
    };
    let mark = Mark::new(kind, redirected.endpoint.get())
        .ok_or_else(|| io::Error::other("an endpoint without a mark"))?;
    let how = Begin {
        mark,
        link: proxy.link,
        first,
    };
    // To a neighbour whose own policy redirects, the client's tuple would come back to the gate, where
    // the client's connection has it.
    if is_neighbour {
        return connect_as(client.ip(), server, how);
    }
    let (stream, port) = connect_like(client, server, how)?;
    if port == SourcePort::Chosen {
        proxy.counters.count(Count::OtherPort);
    }
    Ok(stream)
}

fn finish(stream: std::net::TcpStream) -> io::Result<Stream> {
    let _ = set_up(stream.as_fd(), KEEP_ALIVE.0, KEEP_ALIVE.1);
    TcpStream::from_std(stream).map(Stream::plain)
}

/// Counts and tells a refusal.
pub(super) fn tell_refused<H: Host>(
    proxy: &Proxy<H>,
    redirected: Redirected,
    (refusal, server_name, remark): (Refusal, Option<String>, Option<String>),
) {
    proxy.counters.refusal(refusal);
    proxy.host.tell(News::Refused(Box::new(Refused {
        at: proxy.host.now(),
        redirected,
        refusal,
        server_name,
        remark,
    })));
}
