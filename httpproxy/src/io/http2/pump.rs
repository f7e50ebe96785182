//! One direction of a stream: content from one side's engine to the other's.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;

use super::watched::Frames;
use crate::core::h2::trailers;

/// One direction.
///
/// Content is taken from the engine as it comes, so that it never has many small frames to hold; but the
/// sender's window is opened again only by what the other side has taken. So no more is held than one
/// window, [`HTTP2_STREAM_WINDOW_OCTETS`](crate::limits::HTTP2_STREAM_WINDOW_OCTETS).
pub(super) struct Pump {
    from: RecvStream,
    to: SendStream<Bytes>,
    held: BytesMut,
    /// What comes after the content, once all of that was read.
    end: Option<Option<HeaderMap>>,
    /// Everything was handed on, or nothing more is to be.
    pub(super) is_over: bool,
    pub(super) moved: u64,
    /// Who watched the sender, and the number of the stream there.
    watched: (Frames, u32),
}

/// Why a direction goes no further.
pub(super) enum Broken {
    /// The sender's stream is no more.
    From(h2::Error),
    /// Its trailers are none.
    Trailers,
    /// The receiver's stream is no more, and why.
    To(Reason),
}

impl Pump {
    /// From a sender's stream, of this number and under this watch.
    pub(super) fn new(from: RecvStream, to: SendStream<Bytes>, watched: (Frames, u32)) -> Self {
        Self {
            from,
            to,
            held: BytesMut::new(),
            end: None,
            is_over: false,
            moved: 0,
            watched,
        }
    }

    /// Resets the receiver's stream.
    pub(super) fn reset(&mut self, reason: Reason) {
        self.is_over = true;
        self.to.send_reset(reason);
    }

    /// Moves what can be moved.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.is_over {
            return Poll::Ready(Ok(()));
        }
        loop {
            self.fill(cx)?;
            if self.is_over {
                return Poll::Ready(Ok(()));
            }
            if self.held.is_empty() {
                let Some(end) = self.end.take() else {
                    return self.wait(cx);
                };
                self.is_over = true;
                let sent = match end {
                    Some(trailers) => self.to.send_trailers(trailers),
                    None => self.to.send_data(Bytes::new(), true),
                };
                return Poll::Ready(sent.map_err(|_| Broken::To(Reason::CANCEL)));
            }
            self.to.reserve_capacity(self.held.len());
            let room = self.to.capacity().min(self.held.len());
            if room == 0 {
                match self.to.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(Some(Err(_)) | None) => {
                        let reason = self.wait(cx);
                        return match reason {
                            Poll::Pending => Poll::Ready(Err(Broken::To(Reason::CANCEL))),
                            broken => broken,
                        };
                    }
                    Poll::Pending => return self.wait(cx),
                }
            }
            let is_last = room == self.held.len() && matches!(self.end, Some(None));
            let octets = self.held.split_to(room).freeze();
            self.send(octets, is_last)?;
            if is_last {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes what came.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        while self.end.is_none() {
            match self.from.poll_data(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Err(error))) if self.is_whole(&error) => self.end = Some(None),
                Poll::Ready(Some(Err(error))) => return Err(Broken::From(error)),
                Poll::Ready(Some(Ok(octets))) => {
                    let is_end = self.from.is_end_stream();
                    if is_end {
                        self.end = Some(None);
                    }
                    self.take(octets)?;
                }
                Poll::Ready(None) => match self.from.poll_trailers(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Err(error)) => return Err(Broken::From(error)),
                    Poll::Ready(Ok(None)) => self.end = Some(None),
                    Poll::Ready(Ok(Some(fields))) => {
                        let (frames, stream) = &self.watched;
                        if frames.lock().flaws_of(*stream).trailers {
                            return Err(Broken::Trailers);
                        }
                        self.end = Some(Some(trailers(fields).ok_or(Broken::Trailers)?));
                    }
                },
            }
        }
        Ok(())
    }

    /// Whether all had come before the sender reset its stream, which says that it wants no more of the
    /// other direction (RFC 9113 §8.1).
    fn is_whole(&self, error: &h2::Error) -> bool {
        let (frames, stream) = &self.watched;
        let is_early = error.is_reset() && error.is_remote();
        is_early && error.reason() == Some(Reason::NO_ERROR) && frames.lock().has_ended(*stream)
    }

    /// Hands on at once what there is room for, else holds it.
    fn take(&mut self, octets: Bytes) -> Result<(), Broken> {
        if octets.is_empty() {
            return Ok(());
        }
        if self.held.is_empty() {
            self.to.reserve_capacity(octets.len());
            if self.to.capacity() >= octets.len() {
                let is_last = matches!(self.end, Some(None));
                return self.send(octets, is_last);
            }
        }
        // A copy: a slice of one octet would keep the whole read alive.
        self.held.extend_from_slice(&octets);
        Ok(())
    }

    fn send(&mut self, octets: Bytes, is_last: bool) -> Result<(), Broken> {
        let count = octets.len();
        self.to
            .send_data(octets, is_last)
            .map_err(|_| Broken::To(Reason::CANCEL))?;
        self.is_over |= is_last;
        self.moved += count as u64;
        // What has failed shows at the next read.
        let _ = self.from.flow_control().release_capacity(count);
        Ok(())
    }

    /// Nothing can be moved; but the receiver may be gone.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self.to.poll_reset(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(reason)) => Poll::Ready(Err(Broken::To(reason))),
            Poll::Ready(Err(_)) => Poll::Ready(Err(Broken::To(Reason::CANCEL))),
        }
    }
}
