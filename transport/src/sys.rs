//! The only unsafe code of this crate: `unshare`, a few socket options, `recvmmsg` and `sendmmsg`
//! with the control messages that carry a datagram's own address and mark, the error queue, memory that
//! is shared, descriptors that were passed.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use libc::{c_int, c_uint, c_void};

/// `SO_RCVMARK` (asm-generic/socket.h, Linux 5.19), which libc doesn't name for all targets.
const SO_RCVMARK: c_int = 75;
/// `IPV6_TRANSPARENT` (linux/in6.h).
const IPV6_TRANSPARENT: c_int = 75;
/// `IP_BIND_ADDRESS_NO_PORT` (linux/in.h).
const IP_BIND_ADDRESS_NO_PORT: c_int = 24;

/// Room for two control messages: `in6_pktinfo` (20 bytes) and a mark (4 bytes), each behind a
/// header of 16 and padded to 8.
pub(crate) const CONTROL_LEN: usize = 64;

/// Moves the calling thread into a network namespace of its own.
pub(crate) fn unshare_network() -> io::Result<()> {
    unshare(libc::CLONE_NEWNET)
}

/// Moves the calling thread into a mount namespace of its own.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    unshare(libc::CLONE_NEWNS)
}

/// Moves the calling process, which must have one thread, into a user namespace of its own.
pub(crate) fn unshare_user() -> io::Result<()> {
    unshare(libc::CLONE_NEWUSER)
}

fn unshare(what: c_int) -> io::Result<()> {
    // SAFETY: those above change only credentials, the view of the network, or of mounts with the root and the
    // working directory; no memory and no fd table.
    let code = unsafe { libc::unshare(what) };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Socket options that are plain integers.
#[derive(Clone, Copy)]
pub(crate) enum Flag {
    Transparent,
    ReceivePacketInfo,
    ReceiveMark,
    BindNoPort,
    /// ICMP errors of IPv4 go to the error queue; on an IPv6 socket of both families too.
    ErrorsV4,
    ErrorsV6,
}

pub(crate) fn set_flag(fd: BorrowedFd<'_>, flag: Flag) -> io::Result<()> {
    let (level, name) = match flag {
        Flag::Transparent => (libc::IPPROTO_IPV6, IPV6_TRANSPARENT),
        Flag::ReceivePacketInfo => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        Flag::ReceiveMark => (libc::SOL_SOCKET, SO_RCVMARK),
        Flag::ErrorsV4 => (libc::IPPROTO_IP, libc::IP_RECVERR),
        Flag::ErrorsV6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        Flag::BindNoPort => (libc::IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT),
    };
    set_option(fd, level, name, 1)
}

/// The mark of every packet of a socket (`SO_MARK`).
pub(crate) fn set_mark(fd: BorrowedFd<'_>, mark: u32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())
}

/// A receive buffer beyond the node's limit (`SO_RCVBUFFORCE`); without `CAP_NET_ADMIN` up to that.
pub(crate) fn force_receive_buffer(fd: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    match set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)
        }
        forced => forced,
    }
}

/// The mark of a socket, which an accepted one has from its SYN.
pub(crate) fn mark(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut value: u32 = 0;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: value and len live until the call returns, and len is value's size.
    let code = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw mut value).cast::<c_void>(),
            &raw mut len,
        )
    };
    if code == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `SO_NETNS_COOKIE` (asm-generic/socket.h, Linux 5.14), which libc doesn't name for all targets.
const SO_NETNS_COOKIE: c_int = 71;

/// In which network namespace a socket is: equal for two of the same one, never given again.
pub(crate) fn namespace_of(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut value: u64 = 0;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: value and len live until the call returns, and len is value's size.
    let code = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut value).cast::<c_void>(),
            &raw mut len,
        )
    };
    if code == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes the descriptors 3 to 2 + `count`, which whoever started this process passed to it. Only the
/// first call gives any; one that isn't open is left out.
pub(crate) fn take_passed(count: usize) -> Vec<Option<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let numbers = (3..).take(count);
    let take = |number: RawFd| {
        // SAFETY: it only sets a flag of whatever descriptor that is, if it is one.
        let code = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        // SAFETY: it is open, the starter made it for this process to own, and it is taken only here,
        // which runs once.
        (code == 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
    };
    numbers.map(take).collect()
}

/// Memory of a file, shared with whoever maps it next. No two parts of a process may touch the same
/// octets at once, but for the words.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to the mapping, wherever that is.
unsafe impl Send for Mapping {}
// SAFETY: words are atomic; who copies octets owns their range (`SharedPart`).
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` octets of a file that can't shrink.
    pub(crate) fn new(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping where the kernel likes; nothing that is mapped is touched.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { base, len })
    }

    fn at(&self, at: usize, len: usize) -> Option<*mut u8> {
        let end = at.checked_add(len)?;
        // SAFETY: inside the mapping.
        (end <= self.len).then(|| unsafe { self.base.as_ptr().add(at) })
    }

    /// The word at an offset, which must be a multiple of 4.
    pub(crate) fn word(&self, at: usize) -> Option<&AtomicU32> {
        let word = self.at(at, 4).filter(|_| at.is_multiple_of(4))?;
        // SAFETY: inside the mapping, which begins at a page, and so aligned; it lives as long as self.
        Some(unsafe { AtomicU32::from_ptr(word.cast()) })
    }

    /// The long word at an offset, which must be a multiple of 8.
    pub(crate) fn long(&self, at: usize) -> Option<&AtomicU64> {
        let word = self.at(at, 8).filter(|_| at.is_multiple_of(8))?;
        // SAFETY: as above.
        Some(unsafe { AtomicU64::from_ptr(word.cast()) })
    }

    /// Copies octets there; outside, nothing is done.
    pub(crate) fn write(&self, at: usize, octets: &[u8]) {
        if let Some(to) = self.at(at, octets.len()) {
            // SAFETY: inside the mapping; nobody else has this range.
            unsafe { std::ptr::copy_nonoverlapping(octets.as_ptr(), to, octets.len()) };
        }
    }

    /// Copies octets from there; outside, nothing is done.
    pub(crate) fn read(&self, at: usize, octets: &mut [u8]) {
        if let Some(from) = self.at(at, octets.len()) {
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(from, octets.as_mut_ptr(), octets.len()) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new`, and nobody has a reference into it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: value lives until the call returns, and the length is its size.
    let code = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast::<c_void>(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One datagram's addresses, as they stand in its control messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// The other side.
    pub(crate) peer: SocketAddrV6,
    /// Our side: received, the destination address; sent, the source.
    pub(crate) local: Ipv6Addr,
    /// The mark; 0 if there was none.
    pub(crate) mark: u32,
}

/// Storage for a batch; nothing in it moves after it was made.
pub(crate) struct Batch {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    peers: Vec<libc::sockaddr_in6>,
    controls: Vec<[u64; CONTROL_LEN / 8]>,
    buffers: Vec<u8>,
    stride: usize,
}

// SAFETY: the raw pointers in headers and vectors point into the Vecs of the same value, whose heap
// blocks don't move with it; nobody else holds them.
unsafe impl Send for Batch {}

impl Batch {
    /// Room for `count` datagrams of `stride` bytes.
    pub(crate) fn new(count: usize, stride: usize) -> Self {
        // SAFETY: these C structs are valid when all zero.
        let zero_peer: libc::sockaddr_in6 = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: as above.
        let zero_header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut batch = Self {
            headers: vec![zero_header; count],
            vectors: Vec::with_capacity(count),
            peers: vec![zero_peer; count],
            controls: vec![[0; CONTROL_LEN / 8]; count],
            buffers: vec![0; count * stride],
            stride,
        };
        for buffer in batch.buffers.chunks_exact_mut(stride) {
            batch.vectors.push(libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: stride,
            });
        }
        let parts = batch
            .vectors
            .iter_mut()
            .zip(&mut batch.peers)
            .zip(&mut batch.controls);
        for (header, ((vector, peer), control)) in batch.headers.iter_mut().zip(parts) {
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (peer as *mut libc::sockaddr_in6).cast();
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
        }
        batch
    }

    pub(crate) fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// Reads what is there, without waiting.
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        for (header, vector) in self.headers.iter_mut().zip(&mut self.vectors) {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = CONTROL_LEN;
            header.msg_hdr.msg_flags = 0;
            vector.iov_len = self.stride;
        }
        let count = self.headers.len() as c_uint;
        // SAFETY: each header points at a name, a vector and a control buffer of this batch, with
        // their sizes set above.
        let got = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// The `index`th datagram that was read: its addresses and its bytes, as many as fit; `None` if it
    /// came without its own address.
    pub(crate) fn received(&self, index: usize) -> Option<(Envelope, &[u8])> {
        let header = self.headers.get(index)?;
        let len = (header.msg_len as usize).min(self.stride);
        if header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 || len > self.stride
        {
            return None;
        }
        let start = index * self.stride;
        let bytes = self.buffers.get(start..start + len)?;
        let peer = from_sockaddr(self.peers.get(index)?);
        let (local, mark) = read_control(&header.msg_hdr)?;
        Some((Envelope { peer, local, mark }, bytes))
    }

    /// Puts a datagram into place `index`; `false` if it is too long.
    pub(crate) fn put(&mut self, index: usize, envelope: &Envelope, bytes: &[u8]) -> bool {
        let start = index * self.stride;
        let (Some(buffer), Some(vector), Some(peer), Some(header), Some(control)) = (
            self.buffers.get_mut(start..start + self.stride),
            self.vectors.get_mut(index),
            self.peers.get_mut(index),
            self.headers.get_mut(index),
            self.controls.get_mut(index),
        ) else {
            return false;
        };
        let Some(target) = buffer.get_mut(..bytes.len()) else {
            return false;
        };
        target.copy_from_slice(bytes);
        vector.iov_len = bytes.len();
        *peer = to_sockaddr(&envelope.peer);
        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        header.msg_hdr.msg_controllen = write_control(control, envelope);
        header.msg_hdr.msg_flags = 0;
        true
    }

    /// Sends `range` of what was put; gives how many went. An error is about the first of them.
    pub(crate) fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        range: std::ops::Range<usize>,
    ) -> io::Result<usize> {
        let Some(headers) = self.headers.get_mut(range) else {
            return Ok(0);
        };
        if headers.is_empty() {
            return Ok(0);
        }
        // SAFETY: as in `receive`; the sizes were set by `put`.
        let sent = unsafe {
            libc::sendmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Takes the oldest entry of a socket's error queue, without waiting: for whom the datagram was, and how
/// many octets of it are in `buffer`.
pub(crate) fn receive_error(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(SocketAddrV6, usize)> {
    // SAFETY: these C structs are valid when all zero.
    let mut peer: libc::sockaddr_in6 = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: as above.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    header.msg_name = (&raw mut peer).cast();
    header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: name and vector live until the call returns, with their sizes; there is no control buffer.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) };
    match usize::try_from(got) {
        Ok(len) => Ok((from_sockaddr(&peer), len.min(buffer.len()))),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn read_control(header: &libc::msghdr) -> Option<(Ipv6Addr, u32)> {
    let mut local = None;
    let mut mark = 0;
    // SAFETY: the kernel filled the control buffer and set its length; CMSG_* stay inside of it.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: not null, and inside the control buffer.
        let (level, kind, data) = unsafe {
            (
                (*message).cmsg_level,
                (*message).cmsg_type,
                libc::CMSG_DATA(message),
            )
        };
        if level == libc::IPPROTO_IPV6 && kind == libc::IPV6_PKTINFO {
            // SAFETY: the kernel put an in6_pktinfo there; it may be unaligned.
            let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
            local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
        } else if level == libc::SOL_SOCKET && kind == libc::SO_MARK {
            // SAFETY: the kernel put a u32 there; it may be unaligned.
            mark = unsafe { data.cast::<u32>().read_unaligned() };
        }
        // SAFETY: header and message belong together.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    Some((local?, mark))
}

/// Writes source address and mark; gives the control length.
fn write_control(control: &mut [u64; CONTROL_LEN / 8], envelope: &Envelope) -> usize {
    *control = [0; CONTROL_LEN / 8];
    let info = libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr {
            s6_addr: envelope.local.octets(),
        },
        ipi6_ifindex: envelope.peer.scope_id(),
    };
    // SAFETY: a plain size computation.
    let (info_space, mark_space) = unsafe {
        (
            libc::CMSG_SPACE(size_of_val(&info) as c_uint),
            libc::CMSG_SPACE(size_of::<u32>() as c_uint),
        )
    };
    let base = control.as_mut_ptr().cast::<u8>();
    // SAFETY: both messages fit into CONTROL_LEN (40 + 24 bytes), and the buffer is aligned for a
    // cmsghdr (u64).
    unsafe {
        let first = base.cast::<libc::cmsghdr>();
        (*first).cmsg_level = libc::IPPROTO_IPV6;
        (*first).cmsg_type = libc::IPV6_PKTINFO;
        (*first).cmsg_len = libc::CMSG_LEN(size_of_val(&info) as c_uint) as usize;
        libc::CMSG_DATA(first)
            .cast::<libc::in6_pktinfo>()
            .write_unaligned(info);
    }
    // Without one nothing is said: outside of the gate that takes a privilege.
    if envelope.mark == 0 {
        return info_space as usize;
    }
    // SAFETY: as above.
    unsafe {
        let second = base.add(info_space as usize).cast::<libc::cmsghdr>();
        (*second).cmsg_level = libc::SOL_SOCKET;
        (*second).cmsg_type = libc::SO_MARK;
        (*second).cmsg_len = libc::CMSG_LEN(size_of::<u32>() as c_uint) as usize;
        libc::CMSG_DATA(second)
            .cast::<u32>()
            .write_unaligned(envelope.mark);
    }
    (info_space + mark_space) as usize
}

fn to_sockaddr(address: &SocketAddrV6) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: address.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr {
            s6_addr: address.ip().octets(),
        },
        sin6_scope_id: address.scope_id(),
    }
}

fn from_sockaddr(address: &libc::sockaddr_in6) -> SocketAddrV6 {
    SocketAddrV6::new(
        Ipv6Addr::from(address.sin6_addr.s6_addr),
        u16::from_be(address.sin6_port),
        0,
        address.sin6_scope_id,
    )
}
