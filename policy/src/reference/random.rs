//! Random policy files over few words, so that rules overlap often; what can't stand together in one
//! rule is never written.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "only tests throw dice"
)]

use crate::{Code, Mode, NameBinding, Options, PolicySet, Quic, Severity, Source, load};

/// A source of numbers with a seed (splitmix64).
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below a limit.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap() % limit
    }

    /// Whether the one case of so many came.
    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// One of them.
    pub fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// One to three of them, with commas.
    pub fn some(&mut self, all: &[&str]) -> String {
        let count = [1, 1, 2, 3][self.below(4)];
        let picked: Vec<&str> = (0..count).map(|_| self.of(all)).collect();
        picked.join(", ")
    }
}

const SUBJECTS: [&str; 5] = [
    "{}",
    "{matchLabels: {app: a}}",
    "{matchLabels: {app: a}}",
    "{matchLabels: {app: c}}",
    "{matchExpressions: [{key: app, operator: Exists}]}",
];
const ENDPOINTS: [&str; 10] = [
    "{}",
    "{matchLabels: {app: b}}",
    "{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}",
    "{matchLabels: {io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}}",
    "{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}",
    "{matchLabels: {'k8s:io.cilium.k8s.namespace.labels.team': x}}",
    "{matchExpressions: [{key: app, operator: NotIn, values: [b]}]}",
    "{matchExpressions: [{key: app, operator: DoesNotExist}]}",
    "{matchLabels: {'reserved:host': ''}}",
    "{matchLabels: {$world-ipv4: ''}}",
];
const CIDRS: [&str; 8] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "93.184.216.0/24",
    "0.0.0.0/0",
    "'::/0'",
    "'2001:db8::/32'",
    "172.16.0.9/32",
];
const CIDR_SETS: [&str; 5] = [
    "{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}",
    "{cidr: 10.1.0.0/16, except: [10.1.2.3/32, 10.1.3.0/24]}",
    "{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}",
    "{cidr: 93.184.216.34/32}",
    "{cidr: '::/0', except: ['2001:db8::/32']}",
];
const ENTITIES: [&str; 14] = [
    "all",
    "world",
    "world",
    "world-ipv4",
    "world-ipv6",
    "host",
    "remote-node",
    "kube-apiserver",
    "health",
    "init",
    "ingress",
    "cluster",
    "cluster-mesh",
    "none",
];
const NAMES: [&str; 7] = [
    "{matchName: example.com}",
    "{matchName: Example.com}",
    "{matchName: www.example.com}",
    "{matchPattern: '*.example.com'}",
    "{matchPattern: '**.example.com'}",
    "{matchPattern: '*.org'}",
    "{matchPattern: '*'}",
];
const TYPED: [&str; 4] = [
    "{matchName: example.com, types: [A]}",
    "{matchName: www.example.com, types: [AAAA, TXT]}",
    "{matchPattern: '*.example.com', types: [TYPE1]}",
    "{matchPattern: '*', types: [AAAA]}",
];
const SERVICES: [&str; 4] = [
    "{k8sService: {serviceName: out, namespace: default}}",
    "{k8sService: {serviceName: b}}",
    "{k8sService: {serviceName: absent}}",
    "{k8sServiceSelector: {selector: {matchLabels: {kind: svc}}}}",
];
const PORTS: [&str; 19] = [
    "{port: '80', protocol: TCP}",
    "{port: '80', protocol: TCP}",
    "{port: '80'}",
    "{port: '443', protocol: TCP}",
    "{port: '443', protocol: UDP}",
    "{port: '53', protocol: UDP}",
    "{port: '53'}",
    "{port: '53', protocol: TCP}",
    "{port: '0'}",
    "{port: '0', protocol: TCP}",
    "{port: '0', protocol: UDP}",
    "{port: '80', endPort: 443, protocol: TCP}",
    "{port: '53', endPort: 54}",
    "{port: '50', endPort: 90}",
    "{port: '1', endPort: 65535, protocol: TCP}",
    "{port: web, protocol: TCP}",
    "{port: web}",
    "{port: dns, protocol: UDP}",
    "{port: dns}",
];
const HTTP_PORTS: [&str; 4] = [
    "{port: '80', protocol: TCP}",
    "{port: '443', protocol: TCP}",
    "{port: '80', endPort: 90, protocol: TCP}",
    "{port: web, protocol: TCP}",
];
const DNS_PORTS: [&str; 5] = [
    "{port: '53', protocol: UDP}",
    "{port: '53'}",
    "{port: '53', protocol: TCP}",
    "{port: dns, protocol: UDP}",
    "{port: '80', protocol: UDP}",
];
const ICMPS: [&str; 5] = [
    "{type: 8}",
    "{type: 0}",
    "{type: EchoReply}",
    "{family: IPv6, type: 128}",
    "{family: IPv6, type: PacketTooBig}",
];

/// A file of one to four policies.
pub fn file(dice: &mut Dice) -> String {
    let count = 1 + dice.below(4);
    (0..count).map(|index| object(dice, index)).collect()
}

/// Options that seldom differ from the usual ones.
pub fn options(dice: &mut Dice) -> Options {
    Options {
        mode: match dice.below(12) {
            0 => Mode::Always,
            1 => Mode::Never,
            _ => Mode::Default,
        },
        audit: dice.one_in(15),
        allow_localhost: !dice.one_in(4),
        name_binding: NameBinding::ALL[[0, 0, 1, 2][dice.below(4)]],
        quic: match dice.below(4) {
            0 => Quic::Allow,
            1 => Quic::Refuse,
            _ => Quic::Sni,
        },
    }
}

/// What a file says; `None` where policies contradict each other.
///
/// # Panics
/// At any other error: the file is none of ours.
#[must_use]
pub fn read(text: &str) -> Option<PolicySet> {
    let path = "p.yaml".to_owned();
    let loaded = load(&[Source {
        path,
        text: text.to_owned(),
    }]);
    let errors = loaded
        .problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error);
    let mut is_valid = true;
    for error in errors {
        assert_eq!(error.code, Code::Conflict, "{error}\n{text}");
        is_valid = false;
    }
    is_valid.then_some(loaded.set)
}

/// One policy object.
pub fn object(dice: &mut Dice, index: usize) -> String {
    let kind = [
        "CiliumNetworkPolicy",
        "CiliumNetworkPolicy",
        "CiliumNetworkPolicy",
    ]
    .into_iter()
    .chain(["CiliumClusterwideNetworkPolicy", "NetworkPolicy"])
    .nth(dice.below(5))
    .unwrap();
    let audit = match dice.below(16) {
        0..=1 => ", annotations: {namegate.io/audit: 'true'}",
        2 => ", annotations: {namegate.io/name-binding: 'off'}",
        3 => ", annotations: {namegate.io/name-binding: enforce}",
        4 => ", annotations: {namegate.io/name-binding: enforce, namegate.io/audit: 'true'}",
        _ => "",
    };
    if kind == "NetworkPolicy" {
        let spec = network_policy(dice);
        return format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: p{index}{audit}}}\nspec: {spec}\n"
        );
    }
    let rules = match dice.one_in(5) {
        true => format!("specs:\n- {}\n- {}", rule(dice), rule(dice)),
        false => format!("spec: {}", rule(dice)),
    };
    format!(
        "---\napiVersion: cilium.io/v2\nkind: {kind}\nmetadata: {{name: p{index}{audit}}}\n{rules}\n"
    )
}

fn rule(dice: &mut Dice) -> String {
    let mut fields = vec![format!("endpointSelector: {}", dice.of(&SUBJECTS))];
    let first = dice.below(4);
    for (index, key) in ["egress", "ingress", "egressDeny", "ingressDeny"]
        .iter()
        .enumerate()
    {
        if index == first || dice.one_in(4) {
            let count = 1 + dice.below(2);
            let items: Vec<String> = (0..count).map(|_| item(dice, key)).collect();
            fields.push(format!("{key}: [{}]", items.join(", ")));
        }
    }
    match dice.below(8) {
        0 => fields.push("enableDefaultDeny: {egress: false, ingress: false}".to_owned()),
        1 => fields.push("enableDefaultDeny: {egress: false}".to_owned()),
        2 => fields.push("enableDefaultDeny: {ingress: false}".to_owned()),
        _ => {}
    }
    format!("{{{}}}", fields.join(", "))
}

fn item(dice: &mut Dice, key: &str) -> String {
    let (is_egress, is_deny) = (key.starts_with("egress"), key.ends_with("Deny"));
    if dice.one_in(20) {
        return "{}".to_owned();
    }
    let way = if is_egress { "to" } else { "from" };
    let (peers, names) = match dice.below(12) {
        0..=1 => (String::new(), false),
        2..=4 => (
            format!("{way}Endpoints: [{}]", dice.some(&ENDPOINTS)),
            false,
        ),
        5 => (format!("{way}CIDR: [{}]", dice.some(&CIDRS)), false),
        6 => (format!("{way}CIDRSet: [{}]", dice.some(&CIDR_SETS)), false),
        7 => (
            format!("{way}{}: []", dice.of(&["Endpoints", "CIDR", "Entities"])),
            false,
        ),
        8..=9 if is_egress && !is_deny => (format!("toFQDNs: [{}]", dice.some(&NAMES)), true),
        10 if is_egress => (format!("toServices: [{}]", dice.some(&SERVICES)), false),
        _ => (format!("{way}Entities: [{}]", dice.some(&ENTITIES)), false),
    };
    let ports = match dice.below(6) {
        0 => String::new(),
        1 => format!("icmps: [{{fields: [{}]}}]", dice.some(&ICMPS)),
        2..=3 if !is_deny => l7(dice, is_egress && !names),
        _ if dice.one_in(30) => "toPorts: [{}]".to_owned(),
        _ => format!("toPorts: [{{ports: [{}]}}]", dice.some(&PORTS)),
    };
    let authentication = match (is_deny, dice.below(25)) {
        (false, 0) => "authentication: {mode: test-always-fail}",
        (false, 1) => "authentication: {mode: disabled}",
        _ => "",
    };
    let parts = [peers.as_str(), &ports, authentication];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("{{{}}}", parts.join(", "))
}

/// `toPorts` with something to judge beyond the port.
fn l7(dice: &mut Dice, may_dns: bool) -> String {
    match dice.below(if may_dns { 8 } else { 3 }) {
        0..=1 => format!(
            "toPorts: [{{ports: [{}], rules: {{http: [{}]}}}}]",
            dice.some(&HTTP_PORTS),
            dice.of(&["{}", "{method: GET, path: /a}"])
        ),
        2 => format!(
            "toPorts: [{{ports: [{{port: '{}', protocol: TCP}}], serverNames: [example.com]}}]",
            dice.of(&["443", "443", "443", "53", "80"])
        ),
        _ => format!(
            "toPorts: [{{ports: [{}], rules: {{dns: [{}]}}}}]",
            dice.some(&DNS_PORTS),
            if dice.one_in(3) {
                dice.some(&TYPED)
            } else {
                dice.some(&NAMES)
            }
        ),
    }
}

fn network_policy(dice: &mut Dice) -> String {
    let subject = dice.of(&["{}", "{matchLabels: {app: a}}", "{matchLabels: {app: c}}"]);
    let types = dice.of(&["[Ingress]", "[Egress]", "[Ingress, Egress]", "[]"]);
    let mut fields = vec![format!("podSelector: {subject}, policyTypes: {types}")];
    for (key, way) in [("ingress", "from"), ("egress", "to")] {
        let items: Vec<String> = (0..dice.below(3)).map(|_| allow(dice, way)).collect();
        fields.push(format!("{key}: [{}]", items.join(", ")));
    }
    format!("{{{}}}", fields.join(", "))
}

fn allow(dice: &mut Dice, way: &str) -> String {
    let peers = dice.some(&[
        "{podSelector: {matchLabels: {app: b}}}",
        "{namespaceSelector: {}}",
        "{podSelector: {matchLabels: {app: b}}, namespaceSelector: {matchLabels: {team: x}}}",
        "{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}",
        "{ipBlock: {cidr: 0.0.0.0/0}}",
    ]);
    let ports = dice.some(&[
        "{port: 80}",
        "{protocol: UDP}",
        "{port: 53, protocol: UDP}",
        "{port: 53, endPort: 54, protocol: UDP}",
        "{port: web}",
    ]);
    match dice.below(5) {
        0 => "{}".to_owned(),
        1 => format!("{{ports: [{ports}]}}"),
        2 => format!("{{{way}: [{peers}]}}"),
        _ => format!("{{{way}: [{peers}], ports: [{ports}]}}"),
    }
}
