//! What the tests share: ClientHellos octet by octet, random numbers that repeat, the corpus.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy::{
    Cast, Compiler, EndpointId, Identities, Labels, LocalEndpoint, NamedPorts, Options, PolicySet,
    Snapshot, Source, Workload,
};
use tokio::net::{TcpListener, TcpStream};

use crate::{By, Told, Verdict};

/// The policy of the attack tables (http.md calls it so: each rule alone suffices).
pub(crate) const RULES: &str = "[{method: GET|HEAD, path: /public/.*}, {method: POST, path: /public/upload}, \
    {method: GET, path: /h, host: 'shop\\.test'}, {method: GET, path: '/q\\?a=1'}, \
    {method: GET, path: /tok, headers: ['X-Token: t0k']}]";

/// A snapshot in which an endpoint may make these requests on a port, whoever it asks.
pub(crate) fn snapshot(rules: &str, port: u16) -> (Arc<Snapshot>, EndpointId) {
    Policies::new().snapshot(rules, port)
}

/// One policy after the other: no rule's number comes again.
pub(crate) struct Policies {
    compiler: Compiler,
    identities: Identities,
    revision: u64,
}

impl Policies {
    pub(crate) fn new() -> Self {
        Self {
            compiler: Compiler::new(),
            identities: Identities::new(),
            revision: 0,
        }
    }

    pub(crate) fn snapshot(&mut self, rules: &str, port: u16) -> (Arc<Snapshot>, EndpointId) {
        self.snapshot_of(&format!(
            "{{toPorts: [{{ports: [{{port: '{port}', protocol: TCP}}], rules: {{http: {rules}}}}}]}}"
        ))
    }

    /// A snapshot with these items for what the endpoint sends.
    pub(crate) fn snapshot_of(&mut self, egress: &str) -> (Arc<Snapshot>, EndpointId) {
        let (set, cast, endpoint) = inputs(egress);
        (self.build(&set, &cast), endpoint)
    }

    /// One in which nobody is known.
    pub(crate) fn without_endpoints(&mut self) -> Arc<Snapshot> {
        self.build(&PolicySet::default(), &Cast::default())
    }

    fn build(&mut self, set: &PolicySet, cast: &Cast) -> Arc<Snapshot> {
        self.revision += 1;
        let inputs = (set, cast, Options::default());
        let snapshot = self
            .compiler
            .build(self.revision, inputs, &mut self.identities);
        Arc::new(snapshot.unwrap())
    }
}

fn inputs(egress: &str) -> (PolicySet, Cast, EndpointId) {
    let text = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: a, namespace: d}}\n\
         spec: {{endpointSelector: {{}}, egress: [{egress}]}}\n"
    );
    let loaded = policy::load(&[Source {
        path: "a.yaml".into(),
        text,
    }]);
    assert!(!loaded.has_errors(), "{:?}", loaded.problems);
    let endpoint = EndpointId::new(1).unwrap();
    let cast = Cast {
        endpoints: vec![LocalEndpoint {
            id: endpoint,
            workload: Workload {
                namespace: "d".into(),
                name: "w".into(),
                labels: Labels::default(),
                ports: NamedPorts::default(),
                owner: None,
            },
            addresses: vec!["10.0.0.2".parse().unwrap()],
            audit: false,
            is_redirectable: true,
        }],
        ..Cast::default()
    };
    (loaded.set, cast, endpoint)
}

/// A ClientHello under construction.
#[derive(Clone)]
pub(crate) struct Hello {
    extensions: Option<Vec<u8>>,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            extensions: Some(Vec::new()),
        }
        // What every stack refuses to be without.
        .extension(10, b"\0\x02\0\x1d")
        .extension(13, b"\0\x02\x04\x03")
    }
}

impl Hello {
    /// Without extensions at all.
    pub(crate) fn bare() -> Self {
        Self { extensions: None }
    }

    pub(crate) fn extension(mut self, kind: u16, content: &[u8]) -> Self {
        let extensions = self.extensions.get_or_insert_default();
        extensions.extend_from_slice(&kind.to_be_bytes());
        extensions.extend_from_slice(&short(content.len()));
        extensions.extend_from_slice(content);
        self
    }

    /// A server name list of one host name.
    pub(crate) fn name(self, name: &[u8]) -> Self {
        let content = [&short(name.len() + 3)[..], &[0], &short(name.len()), name].concat();
        self.extension(0, &content)
    }

    pub(crate) fn padded(self, octets: usize) -> Self {
        self.extension(21, &vec![0; octets])
    }

    /// The handshake message.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend_from_slice(&[9; 32]);
        body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
        if let Some(extensions) = &self.extensions {
            body.extend_from_slice(&short(extensions.len()));
            body.extend_from_slice(extensions);
        }
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    pub(crate) fn one_record(&self) -> Vec<u8> {
        records(&self.message(), 16_384, [3, 1])
    }
}

fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap().to_be_bytes()
}

/// A message in handshake records of a size.
pub(crate) fn records(message: &[u8], size: usize, version: [u8; 2]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in message.chunks(size) {
        bytes.push(0x16);
        bytes.extend_from_slice(&version);
        bytes.extend_from_slice(&short(piece.len()));
        bytes.extend_from_slice(piece);
    }
    bytes
}

/// Random numbers that repeat (xorshift64*).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % end.max(1)
    }

    /// Changes, removes, repeats or cuts some octets.
    pub(crate) fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                1 => bytes[at] ^= 1 << self.below(8),
                2 => _ = bytes.remove(at),
                3 => bytes.insert(at, b"\r\n :,\t\0;%/"[self.below(10)]),
                4 => bytes.truncate(at),
                _ => {
                    let end = at + self.below((bytes.len() - at).min(12));
                    let piece = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
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
    for (index, (case, bytes)) in cases.into_iter().enumerate() {
        let case: String = case.chars().map(word).collect();
        let path = corpus_dir(target).join(format!("{index:02}-{case}"));
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

/// Who issues certificates.
pub(crate) struct Authority {
    key: rcgen::KeyPair,
    certificate: rcgen::Certificate,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        Self { key, certificate }
    }

    /// Its own certificate, as PEM.
    pub(crate) fn pem(&self) -> Vec<u8> {
        self.certificate.pem().into()
    }

    /// A certificate of a server with these names, and its key, both as PEM.
    pub(crate) fn issue(&self, names: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::Issuer::new(authority, &self.key);
        let key = rcgen::KeyPair::generate().unwrap();
        let own = rcgen::CertificateParams::new(names).unwrap();
        let own = own.signed_by(&key, &issuer).unwrap();
        (own.pem().into(), key.serialize_pem().into())
    }
}

/// What was told, a word or two for each.
pub(crate) fn word(told: &Told) -> String {
    match told {
        Told::Request(request) => match &request.verdict {
            Verdict::Allowed { .. } => "allowed".to_owned(),
            Verdict::Denied(_) => "denied".to_owned(),
            Verdict::Malformed(_) => "malformed".to_owned(),
            Verdict::TooSlow => "too slow".to_owned(),
        },
        Told::Response(response) => {
            let by = match response.by {
                By::Server => "server",
                By::Proxy(_) => "proxy",
            };
            format!("{} {by}", response.status)
        }
        Told::Ended(end) => {
            let end = format!("{:?}", end.end);
            format!("ended {}", end.split('(').next().unwrap_or_default())
        }
        Told::Fault(fault) => format!("{fault:?}").to_lowercase(),
    }
}

/// Both ends of a connection, on which nothing waits for more.
pub(crate) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (one, other) = (one.unwrap(), other.unwrap().0);
    one.set_nodelay(true).unwrap();
    other.set_nodelay(true).unwrap();
    (one, other)
}
