//! Datagrams of the proxy, in batches. In the gate: dual-stack transparent sockets, a mark with each
//! datagram. On the node: plain ones.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bpf_redirect_common::Mark;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, socket_with, sockopt,
};

use crate::shared::SharedPart;
use crate::sys::{self, Batch, Envelope, Flag};

/// The longest datagram that is read: any UDP payload.
pub const DATAGRAM_MAX: usize = 65_535;

/// A datagram on its way through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The other side: a client, or a server.
    pub peer: SocketAddr,
    /// Our side's address: received, where the datagram was sent to; sent, its source.
    pub local: IpAddr,
    /// Kind and endpoint, in the gate.
    pub mark: Option<Mark>,
    /// The payload.
    pub bytes: &'a [u8],
}

/// A UDP socket of the proxy. In the gate it is wildcard, dual stack, transparent.
#[derive(Debug)]
pub struct GateUdp {
    socket: OwnedFd,
    port: u16,
}

impl GateUdp {
    /// Opens a socket in the calling thread's namespace, which must be the gate. `shared` lets
    /// others listen on the same port (`SO_REUSEPORT`).
    ///
    /// # Errors
    /// If the port is taken, or a capability is missing. A socket that could not be given its
    /// options is never used: a packet without a mark is lost.
    pub fn bind(port: u16, receive_buffer: i32, shared: bool) -> io::Result<Self> {
        let socket = datagram_socket(receive_buffer)?;
        sockopt::set_socket_reuseport(&socket, shared)?;
        furnish_for_gate(&socket)?;
        Self::bound(socket, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
    }

    /// Takes a socket of [`GateUdp::bind`] that was handed over.
    #[must_use]
    pub fn given(socket: OwnedFd, port: u16) -> Self {
        Self { socket, port }
    }

    /// Takes a socket that an earlier process bound to `port` in the calling thread's namespace, which
    /// must be the gate, with the datagrams that wait in it.
    ///
    /// # Errors
    /// If it is another socket, or one elsewhere.
    pub fn adopt(socket: OwnedFd, port: u16, receive_buffer: i32) -> io::Result<Self> {
        let any = Ipv6Addr::UNSPECIFIED;
        let (socket, port) = adopted(socket, receive_buffer, |at| {
            *at.ip() == any && at.port() == port
        })?;
        furnish_for_gate(&socket)?;
        Ok(Self { socket, port })
    }

    /// Takes a socket that an earlier process bound to an address on the node, likewise; it may have any
    /// port.
    ///
    /// # Errors
    /// If it is another socket, or one elsewhere.
    pub fn adopt_on_node(socket: OwnedFd, ip: IpAddr, receive_buffer: i32) -> io::Result<Self> {
        let (socket, port) = adopted(socket, receive_buffer, |at| *at.ip() == to_v6(ip))?;
        Ok(Self { socket, port })
    }

    /// Opens a socket on the node, in the calling thread's namespace, without marks. `::` is every address
    /// of both families, port 0 one that the kernel chooses.
    ///
    /// # Errors
    /// If the address isn't there, or the port is taken.
    pub fn bind_on_node(address: SocketAddr, receive_buffer: i32) -> io::Result<Self> {
        Self::bound(datagram_socket(receive_buffer)?, address)
    }

    fn bound(socket: OwnedFd, address: SocketAddr) -> io::Result<Self> {
        let address = SocketAddrV6::new(to_v6(address.ip()), address.port(), 0, 0);
        bind(&socket, &address)?;
        let bound = SocketAddrV6::try_from(getsockname(&socket)?)
            .map_err(|_| io::Error::other("an IPv6 socket without an IPv6 address"))?;
        Ok(Self {
            socket,
            port: bound.port(),
        })
    }

    /// Makes it keep what the network says of datagrams that were not delivered, for
    /// [`GateUdp::next_error`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn keep_errors(&self) -> io::Result<()> {
        sys::set_flag(self.as_fd(), Flag::ErrorsV4)?;
        sys::set_flag(self.as_fd(), Flag::ErrorsV6)
    }

    /// The next datagram that was not delivered: for whom it was, and how many of its first octets were
    /// quoted and are in `buffer`, which may be none. `None` where nothing waits.
    ///
    /// # Errors
    /// If the socket is broken.
    pub fn next_error(&self, buffer: &mut [u8]) -> io::Result<Option<(SocketAddr, usize)>> {
        match sys::receive_error(self.as_fd(), buffer) {
            Ok((peer, len)) => {
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                Ok(Some((peer, len)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How many datagrams found the receive buffer full since the socket was made.
    ///
    /// # Errors
    /// If the kernel doesn't say.
    pub fn dropped(&self) -> io::Result<u32> {
        sys::dropped(self.socket.as_fd())
    }

    /// The port that it is bound to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl From<GateUdp> for OwnedFd {
    fn from(socket: GateUdp) -> Self {
        socket.socket
    }
}

impl AsFd for GateUdp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A reusable batch for reading.
pub struct Inbox {
    batch: Batch,
    /// Where the batch is, if not on the heap.
    memory: Option<SharedPart>,
}

impl Inbox {
    /// Room for `count` datagrams of at most `longest` bytes; longer ones are cut.
    #[must_use]
    pub fn new(count: usize, longest: usize) -> Self {
        Self {
            batch: Batch::new(count, longest),
            memory: None,
        }
    }

    /// The same in shared memory, where the kernel puts what is read: a process that dies right after has
    /// left it to the next one. `None` if it is shorter than [`Inbox::octets`].
    #[must_use]
    pub fn shared(memory: SharedPart, (count, longest): (usize, usize)) -> Option<Self> {
        let batch = memory.batch((count, longest))?;
        Some(Self {
            batch,
            memory: Some(memory),
        })
    }

    /// Octets of shared memory that a batch takes.
    #[must_use]
    pub const fn octets(count: usize, longest: usize) -> usize {
        Batch::octets(count, longest)
    }

    /// How many datagrams an earlier process had read here and not forgotten.
    #[must_use]
    pub fn unforgotten(&self) -> usize {
        self.batch.unforgotten()
    }

    /// Has the next process find none of those that were read. They are not to be had any more.
    pub fn forget(&mut self) {
        self.batch.forget();
    }

    /// Gives the memory back.
    #[must_use]
    pub fn into_memory(self) -> Option<SharedPart> {
        self.memory
    }

    /// Reads what is there; gives how many datagrams were read, and 0 where nothing waits.
    ///
    /// # Errors
    /// If the socket is broken.
    pub fn read(&mut self, socket: &GateUdp) -> io::Result<usize> {
        match self.batch.receive(socket.as_fd()) {
            Ok(count) => Ok(count),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// The `index`th datagram; `None` if it was cut.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Datagram<'_>> {
        let (envelope, bytes) = self.batch.received(index)?;
        Some(Datagram {
            peer: SocketAddr::new(envelope.peer.ip().to_canonical(), envelope.peer.port()),
            local: envelope.local.to_canonical(),
            mark: Mark::from_number(envelope.mark),
            bytes,
        })
    }
}

/// A reusable batch for writing through one socket at a time.
pub struct Outbox {
    batch: Batch,
    used: usize,
    /// The gate's end of the side link: link-local addresses need a link.
    link: u32,
}

impl Outbox {
    /// Room for `count` datagrams of at most `longest` bytes; `link` is the gate's end.
    #[must_use]
    pub fn new(count: usize, longest: usize, link: u32) -> Self {
        Self {
            batch: Batch::new(count, longest),
            used: 0,
            link,
        }
    }

    /// Whether the next datagram needs a [`Outbox::flush`] first.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used == self.batch.capacity()
    }

    /// Adds a datagram; `false` if it doesn't fit.
    #[must_use]
    pub fn push(&mut self, datagram: &Datagram<'_>) -> bool {
        if self.is_full() {
            return false;
        }
        let ip = to_v6(datagram.peer.ip());
        let scope = if ip.is_unicast_link_local() {
            self.link
        } else {
            0
        };
        let envelope = Envelope {
            peer: SocketAddrV6::new(ip, datagram.peer.port(), 0, scope),
            local: to_v6(datagram.local),
            mark: datagram.mark.map_or(0, Mark::number),
        };
        let fits = self.batch.put(self.used, &envelope, datagram.bytes);
        self.used += usize::from(fits);
        fits
    }

    /// Sends all; calls `failed` with the place of each datagram that could not be sent. Each is tried
    /// twice: a socket that keeps errors gives the one of an earlier datagram, for whomever that was, to
    /// the next that is sent.
    pub fn flush(&mut self, socket: &GateUdp, mut failed: impl FnMut(usize, io::Error)) {
        let (mut next, mut tried) = (0, None);
        while next < self.used {
            match self.batch.send(socket.as_fd(), next..self.used) {
                Ok(0) => break,
                Ok(sent) => next += sent,
                Err(_) if tried != Some(next) => tried = Some(next),
                Err(error) => {
                    failed(next, error);
                    next += 1;
                }
            }
        }
        self.used = 0;
    }
}

fn datagram_socket(receive_buffer: i32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(
        AddressFamily::INET6,
        SocketType::DGRAM,
        flags,
        Some(ipproto::UDP),
    )?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    furnish(&socket, receive_buffer)?;
    Ok(socket)
}

fn furnish(socket: &OwnedFd, receive_buffer: i32) -> io::Result<()> {
    sys::set_flag(socket.as_fd(), Flag::ReceivePacketInfo)?;
    sys::force_receive_buffer(socket.as_fd(), receive_buffer)
}

fn furnish_for_gate(socket: &OwnedFd) -> io::Result<()> {
    sys::set_flag(socket.as_fd(), Flag::Transparent)?;
    sys::set_flag(socket.as_fd(), Flag::ReceiveMark)
}

/// A bound datagram socket of the calling thread's namespace, with the options of today.
fn adopted(
    socket: OwnedFd,
    receive_buffer: i32,
    is_right: impl Fn(&SocketAddrV6) -> bool,
) -> io::Result<(OwnedFd, u16)> {
    let bound = bound_here(&socket, SocketType::DGRAM)?;
    if !is_right(&bound) {
        return Err(io::Error::other("a socket of another address"));
    }
    rustix::io::ioctl_fionbio(&socket, true)?;
    furnish(&socket, receive_buffer)?;
    Ok((socket, bound.port()))
}

/// Where a socket that an earlier process made is bound, if it is one of this kind and of the calling
/// thread's namespace.
pub(crate) fn bound_here(socket: &OwnedFd, kind: SocketType) -> io::Result<SocketAddrV6> {
    let wrong = || io::Error::other("a socket of another kind");
    if sockopt::socket_type(socket)? != kind
        || sockopt::socket_domain(socket)? != AddressFamily::INET6
    {
        return Err(wrong());
    }
    let flags = SocketFlags::CLOEXEC;
    let here = socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
    if sys::namespace_of(socket.as_fd())? != sys::namespace_of(here.as_fd())? {
        return Err(io::Error::other("a socket of another namespace"));
    }
    SocketAddrV6::try_from(getsockname(socket)?).map_err(|_| wrong())
}

pub(crate) fn to_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}
