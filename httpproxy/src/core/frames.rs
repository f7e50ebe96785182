//! The frames of one side of an HTTP/2 connection, as they pass: counted, and looked at for what the
//! engine behind does not show.
//!
//! Nothing is held back or changed here. Who floods is told by [`Watch::abuse`], and a request with a
//! flaw by [`Watch::flaws_of`]; the shell acts on it before the octets are handed on.

mod scanner;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::bytes::is_padded;
use super::hpack::Hpack;
use crate::limits::{
    HTTP2_CONTINUATIONS_MAX, HTTP2_CONTROL_FRAMES_MAX, HTTP2_FLAWS_MAX, HTTP2_JUSTIFIED_MAX,
    HTTP2_RESETS_MAX, HTTP2_RESETS_WINDOW,
};
pub(crate) use scanner::{Frame, HEAD_OCTETS, Kind, Piece, Scanner};

/// How often [`Watch::tick`] is to be called.
pub(crate) const TICK: Duration = Duration::from_secs(5);

/// Whose frames they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The client's; they begin with the preface.
    Client,
    /// The server's.
    Server,
}

/// What is wrong with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abuse {
    /// More frames without content than streams justify.
    Control,
    /// Most of its streams are reset.
    Resets,
    /// A header block in too many frames.
    Continuations,
    /// A header block that can't be read: what follows can't be either.
    Block,
    /// More requests with flaws than are ever taken.
    Flaws,
    /// A header block that takes too long.
    Slow,
}

/// What is wrong with one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flaws {
    /// Its path has a fragment, which the engine cuts off.
    pub(crate) fragment: bool,
    /// Its trailers have a pseudo-header, which the engine leaves out, or a value with spaces around it.
    pub(crate) trailers: bool,
}

/// The watch over one side.
#[derive(Debug)]
pub(crate) struct Watch {
    side: Side,
    scanner: Scanner,
    table: Hpack,
    /// The header block that is coming, and in how many frames so far.
    block: Option<(Frame, Vec<u8>, u32)>,
    /// Ticks for which it has been coming.
    block_ticks: u32,
    /// The latest stream that the client has begun.
    highest: u32,
    flaws: BTreeMap<u32, Flaws>,
    /// Frames without content that streams justify, and those beyond.
    justified: u32,
    control: u32,
    /// Streams and resets of the last while.
    begun: u32,
    resets: u32,
    ticks: u32,
    /// Streams that a server has ended and nobody has forgotten.
    ended: BTreeSet<u32>,
    /// Streams that the engine ended since their requests can't be read, and nobody told yet; and those that
    /// somebody else is about to end in the same way, and tells.
    malformed: u32,
    told: u32,
    is_leaving: bool,
    abuse: Option<Abuse>,
}

impl Watch {
    pub(crate) fn new(side: Side) -> Self {
        Self {
            side,
            scanner: match side {
                Side::Client => Scanner::after_preface(),
                Side::Server => Scanner::default(),
            },
            table: Hpack::default(),
            block: None,
            block_ticks: 0,
            highest: 0,
            flaws: BTreeMap::new(),
            justified: 0,
            control: 0,
            begun: 0,
            resets: 0,
            ticks: 0,
            ended: BTreeSet::new(),
            malformed: 0,
            told: 0,
            is_leaving: false,
            abuse: None,
        }
    }

    /// Looks at what came.
    pub(crate) fn came(&mut self, mut octets: &[u8]) {
        while self.abuse.is_none()
            && let Some((frame, piece)) = self.scanner.next(&mut octets)
        {
            match piece {
                Piece::Begin => self.begin(frame),
                Piece::Payload(payload) => {
                    if let Some((_, block, _)) = &mut self.block {
                        block.extend_from_slice(payload);
                    }
                }
                Piece::End => self.end(frame),
            }
        }
    }

    /// Notes that a frame of content went the other way, which may be answered.
    pub(crate) fn sent_data(&mut self) {
        self.justify(2);
    }

    /// Notes that a stream was ended as malformed.
    pub(crate) fn sent_malformed(&mut self) {
        match self.told.checked_sub(1) {
            Some(told) => self.told = told,
            None => self.malformed += 1,
        }
    }

    /// Notes that one is about to be, which is told already.
    pub(crate) fn is_told(&mut self) {
        self.told += 1;
    }

    /// How many were that nobody told yet.
    pub(crate) fn take_malformed(&mut self) -> u32 {
        std::mem::take(&mut self.malformed)
    }

    /// Some time is over: [`TICK`] of it.
    pub(crate) fn tick(&mut self) {
        let tick = u32::try_from(TICK.as_secs()).unwrap_or(1);
        self.control = self
            .control
            .saturating_sub(HTTP2_CONTROL_FRAMES_MAX * tick / 10);
        self.ticks += 1;
        if u64::from(self.ticks) * TICK.as_secs() >= HTTP2_RESETS_WINDOW.as_secs() {
            (self.ticks, self.begun, self.resets) = (0, 0, 0);
        }
        self.block_ticks += u32::from(self.block.is_some());
        if self.block_ticks > 2 {
            self.abuse.get_or_insert(Abuse::Slow);
        }
    }

    /// Whether it must end, and why.
    pub(crate) const fn abuse(&self) -> Option<Abuse> {
        self.abuse
    }

    /// Whether this side has said that it takes no more streams.
    pub(crate) const fn is_leaving(&self) -> bool {
        self.is_leaving
    }

    /// What is wrong with the request of a stream, as far as it has come.
    pub(crate) fn flaws_of(&self, stream: u32) -> Flaws {
        self.flaws.get(&stream).copied().unwrap_or_default()
    }

    /// Whether a server has sent all of a response.
    pub(crate) fn has_ended(&self, stream: u32) -> bool {
        self.ended.contains(&stream)
    }

    /// A stream is over.
    pub(crate) fn forget(&mut self, stream: u32) {
        self.flaws.remove(&stream);
        self.ended.remove(&stream);
    }

    fn begin(&mut self, frame: Frame) {
        let has_end = matches!(frame.kind, Kind::Headers | Kind::Data) && frame.ends_stream();
        if self.side == Side::Server && has_end {
            self.ended.insert(frame.stream);
            if self.ended.len() > HTTP2_FLAWS_MAX {
                self.ended.pop_first(); // of a stream that was given up before
            }
        }
        match frame.kind {
            Kind::Headers => {
                self.begun += 1;
                self.justify(4);
                if self.side == Side::Client {
                    self.block = Some((frame, Vec::new(), 0));
                }
            }
            Kind::Continuation => {
                if let Some((_, _, count)) = &mut self.block {
                    *count += 1;
                    if *count > HTTP2_CONTINUATIONS_MAX {
                        self.abuse = Some(Abuse::Continuations);
                    }
                }
            }
            Kind::Data if frame.length > 0 || frame.ends_stream() => self.justify(1),
            Kind::Reset => {
                self.resets += 1;
                let is_most = self.resets > self.begun / 2;
                if self.side == Side::Client && self.resets > HTTP2_RESETS_MAX && is_most {
                    self.abuse = Some(Abuse::Resets);
                }
                self.spend();
            }
            Kind::GoAway => {
                self.is_leaving = true;
                self.spend();
            }
            Kind::Data | Kind::Settings | Kind::Ping | Kind::Other => self.spend(),
        }
    }

    fn end(&mut self, frame: Frame) {
        let is_block = matches!(frame.kind, Kind::Headers | Kind::Continuation);
        if !is_block || !frame.ends_headers() {
            return;
        }
        let Some((first, block, _)) = self.block.take() else {
            return;
        };
        self.block_ticks = 0;
        let is_trailers = first.stream <= self.highest;
        self.highest = self.highest.max(first.stream);
        let mut flaws = Flaws::default();
        // The fields are those of the first frame and of all that follow; what is put around them is
        // put around those of the first.
        let read = first.unpadded(&block).map(|block| {
            self.table.read(&block, |name, value| {
                flaws.trailers |= is_trailers && (name.starts_with(b":") || is_padded(value));
                flaws.fragment |= !is_trailers && name == b":path" && value.contains(&b'#');
            })
        });
        if !matches!(read, Some(Ok(()))) {
            self.abuse = Some(Abuse::Block);
        }
        if flaws != Flaws::default() {
            let mine = self.flaws.entry(first.stream).or_default();
            mine.fragment |= flaws.fragment;
            mine.trailers |= flaws.trailers;
            if self.flaws.len() > HTTP2_FLAWS_MAX {
                self.abuse = Some(Abuse::Flaws);
            }
        }
    }

    fn justify(&mut self, frames: u32) {
        self.justified = (self.justified + frames).min(HTTP2_JUSTIFIED_MAX);
    }

    fn spend(&mut self) {
        if self.justified > 0 {
            self.justified -= 1;
            return;
        }
        self.control += 1;
        if self.control > HTTP2_CONTROL_FRAMES_MAX {
            self.abuse = Some(Abuse::Control);
        }
    }
}

#[cfg(test)]
mod tests;
