//! An upstream answer: is it the one that we wait for, and which addresses does it teach?

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use fqdn::{Name, Spelled};
use smallvec::SmallVec;

use crate::limits::{
    ADDRESSES_PER_ANSWER_MAX, ALIASES_PER_ANSWER_MAX, CHAIN_NAMES_MAX, RECORD_TYPES_TOLD_MAX,
};
use crate::question::{
    HEADER_OCTETS, Header, NAME_OCTETS_MAX, RawQuestion, Rcode, TYPE_CLASS_OCTETS,
};
use crate::refuse::TYPE_OPT;
use crate::walk::{Malformed, NameBuf, Record};
use crate::words::words;

const CLASS_IN: u16 = 1;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
pub(crate) const TYPE_AAAA: u16 = 28;
const TYPE_DNAME: u16 = 39;
pub(crate) const TYPE_SVCB: u16 = 64;
pub(crate) const TYPE_HTTPS: u16 = 65;
/// The TTL of the question's own name: it bounds nothing.
const NO_BOUND: u32 = u32::MAX;

words! {
    /// Why a message from upstream is not the answer to an outstanding query.
    pub enum Reject {
        /// Less than a header.
        Short = "short",
        /// QR=0.
        NotAnAnswer = "not-an-answer",
        /// An opcode other than QUERY.
        Opcode = "opcode",
        /// No outstanding query of that pool member has the id.
        Id = "id",
        /// It came from, or to, another address than the query's.
        Source = "source",
        /// It came after the deadline.
        Late = "late",
        /// Its question is not the one that was sent.
        Question = "question",
        /// Only the case of its question differs, and the option says that this counts.
        Case = "case",
    }
}

words! {
    /// Why no one can say which addresses a client would read out of an answer.
    pub enum Invalid {
        /// A name or a record of the answer section can't be read.
        Malformed = "invalid-answer",
        /// The chain of aliases is too long.
        Chain = "chain",
        /// More addresses than an answer may teach.
        TooMany = "too-many",
    }
}

/// What was sent upstream, as far as an answer must repeat it.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// The id on the upstream leg.
    pub id: u16,
    /// The question with type and class, case kept.
    pub question: &'a [u8],
}

/// How an answer repeats its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched {
    /// Byte for byte.
    Exact,
    /// In another case: some servers fold it.
    CaseChanged,
    /// Not at all: a header with an rcode and nothing else, as some servers refuse.
    HeaderOnly,
}

/// Whether a message is the answer to what was sent.
///
/// # Errors
/// If it is not; the exchange goes on waiting.
pub fn matches(sent: &Sent<'_>, bytes: &[u8]) -> Result<Matched, Reject> {
    let header = read_answer_header(bytes)?;
    if header.id != sent.id {
        return Err(Reject::Id);
    }
    if header.questions == 0 && header.answers == 0 && header.flags.rcode() != Rcode::NO_ERROR {
        return Ok(Matched::HeaderOnly);
    }
    let end = HEADER_OCTETS + sent.question.len();
    let question = bytes.get(HEADER_OCTETS..end).ok_or(Reject::Question)?;
    if header.questions != 1 {
        return Err(Reject::Question);
    }
    if question == sent.question {
        return Ok(Matched::Exact);
    }
    // Length bytes are below 0x40, so folding the whole name touches letters only.
    let name_len = sent.question.len().saturating_sub(TYPE_CLASS_OCTETS);
    let (name, tail) = question
        .split_at_checked(name_len)
        .ok_or(Reject::Question)?;
    let (sent_name, sent_tail) = sent
        .question
        .split_at_checked(name_len)
        .ok_or(Reject::Question)?;
    if tail == sent_tail && name.eq_ignore_ascii_case(sent_name) {
        return Ok(Matched::CaseChanged);
    }
    Err(Reject::Question)
}

/// The header, if it is an answer's to a plain query.
pub(crate) fn read_answer_header(bytes: &[u8]) -> Result<Header, Reject> {
    let header = Header::read(bytes).ok_or(Reject::Short)?;
    if !header.flags.is_answer() {
        return Err(Reject::NotAnAnswer);
    }
    if header.flags.opcode() != 0 {
        return Err(Reject::Opcode);
    }
    Ok(header)
}

/// One learned address and for how long it is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedAddr {
    /// The address.
    pub ip: IpAddr,
    /// The least TTL of the chain that leads to it and of its own record.
    pub ttl_secs: u32,
    /// How many of the answer's aliases, from the first on, the chain goes through until its record.
    pub chain_len: u8,
    /// It stands in no address record, but is a hint in one for a service.
    pub is_hint: bool,
}

/// The addresses of an answer; a few cost no allocation.
pub type Addresses = SmallVec<[LearnedAddr; 4]>;
/// The types of an answer's records; a few cost no allocation.
pub type RecordTypes = SmallVec<[u16; 8]>;

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its response code.
    pub rcode: Rcode,
    /// TC=1: what it has counts all the same, since some stubs use it.
    pub is_truncated: bool,
    /// The addresses of the question's name, each once; empty unless the rcode is NOERROR.
    pub addresses: Addresses,
    /// The names that the chain of CNAMEs and DNAMEs adds, in its order; whatever the rcode.
    pub aliases: Vec<ChainName>,
    /// The type of each answer record, in its order, as far as they are told.
    pub record_types: RecordTypes,
    /// The least TTL among A, AAAA and CNAME records; `None` without one.
    pub ttl_secs: Option<u32>,
}

/// A name that a chain adds, and how the server spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainName {
    /// The name.
    pub name: Name,
    /// In wire form; absent where it has no capitals.
    spelling: Option<Box<[u8]>>,
}

impl fmt::Display for ChainName {
    /// As the server spells it; for text only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spelling = self.spelling.as_deref();
        Spelled(spelling.unwrap_or(self.name.as_wire())).fmt(f)
    }
}

impl Answer {
    /// One without records.
    pub(crate) const fn bare(rcode: Rcode) -> Self {
        Self {
            rcode,
            is_truncated: false,
            addresses: Addresses::new_const(),
            aliases: Vec::new(),
            record_types: RecordTypes::new_const(),
            ttl_secs: None,
        }
    }
}

/// Reads the answer section of a message whose question matched. Authority and additional records
/// teach nothing, and faults in them are none of ours.
///
/// # Errors
/// If the answer section can't be read whole, or a bound is hit.
pub fn read_answer(bytes: &[u8]) -> Result<Answer, Invalid> {
    let header = Header::read(bytes).ok_or(Invalid::Malformed)?;
    let question = RawQuestion::read(bytes).map_err(|_| Invalid::Malformed)?;
    let section = Section {
        bytes,
        at: question.end,
        count: header.answers,
    };
    let survey = section.survey()?;
    let mut answer = Answer {
        is_truncated: header.flags.is_truncated(),
        record_types: survey.record_types,
        ttl_secs: survey.ttl_secs,
        ..Answer::bare(header.flags.rcode())
    };
    let chain = follow_all(question.name(), &survey.aliases);
    // Of an answer without success nothing is learned: there the chain is only told.
    let chain = match answer.rcode {
        Rcode::NO_ERROR => chain?,
        _ => chain.unwrap_or_default(),
    };
    if survey.has_addresses && answer.rcode == Rcode::NO_ERROR {
        answer.addresses = section.addresses(question.name(), &chain)?;
    }
    answer.aliases = chain.into_iter().map(|link| link.alias).collect();
    Ok(answer)
}

/// How long the server lets a connection be idle, if an answer says so (edns-tcp-keepalive, RFC 7828): in
/// its OPT record, which stands behind all that is read here.
pub(crate) fn keepalive(bytes: &[u8]) -> Option<Duration> {
    const OPTION: u16 = 11;
    const UNIT: Duration = Duration::from_millis(100);
    let header = Header::read(bytes)?;
    let before = usize::from(header.answers) + usize::from(header.authorities);
    let mut at = RawQuestion::read(bytes).ok()?.end;
    let mut owner = NameBuf::new();
    for index in 0..before + usize::from(header.additionals) {
        let record = Record::read(bytes, at, &mut owner).ok()?;
        at = record.end;
        if index < before || record.rtype != TYPE_OPT {
            continue;
        }
        let mut rest = record.rdata;
        while let Some(([c0, c1, l0, l1], behind)) = rest.split_first_chunk::<4>() {
            let len = usize::from(u16::from_be_bytes([*l0, *l1]));
            let (value, after) = behind.split_at_checked(len)?;
            if u16::from_be_bytes([*c0, *c1]) == OPTION {
                let units = <[u8; 2]>::try_from(value).ok()?;
                return Some(UNIT * u32::from(u16::from_be_bytes(units)));
            }
            rest = after;
        }
        return None;
    }
    None
}

/// The answer section of a message.
struct Section<'a> {
    bytes: &'a [u8],
    at: usize,
    count: u16,
}

/// What the first look at an answer section finds.
struct Survey {
    aliases: Vec<Alias>,
    has_addresses: bool,
    record_types: RecordTypes,
    ttl_secs: Option<u32>,
}

impl Survey {
    fn note(&mut self, record: &Record<'_>) {
        if self.record_types.len() < RECORD_TYPES_TOLD_MAX {
            self.record_types.push(record.rtype);
        }
        if matches!(record.rtype, TYPE_A | TYPE_AAAA | TYPE_CNAME) {
            let ttl_secs = record.ttl_secs();
            self.ttl_secs = Some(self.ttl_secs.map_or(ttl_secs, |least| least.min(ttl_secs)));
        }
    }
}

/// A CNAME or DNAME record.
struct Alias {
    is_dname: bool,
    owner: Name,
    target: ChainName,
    ttl_secs: u32,
}

/// A name that the chain adds, with the least TTL of the links that lead to it.
struct Link {
    alias: ChainName,
    ttl_secs: u32,
}

impl Section<'_> {
    /// Reads every record once: framing, sizes, aliases, and whether there is an address at all.
    fn survey(&self) -> Result<Survey, Invalid> {
        let mut survey = Survey {
            aliases: Vec::new(),
            has_addresses: false,
            record_types: RecordTypes::new(),
            ttl_secs: None,
        };
        self.for_each(|owner, record| {
            survey.note(record);
            match (record.rtype, record.rdata.len()) {
                (TYPE_A, 4) | (TYPE_AAAA, 16) => survey.has_addresses = true,
                (TYPE_A | TYPE_AAAA, _) => return Err(Invalid::Malformed),
                (TYPE_SVCB | TYPE_HTTPS, _) => survey.has_addresses = true,
                (TYPE_CNAME | TYPE_DNAME, _) if survey.aliases.len() >= ALIASES_PER_ANSWER_MAX => {
                    return Err(Invalid::Chain);
                }
                (TYPE_CNAME | TYPE_DNAME, _) => {
                    survey.aliases.push(Alias::read(self.bytes, owner, record)?);
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(survey)
    }

    /// The addresses whose owner is on the chain, each once with its smallest TTL.
    fn addresses(&self, name: &[u8], chain: &[Link]) -> Result<Addresses, Invalid> {
        let mut addresses = Addresses::new();
        self.for_each(|owner, record| {
            let Some((chain_len, bound)) = place_of(owner.as_wire(), name, chain) else {
                return Ok(());
            };
            let ttl_secs = record.ttl_secs().min(bound);
            let own = address(record).into_iter().map(|ip| (ip, false));
            for (ip, is_hint) in own.chain(hints(record).map(|ip| (ip, true))) {
                if addresses.len() >= ADDRESSES_PER_ANSWER_MAX {
                    return Err(Invalid::TooMany);
                }
                addresses.push(LearnedAddr {
                    ip,
                    ttl_secs,
                    chain_len,
                    is_hint,
                });
            }
            Ok(())
        })?;
        Ok(each_once(addresses))
    }

    /// Calls `visit` with each record of class IN; a record of another class is only stepped over.
    fn for_each(
        &self,
        mut visit: impl FnMut(&NameBuf, &Record<'_>) -> Result<(), Invalid>,
    ) -> Result<(), Invalid> {
        let mut owner = NameBuf::new();
        let mut at = self.at;
        for _ in 0..self.count {
            let record = Record::read(self.bytes, at, &mut owner)?;
            at = record.end;
            if record.class == CLASS_IN {
                visit(&owner, &record)?;
            }
        }
        Ok(())
    }
}

impl Alias {
    fn read(bytes: &[u8], owner: &NameBuf, record: &Record<'_>) -> Result<Self, Invalid> {
        let mut target = NameBuf::spelled();
        if target.read(bytes, record.rdata_at)? != record.end {
            return Err(Invalid::Malformed);
        }
        let name = to_name(target.as_wire())?;
        let is_spelled = name.as_wire() != target.as_wire();
        Ok(Self {
            is_dname: record.rtype == TYPE_DNAME,
            owner: to_name(owner.as_wire())?,
            target: ChainName {
                name,
                spelling: is_spelled.then(|| target.as_wire().into()),
            },
            ttl_secs: record.ttl_secs(),
        })
    }
}

/// Follows aliases from `name` to where none leads on, or to a name that was there before.
fn follow_all(name: &[u8], aliases: &[Alias]) -> Result<Vec<Link>, Invalid> {
    let mut chain: Vec<Link> = Vec::new();
    loop {
        let (current, bound) = chain.last().map_or((name, NO_BOUND), |link| {
            (link.alias.name.as_wire(), link.ttl_secs)
        });
        let Some((next, ttl_secs)) = follow(current, aliases) else {
            return Ok(chain);
        };
        let is_next = |link: &Link| link.alias.name == next.name;
        if next.name.as_wire() == name || chain.iter().any(is_next) {
            return Ok(chain);
        }
        if chain.len() >= CHAIN_NAMES_MAX {
            return Err(Invalid::Chain);
        }
        chain.push(Link {
            alias: next,
            ttl_secs: ttl_secs.min(bound),
        });
    }
}

/// Where one name leads: by its first CNAME, else by the closest DNAME above it (RFC 6672 §2.2).
fn follow(name: &[u8], aliases: &[Alias]) -> Option<(ChainName, u32)> {
    let cname = aliases
        .iter()
        .find(|alias| !alias.is_dname && alias.owner.as_wire() == name);
    if let Some(cname) = cname {
        return Some((cname.target.clone(), cname.ttl_secs));
    }
    let mut cut = 0usize;
    while let Some(len) = name.get(cut).copied().filter(|len| *len != 0) {
        cut += 1 + usize::from(len);
        let (below, suffix) = name.split_at_checked(cut)?;
        let dname = aliases
            .iter()
            .find(|alias| alias.is_dname && alias.owner.as_wire() == suffix);
        if let Some(dname) = dname {
            let target = dname.target.name.as_wire();
            let (name, _) = Name::from_wire(&[below, target].concat()).ok()?;
            let next = ChainName {
                name,
                spelling: None,
            };
            return Some((next, dname.ttl_secs));
        }
    }
    None
}

/// How many aliases lead to a name on the chain, and its TTL bound; `None` if it is not on it.
fn place_of(owner: &[u8], name: &[u8], chain: &[Link]) -> Option<(u8, u32)> {
    if owner == name {
        return Some((0, NO_BOUND));
    }
    let at = chain
        .iter()
        .position(|link| link.alias.name.as_wire() == owner)?;
    let link = chain.get(at)?;
    Some((u8::try_from(at + 1).ok()?, link.ttl_secs))
}

fn address(record: &Record<'_>) -> Option<IpAddr> {
    match record.rtype {
        TYPE_A => {
            let octets: [u8; 4] = record.rdata.try_into().ok()?;
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        }
        TYPE_AAAA => {
            let octets: [u8; 16] = record.rdata.try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        }
        _ => None,
    }
}

/// The addresses that an HTTPS or SVCB record hints at (RFC 9460 §7.3). One in alias mode has none, and of
/// one that can't be read whole no client takes any (§2.2).
fn hints<'a>(record: &Record<'a>) -> impl Iterator<Item = IpAddr> + use<'a> {
    let is_service = matches!(record.rtype, TYPE_SVCB | TYPE_HTTPS);
    let params = is_service.then(|| service_params(record.rdata)).flatten();
    let params = params.filter(|params| params.clone().all(|one| one.is_some()));
    let params = params.into_iter().flatten().flatten();
    params.flat_map(|(key, value)| {
        let width = match key {
            KEY_IPV4_HINT => 4,
            KEY_IPV6_HINT => 16,
            _ => usize::MAX,
        };
        value.chunks_exact(width).filter_map(|octets| {
            let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
                .ok()
        })
    })
}

const KEY_IPV4_HINT: u16 = 4;
const KEY_IPV6_HINT: u16 = 6;

/// The keys and values of such a record in service mode; `None` for one that can't be read, or whose length
/// isn't what its key calls for.
fn service_params(rdata: &[u8]) -> Option<impl Iterator<Item = Option<(u16, &[u8])>> + Clone> {
    let ([p0, p1], rest) = rdata.split_first_chunk::<2>()?;
    if [*p0, *p1] == [0, 0] {
        return None;
    }
    let mut target = [0u8; NAME_OCTETS_MAX];
    let target_len = Name::read_wire(rest, &mut target).ok()?;
    let mut rest = rest.get(target_len..)?;
    Some(std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let param = read_param(rest);
        rest = param.map_or(&[][..], |(_, _, after)| after);
        Some(param.map(|(key, value, _)| (key, value)))
    }))
}

/// A key, its value, and what is behind them.
fn read_param(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let ([k0, k1, l0, l1], rest) = bytes.split_first_chunk::<4>()?;
    let len = usize::from(u16::from_be_bytes([*l0, *l1]));
    let (value, after) = rest.split_at_checked(len)?;
    let key = u16::from_be_bytes([*k0, *k1]);
    let is_whole = match key {
        KEY_IPV4_HINT => len > 0 && len.is_multiple_of(4),
        KEY_IPV6_HINT => len > 0 && len.is_multiple_of(16),
        _ => true,
    };
    is_whole.then_some((key, value, after))
}

/// Leaves each address once, with its smallest TTL (RFC 2181 §5.2) and its longest chain, in the answer's
/// order.
fn each_once(addresses: Addresses) -> Addresses {
    const FEW: usize = 16;
    let is_new = |(at, learned): (usize, &LearnedAddr)| {
        let mut before = addresses.iter().take(at);
        before.all(|earlier| earlier.ip != learned.ip)
    };
    if addresses.len() <= FEW && addresses.iter().enumerate().all(is_new) {
        return addresses;
    }
    let mut order: Vec<(usize, LearnedAddr)> = addresses.iter().copied().enumerate().collect();
    order.sort_unstable_by_key(|(index, learned)| (learned.ip, *index));
    order.dedup_by(|(_, later), (_, kept)| {
        let is_same = later.ip == kept.ip;
        if is_same {
            kept.ttl_secs = kept.ttl_secs.min(later.ttl_secs);
            kept.chain_len = kept.chain_len.max(later.chain_len);
            kept.is_hint &= later.is_hint;
        }
        is_same
    });
    if order.len() == addresses.len() {
        return addresses;
    }
    order.sort_unstable_by_key(|(index, _)| *index);
    order.into_iter().map(|(_, learned)| learned).collect()
}

fn to_name(wire: &[u8]) -> Result<Name, Invalid> {
    Name::from_wire(wire)
        .map(|(name, _)| name)
        .map_err(|_| Invalid::Malformed)
}

impl From<Malformed> for Invalid {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

#[cfg(test)]
mod tests;
