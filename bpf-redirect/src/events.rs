//! The kernel's events.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};
use bpf_redirect_common::Event;
use zerocopy::FromBytes;

/// Reads the ring buffer. Wait for its descriptor to become readable, then drain.
pub struct EventReader {
    ring: RingBuf<MapData>,
}

impl EventReader {
    pub(crate) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Hands every waiting event to `tell`. A record of another size is another layout's, and left out.
    pub fn drain(&mut self, mut tell: impl FnMut(&Event)) {
        while let Some(record) = self.ring.next() {
            if let Ok(event) = Event::read_from_bytes(&record) {
                tell(&event);
            }
        }
    }

    /// The descriptor to wait for, owned by the caller.
    ///
    /// # Errors
    /// If it can't be duplicated.
    pub fn waiter(&self) -> io::Result<std::os::fd::OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}

impl AsFd for EventReader {
    #[expect(unsafe_code, reason = "aya's RingBuf has the raw descriptor only")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns the descriptor for as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}
