//! The only unsafe code of this crate: `unshare`, a few socket options, datagrams in batches, the error
//! queue, memory that is shared, descriptors that were passed.

mod batch;

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use libc::{c_int, c_void};

pub(crate) use batch::{Batch, Envelope};

/// `SO_RCVMARK` (asm-generic/socket.h, Linux 5.19), which libc doesn't name for all targets.
const SO_RCVMARK: c_int = 75;
/// `IP_BIND_ADDRESS_NO_PORT` (linux/in.h).
const IP_BIND_ADDRESS_NO_PORT: c_int = 24;

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
    /// Of both families' sockets: it is one bit, and those of IPv6 take options of IPv4 too.
    Transparent,
    ReceivePacketInfo,
    ReceiveMark,
    BindNoPort,
    /// Of a socket that connects: see [`crate::FirstWord`].
    DeferAccept,
    /// ICMP errors of IPv4 go to the error queue; on an IPv6 socket of both families too.
    ErrorsV4,
    ErrorsV6,
}

pub(crate) fn set_flag(fd: BorrowedFd<'_>, flag: Flag) -> io::Result<()> {
    let (level, name) = match flag {
        Flag::Transparent => (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
        Flag::ReceivePacketInfo => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        Flag::ReceiveMark => (libc::SOL_SOCKET, SO_RCVMARK),
        Flag::ErrorsV4 => (libc::IPPROTO_IP, libc::IP_RECVERR),
        Flag::ErrorsV6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        Flag::BindNoPort => (libc::IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT),
        Flag::DeferAccept => (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
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

/// Words of `SO_MEMINFO` (linux/sock_diag.h); the last one counts datagrams that found the buffer full, as
/// `SO_RXQ_OVFL` tells with each datagram that found room.
const MEMINFO_WORDS: usize = 9;

/// How many datagrams a socket has lost, since it had no room for them.
pub(crate) fn dropped(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut words = [0u32; MEMINFO_WORDS];
    let mut len = size_of_val(&words) as libc::socklen_t;
    // SAFETY: words and len live until the call returns, and len is words' size.
    let code = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            words.as_mut_ptr().cast::<c_void>(),
            &raw mut len,
        )
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(words[MEMINFO_WORDS - 1])
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

/// How many segments a connection has sent, with those that hold nothing (`tcpi_segs_out`).
#[cfg(test)]
pub(crate) fn segments_sent(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: of this C struct each pattern of bits is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than the length says.
    let code = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast::<c_void>(),
            &raw mut size,
        )
    };
    match code {
        0 => Ok(info.tcpi_segs_out),
        _ => Err(io::Error::last_os_error()),
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

fn from_sockaddr(address: &libc::sockaddr_in6) -> SocketAddrV6 {
    SocketAddrV6::new(
        Ipv6Addr::from(address.sin6_addr.s6_addr),
        u16::from_be(address.sin6_port),
        0,
        address.sin6_scope_id,
    )
}
