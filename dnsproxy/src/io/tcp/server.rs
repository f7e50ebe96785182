//! The connection upstream of a client's.

use std::future::pending;
use std::io;

use bpf_redirect_common::{Kind, Mark};
use tokio::net::TcpStream;
use transport::{Begin, FirstWord, connect_as, connect_on_node};

use crate::core::exchange::Upstream;
use crate::core::pending::Member;
use crate::io::host::{Host, Place, Proxy};
use crate::io::side::Side;

/// The connection upstream.
pub(super) struct Server {
    pub(super) side: Side,
    pub(super) member: Member,
    /// Whether the kernel has connected it.
    pub(super) is_up: bool,
    /// Messages that answered nothing, since its last answer.
    pub(super) rejected: u8,
    /// Queries that it was sent, less the answers that came.
    pub(super) unanswered: usize,
}

/// Waits for the server: until it is connected, then for its answers, and for room to write.
pub(super) async fn server_ready(server: Option<&Server>) {
    match server {
        None => pending().await,
        Some(server) => {
            let wants_write = !server.is_up || !server.side.unwritten.is_empty();
            server.side.ready(server.is_up, wants_write).await;
        }
    }
}

/// Begins a connection to the server of a query, in the name of whoever asks.
pub(super) fn connect<H: Host>(
    proxy: &Proxy<H>,
    place: Place,
    upstream: &Upstream,
) -> io::Result<TcpStream> {
    let stream = match proxy.leaves_from(place) {
        Place::Node => connect_on_node(proxy.asked_for(upstream.server), FirstWord::Ours)?,
        Place::Gate => {
            let mark = Mark::new(Kind::Upstream, upstream.endpoint.get())
                .ok_or_else(|| io::Error::other("an endpoint without a mark"))?;
            let how = Begin {
                mark,
                link: proxy.link,
                first: FirstWord::Ours,
            };
            connect_as(upstream.client.ip(), upstream.server, how)?
        }
    };
    TcpStream::from_std(stream)
}
