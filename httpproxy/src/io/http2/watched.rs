//! A stream under the HTTP/2 engine: octets that were read already come first, and each frame is
//! counted before the engine has it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::tally::Counters;
use crate::core::frames::{Frame, Kind, Piece, Scanner, Side, Watch};

/// Octets after which those who take what came have their turn: the engine itself would go on reading,
/// and what nobody has taken yet counts against the sender.
const TURN_OCTETS: usize = 16 * 1024;

/// The watch over one side, shared with who acts on it.
#[derive(Clone)]
pub(super) struct Frames(Arc<Mutex<Watch>>);

impl Frames {
    pub(super) fn new(side: Side) -> Self {
        Self(Arc::new(Mutex::new(Watch::new(side))))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Watch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream.
pub(super) struct Watched<I> {
    io: I,
    first: Vec<u8>,
    /// How many of the first octets were handed on.
    given: usize,
    frames: Frames,
    /// Octets that were handed on in this turn.
    turn: usize,
    out: Scanner,
    /// The beginning of the payload of a frame that goes out.
    code: Vec<u8>,
    counters: Option<Arc<Counters>>,
}

impl<I> Watched<I> {
    /// Who counts gets what the engine refuses.
    pub(super) fn new(io: I, frames: Frames, counters: Option<Arc<Counters>>) -> Self {
        Self {
            io,
            first: Vec::new(),
            given: 0,
            out: match counters {
                Some(_) => Scanner::default(),
                None => Scanner::after_preface(),
            },
            frames,
            turn: 0,
            code: Vec::new(),
            counters,
        }
    }

    /// The same, with octets that came before.
    pub(super) fn after(self, first: Vec<u8>) -> Self {
        Self { first, ..self }
    }

    fn wrote(&mut self, mut octets: &[u8]) {
        while let Some((frame, piece)) = self.out.next(&mut octets) {
            match piece {
                Piece::Begin => self.code.clear(),
                Piece::Payload(payload) => {
                    let left = 8usize.saturating_sub(self.code.len());
                    self.code.extend(payload.iter().take(left));
                }
                Piece::End => self.sent(frame),
            }
        }
    }

    fn sent(&self, frame: Frame) {
        let Some(counters) = &self.counters else {
            return self.note(frame);
        };
        match (frame.kind, &*self.code) {
            (Kind::Reset, [a, b, c, d, ..]) => {
                let code = u32::from_be_bytes([*a, *b, *c, *d]);
                counters.http2_reset(code);
                if code == u32::from(Reason::PROTOCOL_ERROR) {
                    self.frames.lock().sent_malformed();
                }
            }
            (Kind::GoAway, [_, _, _, _, a, b, c, d]) => {
                counters.http2_goaway(u32::from_be_bytes([*a, *b, *c, *d]));
            }
            (Kind::Data, _) => self.note(frame),
            _ => {}
        }
    }

    fn note(&self, frame: Frame) {
        if frame.kind == Kind::Data {
            self.frames.lock().sent_data();
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.frames.lock().abuse().is_some() {
            return Poll::Pending; // whoever polls looks at that next
        }
        if this.turn >= TURN_OCTETS {
            this.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let first = this.first.get(this.given..).unwrap_or_default();
        if first.is_empty() {
            match Pin::new(&mut this.io).poll_read(cx, buffer) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    this.turn = 0;
                    return Poll::Pending;
                }
            }
        } else {
            let count = first.len().min(buffer.remaining());
            buffer.put_slice(first.get(..count).unwrap_or_default());
            this.given += count;
            if this.given == this.first.len() {
                (this.first, this.given) = (Vec::new(), 0);
            }
        }
        let new = buffer.filled().get(before..).unwrap_or_default();
        this.turn += new.len();
        let mut watch = this.frames.lock();
        watch.came(new);
        if watch.abuse().is_some() {
            buffer.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, octets);
        if let Poll::Ready(Ok(count)) = written {
            self.wrote(octets.get(..count).unwrap_or_default());
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(count)) = written {
            let mut left = count;
            for slice in slices {
                let taken = left.min(slice.len());
                self.wrote(slice.get(..taken).unwrap_or_default());
                left -= taken;
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
