//! Messages, octet by octet.

/// What an answer says, beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// These addresses, by their last octet, with their TTLs; perhaps behind an alias.
    Addresses(Vec<(u8, u32)>),
    /// No address of the question's name.
    Nothing,
    /// An rcode and no question.
    Header,
    /// What nobody can read.
    Unreadable,
}

const HEADER: usize = 12;
const A: u16 = 1;
const CNAME: u16 = 5;
const OPT: u16 = 41;
/// A pointer to the question's name.
const QNAME: [u8; 2] = [0xc0, 0x0c];
/// The flags of an answer: QR, RD and RA.
const ANSWER: u16 = 0x8180;
pub(super) const NO_ERROR: u8 = 0;
pub(super) const SERV_FAIL: u8 = 2;
pub(super) const NX_DOMAIN: u8 = 3;
pub(super) const REFUSED: u8 = 5;

fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| {
        let len = u8::try_from(label.len()).unwrap();
        std::iter::once(len).chain(label.bytes())
    });
    labels.chain([0]).collect()
}

/// A query for an A record that takes answers of `size` octets, if it says so.
pub(super) fn query(id: u16, name: &str, size: Option<u16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [id, 0x0100, 1, 0, 0, u16::from(size.is_some())] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(wire(name));
    bytes.extend([A, 1].map(u16::to_be_bytes).as_flattened());
    if let Some(size) = size {
        bytes.push(0);
        bytes.extend([OPT, size, 0, 0, 0].map(u16::to_be_bytes).as_flattened());
    }
    bytes
}

/// The question of a message, with type and class.
pub(super) fn question(message: &[u8]) -> &[u8] {
    let mut end = HEADER;
    while message[end] != 0 {
        end += 1 + usize::from(message[end]);
    }
    &message[HEADER..end + 5]
}

pub(super) fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

pub(super) fn with_id(message: &[u8], id: u16) -> Vec<u8> {
    [&id.to_be_bytes(), &message[2..]].concat()
}

pub(super) fn rcode(message: &[u8]) -> u8 {
    message[3] & 15
}

pub(super) fn is_cut(message: &[u8]) -> bool {
    message[2] & 2 != 0
}

/// Whether a query has an OPT.
pub(super) fn has_opt(query: &[u8]) -> bool {
    query[11] != 0
}

/// How many answers there are.
pub(super) fn answers(message: &[u8]) -> u8 {
    message[7]
}

/// An answer under construction.
pub(super) struct Answer(pub(super) Vec<u8>);

impl Answer {
    /// To a query, with its id and question.
    pub(super) fn to(query: &[u8], rcode: u8) -> Self {
        let question = question(query);
        Self::with(query, (rcode, 1), question)
    }

    /// A header and nothing else.
    pub(super) fn header(query: &[u8], rcode: u8) -> Self {
        Self::with(query, (rcode, 0), &[])
    }

    fn with(query: &[u8], (rcode, questions): (u8, u16), question: &[u8]) -> Self {
        let mut bytes = Vec::new();
        let flags = ANSWER | u16::from(rcode);
        for word in [id(query), flags, questions, 0, 0, 0] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(question);
        Self(bytes)
    }

    fn record(mut self, owner: &[u8], rtype: u16, (ttl, rdata): (u32, &[u8])) -> Self {
        self.0.extend(owner);
        self.0
            .extend([rtype, 1].map(u16::to_be_bytes).as_flattened());
        self.0.extend(ttl.to_be_bytes());
        self.0
            .extend(u16::try_from(rdata.len()).unwrap().to_be_bytes());
        self.0.extend(rdata);
        self.0[7] += 1;
        self
    }

    /// An address of the question's name.
    pub(super) fn address(self, ip: [u8; 4], ttl: u32) -> Self {
        self.record(&QNAME, A, (ttl, &ip))
    }

    /// An address of another name.
    pub(super) fn address_of(self, name: &str, (ip, ttl): ([u8; 4], u32)) -> Self {
        self.record(&wire(name), A, (ttl, &ip))
    }

    pub(super) fn alias(self, target: &str, ttl: u32) -> Self {
        self.record(&QNAME, CNAME, (ttl, &wire(target)))
    }

    /// An address that isn't one.
    pub(super) fn odd_address(self) -> Self {
        self.record(&QNAME, A, (1, &[198, 51, 100, 1, 0]))
    }

    pub(super) fn truncated(mut self) -> Self {
        self.0[2] |= 2;
        self
    }
}
