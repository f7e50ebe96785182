use super::*;
use crate::limits::{ENTRIES_MAX, PREFIXES_MAX, SERVICES_MAX};
use crate::rule::PolicySet;
use crate::{
    Cast, Code, Direction, EntryVerdict, Frontend, Label, LocalEndpoint, Peer, Service, Source,
    load,
};

mod bound;
mod cases;
mod dns;
mod l7;
mod laws;
mod lookup;
mod oracle;
mod scene;
mod tls;

use scene::*;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const PING: (u8, u16) = (1, 0);

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn flows_are_judged_as_the_reference_says() {
    let web = (TCP, 80);
    let twelve = "CCNP egress: [{toEndpoints: [{}]}]";
    let port80 = "egress: [{toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}]";
    let any0 = "egress: [{toPorts: [{ports: [{port: \"0\"}]}]}]";
    let in_ns =
        |key: &str| format!("egress: [{{toEndpoints: [{{matchLabels: {{\"{key}\": other}}}}]}}]");
    let (k8s_ns, any_ns) = (
        in_ns("k8s:io.kubernetes.pod.namespace"),
        in_ns("io.kubernetes.pod.namespace"),
    );
    #[rustfmt::skip]
    let rows: &[(&str, &str, (u8, u16), &str)] = &[
        ("egress: [{}]", B, web, "D / none"),
        ("egress: [{toEndpoints: [{}]}]", B, web, "A / L3-Only"),
        ("egress: [{toEndpoints: [{}]}]", O, web, "D / none"),
        ("egress: [{toEndpoints: [{}]}]", W, web, "D / none"),
        ("egress: [{toEndpoints: [{}]}]", HOST, web, "D / none"),
        (twelve, O, web, "A / L3-Only"),
        (twelve, W, web, "D / none"),
        (twelve, HOST, web, "D / none"),
        ("egress: [{toEndpoints: []}]", B, web, "D / none"),
        ("egress: [{toEndpoints: [], toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}]", B, web, "D / none"),
        ("egress: [{toFQDNs: [], toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}]", B, web, "D / none"),
        ("egress: [{toEndpoints: null, toPorts: [{ports: [{port: \"80\"}]}]}]", B, web, "A / L4-Only"),
        ("egress: [{toPorts: []}]", B, web, "D / none"),
        ("egress: [{toEndpoints: [{}], toPorts: []}]", B, PING, "A / L3-Only"),
        (port80, W, web, "A / L4-Only"),
        (port80, HOST, web, "A / L4-Only"),
        (port80, W, (UDP, 80), "D / none"),
        ("egress: [{toPorts: [{ports: [{port: \"80\"}]}]}]", W, (UDP, 80), "A / L4-Only"),
        ("egress: [{toPorts: [{ports: [{port: \"80\"}]}]}]", W, (SCTP, 80), "A / L4-Only"),
        (any0, W, PING, "D / none"),
        (any0, W, (TCP, 443), "A / Proto-Only"),
        ("egress: [{toEndpoints: [{matchLabels: {app: b}}], toPorts: [{ports: [{port: \"0\", protocol: TCP}]}]}]", B, (TCP, 9), "A / L3-Proto"),
        ("egress: [{toEndpoints: [{matchLabels: {app: b}}], toPorts: [{}]}]", B, web, "D / none"),
        ("egress: [{toEntities: [all]}]", W, PING, "A / all"),
        ("egress: [{toEntities: [world]}]", W, web, "A / L3-Only"),
        ("egress: [{toEntities: [world-ipv6]}]", W, web, "D / none"),
        ("egress: [{toEntities: [world]}]", "2001:db8::1", web, "A / L3-Only"),
        ("egress: [{toEntities: [world]}]", HOST, web, "D / none"),
        ("egress: [{toEntities: [world]}]", B, web, "D / none"),
        ("egress: [{toEntities: [cluster]}]", O, web, "A / L3-Only"),
        ("egress: [{toEntities: [cluster]}]", HOST, web, "A / L3-Only"),
        ("egress: [{toEntities: [cluster]}]", W, web, "D / none"),
        ("egress: [{toEntities: [host]}]", HOST, web, "A / L3-Only"),
        ("egress: [{toEntities: [kube-apiserver]}]", W, web, "D / none"),
        ("egress: [{toEntities: [none]}]", B, web, "D / none"),
        ("egress: [{toCIDR: [10.0.0.0/8]}]", P, web, "A / L3-Only"),
        ("egress: [{toCIDR: [10.0.0.0/8]}]", B, web, "D / none"),
        ("egress: [{toCIDR: [10.1.2.3/8]}]", "10.200.0.1", web, "A / L3-Only"),
        ("egress: [{toCIDR: [10.1.0.0/16]}]", "10.200.0.1", web, "D / none"),
        ("egress: [{toCIDR: [0.0.0.0/0]}]", HOST, web, "D / none"),
        ("egress: [{toCIDR: [0.0.0.0/0]}]", B, web, "D / none"),
        ("egress: [{toCIDR: [0.0.0.0/0]}]", W, web, "A / L3-Only"),
        ("egress: [{toCIDR: [\"::/0\"]}]", W, web, "D / none"),
        (&k8s_ns, O, web, "A / L3-Only"),
        (&any_ns, O, web, "A / L3-Only"),
        ("egress: [{toEndpoints: [{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}]}]", O, web, "A / L3-Only"),
        ("egress: [{toEndpoints: [{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}]}]", B, web, "A / L3-Only"),
        ("egress: [{toEndpoints: [{matchLabels: {\"k8s:io.cilium.k8s.namespace.labels.team\": x}}]}]", O, web, "A / L3-Only"),
        ("egress: [{toEndpoints: [{matchLabels: {\"reserved:host\": \"\"}}]}]", HOST, web, "A / L3-Only"),
        ("egress: [{toEndpoints: [{matchLabels: {$world-ipv4: \"\"}}]}]", W, web, "A / L3-Only"),
        ("egress: [{toEndpoints: [{matchExpressions: [{key: app, operator: NotIn, values: [b]}]}]}]", "10.2.0.9", web, "A / L3-Only"),
        ("egress: [{toEndpoints: [{matchExpressions: [{key: app, operator: NotIn, values: [b]}]}]}]", B, web, "D / none"),
        ("egress: [{toEndpoints: [{matchExpressions: [{key: app, operator: DoesNotExist}]}]}]", "10.2.0.9", web, "A / L3-Only"),
        ("endpointSelector: {matchLabels: {\"k8s:io.kubernetes.pod.namespace\": other}}, egress: [{}]", W, web, "D / none"),
        ("endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: other}}, egress: [{}]", W, web, "A / all"),
        ("endpointSelector: {matchLabels: {app: x}}, egress: [{}]", W, web, "A / all"),
        ("egress: [{toPorts: [{ports: [{port: \"53\", protocol: UDP}], rules: {dns: []}}]}]", DNS, (UDP, 53), "A / L4-Only"),
    ];
    for (text, to, l4, expected) in rows {
        assert_eq!(scene(&[text]).verdict(to, *l4), *expected, "{text} to {to}");
    }
    assert_eq!(scene(&[]).verdict(W, PING), "A / all");
}

#[test]
fn ingress_is_never_enforced() {
    let scene = scene(&["egress: [{}]"]);
    let flow = FlowKey {
        direction: Direction::Ingress,
        identity: scene.snapshot.identity_of(address(B)),
        protocol: TCP,
        port: 80,
    };
    let decision = scene.snapshot.judge(subject(), flow);
    assert_eq!(decision.verdict, EntryVerdict::Allow);
    assert_eq!(decision.rule, RuleId::NONE);
    let stranger = EndpointId::new(8).unwrap();
    assert_eq!(
        scene.snapshot.judge(stranger, flow).verdict,
        EntryVerdict::Deny
    );
    assert_eq!(scene.snapshot.entries(stranger), None);
}

/// A DNS rule to kube-dns for `names`, on the given ports.
fn dns_rule(ports: &str, names: &str) -> String {
    format!(
        "egress: [{{toEndpoints: [{{matchLabels: {{\"k8s:io.kubernetes.pod.namespace\": kube-system, k8s-app: kube-dns}}}}], toPorts: [{{ports: [{ports}], rules: {{dns: [{names}]}}}}]}}]"
    )
}

const UDP53: &str = "{port: \"53\", protocol: UDP}";
const SERVER: &str = "10.4.0.53:53";

const NX: Denial = Denial {
    reason: DenialReason::NameNotAllowed,
    answer: DenyAnswer::NxDomain,
};
const NODATA: Denial = Denial {
    reason: DenialReason::NameNotAllowed,
    answer: DenyAnswer::NoData,
};
const SERVER_DENIED: Denial = Denial {
    reason: DenialReason::ServerNotAllowed,
    answer: DenyAnswer::NxDomain,
};

#[test]
fn questions_are_judged_by_server_port_protocol_and_name() {
    let rule = dns_rule(
        UDP53,
        "{matchName: www.example.com}, {matchPattern: '*.good.io'}",
    );
    let scene = scene(&[&rule]);
    let ask = |server, asked| scene.ask(server, L4Protocol::Udp, asked);
    assert_eq!(scene.verdict(DNS, (UDP, 53)), "R / L3-L4");
    assert!(ask(SERVER, "WWW.Example.COM").is_ok());
    assert!(ask(SERVER, "a.good.io").is_ok());
    assert_eq!(ask(SERVER, "www.www.example.com"), Err(NX));
    assert_eq!(ask(SERVER, "www.example.com.evil.io"), Err(NX));
    assert_eq!(ask(SERVER, "example.com"), Err(NODATA));
    assert_eq!(ask(SERVER, "good.io"), Err(NODATA));
    assert_eq!(ask("8.8.8.8:53", "www.example.com"), Err(SERVER_DENIED));
    assert_eq!(ask("10.4.0.53:54", "www.example.com"), Err(SERVER_DENIED));
    assert!(ask("[::ffff:10.4.0.53]:53", "www.example.com").is_ok());
    let by_tcp = scene.ask(SERVER, L4Protocol::Tcp, "www.example.com");
    assert_eq!(by_tcp, Err(SERVER_DENIED));
    assert_eq!(scene.verdict(DNS, (TCP, 53)), "D / none");
    let origin = scene
        .snapshot
        .rule(ask(SERVER, "a.good.io").unwrap())
        .unwrap();
    assert_eq!((origin.name.as_str(), origin.line), ("p0", 5));
    assert_eq!(origin.namespace.as_deref(), Some("default"));
    let stranger = EndpointId::new(8).unwrap();
    let question = Question {
        name: name("a.b"),
        qtype: 1,
        qclass: 1,
    };
    let denial = scene.snapshot.judge_dns(
        stranger,
        SERVER.parse().unwrap(),
        L4Protocol::Udp,
        &question,
    );
    assert_eq!(denial.unwrap_err().answer, DenyAnswer::ServFail);
}

#[test]
fn rules_for_the_same_server_join() {
    let named = dns_rule(UDP53, "{matchName: example.com}");
    let peer = "toEndpoints: [{matchLabels: {k8s:io.kubernetes.pod.namespace: kube-system}}]";
    let open = |ports: &str| format!("egress: [{{{peer}{ports}}}]");
    let other = |policy: &str| scene(&[&named, policy]).ask(SERVER, L4Protocol::Udp, "other.com");
    // No ports, port 0: another entry, which does not open DNS.
    assert_eq!(other(&open("")), Err(NX));
    assert_eq!(
        other(&open(
            ", toPorts: [{ports: [{port: \"0\", protocol: UDP}]}]"
        )),
        Err(NX)
    );
    // The same port and protocol without names opens it, for one peer and for all.
    let opened = open(", toPorts: [{ports: [{port: \"53\", protocol: ANY}]}]");
    assert_eq!(other(&opened), Ok(RuleId::from_number(2)));
    assert!(other("egress: [{toPorts: [{ports: [{port: \"53\"}]}]}]").is_ok());
    assert_eq!(
        scene(&[&named, &opened]).verdict(DNS, (UDP, 53)),
        "R / L3-L4"
    );
    assert_eq!(
        scene(&[&named, &open("")]).verdict(DNS, (UDP, 53)),
        "R / L3-L4"
    );
    // Names of another rule, and of a rule for every peer.
    assert!(other(&dns_rule(UDP53, "{matchPattern: '*.com'}")).is_ok());
    let for_all =
        "egress: [{toPorts: [{ports: [{port: \"53\"}], rules: {dns: [{matchPattern: '*'}]}}]}]";
    assert_eq!(other(for_all), Ok(RuleId::from_number(2)));
    let scene = scene(&[&named, for_all]);
    assert!(
        scene
            .ask("8.8.8.8:53", L4Protocol::Tcp, "a\\000b.c")
            .is_ok()
    );
    assert!(scene.ask(SERVER, L4Protocol::Udp, "example.com").is_ok());
    assert_eq!(scene.verdict(W, (UDP, 53)), "R / L4-Only");
    assert_eq!(
        scene.verdict(W, (SCTP, 53)),
        "D / none",
        "no proxy speaks DNS over SCTP"
    );
}

#[test]
fn an_endpoint_without_dns_rules_asks_nobody() {
    let ask = |policies: &[&str]| scene(policies).ask(SERVER, L4Protocol::Udp, "a.b");
    assert_eq!(ask(&[]), Err(SERVER_DENIED));
    assert_eq!(ask(&["egress: [{toEntities: [all]}]"]), Err(SERVER_DENIED));
    let plain = "egress: [{toPorts: [{ports: [{port: \"53\"}]}]}]";
    assert_eq!(ask(&[plain]), Err(SERVER_DENIED));
}

#[test]
fn learned_addresses_open_what_selects_them() {
    let exact = "egress: [{toFQDNs: [{matchName: example.com}]}]";
    let pattern = "egress: [{toFQDNs: [{matchPattern: '*.example.com'}], toPorts: [{ports: [{port: \"443\", protocol: TCP}]}]}]";
    let https = (TCP, 443);
    assert_eq!(
        scene(&[exact]).learned(W, &["example.com"], https),
        "A / L3-Only"
    );
    assert_eq!(scene(&[exact]).verdict(W, https), "D / none");
    assert_eq!(
        scene(&[pattern]).learned(W, &["example.com"], https),
        "D / none"
    );
    assert_eq!(
        scene(&[pattern]).learned(W, &["a.example.com"], https),
        "A / L3-L4"
    );
    assert_eq!(
        scene(&[pattern]).learned(W, &["a.example.com"], (TCP, 80)),
        "D / none"
    );
    assert_eq!(
        scene(&[exact, pattern]).learned(W, &["x.example.com", "example.com"], (TCP, 80)),
        "A / L3-Only"
    );
    let world = "egress: [{toEntities: [world]}]";
    assert_eq!(
        scene(&[world]).learned(W, &["example.com"], https),
        "A / L3-Only"
    );
    assert_eq!(
        scene(&[exact, world]).learned(W, &["example.com"], https),
        "A / L3-Only"
    );
    let cidr = "egress: [{toCIDR: [93.184.0.0/16]}]";
    assert_eq!(
        scene(&[exact, cidr]).learned(W, &["other.org"], https),
        "A / L3-Only"
    );
    let port = "egress: [{toPorts: [{ports: [{port: \"443\"}]}]}]";
    assert_eq!(
        scene(&[exact, port]).learned(W, &["other.org"], https),
        "A / L4-Only"
    );
    assert_eq!(
        scene(&[pattern, port]).learned(W, &["a.example.com"], https),
        "A / L4-Only"
    );
    assert_eq!(
        scene(&[exact]).snapshot.may_learn(address(B)),
        Err(AddressClass::InCluster)
    );
}

#[test]
fn learned_labels_are_those_of_the_endpoints_own_policies() {
    let scene = scene(&[
        "egress: [{toFQDNs: [{matchName: Example.com}, {matchPattern: '*'}, {matchPattern: 'e*.com'}]}]",
        "egress: [{toCIDR: [93.0.0.0/8, 93.184.216.34/32, 10.0.0.0/8]}]",
        "endpointSelector: {matchLabels: {app: b}}, egress: [{toFQDNs: [{matchName: example.com}]}, {toCIDR: [93.184.0.0/16]}]",
    ]);
    let learned = |asked: &str| {
        let asked = name(asked);
        let set =
            scene
                .snapshot
                .learned_labels(subject(), [&asked, &asked].into_iter(), address(W));
        set.to_labels()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let prefixes = "cidr:93.0.0.0/8 cidr:93.184.216.34/32";
    assert_eq!(
        learned("example.com"),
        format!("{prefixes} fqdn:* fqdn:Example.com fqdn:e*.com reserved:world-ipv4")
    );
    assert_eq!(
        learned("a\\032b.com"),
        format!("{prefixes} reserved:world-ipv4")
    );
    // In the table stand the prefixes of all policies.
    let labels = scene
        .snapshot
        .labels_of(scene.snapshot.identity_of(address(W)))
        .unwrap();
    assert_eq!(labels.iter().count(), 4);
}

#[test]
fn the_table_has_everybody() {
    let mut scene = scene(&["egress: [{toCIDR: [10.0.0.0/8, 10.1.0.0/16, 0.0.0.0/0]}]"]);
    let identity = |text: &str| scene.snapshot.identity_of(address(text)).get();
    let rows: Vec<(String, u32)> = scene
        .snapshot
        .prefixes()
        .map(|(p, i)| (p.to_string(), i.get()))
        .collect();
    assert_eq!(rows.len(), 2 + 2 + 7 + 1 + 2, "{rows:?}");
    assert!(rows.contains(&("0.0.0.0/0".to_owned(), 9)) && rows.contains(&("::/0".to_owned(), 10)));
    assert_eq!(identity(HOST), 1);
    assert_eq!((identity("127.0.0.53"), identity("::1")), (1, 1));
    assert_eq!((identity("1.1.1.1"), identity("2001:db8::1")), (9, 10));
    assert_eq!(identity("10.9.0.1"), Identity::LOCAL_MIN);
    assert_eq!(identity("10.1.0.1"), Identity::LOCAL_MIN + 1);
    assert_eq!((identity(B), identity("fd00::5")), (256, 256));
    assert_eq!(scene.identities.local_count(), 2);
    scene.snapshot.release(&mut scene.identities);
    assert_eq!(scene.identities.local_count(), 0);
}

#[test]
fn a_reload_keeps_numbers_of_sets_and_never_those_of_rules() {
    let mut first = scene(&["egress: [{toCIDR: [10.0.0.0/8]}]"]);
    let set = set_of(&["egress: [{toCIDR: [10.0.0.0/8, 11.0.0.0/8]}]"]);
    let second = first
        .compiler
        .build(
            4,
            (&set, &cast(), Options::default()),
            &mut first.identities,
        )
        .unwrap();
    first.snapshot.release(&mut first.identities);
    for text in [B, O, P] {
        let identity = second.identity_of(address(text));
        assert_eq!(identity, first.snapshot.identity_of(address(text)));
    }
    assert_eq!(second.revision(), 4);
    let rules = |snapshot: &Snapshot| {
        snapshot
            .rules()
            .map(|(rule, _)| rule.get())
            .collect::<Vec<_>>()
    };
    assert_eq!((rules(&first.snapshot), rules(&second)), (vec![1], vec![2]));
    let mut full = Compiler::with_last_rule(u32::MAX);
    let problems = full
        .build(
            5,
            (&set, &cast(), Options::default()),
            &mut first.identities,
        )
        .unwrap_err();
    assert_eq!(problems.first().unwrap().code, Code::Limit);
    assert_eq!(first.identities.local_count(), 2, "nothing more acquired");
}

#[test]
fn servers_teach_only_if_they_are_named() {
    let rule = |peers: &str| {
        format!(
            "egress: [{{{peers}toPorts: [{{ports: [{{port: \"53\"}}], rules: {{dns: [{{matchPattern: '*'}}]}}}}]}}]"
        )
    };
    let teaches = |peers: &str, server: &str| {
        scene(&[&rule(peers)]).snapshot.may_teach(
            subject(),
            server.parse().unwrap(),
            L4Protocol::Udp,
        )
    };
    let label = "toEndpoints: [{matchLabels: {k8s-app: kube-dns, k8s:io.kubernetes.pod.namespace: kube-system}}], ";
    assert!(teaches(label, SERVER));
    assert!(!teaches(label, "8.8.8.8:53"));
    assert!(!teaches(label, "10.4.0.53:54"));
    assert!(teaches("toEntities: [host], ", "192.168.0.1:53"));
    assert!(teaches("toCIDR: [8.8.8.8/32], ", "8.8.8.8:53"));
    assert!(teaches("toCIDR: [8.8.8.0/24], ", "8.8.8.8:53"));
    assert!(teaches("toCIDR: [8.8.0.0/16, 8.8.8.0/24], ", "8.8.8.8:53"));
    assert!(!teaches("toCIDR: [8.8.0.0/16, 8.8.8.0/24], ", "8.8.9.8:53"));
    assert!(!teaches("toCIDR: [0.0.0.0/0], ", "8.8.8.8:53"));
    assert!(!teaches("toEntities: [world], ", "8.8.8.8:53"));
    assert!(!teaches("toEndpoints: [{}], ", "10.2.0.5:53"));
    assert!(!teaches("", SERVER));
    assert!(!teaches("toEntities: [all], ", SERVER));
    let plain =
        "egress: [{toEndpoints: [{matchLabels: {app: b}}], toPorts: [{ports: [{port: \"53\"}]}]}]";
    let mixed = scene(&[&rule("toEndpoints: [{}], "), plain]);
    assert!(
        !mixed
            .snapshot
            .may_teach(subject(), "10.2.0.5:53".parse().unwrap(), L4Protocol::Udp)
    );
}

#[test]
fn a_snapshot_over_a_limit_is_refused_and_holds_nothing() {
    let build = |set: &PolicySet, cast: &Cast| {
        let mut identities = Identities::new();
        let built = Compiler::new().build(1, (set, cast, Options::default()), &mut identities);
        let refused = built
            .map(drop)
            .map_err(|problems| problems.first().unwrap().message.clone());
        assert!(refused.is_ok() || identities.local_count() == 0);
        refused
    };
    let many = |count: usize| {
        let first = u32::from(std::net::Ipv4Addr::new(10, 0, 0, 0));
        (0..u32::try_from(count).unwrap())
            .map(move |index| IpAddr::from((first + index).to_be_bytes()))
    };
    let mut cast = cast();
    cast.peers = vec![Peer {
        workload: workload("default", "many", &[]),
        addresses: many(PREFIXES_MAX).collect(),
    }];
    let set = set_of(&["egress: [{toCIDR: [9.0.0.0/8]}]"]);
    assert!(build(&set, &cast).unwrap_err().contains("address prefixes"));

    let ports: Vec<String> = (1..=40)
        .map(|port| format!("{{port: \"{port}\", protocol: TCP}}"))
        .collect();
    let set = set_of(&[&format!(
        "egress: [{{toEndpoints: [{{}}], toPorts: [{{ports: [{}]}}]}}]",
        ports.join(",")
    )]);
    cast.peers = many(ENTRIES_MAX / 40 + 1)
        .map(|address| Peer {
            workload: workload("default", "x", &[("n", &address.to_string())]),
            addresses: vec![address],
        })
        .collect();
    assert!(build(&set, &cast).unwrap_err().contains("policy entries"));
    cast.peers.truncate(100);
    assert_eq!(build(&set, &cast), Ok(()));

    // 100 peers at 40 ports, and each service whose backends differ, or that has none, on top.
    let services = |count: usize, backends: &[IpAddr]| {
        let service = |vip| Service {
            namespace: "default".to_owned(),
            name: format!("{vip}"),
            labels: Labels::default(),
            backends: backends.to_vec(),
            frontends: vec![Frontend {
                vip,
                port: 80,
                protocol: L4Protocol::Tcp,
                target: 80,
            }],
        };
        many(count).map(service).collect::<Vec<_>>()
    };
    cast.services = services(ENTRIES_MAX - 40 * 100 + 1, &[]);
    assert!(build(&set, &cast).unwrap_err().contains("policy entries"));
    cast.services = services(ENTRIES_MAX - 41 * 100, &[]);
    assert_eq!(build(&set, &cast), Ok(()));
    let one = cast.peers.first().unwrap().addresses.clone();
    cast.services = services(SERVICES_MAX, &one);
    assert_eq!(build(&set, &cast), Ok(()));
    cast.services = services(SERVICES_MAX + 1, &one);
    assert!(
        build(&set, &cast)
            .unwrap_err()
            .contains("virtual addresses")
    );
}

#[test]
fn a_dns_rule_that_names_its_port_has_servers_that_teach() {
    let set = set_of(&[&dns_rule("{port: dns, protocol: UDP}", "{matchName: a.io}")]);
    let mut cast = cast();
    for peer in &mut cast.peers {
        if peer.workload.name == "dns" {
            peer.workload.ports = [("dns".into(), (53, L4Protocol::Udp))].into();
        }
    }
    let mut identities = Identities::new();
    let inputs = (&set, &cast, Options::default());
    let snapshot = Compiler::new().build(1, inputs, &mut identities).unwrap();
    let server = SERVER.parse().unwrap();
    assert!(snapshot.may_teach(subject(), server, L4Protocol::Udp));
    assert!(!snapshot.may_teach(subject(), server, L4Protocol::Tcp));
}

#[test]
fn an_audited_list_of_names_opens_nothing_that_another_policy_closes() {
    let audited = policy(0, &dns_rule(UDP53, "{matchName: a.io}")).replace(
        "{name: p0}",
        "{name: p0, annotations: {namegate.io/audit: 'true'}}",
    );
    let closing = policy(1, "egress: [{}]");
    let ask = |text: String, asked: &str| {
        let path = "p.yaml".to_owned();
        let loaded = load(&[Source { path, text }]);
        assert!(!loaded.has_errors(), "{:#?}", loaded.problems);
        let (cast, mut identities) = (cast(), Identities::new());
        let inputs = (&loaded.set, &cast, Options::default());
        let snapshot = Compiler::new().build(1, inputs, &mut identities).unwrap();
        let question = Question {
            name: name(asked),
            qtype: 1,
            qclass: 1,
        };
        let server = SERVER.parse().unwrap();
        let verdict = snapshot.judge_dns(subject(), server, L4Protocol::Udp, &question);
        verdict.map(|permit| permit.is_audited())
    };
    assert_eq!(ask(audited.clone(), "a.io"), Ok(false));
    assert_eq!(ask(audited.clone(), "b.io"), Ok(true));
    assert_eq!(ask(format!("{audited}{closing}"), "a.io"), Ok(false));
    assert_eq!(ask(format!("{audited}{closing}"), "b.io"), Err(NX));
}
