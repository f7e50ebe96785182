//! The doors hold for the corpus and for what is near it.

/// Random numbers that repeat.
struct Dice(u64);

/// What a file has more often than chance would.
const TOKENS: [&str; 28] = [
    "{}",
    "[]",
    "null",
    "~",
    "\"*\"",
    "'*.a.b'",
    "- ",
    ": ",
    "#",
    "\"",
    "&a",
    "*a",
    "|",
    ">-",
    "{",
    "}",
    "[",
    "]",
    "---\n",
    "\t",
    "  ",
    "-1",
    "65536",
    "ANY",
    "10.0.0.0/8",
    "(",
    "é",
    "reserved:",
];

const NETWORK_POLICY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: k, namespace: default}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [a, b]}]}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {matchLabels: {app: b}}
      namespaceSelector: {matchLabels: {a: b}}
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
    ports: [{port: 80, endPort: 90, protocol: TCP}, {port: http}]
  egress:
  - to: [{podSelector: {}}]
    ports: [{port: 53, protocol: UDP}]
";

const CILIUM_POLICY: &str = r#"apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: a, namespace: default, annotations: {namegate.io/audit: "true"}}
spec:
  endpointSelector: {matchLabels: {app: a}}
  log: {value: l}
  enableDefaultDeny: {ingress: true, egress: false}
  egress:
  - toCIDRSet: [{cidr: 10.96.0.10/32, except: []}, {cidrGroupRef: g}]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules: {dns: [{matchName: a.b}, {matchPattern: "*.a.b"}]}
  - toFQDNs: [{matchName: a.b}, {matchPattern: "api-*.a.b"}]
    toPorts:
    - ports: [{port: "443", endPort: 444, protocol: TCP}]
      serverNames: [a.b, "**.a.b"]
    - ports: [{port: http}]
      rules:
        http:
        - {method: GET, path: "/a.*", host: 'a\.b', headers: ["X-A: b"]}
        - {headerMatches: [{name: x, value: w, mismatch: ADD}]}
  egressDeny:
  - toEntities: [world]
    icmps: [{fields: [{family: IPv4, type: 8}, {type: EchoReply}]}]
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: g}
spec: {externalCIDRs: [10.97.0.0/16]}
"#;

const HTTP: [&str; 8] = [
    "/a/[a-z]+(\\?.*)?\n/a/b?c=d",
    "/(a|b){2,5}.*\n/a%2Fb/../c;d/%41",
    "^/x$\n/x",
    "(?i)/Ä\\.[^/]*\n/%c3%84.x",
    "\\d+\\b\\W\n*",
    "/a\\?x\n//a/./b\\c/..",
    "/[[:alpha:]]{3}\n/a%2f..%2fb;x=y/..;/z",
    "(?U)a+?(?P<n>b)\n/%00",
];

const NAMES: [&str; 7] = [
    "a.test",
    "*.a.test",
    "**.b*.c",
    "*",
    "w*.a.**.test",
    "10.0.0.1",
    "_a-b.test",
];

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(sides).unwrap()).unwrap()
    }

    /// A few bytes, tokens or lines: changed, cut, doubled, exchanged.
    fn mutate(&mut self, text: &[u8]) -> Vec<u8> {
        let mut near = text.to_vec();
        for _ in 0..=self.roll(3) {
            match self.roll(7) {
                0 if !near.is_empty() => {
                    let at = self.roll(near.len());
                    near[at] ^= 1 << self.roll(8);
                }
                1 => {
                    let at = self.roll(near.len() + 1);
                    near.insert(at, u8::try_from(self.roll(256)).unwrap());
                }
                2 if self.roll(4) == 0 => near.truncate(self.roll(near.len() + 1)),
                3 => {
                    let at = self.roll(near.len() + 1);
                    let token = TOKENS[self.roll(TOKENS.len())];
                    near.splice(at..at, token.bytes());
                }
                4 => near = self.swap(&near, |byte| byte == b'\n'),
                5 => near = self.swap(&near, |byte| b" \n,.:/{}[]".contains(&byte)),
                _ => near = self.double(&near),
            }
        }
        near
    }

    /// Exchanges two parts that end in such a byte.
    fn swap(&mut self, text: &[u8], ends: impl Fn(u8) -> bool) -> Vec<u8> {
        let mut parts: Vec<&[u8]> = text.split_inclusive(|byte| ends(*byte)).collect();
        if !parts.is_empty() {
            let (one, two) = (self.roll(parts.len()), self.roll(parts.len()));
            parts.swap(one, two);
        }
        parts.concat()
    }

    /// Puts a line in once more, or takes it out, or indents it.
    fn double(&mut self, text: &[u8]) -> Vec<u8> {
        let mut lines: Vec<Vec<u8>> = text
            .split_inclusive(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect();
        if lines.is_empty() {
            return Vec::new();
        }
        let at = self.roll(lines.len());
        match self.roll(3) {
            0 => lines.insert(self.roll(lines.len()), lines[at].clone()),
            1 => _ = lines.remove(at),
            _ => lines[at].splice(0..0, *b"  ").for_each(drop),
        }
        lines.concat()
    }
}

fn files() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    paths.sort();
    assert!(paths.len() > 100);
    let mut files: Vec<_> = paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    // The whole language: as often as all others together would be too much.
    files.extend(std::iter::repeat_n(NETWORK_POLICY.into(), 8));
    files.extend(std::iter::repeat_n(CILIUM_POLICY.into(), 16));
    files
}

/// As often as `NAMEGATE_FUZZ_ROUNDS` says, or a few times.
fn try_near(door: fn(&[u8]), (seed, rounds): (u64, usize), texts: &[Vec<u8>]) {
    let more = option_env!("NAMEGATE_FUZZ_ROUNDS").and_then(|text| text.parse().ok());
    let mut dice = Dice(seed);
    for text in texts {
        door(text);
        for _ in 0..rounds * more.unwrap_or(1) {
            let near = dice.mutate(text);
            let held = std::panic::catch_unwind(|| door(&near));
            assert!(held.is_ok(), "{:?}", String::from_utf8_lossy(&near));
        }
    }
}

fn bytes_of(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn any_file_loads_or_is_refused_with_places() {
    try_near(super::load, (4711, 40), &files());
}

#[test]
fn what_is_formatted_says_the_same() {
    try_near(super::format, (4712, 40), &files());
}

#[test]
fn any_expression_and_any_target_are_judged_or_refused() {
    try_near(super::http, (4713, 600), &bytes_of(&HTTP));
}

#[test]
fn any_server_name_matches_itself_or_is_refused() {
    try_near(super::sni, (4714, 1_000), &bytes_of(&NAMES));
}
