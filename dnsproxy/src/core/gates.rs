//! The gates that a query passes before anything else looks at it, in a fixed order.

use fqdn::{Name, NameError};
use policy::{L4Protocol, Question};

use crate::limits::UDP_QUERY_OCTETS_MAX;
use crate::question::{Flags, HEADER_OCTETS, Header, NAME_OCTETS_MAX, RawQuestion, Rcode};
use crate::refuse::{DnssecOk, Ede, OPT_DO, OwnAnswer, Repeated, TYPE_OPT};
use crate::walk::Record;
use crate::words::words;

const CLASS_IN: u16 = 1;
const TYPE_SIG: u16 = 24;
const TYPE_TSIG: u16 = 250;
const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;
const TYPE_MAILB: u16 = 253;
const TYPE_MAILA: u16 = 254;
/// An OPT and a signature: the most that a stub sends.
const ADDITIONALS_MAX: u16 = 2;

words! {
    /// Why a query is refused before policy is asked.
    pub enum GateReason {
        /// Less than a header.
        Short = "short",
        /// QR=1: to answer an answer makes loops.
        NotAQuery = "not-a-query",
        /// QDCOUNT=1 and nothing behind the header.
        NoQuestion = "no-question",
        /// An opcode other than QUERY.
        Opcode = "opcode",
        /// QDCOUNT is not 1.
        Qdcount = "qdcount",
        /// Records in sections where a query has none, or more or others than OPT and a signature.
        Sections = "sections",
        /// A reserved label type.
        LabelType = "label-type",
        /// A compression pointer: no stub sends one.
        Pointer = "pointer",
        /// A name over 255 octets.
        NameLength = "name-length",
        /// The question or a record runs past the end.
        Truncated = "truncated",
        /// Bytes behind the last counted record: a covert channel.
        Trailing = "trailing",
        /// A class other than IN.
        Class = "class",
        /// A type that can't be asked for.
        Type = "type",
        /// A zone transfer.
        Transfer = "transfer",
        /// Two OPT records, or a malformed one.
        Opt = "opt",
        /// Over UDP, larger than any query needs.
        Size = "size",
    }
}

impl GateReason {
    /// What is answered; `None` is silence.
    #[must_use]
    pub const fn answer(self) -> Option<OwnAnswer> {
        let (rcode, ede) = match self {
            Self::Short | Self::NotAQuery => return None,
            Self::Opcode => (Rcode::NOT_IMP, None),
            Self::Class | Self::Transfer => (Rcode::REFUSED, Some(Ede::Prohibited)),
            Self::NoQuestion
            | Self::Qdcount
            | Self::Sections
            | Self::LabelType
            | Self::Pointer
            | Self::NameLength
            | Self::Truncated
            | Self::Trailing
            | Self::Type
            | Self::Opt
            | Self::Size => (Rcode::FORM_ERR, None),
        };
        Some(OwnAnswer { rcode, ede })
    }
}

/// A query that passed the gates.
#[derive(Debug)]
pub struct Query<'a> {
    /// What is asked.
    pub question: Question,
    /// The rest of the message.
    pub message: Message<'a>,
}

/// The message of a query, borrowed from the bytes that it was read from.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The whole of it.
    pub bytes: &'a [u8],
    /// The client's id.
    pub id: u16,
    /// The header's second word.
    pub flags: Flags,
    /// Where the question ends in `bytes`.
    pub question_end: usize,
    /// The OPT record, if there is one.
    pub opt: Option<Opt>,
    /// A TSIG or SIG(0) covers the message: nothing but the id may change.
    pub signed: bool,
}

/// What matters of an OPT record (RFC 6891 §6.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt {
    /// The size of UDP answer that the client takes.
    pub size: u16,
    /// The DO bit.
    pub dnssec_ok: DnssecOk,
    /// The EDNS version; what we don't know the server answers with BADVERS.
    pub version: u8,
    /// Where the size stands in the message.
    pub size_at: usize,
}

/// A query that failed a gate.
#[derive(Debug)]
pub struct Refusal<'a> {
    /// Which gate.
    pub reason: GateReason,
    /// The question, where it was read before the gate failed; such a query is an exchange with a
    /// record, any other is only counted.
    pub question: Option<Question>,
    /// What an answer repeats; `None` where there is no header.
    repeated: Option<Repeated<'a>>,
}

impl<'a> Message<'a> {
    /// What an answer of our own repeats from this query.
    #[must_use]
    pub fn repeated(&self) -> Repeated<'a> {
        Repeated {
            id: self.id,
            flags: self.flags,
            question: self
                .bytes
                .get(HEADER_OCTETS..self.question_end)
                .unwrap_or(&[]),
            opt: self.opt.map(|opt| opt.dnssec_ok),
        }
    }
}

impl<'a> Refusal<'a> {
    /// The answer and what it repeats; `None` is silence.
    #[must_use]
    pub fn answer(&self) -> Option<(Repeated<'a>, OwnAnswer)> {
        Some((self.repeated?, self.reason.answer()?))
    }
}

/// Judges the form of a query, in the order of the gates; the first that fails names the reason.
///
/// # Errors
/// If a gate fails.
pub fn gate_query(bytes: &[u8], transport: L4Protocol) -> Result<Query<'_>, Refusal<'_>> {
    let Some(header) = Header::read(bytes) else {
        return Err(Refusal {
            reason: GateReason::Short,
            question: None,
            repeated: None,
        });
    };
    gate_header(bytes, &header).map_err(|reason| refuse(bytes, &header, reason))?;
    read_query(bytes, &header, transport).map_err(|reason| refuse(bytes, &header, reason))
}

/// The gates that need nothing but the header.
fn gate_header(bytes: &[u8], header: &Header) -> Result<(), GateReason> {
    if header.flags.is_answer() {
        return Err(GateReason::NotAQuery);
    }
    if header.questions == 1 && bytes.len() == HEADER_OCTETS {
        return Err(GateReason::NoQuestion);
    }
    if header.flags.opcode() != 0 {
        return Err(GateReason::Opcode);
    }
    if header.questions != 1 {
        return Err(GateReason::Qdcount);
    }
    if header.answers > 0 || header.authorities > 0 || header.additionals > ADDITIONALS_MAX {
        return Err(GateReason::Sections);
    }
    Ok(())
}

/// The gates from the question on.
fn read_query<'a>(
    bytes: &'a [u8],
    header: &Header,
    transport: L4Protocol,
) -> Result<Query<'a>, GateReason> {
    let raw = RawQuestion::read(bytes).map_err(name_reason)?;
    let extras = Extras::read(bytes, raw.end, header.additionals)?;
    gate_type(&raw)?;
    if extras.opts > 1 {
        return Err(GateReason::Opt);
    }
    if transport != L4Protocol::Tcp && bytes.len() > UDP_QUERY_OCTETS_MAX {
        return Err(GateReason::Size);
    }
    Ok(Query {
        question: raw.to_question().map_err(name_reason)?,
        message: Message {
            bytes,
            id: header.id,
            flags: header.flags,
            question_end: raw.end,
            opt: extras.opt,
            signed: extras.signed,
        },
    })
}

fn gate_type(raw: &RawQuestion) -> Result<(), GateReason> {
    if raw.qclass != CLASS_IN {
        return Err(GateReason::Class);
    }
    match raw.qtype {
        0 | TYPE_OPT | TYPE_TSIG => Err(GateReason::Type),
        TYPE_IXFR | TYPE_AXFR | TYPE_MAILA | TYPE_MAILB => Err(GateReason::Transfer),
        _ => Ok(()),
    }
}

/// What stands behind the question of a query.
#[derive(Default)]
struct Extras {
    opt: Option<Opt>,
    opts: u16,
    signed: bool,
}

impl Extras {
    /// Reads `count` records at `at`, which must end where the message ends.
    fn read(bytes: &[u8], mut at: usize, count: u16) -> Result<Self, GateReason> {
        let mut extras = Self::default();
        for _ in 0..count {
            if extras.signed {
                return Err(GateReason::Sections); // a signature is the last record
            }
            at = extras.read_record(bytes, at)?;
        }
        if at < bytes.len() {
            return Err(GateReason::Trailing);
        }
        Ok(extras)
    }

    /// Reads one record; gives where it ends.
    fn read_record(&mut self, bytes: &[u8], at: usize) -> Result<usize, GateReason> {
        let mut owner = [0u8; NAME_OCTETS_MAX];
        let rest = bytes.get(at..).unwrap_or(&[]);
        let owner_len = Name::read_wire(rest, &mut owner).map_err(name_reason)?;
        let record =
            Record::after_owner(bytes, at + owner_len).map_err(|_| GateReason::Truncated)?;
        let is_root = owner_len == 1;
        match record.rtype {
            TYPE_OPT => {
                if !is_root || !has_whole_options(record.rdata) {
                    return Err(GateReason::Opt);
                }
                self.opts += 1;
                self.opt = Some(Opt::from_record(&record, at + owner_len));
            }
            TYPE_TSIG => self.signed = true,
            // SIG(0): covers no type (RFC 2931 §3).
            TYPE_SIG if is_root && record.rdata.starts_with(&[0, 0]) => self.signed = true,
            _ => return Err(GateReason::Sections),
        }
        Ok(record.end)
    }
}

impl Opt {
    fn from_record(record: &Record<'_>, type_at: usize) -> Self {
        let [_, version, f0, f1] = record.ttl_field.to_be_bytes();
        Self {
            size: record.class,
            dnssec_ok: DnssecOk(u16::from_be_bytes([f0, f1]) & OPT_DO != 0),
            version,
            size_at: type_at + 2,
        }
    }
}

/// Whether the options of an OPT fill its data exactly.
fn has_whole_options(mut rdata: &[u8]) -> bool {
    while let Some(([_, _, l0, l1], rest)) = rdata.split_first_chunk::<4>() {
        match rest.get(usize::from(u16::from_be_bytes([*l0, *l1]))..) {
            Some(next) => rdata = next,
            None => return false,
        }
    }
    rdata.is_empty()
}

const fn name_reason(error: NameError) -> GateReason {
    match error {
        NameError::LabelType(byte) if byte >= 0xC0 => GateReason::Pointer,
        NameError::LabelType(_) => GateReason::LabelType,
        NameError::TooLong => GateReason::NameLength,
        // The last two belong to text; no wire name gives them.
        NameError::Truncated | NameError::EmptyLabel | NameError::Text => GateReason::Truncated,
    }
}

/// Gathers what an error answer repeats, as far as the message can be read.
fn refuse<'a>(bytes: &'a [u8], header: &Header, reason: GateReason) -> Refusal<'a> {
    let raw = match header.questions {
        1 => RawQuestion::read(bytes).ok(),
        _ => None,
    };
    let extras_at = match (&raw, header.questions) {
        (Some(raw), _) => Some(raw.end),
        (None, 0) => Some(HEADER_OCTETS),
        (None, _) => None,
    };
    let question_end = raw.as_ref().map_or(HEADER_OCTETS, |raw| raw.end);
    let is_query = !header.flags.is_answer() && header.flags.opcode() == 0;
    Refusal {
        reason,
        question: raw
            .filter(|_| is_query)
            .and_then(|raw| raw.to_question().ok()),
        repeated: Some(Repeated {
            id: header.id,
            flags: header.flags,
            question: bytes.get(HEADER_OCTETS..question_end).unwrap_or(&[]),
            opt: extras_at.and_then(|at| find_opt(bytes, at, header)),
        }),
    }
}

/// Looks for an OPT in a query that is refused anyway; gives up at the first unreadable record.
fn find_opt(bytes: &[u8], mut at: usize, header: &Header) -> Option<DnssecOk> {
    let before = header.answers.saturating_add(header.authorities);
    for index in 0..before.saturating_add(header.additionals) {
        let mut owner = [0u8; NAME_OCTETS_MAX];
        let owner_len = Name::read_wire(bytes.get(at..)?, &mut owner).ok()?;
        let record = Record::after_owner(bytes, at + owner_len).ok()?;
        if record.rtype == TYPE_OPT && index >= before {
            return Some(Opt::from_record(&record, at + owner_len).dnssec_ok);
        }
        at = record.end;
    }
    None
}

#[cfg(test)]
mod tests;
