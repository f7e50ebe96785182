//! Datagrams in batches: `recvmmsg`, `sendmmsg`, and the control messages that carry a datagram's own
//! address and mark.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use libc::{c_int, c_uint};

use super::{Mapping, from_sockaddr};

/// Room for two control messages: `in6_pktinfo` (20 bytes) and a mark (4 bytes), each behind a
/// header of 16 and padded to 8.
pub(crate) const CONTROL_LEN: usize = 64;

/// Lengths of control messages and flags, which glibc and musl give types of their own.
#[cfg(not(target_env = "musl"))]
type ControlLen = usize;
#[cfg(target_env = "musl")]
type ControlLen = libc::socklen_t;
#[cfg(not(target_env = "musl"))]
type Flags = c_int;
#[cfg(target_env = "musl")]
type Flags = c_uint;

const DONT_WAIT: Flags = libc::MSG_DONTWAIT as Flags;

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

/// Values in a row that don't move: on the heap, or in memory that somebody else keeps mapped.
struct Row<T: Copy> {
    first: NonNull<T>,
    len: usize,
    is_mapped: bool,
}

impl<T: Copy> Row<T> {
    fn new(len: usize, value: T) -> Self {
        let all = Box::leak(vec![value; len].into_boxed_slice());
        Self {
            first: NonNull::from(all).cast(),
            len,
            is_mapped: false,
        }
    }

    /// What lies at an offset, which is moved behind it; `None` where it would lie outside.
    ///
    /// # Safety
    /// The mapping outlives the row, nobody else has this range, and any octets are a `T`.
    unsafe fn mapped(mapping: &Mapping, at: &mut usize, len: usize) -> Option<Self> {
        let octets = len.checked_mul(size_of::<T>())?;
        let first = NonNull::new(mapping.at(*at, octets)?.cast::<T>())?;
        *at += octets;
        first.is_aligned().then_some(Self {
            first,
            len,
            is_mapped: true,
        })
    }
}

impl<T: Copy> Deref for Row<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` values are there for as long as the row is, and only the row has them.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T: Copy> DerefMut for Row<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T: Copy> Drop for Row<T> {
    fn drop(&mut self) {
        if !self.is_mapped {
            let all = std::ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.len);
            // SAFETY: `new` leaked a box of this length.
            drop(unsafe { Box::from_raw(all) });
        }
    }
}

/// Storage for a batch; nothing in it moves after it was made.
pub(crate) struct Batch {
    headers: Row<libc::mmsghdr>,
    controls: Row<[u64; CONTROL_LEN / 8]>,
    peers: Row<libc::sockaddr_in6>,
    buffers: Row<u8>,
    vectors: Row<libc::iovec>,
    stride: usize,
    /// What the rows lie in, if not on the heap.
    _mapping: Option<Arc<Mapping>>,
}

// SAFETY: the raw pointers in headers and vectors point into the rows of the same value, which don't move
// with it; nobody else holds them.
unsafe impl Send for Batch {}

impl Batch {
    /// Room for `count` datagrams of `stride` bytes.
    pub(crate) fn new(count: usize, stride: usize) -> Self {
        // SAFETY: these C structs are valid when all zero.
        let zero_peer: libc::sockaddr_in6 = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: as above.
        let zero_header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        Self {
            headers: Row::new(count, zero_header),
            controls: Row::new(count, [0; CONTROL_LEN / 8]),
            peers: Row::new(count, zero_peer),
            buffers: Row::new(count * stride, 0),
            vectors: no_vectors(count),
            stride,
            _mapping: None,
        }
        .linked()
    }

    /// The same in memory where an earlier process had one of this size: what that one had read is still
    /// there. `None` where it would lie outside. Nobody else has the [`Batch::octets`] from `at` on
    /// (`SharedPart`).
    pub(crate) fn mapped(
        mapping: &Arc<Mapping>,
        mut at: usize,
        (count, stride): (usize, usize),
    ) -> Option<Self> {
        // SAFETY: the batch keeps the mapping; integers and raw pointers may have any bits.
        let batch = unsafe {
            Self {
                headers: Row::mapped(mapping, &mut at, count)?,
                controls: Row::mapped(mapping, &mut at, count)?,
                peers: Row::mapped(mapping, &mut at, count)?,
                buffers: Row::mapped(mapping, &mut at, count.checked_mul(stride)?)?,
                vectors: no_vectors(count),
                stride,
                _mapping: Some(Arc::clone(mapping)),
            }
        };
        Some(batch.linked())
    }

    /// Octets of memory that [`Batch::mapped`] takes.
    pub(crate) const fn octets(count: usize, stride: usize) -> usize {
        let header = size_of::<libc::mmsghdr>() + size_of::<libc::sockaddr_in6>();
        count * (header + CONTROL_LEN + stride)
    }

    /// With each header pointing at what belongs to it.
    fn linked(mut self) -> Self {
        let parts = self
            .vectors
            .iter_mut()
            .zip(self.buffers.chunks_exact_mut(self.stride))
            .zip(self.peers.iter_mut().zip(self.controls.iter_mut()));
        for (header, ((vector, buffer), (peer, control))) in self.headers.iter_mut().zip(parts) {
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = self.stride;
            let header = &mut header.msg_hdr;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_name = (peer as *mut libc::sockaddr_in6).cast();
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = header.msg_controllen.min(CONTROL_LEN as ControlLen);
        }
        self
    }

    pub(crate) fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// Reads what is there, without waiting.
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        for (header, vector) in self.headers.iter_mut().zip(self.vectors.iter_mut()) {
            header.msg_len = 0;
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = CONTROL_LEN as ControlLen;
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
                DONT_WAIT,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// How many were read and not forgotten.
    pub(crate) fn unforgotten(&self) -> usize {
        let read = |header: &&libc::mmsghdr| header.msg_len > 0;
        self.headers.iter().take_while(read).count()
    }

    /// Has the next process find none of them.
    pub(crate) fn forget(&mut self) {
        let read = |header: &&mut libc::mmsghdr| header.msg_len > 0;
        for header in self.headers.iter_mut().take_while(read) {
            header.msg_len = 0;
        }
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
        header.msg_hdr.msg_controllen = write_control(control, envelope) as ControlLen;
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
                DONT_WAIT,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

fn no_vectors(count: usize) -> Row<libc::iovec> {
    let none = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    Row::new(count, none)
}

fn read_control(header: &libc::msghdr) -> Option<(Ipv6Addr, u32)> {
    let mut local = None;
    let mut mark = 0;
    // SAFETY: the control buffer has room for what its length says; CMSG_* stay inside of it.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: not null, and inside the control buffer.
        let (level, kind, len, data) = unsafe {
            (
                (*message).cmsg_level,
                (*message).cmsg_type,
                (*message).cmsg_len,
                libc::CMSG_DATA(message),
            )
        };
        // SAFETY: a plain size computation.
        let holds =
            |octets: usize| len >= unsafe { libc::CMSG_LEN(octets as c_uint) } as ControlLen;
        let is = |wanted: (c_int, c_int), octets| (level, kind) == wanted && holds(octets);
        if is(
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
            size_of::<libc::in6_pktinfo>(),
        ) {
            // SAFETY: the message is long enough for it; it may be unaligned.
            let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
            local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
        } else if is((libc::SOL_SOCKET, libc::SO_MARK), size_of::<u32>()) {
            // SAFETY: as above.
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
        (*first).cmsg_len = libc::CMSG_LEN(size_of_val(&info) as c_uint) as ControlLen;
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
        (*second).cmsg_len = libc::CMSG_LEN(size_of::<u32>() as c_uint) as ControlLen;
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
