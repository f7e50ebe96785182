//! Where frames begin and end (RFC 9113 §4.1): nine octets of each are read, the rest is counted.

/// Finds the frames in octets that come in any pieces.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// Octets of the preface that are still to come.
    preface: usize,
    head: [u8; HEAD_OCTETS],
    have: usize,
    /// The frame that is under way, and how much of its payload is still to come.
    frame: Option<(Frame, usize)>,
}

/// Octets of a frame's head (RFC 9113 §4.1).
pub(crate) const HEAD_OCTETS: usize = 9;
const PREFACE_OCTETS: usize = 24;

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    flags: u8,
    pub(crate) stream: u32,
    pub(crate) length: usize,
}

/// What a frame is for, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Headers,
    Reset,
    Settings,
    Ping,
    GoAway,
    Continuation,
    /// Priorities, windows, and what nobody knows.
    Other,
}

/// A part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'o> {
    Begin,
    /// Some of its payload.
    Payload(&'o [u8]),
    End,
}

impl Frame {
    fn read(head: [u8; HEAD_OCTETS]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = head;
        Self {
            kind: match kind {
                0 => Kind::Data,
                1 => Kind::Headers,
                3 => Kind::Reset,
                4 => Kind::Settings,
                6 => Kind::Ping,
                7 => Kind::GoAway,
                9 => Kind::Continuation,
                _ => Kind::Other,
            },
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
            length: u32::from_be_bytes([0, a, b, c]) as usize,
        }
    }

    /// Whether a server may begin its connection with it (RFC 9113 §3.4): SETTINGS, and short ones.
    pub(crate) const fn begins_connection(head: [u8; HEAD_OCTETS]) -> bool {
        matches!(head, [0, 0, _, 4, 0, 0, 0, 0, 0])
    }

    pub(crate) const fn ends_stream(self) -> bool {
        self.flags & 1 != 0
    }

    pub(crate) const fn ends_headers(self) -> bool {
        self.flags & 4 != 0
    }

    /// The fields in a block that began with this frame: without padding and priority, which stand
    /// around those of the first frame.
    pub(crate) fn unpadded(self, block: &[u8]) -> Option<Vec<u8>> {
        let (mut mine, others) = block.split_at_checked(self.length)?;
        let mut padding = 0;
        if self.flags & 8 != 0 {
            let (first, rest) = mine.split_first()?;
            (padding, mine) = (usize::from(*first), rest);
        }
        if self.flags & 0x20 != 0 {
            mine = mine.get(5..)?;
        }
        let mine = mine.get(..mine.len().checked_sub(padding)?)?;
        Some([mine, others].concat())
    }
}

impl Scanner {
    /// For the frames of a client.
    pub(crate) fn after_preface() -> Self {
        Self {
            preface: PREFACE_OCTETS,
            ..Self::default()
        }
    }

    /// The next part of a frame in these octets, which are taken.
    pub(crate) fn next<'o>(&mut self, octets: &mut &'o [u8]) -> Option<(Frame, Piece<'o>)> {
        let skipped = self.preface.min(octets.len());
        self.preface -= skipped;
        take(octets, skipped);
        if let Some((frame, left)) = self.frame {
            if left == 0 {
                self.frame = None;
                return Some((frame, Piece::End));
            }
            let taken = take(octets, left);
            self.frame = Some((frame, left - taken.len()));
            return (!taken.is_empty()).then_some((frame, Piece::Payload(taken)));
        }
        let taken = take(octets, HEAD_OCTETS - self.have);
        for (to, from) in self.head.iter_mut().skip(self.have).zip(taken) {
            *to = *from;
        }
        self.have += taken.len();
        if self.have < HEAD_OCTETS {
            return None;
        }
        self.have = 0;
        let frame = Frame::read(self.head);
        self.frame = Some((frame, frame.length));
        Some((frame, Piece::Begin))
    }
}

fn take<'o>(octets: &mut &'o [u8], most: usize) -> &'o [u8] {
    let (taken, rest) = octets.split_at(most.min(octets.len()));
    *octets = rest;
    taken
}
