//! One client's connection, with one to the server that is opened as soon as it is accepted.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bpf_redirect_common::{Kind, Mark};
use policy::{Direction, EndpointId, LabelSet, TlsDenied};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use transport::{GateListener, connect_as, connect_like, reset_at_end, set_up};

use super::access::{Access, Opaque, Redirected};
use super::detect::{First, Spoken};
use super::host::{Host, Proxy};
use super::places::Place;
use super::stream::Stream;
use super::tally::Count;
use super::tunnel::{self, Moved};
use crate::told::{News, Refusal, Refused};

/// After how long of silence a peer is asked whether it lives, and how often from then on.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(75));

/// One client's connection.
pub(super) struct Connection<H: Host> {
    pub(super) proxy: Arc<Proxy<H>>,
    pub(super) redirected: Redirected,
    pub(super) client: Stream,
    pub(super) server: Server,
    pub(super) access: Access,
    seen: Option<LabelSet>,
    pub(super) changes: watch::Receiver<()>,
    pub(super) stop: CancellationToken,
    _place: Place,
}

/// The connection to the server.
pub(super) struct Server {
    pub(super) stream: Stream,
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
}

impl Server {
    /// Looks whether the kernel has connected it by now.
    ///
    /// # Errors
    /// If it can't.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if let Some(error) = self.stream.socket().take_error()? {
            return Err(error);
        }
        self.is_up = self.stream.socket().peer_addr().is_ok();
        Ok(())
    }
}

impl<H: Host> Connection<H> {
    /// Takes a connection in, and begins the one to the server. Whatever can't be is reset.
    pub(super) fn open(
        proxy: &Arc<Proxy<H>>,
        client: TcpStream,
        stop: &CancellationToken,
    ) -> Option<Self> {
        proxy.counters.count(Count::Accepted);
        let opened = Self::begin(proxy, &client);
        let (redirected, server, place) = match opened {
            Ok(parts) => parts,
            Err(what) => {
                proxy.counters.count(what);
                let _ = reset_at_end(client.as_fd());
                return None;
            }
        };
        // Before policy is asked: a change that comes in between is seen.
        let changes = proxy.changes();
        let mut seen = None;
        let scope = proxy.host.scope(&redirected, &mut seen);
        Some(Self {
            access: Access::new(redirected, scope),
            seen,
            server: Server {
                stream: Stream::plain(server),
                is_up: false,
            },
            proxy: Arc::clone(proxy),
            redirected,
            client: Stream::plain(client),
            changes,
            stop: stop.clone(),
            _place: place,
        })
    }

    fn begin(
        proxy: &Arc<Proxy<H>>,
        client: &TcpStream,
    ) -> Result<(Redirected, TcpStream, Place), Count> {
        let (from, to, near) =
            GateListener::meaning(client.as_fd()).map_err(|_| Count::Unreachable)?;
        let endpoint = EndpointId::new(near.endpoint()).ok_or(Count::Unreachable)?;
        let redirected = Redirected {
            endpoint,
            // The leg to the endpoint is the client's: what it begins is egress.
            direction: match near.kind() {
                Kind::Client => Direction::Egress,
                Kind::Upstream => Direction::Ingress,
            },
            client: from.0,
            server: to.0,
        };
        let Some(place) = proxy.places.take(endpoint) else {
            proxy.counters.refusal(Refusal::Full);
            tell_refused(proxy, redirected, (Refusal::Full, None));
            return Err(Count::Full);
        };
        let server = connect(proxy, &redirected).map_err(|_| Count::Unreachable)?;
        for stream in [client.as_fd(), server.as_fd()] {
            let _ = set_up(stream, KEEP_ALIVE.0, KEEP_ALIVE.1);
        }
        Ok((redirected, server, place))
    }

    pub(super) async fn run(mut self) {
        let mut first = First::default();
        let mut server_name = None;
        let spoken = match self.access.opaque() {
            Opaque::Bound(..) => self.listen(&mut first).await,
            Opaque::Allowed | Opaque::Denied => self.detect(&mut first).await,
        };
        let end = match spoken {
            Err(end) => end,
            Ok(Spoken::Tls(hello)) => {
                server_name = hello.server_name;
                self.tls(&first.octets, server_name.as_deref()).await
            }
            Ok(Spoken::Opaque) => {
                let allowed = |access: &Access| access.opaque() != Opaque::Denied;
                self.tunnel((&first.octets, &[]), allowed).await
            }
            Ok(Spoken::Http1) => self.http1(first).await,
            Ok(Spoken::Http2) => match self.access.opaque() {
                Opaque::Allowed => {
                    let allowed = |access: &Access| access.opaque() == Opaque::Allowed;
                    self.tunnel((&first.octets, &[]), allowed).await
                }
                Opaque::Bound(..) | Opaque::Denied => End::Refused(Refusal::Http2),
            },
        };
        if let End::Refused(refusal) = end {
            self.proxy.counters.refusal(refusal);
            tell_refused(&self.proxy, self.redirected, (refusal, server_name));
        }
        if end != End::Closed {
            let _ = reset_at_end(self.client.socket().as_fd());
            let _ = reset_at_end(self.server.stream.socket().as_fd());
        }
    }

    async fn tls(&mut self, hello: &[u8], name: Option<&str>) -> End {
        match self.access.tls(name) {
            Ok(permit) => {
                self.tell_named(&permit, name);
                let allowed = |access: &Access| access.tls(name).is_ok();
                self.tunnel((hello, &[]), allowed).await
            }
            Err(TlsDenied::NotBound) => self.not_bound(name),
            Err(TlsDenied::Name) => End::Refused(Refusal::ServerName),
            Err(TlsDenied::Requests) => End::Refused(Refusal::TlsForHttp),
        }
    }

    /// Asks the policy that is in force now.
    pub(super) fn look_again(&mut self) {
        let scope = self.proxy.host.scope(&self.redirected, &mut self.seen);
        self.access = Access::new(self.redirected, scope);
    }

    /// Moves octets both ways, as long as policy allows it.
    pub(super) async fn tunnel(
        &mut self,
        octets: (&[u8], &[u8]),
        allowed: impl Fn(&Access) -> bool,
    ) -> End {
        self.proxy.counters.count(Count::Tunnel);
        let Self {
            proxy,
            redirected,
            client,
            server,
            seen,
            changes,
            ..
        } = self;
        let moved = Moved::default();
        let run = tunnel::run((client, &mut server.stream), octets, &moved);
        tokio::pin!(run);
        loop {
            tokio::select! {
                ended = &mut run => return match ended {
                    Ok(()) => End::Closed,
                    Err(_) => End::Reset,
                },
                changed = changes.changed() => {
                    let scope = proxy.host.scope(redirected, seen);
                    if changed.is_ok() && !allowed(&Access::new(*redirected, scope)) {
                        proxy.counters.count(Count::Cut);
                        return End::Reset;
                    }
                }
            }
        }
    }
}

fn connect<H: Host>(proxy: &Proxy<H>, redirected: &Redirected) -> io::Result<TcpStream> {
    let Redirected {
        endpoint,
        direction,
        client,
        server,
    } = *redirected;
    let kind = match direction {
        Direction::Egress => Kind::Upstream,
        Direction::Ingress => Kind::Client,
    };
    let mark = Mark::new(kind, endpoint.get())
        .ok_or_else(|| io::Error::other("an endpoint without a mark"))?;
    // To a neighbour whose own policy redirects, the client's tuple would come back to the gate, where
    // the client's connection has it.
    let is_neighbour = direction == Direction::Egress && proxy.host.is_endpoint(server.ip());
    let stream = match is_neighbour {
        true => connect_as(client.ip(), server, mark, proxy.link)?,
        false => connect_like(client, server, mark, proxy.link)?.0,
    };
    TcpStream::from_std(stream)
}

fn tell_refused<H: Host>(
    proxy: &Proxy<H>,
    redirected: Redirected,
    (refusal, server_name): (Refusal, Option<String>),
) {
    proxy.host.tell(News::Refused(Box::new(Refused {
        at: proxy.host.now(),
        redirected,
        refusal,
        server_name,
    })));
}
