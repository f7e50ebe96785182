//! Octets from one socket to another that are never copied: by a pipe between them.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// How many octets one holds at most.
pub const PIPE_OCTETS_MAX: usize = 256 << 10;
/// The kernel's size of it: a slot holds what may be less than a page.
const SLOTS_OCTETS: usize = 4 * PIPE_OCTETS_MAX;

/// A pipe with what was read from one socket and not yet written to the other.
#[derive(Debug)]
pub struct Pipe {
    end: OwnedFd,
    start: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty one.
    ///
    /// # Errors
    /// If no descriptors are left.
    pub fn new() -> io::Result<Self> {
        let (end, start) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one does too.
        let _ = fcntl_setpipe_size(&start, SLOTS_OCTETS);
        Ok(Self {
            end,
            start,
            held: 0,
        })
    }

    /// How many octets it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes what there is from a socket, once all that it held has gone: up to `most` octets. 0: the
    /// other side has ended.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing; else as the socket failed.
    pub fn fill(&mut self, from: BorrowedFd<'_>, most: u64) -> io::Result<usize> {
        let room = PIPE_OCTETS_MAX - self.held;
        let most = usize::try_from(most).unwrap_or(room).min(room);
        let count = splice(from, None, &self.start, None, most, flags())?;
        self.held += count;
        Ok(count)
    }

    /// Gives to a socket what it takes.
    ///
    /// # Errors
    /// `WouldBlock` if it takes nothing now; else as the socket failed.
    pub fn empty(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let count = splice(&self.end, None, to, None, self.held, flags())?;
        self.held = self.held.saturating_sub(count);
        Ok(count)
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_no_more_is_held_than_allowed() {
        let (mut from, source) = UnixStream::pair().unwrap();
        let (mut to, sink) = UnixStream::pair().unwrap();
        for socket in [&from, &source, &sink] {
            socket.set_nonblocking(true).unwrap();
        }
        let mut pipe = Pipe::new().unwrap();
        let nothing = pipe.fill(source.as_fd(), u64::MAX).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        let (mut written, mut took) = (0, 0);
        while pipe.held() < PIPE_OCTETS_MAX {
            written += from.write(&[7; 4096]).unwrap_or(0);
            took += pipe.fill(source.as_fd(), u64::MAX).unwrap_or(0);
            assert!(pipe.held() == took && took <= written);
        }
        assert_eq!(took, PIPE_OCTETS_MAX);
        let mut got = 0;
        let mut room = vec![0; 1 << 20];
        while pipe.held() > 0 {
            let _ = pipe.empty(sink.as_fd());
            got += to.read(&mut room).unwrap();
        }
        assert_eq!(got, took);
        from.write_all(b"abcdef").unwrap();
        while pipe.fill(source.as_fd(), 4).unwrap() != 4 {
            pipe.empty(sink.as_fd()).unwrap();
        }
        drop(from);
        assert_eq!(pipe.held(), 4);
    }
}
