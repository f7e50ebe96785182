//! One end of a TCP connection: never waits, reads and writes what can be at once.

use std::future::pending;
use std::io;
use std::time::Instant;

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::frames::{Frames, write_frame};

/// Octets of one read.
const READ: usize = 16 << 10;

/// One end of a connection: its stream, what was read of a frame, what waits to be written.
pub(super) struct Side {
    pub(super) stream: TcpStream,
    pub(super) frames: Frames,
    pub(super) unwritten: Vec<u8>,
    /// When the frame that isn't whole yet began.
    pub(super) frame_since: Option<Instant>,
    /// The other end says nothing more.
    pub(super) at_end: bool,
}

impl Side {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            frames: Frames::default(),
            unwritten: Vec::new(),
            frame_since: None,
            at_end: false,
        }
    }

    /// Reads once what is there.
    pub(super) fn read(&mut self, now: Instant) -> io::Result<()> {
        let mut buffer = [0; READ];
        let room = self.frames.room().min(READ);
        let Some(buffer) = buffer.get_mut(..room).filter(|buffer| !buffer.is_empty()) else {
            return Ok(());
        };
        match self.stream.try_read(buffer) {
            Ok(0) => self.at_end = true,
            Ok(count) => {
                let octets = buffer.get(..count).unwrap_or(&[]);
                self.frames.push(octets).map_err(io::Error::other)?;
                self.frame_since.get_or_insert(now);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Puts a message behind what waits to be written.
    pub(super) fn put(&mut self, message: &[u8]) {
        // Messages came in frames or datagrams: none is longer than a frame.
        let _ = write_frame(message, &mut self.unwritten);
    }

    /// Writes what can be written at once.
    pub(super) fn write(&mut self) -> io::Result<()> {
        while !self.unwritten.is_empty() {
            match self.stream.try_write(&self.unwritten) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.unwritten.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until something that is wanted can be done.
    pub(super) async fn ready(&self, wants_read: bool, wants_write: bool) {
        let interest = match (wants_read, wants_write) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            (false, false) => return pending().await,
        };
        // An error shows at the next read or write.
        let _ = self.stream.ready(interest).await;
    }
}
