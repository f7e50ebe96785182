//! Connections of the proxy. In the gate: a transparent listener, and connections in a workload's name. On
//! the node: plain ones.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bpf_redirect_common::Mark;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, listen, socket_with,
    sockopt,
};

use crate::splice::NAT;
use crate::sys::{self, Flag};
use crate::udp::{bound_here, to_v6};
use crate::{ClientAddr, OrigDstAddr};

/// A listener of the proxy, not blocking. In the gate it is wildcard, dual stack, transparent.
#[derive(Debug)]
pub struct GateListener(TcpListener);

impl GateListener {
    /// Listens in the calling thread's namespace, which must be the gate.
    ///
    /// # Errors
    /// If the port is taken, or a capability is missing.
    pub fn bind(port: u16, backlog: i32) -> io::Result<Self> {
        let socket = stream_socket()?;
        sys::set_flag(socket.as_fd(), Flag::Transparent)?;
        Self::bound(
            socket,
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
            backlog,
        )
    }

    /// Takes a socket of [`GateListener::bind`] or [`GateListener::bind_shared`] that was handed over.
    ///
    /// # Errors
    /// If it doesn't listen.
    pub fn given(socket: OwnedFd) -> io::Result<Self> {
        if !sockopt::socket_acceptconn(&socket)? {
            return Err(io::Error::other("a socket that doesn't listen"));
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self(TcpListener::from(socket)))
    }

    /// Listens on the node, in the calling thread's namespace; port 0 is one that the kernel chooses.
    ///
    /// # Errors
    /// If the address isn't there, or the port is taken.
    pub fn bind_on_node(address: SocketAddr, backlog: i32) -> io::Result<Self> {
        Self::bound(stream_socket()?, address, backlog)
    }

    /// Takes a socket that listens on `port` in the calling thread's namespace, which must be the gate,
    /// since an earlier process made it, with the connections that wait in it.
    ///
    /// # Errors
    /// If it is another socket, or one elsewhere.
    pub fn adopt(socket: OwnedFd, port: u16) -> io::Result<Self> {
        let any = Ipv6Addr::UNSPECIFIED;
        Self::adopted(socket, |at| *at.ip() == any && at.port() == port)
    }

    /// Takes a socket that listens on an address of the node, likewise; it may have any port.
    ///
    /// # Errors
    /// If it is another socket, or one elsewhere.
    pub fn adopt_on_node(socket: OwnedFd, ip: IpAddr) -> io::Result<Self> {
        Self::adopted(socket, |at| *at.ip() == to_v6(ip))
    }

    fn adopted(socket: OwnedFd, is_right: impl Fn(&SocketAddrV6) -> bool) -> io::Result<Self> {
        let bound = bound_here(&socket, SocketType::STREAM)?;
        if !is_right(&bound) || !sockopt::socket_acceptconn(&socket)? {
            return Err(io::Error::other("a socket of another address"));
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self(TcpListener::from(socket)))
    }

    fn bound(socket: OwnedFd, address: SocketAddr, backlog: i32) -> io::Result<Self> {
        sockopt::set_socket_reuseaddr(&socket, true)?;
        let address = SocketAddrV6::new(to_v6(address.ip()), address.port(), 0, 0);
        bind(&socket, &address)?;
        listen(&socket, backlog)?;
        Ok(Self(TcpListener::from(socket)))
    }

    /// Listens as one of several that share the connections, on a port of the kernel's choice: what is
    /// meant for others is brought to it by a program.
    ///
    /// # Errors
    /// If a capability is missing, or the port is not one of such a group.
    pub fn bind_shared(port: u16, backlog: i32) -> io::Result<Self> {
        let socket = stream_socket()?;
        sys::set_flag(socket.as_fd(), Flag::Transparent)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        bind(
            &socket,
            &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0),
        )?;
        listen(&socket, backlog)?;
        Ok(Self(TcpListener::from(socket)))
    }

    /// The port that it was bound to.
    ///
    /// # Errors
    /// If the kernel doesn't tell.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.0.local_addr()?.port())
    }

    /// The standard library's listener, for a reactor.
    #[must_use]
    pub fn into_std(self) -> TcpListener {
        self.0
    }

    /// Who connected to whom, and in which endpoint's name: the accepted socket's own address is
    /// the server that the workload meant, its mark comes from the SYN.
    ///
    /// # Errors
    /// If the connection is gone, or has no mark.
    pub fn meaning(accepted: BorrowedFd<'_>) -> io::Result<(ClientAddr, OrigDstAddr, Mark)> {
        let client = canonical(rustix::net::getpeername(accepted)?.ok_or(Errno::NOTCONN)?)?;
        Self::meaning_of(accepted, client)
    }

    /// The same where `accept` has said who connected.
    ///
    /// # Errors
    /// If the connection has no mark.
    pub fn meaning_of(
        accepted: BorrowedFd<'_>,
        client: SocketAddr,
    ) -> io::Result<(ClientAddr, OrigDstAddr, Mark)> {
        let mark = Mark::from_number(sys::mark(accepted)?)
            .ok_or_else(|| io::Error::other("a connection without a kind"))?;
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        let server = canonical(rustix::net::getsockname(accepted)?)?;
        let server = match NAT.contains(&server.ip()) {
            true => before_nat(accepted, server),
            false => server,
        };
        Ok((ClientAddr(client), OrigDstAddr(server), mark))
    }
}

/// What the kernel translated to an address of [`NAT`] (`SO_ORIGINAL_DST`); that one itself, if it was meant.
fn before_nat(accepted: BorrowedFd<'_>, server: SocketAddr) -> SocketAddr {
    let original = match server.ip() {
        IpAddr::V4(_) => sockopt::ip_original_dst(accepted).map(SocketAddr::V4),
        IpAddr::V6(_) => sockopt::ipv6_original_dst(accepted).map(SocketAddr::V6),
    };
    original.unwrap_or(server)
}

/// How a connection in a workload's name is begun.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    /// What its packets carry.
    pub mark: Mark,
    /// The number of the gate's link, for addresses that are a link's.
    pub link: u32,
    /// Who speaks first on it.
    pub first: FirstWord,
}

/// Who speaks first on a connection that is begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstWord {
    /// We do, and soon: the last segment of the handshake waits for what we say, and is none of its own. Where
    /// nothing is said it goes after 200 ms (`TCP_DELACK_MAX`, in `tcp_rcv_synsent_state_process`).
    Ours,
    /// Perhaps the server.
    Anyones,
}

/// Begins a connection to `server` from `source`, in the calling thread's namespace.
/// The stream doesn't block and may not be connected yet: wait until it can be written.
///
/// # Errors
/// If the kernel refuses at once.
pub fn connect_as(source: IpAddr, server: SocketAddr, how: Begin) -> io::Result<TcpStream> {
    let socket = socket_in_gate(server, how)?;
    sys::set_flag(socket.as_fd(), Flag::BindNoPort)?;
    begin(&socket, (source, 0), (server, how.link))?;
    Ok(TcpStream::from(socket))
}

/// Begins a connection to `server` from the very address and port of another connection's client. Where
/// that tuple is taken, from a port of the kernel's choice. Says which it was.
///
/// # Errors
/// If the kernel refuses at once.
pub fn connect_like(
    client: SocketAddr,
    server: SocketAddr,
    how: Begin,
) -> io::Result<(TcpStream, SourcePort)> {
    match connect_from(client, server, how) {
        Ok(stream) => Ok((stream, SourcePort::Clients)),
        Err(error) if is_taken(&error) => {
            let stream = connect_as(client.ip(), server, how)?;
            Ok((stream, SourcePort::Chosen))
        }
        Err(error) => Err(error),
    }
}

/// From which port a connection in somebody's name comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourcePort {
    /// The client's own.
    Clients,
    /// One that the kernel chose.
    Chosen,
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
    )
}

fn connect_from(source: SocketAddr, server: SocketAddr, how: Begin) -> io::Result<TcpStream> {
    let socket = socket_in_gate(server, how)?;
    // Other connections of the same client, and what is left of old ones, have the same address.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    begin(&socket, (source.ip(), source.port()), (server, how.link))?;
    Ok(TcpStream::from(socket))
}

fn begin(
    socket: &OwnedFd,
    (source, port): (IpAddr, u16),
    (server, link): (SocketAddr, u32),
) -> io::Result<()> {
    bind(socket, &on_link(SocketAddr::new(source, port), link))?;
    reach(socket, server, link)
}

/// An address as the kernel takes it: link-local ones of IPv6 with their link.
fn on_link(address: SocketAddr, link: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, link).into()
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

/// Begins a connection to `server` on the node, in the calling thread's namespace, as [`connect_as`] does.
///
/// # Errors
/// If the kernel refuses at once.
pub fn connect_on_node(server: SocketAddr, first: FirstWord) -> io::Result<TcpStream> {
    let socket = socket_to(server.ip(), first)?;
    reach(&socket, server, 0)?;
    Ok(TcpStream::from(socket))
}

/// Who connected to a listener on the node.
///
/// # Errors
/// If the connection is gone.
pub fn client_of(accepted: BorrowedFd<'_>) -> io::Result<ClientAddr> {
    canonical(rustix::net::getpeername(accepted)?.ok_or(Errno::NOTCONN)?).map(ClientAddr)
}

fn reach(socket: &OwnedFd, server: SocketAddr, link: u32) -> io::Result<()> {
    match connect(socket, &on_link(server, link)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sets a connection of a proxy up: what is written goes at once, a peer that is gone is noticed
/// after `idle` and some probes. Of a listener all that it accepts has this from it (`sk_clone_lock`).
///
/// # Errors
/// If the kernel refuses an option.
pub fn set_up(stream: BorrowedFd<'_>, idle: Duration, probe: Duration) -> io::Result<()> {
    sockopt::set_tcp_nodelay(stream, true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, probe)?;
    Ok(())
}

/// Sends what a stream takes now. `More`: what doesn't fill a segment waits for what follows, or for the end of
/// the writing, which then goes with it; 200 ms at most.
///
/// # Errors
/// If it takes nothing.
pub fn send(stream: BorrowedFd<'_>, octets: &[u8], follows: Follows) -> io::Result<usize> {
    let flags = match follows {
        Follows::More => SendFlags::MORE,
        Follows::Unknown => SendFlags::empty(),
    };
    Ok(rustix::net::send(
        stream,
        octets,
        flags | SendFlags::NOSIGNAL,
    )?)
}

/// What comes after something that is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Follows {
    /// More, or the end, at once.
    More,
    /// Perhaps nothing for a long time.
    Unknown,
}

/// Resets a connection now.
///
/// # Errors
/// If the kernel refuses.
pub fn reset(stream: BorrowedFd<'_>) -> io::Result<()> {
    // A stream that is to have no peer is aborted (tcp_disconnect).
    rustix::net::connect_unspec(stream)?;
    Ok(())
}

/// Makes the end of a connection a reset: nothing that waits is sent.
///
/// # Errors
/// If the kernel refuses the option.
pub fn reset_at_end(stream: BorrowedFd<'_>) -> io::Result<()> {
    sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    Ok(())
}

/// A socket for both families.
fn stream_socket() -> io::Result<OwnedFd> {
    let socket = socket_of(AddressFamily::INET6)?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    Ok(socket)
}

/// A socket of a server's family.
fn socket_to(server: IpAddr, first: FirstWord) -> io::Result<OwnedFd> {
    let socket = socket_of(match server {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    })?;
    if first == FirstWord::Ours {
        sys::set_flag(socket.as_fd(), Flag::DeferAccept)?;
    }
    Ok(socket)
}

fn socket_in_gate(server: SocketAddr, how: Begin) -> io::Result<OwnedFd> {
    let socket = socket_to(server.ip(), how.first)?;
    sys::set_flag(socket.as_fd(), Flag::Transparent)?;
    sys::set_mark(socket.as_fd(), how.mark.number())?;
    Ok(socket)
}

fn socket_of(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let tcp = Some(ipproto::TCP);
    Ok(socket_with(family, SocketType::STREAM, flags, tcp)?)
}

fn canonical(address: rustix::net::SocketAddrAny) -> io::Result<SocketAddr> {
    let address =
        SocketAddr::try_from(address).map_err(|_| io::Error::other("not an Internet address"))?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a client outside of the gate")]
    fn what_a_listener_is_set_up_for_its_connections_are() {
        let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let listener = GateListener::bind_on_node(here, 1).unwrap().into_std();
        set_up(
            listener.as_fd(),
            Duration::from_secs(7),
            Duration::from_secs(3),
        )
        .unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(sockopt::tcp_nodelay(&accepted).unwrap());
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        let [idle, probe] = [
            sockopt::tcp_keepidle(&accepted),
            sockopt::tcp_keepintvl(&accepted),
        ];
        assert_eq!((idle.unwrap().as_secs(), probe.unwrap().as_secs()), (7, 3));
    }

    /// Segments that a client sends which says a word and then another one, with its end behind it.
    fn sent(first: FirstWord, follows: Follows) -> u32 {
        let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let listener = GateListener::bind_on_node(here, 1).unwrap().into_std();
        let client = connect_on_node(listener.local_addr().unwrap(), first).unwrap();
        // Nothing crosses a wire: the connection is there when the call returns.
        assert_eq!(send(client.as_fd(), b"word", Follows::Unknown).unwrap(), 4);
        assert_eq!(send(client.as_fd(), b"last", follows).unwrap(), 4);
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let sent = sys::segments_sent(client.as_fd()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let mut got = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"wordlast");
        sent
    }

    #[test]
    fn what_goes_together_is_sent_together() {
        for (first, follows, segments) in [
            // SYN, ACK, word, last, FIN.
            (FirstWord::Anyones, Follows::Unknown, 5),
            (FirstWord::Ours, Follows::Unknown, 4),
            (FirstWord::Anyones, Follows::More, 4),
            (FirstWord::Ours, Follows::More, 3),
        ] {
            // The kernel waits for 200 ms, for which a test may rest between two calls, though not each time.
            let fewest = (0..5).map(|_| sent(first, follows)).min().unwrap();
            assert_eq!(fewest, segments, "{first:?} {follows:?}");
        }
    }
}
