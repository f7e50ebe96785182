//! Header and question, read in place from raw bytes without allocating.

use std::fmt;

use fqdn::{Name, NameError};
use policy::Question;

/// Octets of the header (RFC 1035 §4.1.1).
pub const HEADER_OCTETS: usize = 12;
/// The longest name on the wire.
pub(crate) const NAME_OCTETS_MAX: usize = 255;
/// QTYPE and QCLASS.
pub(crate) const TYPE_CLASS_OCTETS: usize = 4;

/// A response code as the header carries it, four bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rcode(u8);

impl Rcode {
    /// No error.
    pub const NO_ERROR: Self = Self(0);
    /// The query could not be read.
    pub const FORM_ERR: Self = Self(1);
    /// A fault, not a decision.
    pub const SERV_FAIL: Self = Self(2);
    /// The name does not exist.
    pub const NX_DOMAIN: Self = Self(3);
    /// The opcode is not implemented.
    pub const NOT_IMP: Self = Self(4);
    /// Refused by policy.
    pub const REFUSED: Self = Self(5);

    /// The number, 0 to 15.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rcode({})", self.0)
    }
}

/// The second word of the header: QR, opcode, bits and rcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    const QR: u16 = 0x8000;
    const OPCODE: u16 = 0x7800;
    const TC: u16 = 0x0200;
    const RD: u16 = 0x0100;
    const RA: u16 = 0x0080;
    const CD: u16 = 0x0010;

    /// The flags with these bits.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// QR: an answer, not a query.
    #[must_use]
    pub const fn is_answer(self) -> bool {
        self.0 & Self::QR != 0
    }

    /// The opcode, 0 for a plain query.
    #[must_use]
    pub const fn opcode(self) -> u8 {
        ((self.0 & Self::OPCODE) >> 11) as u8
    }

    /// TC: the message was cut.
    #[must_use]
    pub const fn is_truncated(self) -> bool {
        self.0 & Self::TC != 0
    }

    /// The response code.
    #[must_use]
    pub const fn rcode(self) -> Rcode {
        Rcode((self.0 & 0x000f) as u8)
    }

    /// The flags of an answer of our own to a query with these: QR, opcode and RD copied, RA set,
    /// AA, AD and CD clear.
    #[must_use]
    pub const fn to_answer(self, rcode: Rcode) -> Self {
        let copied = self.0 & (Self::OPCODE | Self::RD);
        Self(Self::QR | copied | Self::RA | rcode.0 as u16)
    }

    /// Those of a query that say something of the question: RD and CD.
    #[must_use]
    pub const fn scrubbed(self) -> Self {
        Self(self.0 & (Self::RD | Self::CD))
    }

    /// The same with TC set.
    #[must_use]
    pub const fn with_truncated(self) -> Self {
        Self(self.0 | Self::TC)
    }
}

/// The twelve bytes that every message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The id that an answer repeats.
    pub id: u16,
    /// QR, opcode, bits, rcode.
    pub flags: Flags,
    /// QDCOUNT.
    pub questions: u16,
    /// ANCOUNT.
    pub answers: u16,
    /// NSCOUNT.
    pub authorities: u16,
    /// ARCOUNT.
    pub additionals: u16,
}

impl Header {
    /// Reads the header, if the bytes are enough for one.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [i0, i1, f0, f1, q0, q1, a0, a1, n0, n1, r0, r1] =
            *bytes.first_chunk::<HEADER_OCTETS>()?;
        Some(Self {
            id: u16::from_be_bytes([i0, i1]),
            flags: Flags(u16::from_be_bytes([f0, f1])),
            questions: u16::from_be_bytes([q0, q1]),
            answers: u16::from_be_bytes([a0, a1]),
            authorities: u16::from_be_bytes([n0, n1]),
            additionals: u16::from_be_bytes([r0, r1]),
        })
    }
}

/// A question on the stack: the name lower-cased, not yet a [`Name`].
pub struct RawQuestion {
    octets: [u8; NAME_OCTETS_MAX],
    name_len: usize,
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub qclass: u16,
    /// Where the question ends in the message.
    pub end: usize,
}

impl RawQuestion {
    /// Reads the first question of a message, which no pointer may shorten: there is nothing before
    /// it but the header.
    ///
    /// # Errors
    /// As [`Name::from_wire`]; a missing type or class is `Truncated` too.
    pub fn read(bytes: &[u8]) -> Result<Self, NameError> {
        let rest = bytes.get(HEADER_OCTETS..).ok_or(NameError::Truncated)?;
        let mut octets = [0u8; NAME_OCTETS_MAX];
        let name_len = Name::read_wire(rest, &mut octets)?;
        let tail = rest.get(name_len..).unwrap_or(&[]);
        let [t0, t1, c0, c1] = *tail
            .first_chunk::<TYPE_CLASS_OCTETS>()
            .ok_or(NameError::Truncated)?;
        Ok(Self {
            octets,
            name_len,
            qtype: u16::from_be_bytes([t0, t1]),
            qclass: u16::from_be_bytes([c0, c1]),
            end: HEADER_OCTETS + name_len + TYPE_CLASS_OCTETS,
        })
    }

    /// The name in wire form, lower-cased.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.octets.get(..self.name_len).unwrap_or(&[])
    }

    /// The question as policy judges it.
    ///
    /// # Errors
    /// Never for a question that was read; the type has no other way to say so.
    pub fn to_question(&self) -> Result<Question, NameError> {
        let (name, _) = Name::from_wire(self.name())?;
        Ok(Question {
            name,
            qtype: self.qtype,
            qclass: self.qclass,
        })
    }
}

impl fmt::Debug for RawQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawQuestion")
            .field("name", &self.name().escape_ascii().to_string())
            .field("qtype", &self.qtype)
            .field("qclass", &self.qclass)
            .finish_non_exhaustive()
    }
}
