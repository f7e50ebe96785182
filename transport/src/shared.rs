//! Memory that outlives its process: a file without a name, mapped by one process after the other.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate};

use crate::sys::{Batch, Mapping};

/// A file of fixed length in memory. It lives as long as somebody has it open or mapped.
pub struct SharedFile {
    file: OwnedFd,
    mapping: Arc<Mapping>,
    len: usize,
}

/// Some octets of it, which nobody else in this process touches.
pub struct SharedPart {
    mapping: Arc<Mapping>,
    start: usize,
    len: usize,
}

/// Nobody changes its length: what is mapped stays there.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

impl SharedFile {
    /// A new one of `len` octets, all 0.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn create(name: &str, len: usize) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create(name, flags)?;
        ftruncate(&file, u64::try_from(len).map_err(io::Error::other)?)?;
        fcntl_add_seals(&file, SEALS)?;
        Self::map(file, len)
    }

    /// One that an earlier process made.
    ///
    /// # Errors
    /// If it is something else, or of another length.
    pub fn adopt(file: OwnedFd, len: usize) -> io::Result<Self> {
        let is_one = fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS));
        let found = usize::try_from(fstat(&file)?.st_size).unwrap_or(0);
        if !is_one || found != len {
            return Err(io::Error::other("no such memory"));
        }
        Self::map(file, len)
    }

    fn map(file: OwnedFd, len: usize) -> io::Result<Self> {
        let mapping = Arc::new(Mapping::new(file.as_fd(), len)?);
        Ok(Self { file, mapping, len })
    }

    /// Cuts it into parts of `len` octets; what is left over is nobody's.
    #[must_use]
    pub fn parts(self, len: usize) -> Vec<SharedPart> {
        let starts = (0..self.len / len.max(1)).map(|index| index * len);
        let part = |start| SharedPart {
            mapping: Arc::clone(&self.mapping),
            start,
            len,
        };
        starts.map(part).collect()
    }

    /// Another descriptor of the file, to be kept by somebody.
    ///
    /// # Errors
    /// If there are too many.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.try_clone()
    }
}

impl SharedPart {
    /// The word at an offset that is a multiple of 4; 0 outside.
    #[must_use]
    pub fn word(&self, at: usize) -> u32 {
        let word = self.place(at, 4).and_then(|at| self.mapping.word(at));
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Sets it: whoever reads it sees what was written before.
    pub fn set_word(&mut self, at: usize, value: u32) {
        if let Some(word) = self.place(at, 4).and_then(|at| self.mapping.word(at)) {
            word.store(value, Ordering::Release);
        }
    }

    /// The long word at an offset that is a multiple of 8; 0 outside.
    #[must_use]
    pub fn long(&self, at: usize) -> u64 {
        let word = self.place(at, 8).and_then(|at| self.mapping.long(at));
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Sets it, likewise.
    pub fn set_long(&mut self, at: usize, value: u64) {
        if let Some(word) = self.place(at, 8).and_then(|at| self.mapping.long(at)) {
            word.store(value, Ordering::Release);
        }
    }

    /// Copies octets there; outside, nothing is done.
    pub fn write(&mut self, at: usize, octets: &[u8]) {
        if let Some(at) = self.place(at, octets.len()) {
            self.mapping.write(at, octets);
        }
    }

    /// Copies octets from there; outside, nothing is done.
    pub fn read(&self, at: usize, octets: &mut [u8]) {
        if let Some(at) = self.place(at, octets.len()) {
            self.mapping.read(at, octets);
        }
    }

    /// A batch of datagrams at its begin, as an earlier process left it; `None` if it is too short.
    pub(crate) fn batch(&self, size: (usize, usize)) -> Option<Batch> {
        let at = self.place(0, Batch::octets(size.0, size.1))?;
        Batch::mapped(&self.mapping, at, size)
    }

    /// Cuts it in two at an offset.
    #[must_use]
    pub fn split(self, at: usize) -> (Self, Self) {
        let at = at.min(self.len);
        let rest = Self {
            mapping: Arc::clone(&self.mapping),
            start: self.start + at,
            len: self.len - at,
        };
        (Self { len: at, ..self }, rest)
    }

    fn place(&self, at: usize, len: usize) -> Option<usize> {
        let end = at.checked_add(len)?;
        (end <= self.len).then(|| self.start + at)
    }
}

impl fmt::Debug for SharedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedFile({})", self.len)
    }
}

impl fmt::Debug for SharedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedPart({}+{})", self.start, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_finds_what_was_written() {
        let file = SharedFile::create("test", 8_192).unwrap();
        let kept = file.descriptor().unwrap();
        let mut parts = file.parts(4_096);
        assert_eq!(parts.len(), 2);
        parts[1].write(100, b"octets");
        parts[1].set_word(0, 7);
        parts[1].set_long(8, u64::MAX);
        drop(parts);
        let parts = SharedFile::adopt(kept, 8_192).unwrap().parts(4_096);
        let mut octets = [0; 6];
        parts[1].read(100, &mut octets);
        assert_eq!(&octets, b"octets");
        assert_eq!((parts[1].word(0), parts[1].long(8)), (7, u64::MAX));
        assert_eq!(parts[0].word(0), 0);
    }

    #[test]
    fn what_lies_outside_is_not_there() {
        let file = SharedFile::create("test", 8_192).unwrap();
        let [mut one, mut other] = <[_; 2]>::try_from(file.parts(4_096)).unwrap();
        one.write(4_094, b"over");
        one.set_word(4_096, 1);
        one.set_word(2, 1);
        assert_eq!((other.word(0), one.word(4_096)), (0, 0));
        other.write(usize::MAX, b"over");
        let mut octets = [9; 4];
        other.read(4_094, &mut octets);
        assert_eq!(octets, [9; 4]);
    }

    #[test]
    fn something_else_is_no_such_memory() {
        let plain = tempfile();
        SharedFile::adopt(plain, 8_192).unwrap_err();
        let file = SharedFile::create("test", 8_192).unwrap();
        SharedFile::adopt(file.descriptor().unwrap(), 4_096).unwrap_err();
        let kept = file.descriptor().unwrap();
        ftruncate(&kept, 0).unwrap_err();
    }

    fn tempfile() -> OwnedFd {
        let file = rustix::fs::memfd_create("plain", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 8_192).unwrap();
        file
    }
}
