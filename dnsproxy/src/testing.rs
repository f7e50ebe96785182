//! What the tests share: messages built octet by octet, permits, random numbers that repeat, the corpus.

use std::fs;
use std::path::{Path, PathBuf};

use policy::{
    Cast, Compiler, DnsPermit, Identities, Labels, LocalEndpoint, Options, Question, Source,
    Workload,
};

use crate::core::step::Origin;

pub(crate) const A: u16 = 1;
pub(crate) const CNAME: u16 = 5;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
pub(crate) const DNAME: u16 = 39;
pub(crate) const OPT: u16 = 41;
pub(crate) const TSIG: u16 = 250;
pub(crate) const IN: u16 = 1;
/// A pointer to the question's name.
pub(crate) const QNAME: [u8; 2] = [0xC0, 0x0C];

/// A name on the wire, case kept; labels are what stands between dots.
pub(crate) fn wire(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// A message under construction; counts follow what is added.
#[derive(Clone)]
pub(crate) struct Draft(pub(crate) Vec<u8>);

impl Draft {
    /// A query with RD and one question.
    pub(crate) fn query(id: u16, name: &str, qtype: u16) -> Self {
        Self::empty(id, 0x0100).question(&wire(name), qtype, IN)
    }

    /// An answer with QR, RD and RA, and one question.
    pub(crate) fn answer(id: u16, name: &str, qtype: u16) -> Self {
        Self::empty(id, 0x8180).question(&wire(name), qtype, IN)
    }

    /// A header without records.
    pub(crate) fn empty(id: u16, flags: u16) -> Self {
        let mut bytes = Vec::new();
        for word in [id, flags, 0, 0, 0, 0] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        Self(bytes)
    }

    pub(crate) fn question(mut self, name: &[u8], qtype: u16, qclass: u16) -> Self {
        self.0.extend_from_slice(name);
        self.0.extend_from_slice(&qtype.to_be_bytes());
        self.0.extend_from_slice(&qclass.to_be_bytes());
        self.counted(4)
    }

    /// A record of class IN in the answer section.
    #[expect(clippy::too_many_arguments, reason = "the fields of a record")]
    pub(crate) fn record(self, owner: &[u8], rtype: u16, ttl: u32, rdata: &[u8]) -> Self {
        self.raw_record(owner, [rtype, IN], ttl, rdata).counted(6)
    }

    /// An A or AAAA record of the question's name.
    pub(crate) fn address(self, ttl: u32, ip: &str) -> Self {
        self.address_of(&QNAME, ttl, ip)
    }

    /// An A or AAAA record.
    pub(crate) fn address_of(self, owner: &[u8], ttl: u32, ip: &str) -> Self {
        match ip.parse().unwrap() {
            std::net::IpAddr::V4(v4) => self.record(owner, A, ttl, &v4.octets()),
            std::net::IpAddr::V6(v6) => self.record(owner, AAAA, ttl, &v6.octets()),
        }
    }

    pub(crate) fn cname(self, owner: &str, ttl: u32, target: &str) -> Self {
        self.record(&wire(owner), CNAME, ttl, &wire(target))
    }

    /// An OPT with this size, DO bit and options.
    pub(crate) fn opt(self, size: u16, dnssec_ok: bool, options: &[u8]) -> Self {
        let flags = if dnssec_ok { 0x8000 } else { 0 };
        self.raw_record(&[0], [OPT, size], flags, options)
            .counted(10)
    }

    /// A record in the additional section.
    pub(crate) fn additional(self, owner: &[u8], rtype: u16, rdata: &[u8]) -> Self {
        self.raw_record(owner, [rtype, IN], 0, rdata).counted(10)
    }

    /// A record in no section: the caller sets a count.
    #[expect(clippy::too_many_arguments, reason = "the fields of a record")]
    pub(crate) fn raw_record(
        mut self,
        owner: &[u8],
        [rtype, class]: [u16; 2],
        ttl: u32,
        rdata: &[u8],
    ) -> Self {
        self.0.extend_from_slice(owner);
        self.0.extend_from_slice(&rtype.to_be_bytes());
        self.0.extend_from_slice(&class.to_be_bytes());
        self.0.extend_from_slice(&ttl.to_be_bytes());
        let len = u16::try_from(rdata.len()).unwrap();
        self.0.extend_from_slice(&len.to_be_bytes());
        self.0.extend_from_slice(rdata);
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Overwrites a word of the header.
    pub(crate) fn with(mut self, at: usize, word: u16) -> Self {
        self.0[at..at + 2].copy_from_slice(&word.to_be_bytes());
        self
    }

    fn counted(self, at: usize) -> Self {
        let count = u16::from_be_bytes([self.0[at], self.0[at + 1]]);
        self.with(at, count + 1)
    }
}

/// Random numbers that repeat: xorshift64.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(sides).unwrap()).unwrap()
    }

    /// Changes, cuts, or puts in a few octets.
    pub(crate) fn mutate(&mut self, bytes: &mut Vec<u8>) {
        const TELLING: [u8; 8] = [0x00, 0x01, 0x3F, 0x40, 0x80, 0xC0, 0xFF, 0x0C];
        for _ in 0..=self.roll(3) {
            let at = self.roll(bytes.len());
            match self.roll(5) {
                0 => bytes[at] = TELLING[self.roll(TELLING.len())],
                1 => bytes[at] ^= 1 << self.roll(8),
                2 => bytes.truncate(at.max(1)),
                3 => bytes.insert(at, TELLING[self.roll(TELLING.len())]),
                _ => bytes[at] = u8::try_from(self.roll(256)).unwrap(),
            }
        }
    }
}

pub(crate) fn corpus_dir(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target)
}

/// Asserts that the committed corpus has these cases; writes those that it has not, and fails.
pub(crate) fn check_corpus<'a>(target: &str, cases: impl IntoIterator<Item = (&'a str, &'a [u8])>) {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let mut written = Vec::new();
    for (case, bytes) in cases {
        let path = corpus_dir(target).join(case.chars().map(word).collect::<String>());
        if fs::read(&path).is_ok_and(|committed| committed == bytes) {
            continue;
        }
        fs::create_dir_all(corpus_dir(target)).unwrap();
        fs::write(&path, bytes).unwrap();
        written.push(path);
    }
    assert!(
        written.is_empty(),
        "missing or old, written now: {written:?}"
    );
}

/// A real permit: a policy that lets every name be asked of every server, at the port of this one, judges
/// the question.
pub(crate) fn permit_for(origin: Origin, question: Question) -> DnsPermit {
    let policy = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: all-names}
spec:
  endpointSelector: {}
  egress:
  - toPorts:
    - ports: [{port: 'PORT', protocol: ANY}]
      rules: {dns: [{matchPattern: '*'}]}
"
    .replace("PORT", &origin.server.port().to_string());
    let loaded = policy::load(&[Source {
        path: "all.yaml".into(),
        text: policy,
    }]);
    let workload = Workload {
        namespace: "default".into(),
        name: "client".into(),
        labels: Labels::default(),
        ports: policy::NamedPorts::new(),
        owner: None,
    };
    let cast = Cast {
        endpoints: vec![LocalEndpoint {
            id: origin.endpoint,
            workload,
            addresses: vec![origin.client.ip()],
            audit: false,
            is_redirectable: true,
        }],
        ..Cast::default()
    };
    let mut identities = Identities::new();
    let snapshot = Compiler::new()
        .build(1, (&loaded.set, &cast, Options::default()), &mut identities)
        .unwrap();
    snapshot
        .judge_dns(origin.endpoint, origin.server, origin.protocol, &question)
        .unwrap()
}
