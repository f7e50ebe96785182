//! Answers of our own: errors, denials, faults, and the TC=1 that stands for a long answer.

use crate::question::{Flags, Rcode};

/// OPT's type (RFC 6891 §6.1.2).
pub(crate) const TYPE_OPT: u16 = 41;
/// The payload size that our own answers announce.
const OPT_PAYLOAD_OCTETS: u16 = 1232;
/// DO in the flags of an OPT.
pub(crate) const OPT_DO: u16 = 0x8000;
/// The EDNS option that carries an extended error (RFC 8914 §2).
const OPTION_EDE: u16 = 15;

/// What an answer repeats from its query.
#[derive(Clone, Copy, Debug)]
pub struct Repeated<'a> {
    /// The client's id.
    pub id: u16,
    /// The query's flags, of which opcode and RD are copied.
    pub flags: Flags,
    /// The question with type and class, as the client wrote it; empty if it did not parse whole.
    pub question: &'a [u8],
    /// The DO bit, if the query had an OPT; without one the answer has none either.
    pub opt: Option<DnssecOk>,
}

/// The DO bit of an OPT: whether the client wants DNSSEC records (RFC 3225).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnssecOk(pub bool);

/// What an answer of our own says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAnswer {
    /// The response code.
    pub rcode: Rcode,
    /// Why, for clients that speak EDNS.
    pub ede: Option<Ede>,
}

/// An extended error (RFC 8914) with a text that names no rule and no tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ede {
    /// 14: starting, or a limit is reached.
    NotReady,
    /// 17: policy lets the name exist for nobody here.
    Filtered,
    /// 18: policy refuses.
    Prohibited,
    /// 22: the server did not answer in time.
    NoReachableAuthority,
    /// 23: the server can't be reached.
    NetworkError,
    /// 24: the server's answer failed our gates.
    InvalidData,
}

impl Ede {
    /// The INFO-CODE.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::NotReady => 14,
            Self::Filtered => 17,
            Self::Prohibited => 18,
            Self::NoReachableAuthority => 22,
            Self::NetworkError => 23,
            Self::InvalidData => 24,
        }
    }

    /// The EXTRA-TEXT: at most 44 octets, so that the answer grows by no more than 50.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotReady => "gate not ready",
            Self::Filtered | Self::Prohibited => "denied by network policy",
            Self::NoReachableAuthority => "server did not answer",
            Self::NetworkError => "server unreachable",
            Self::InvalidData => "server sent an invalid answer",
        }
    }
}

/// Appends an answer of our own to `out`.
pub fn write_answer(repeated: &Repeated<'_>, answer: OwnAnswer, out: &mut Vec<u8>) {
    let flags = repeated.flags.to_answer(answer.rcode);
    write(repeated, flags, answer.ede, out);
}

/// Appends an answer with TC=1 and nothing but the question: the client asks again over TCP.
pub fn write_truncated(repeated: &Repeated<'_>, rcode: Rcode, out: &mut Vec<u8>) {
    let flags = repeated.flags.to_answer(rcode).with_truncated();
    write(repeated, flags, None, out);
}

fn write(repeated: &Repeated<'_>, flags: Flags, ede: Option<Ede>, out: &mut Vec<u8>) {
    let questions = u16::from(!repeated.question.is_empty());
    let additionals = u16::from(repeated.opt.is_some());
    for word in [repeated.id, flags.bits(), questions, 0, 0, additionals] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(repeated.question);
    if let Some(dnssec_ok) = repeated.opt {
        write_opt(dnssec_ok, ede, out);
    }
}

/// Appends an OPT: root owner, our payload size, version 0, DO as asked, and the error if any.
pub(crate) fn write_opt(dnssec_ok: DnssecOk, ede: Option<Ede>, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&TYPE_OPT.to_be_bytes());
    out.extend_from_slice(&OPT_PAYLOAD_OCTETS.to_be_bytes());
    let flags = if dnssec_ok.0 { OPT_DO } else { 0 };
    out.extend_from_slice(&[0, 0]); // extended rcode, version
    out.extend_from_slice(&flags.to_be_bytes());
    let Some(ede) = ede else {
        out.extend_from_slice(&[0, 0]);
        return;
    };
    let text = ede.text().as_bytes();
    let option_len = 2 + u16::try_from(text.len()).unwrap_or(0);
    for word in [4 + option_len, OPTION_EDE, option_len, ede.code()] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::{DnssecOk, Ede, OwnAnswer, Repeated, write_answer};
    use crate::limits::OWN_ANSWER_GROWTH_MAX;
    use crate::question::{Flags, Rcode};

    const ALL: [Ede; 6] = [
        Ede::NotReady,
        Ede::Filtered,
        Ede::Prohibited,
        Ede::NoReachableAuthority,
        Ede::NetworkError,
        Ede::InvalidData,
    ];

    #[test]
    fn an_extended_error_is_read_by_hickory_and_fits_the_growth() {
        for (ede, dnssec_ok) in ALL.into_iter().flat_map(|ede| [(ede, true), (ede, false)]) {
            let repeated = Repeated {
                id: 7,
                flags: Flags::from_bits(0x0110),
                question: b"\x01a\0\0\x01\0\x01",
                opt: Some(DnssecOk(dnssec_ok)),
            };
            let (rcode, ede) = (Rcode::NX_DOMAIN, Some(ede));
            let mut out = Vec::new();
            write_answer(&repeated, OwnAnswer { rcode, ede }, &mut out);
            let query_octets = 12 + repeated.question.len() + 11;
            assert!(out.len() <= query_octets + OWN_ANSWER_GROWTH_MAX);
            let theirs = hickory_proto::op::Message::from_vec(&out).unwrap();
            let edns = theirs.edns.unwrap();
            assert_eq!((edns.max_payload(), edns.version()), (1232, 0));
            assert_eq!(edns.flags().dnssec_ok, dnssec_ok);
            assert!(!theirs.metadata.checking_disabled && theirs.metadata.recursion_available);
        }
    }
}
