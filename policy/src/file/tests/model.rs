//! What a text means, in the model.

use super::*;
use crate::Direction;
use crate::Family;
use crate::L4Protocol;
use crate::http::{HeaderRule, Mismatch};
use crate::l4::{L7Rules, PortMatch, PortRule, Ports, RuleProtocol};
use crate::rule::{Effect, Item, PeerSelector, Peers, Subject};

/// The items of the only rule of a text.
#[track_caller]
fn items(text: &str) -> Vec<Arc<Item>> {
    let set = loads(text).set;
    let policy = set.policies.first().unwrap();
    policy.rules.first().unwrap().items.clone()
}

#[track_caller]
fn only(text: &str) -> Arc<Item> {
    let mut items = items(text);
    assert_eq!(items.len(), 1, "{text}");
    items.remove(0)
}

#[test]
fn absent_empty_and_null_peers_differ() {
    let any = |item: &Item| matches!(item.peers, Peers::Any);
    let nobody = |item: &Item| matches!(item.peers, Peers::Nobody);
    let ports = "toPorts: [{ports: [{port: \"80\"}]}]";
    for (direction, kinds) in [
        (
            "ingress",
            [
                "fromEndpoints",
                "fromCIDR",
                "fromCIDRSet",
                "fromEntities",
                "fromNodes",
                "fromGroups",
            ]
            .as_slice(),
        ),
        (
            "egress",
            [
                "toEndpoints",
                "toCIDR",
                "toCIDRSet",
                "toEntities",
                "toNodes",
                "toGroups",
                "toFQDNs",
                "toServices",
            ]
            .as_slice(),
        ),
    ] {
        let item = |text: &str| only(&cnp(&format!("{direction}: [{{{text}}}]")));
        assert!(nobody(&item("")) && any(&item(ports)));
        assert!(any(&item("icmps: [{fields: [{type: 0}]}]")));
        assert!(nobody(&item("toPorts: []")) && nobody(&item("icmps: []")));
        for kind in kinds {
            assert!(nobody(&item(&format!("{kind}: []"))), "{kind}");
            assert!(nobody(&item(&format!("{kind}: [], {ports}"))), "{kind}");
            assert!(any(&item(&format!("{kind}: null, {ports}"))), "{kind}");
            assert!(nobody(&item(&format!("{kind}: ~"))), "{kind}");
        }
    }
    let entity = |text: &str| only(&cnp(&format!("egress: [{{toEntities: [{text}]}}]")));
    assert!(any(&entity("none, all")) && nobody(&entity("none")));
    let item = only(&cnp("egress: [{toEntities: [world], toPorts: [{}]}]"));
    assert!(
        item.ports == Ports::List(Vec::new()),
        "an entry without ports is no port"
    );
}

#[test]
fn default_deny_is_of_a_direction() {
    let of = |spec: &str| -> Vec<(Direction, Effect, bool)> {
        let items = items(&cnp(spec));
        items
            .iter()
            .map(|item| (item.direction, item.effect, item.default_deny))
            .collect()
    };
    use Direction::{Egress, Ingress};
    use Effect::{Allow, Deny};
    assert_eq!(
        of("ingress: [{}], egressDeny: [{}], enableDefaultDeny: {egress: false}"),
        [(Ingress, Allow, true), (Egress, Deny, false)]
    );
    assert_eq!(
        of("ingressDeny: [{}], egress: [{}], enableDefaultDeny: {ingress: no, egress: on}"),
        [(Ingress, Deny, false), (Egress, Allow, true)]
    );
}

#[test]
fn ports_and_protocols() {
    let rules = |text: &str| -> Vec<(RuleProtocol, PortMatch)> {
        let item = only(&cnp(&format!("ingress: [{{{text}}}]")));
        let list = item.port_list().iter();
        list.map(|rule| (rule.protocol, rule.port.clone()))
            .collect()
    };
    let ports = "toPorts: [{ports: [{port: \"80\"}, {port: \"0\", protocol: udp}]}, {ports: [{port: \"80\", endPort: 90, protocol: SCTP}, {port: HTTP-alt, protocol: TCP}, {port: \"0\", endPort: 3}]}]";
    assert_eq!(
        rules(ports),
        [
            (RuleProtocol::Any, PortMatch::Range(80, 80)),
            (RuleProtocol::One(L4Protocol::Udp), PortMatch::All),
            (
                RuleProtocol::One(L4Protocol::Sctp),
                PortMatch::Range(80, 90)
            ),
            (
                RuleProtocol::One(L4Protocol::Tcp),
                PortMatch::Named("http-alt".into())
            ),
            (RuleProtocol::Any, PortMatch::All),
        ]
    );
    let icmps = "icmps: [{fields: [{type: 0}, {type: Echo}]}, {fields: [{type: PacketTooBig, family: IPv6}]}]";
    assert_eq!(
        rules(icmps),
        [
            (RuleProtocol::Icmp(Family::V4), PortMatch::Range(0, 0)),
            (RuleProtocol::Icmp(Family::V4), PortMatch::Range(8, 8)),
            (RuleProtocol::Icmp(Family::V6), PortMatch::Range(2, 2)),
        ]
    );
}

#[test]
fn requests_headers_and_tls() {
    let text = "egress: [{toPorts: [{ports: [{port: \"443\", protocol: TCP}], serverNames: [a.b], terminatingTLS: {secret: {name: s}, certificate: c}, originatingTLS: {secret: {namespace: ns, name: o}, trustedCA: ca}, rules: {http: [{method: GET, path: '/a\\?.*', headers: ['X-A', 'X-B: t u'], headerMatches: [{name: X-C, value: v, mismatch: ADD}, {name: x-d, secret: {name: k}}]}, {}]}}]}]";
    let item = only(&cnp(text));
    let [rule] = item.port_list() else {
        panic!("one port")
    };
    let l7 = rule.l7.as_deref().unwrap();
    let tls = l7.terminating_tls.as_ref().unwrap();
    assert_eq!(
        (
            &*tls.secret_namespace,
            &*tls.secret_name,
            tls.certificate.as_deref()
        ),
        ("default", "s", Some("c"))
    );
    let tls = l7.originating_tls.as_ref().unwrap();
    assert_eq!(
        (&*tls.secret_namespace, tls.trusted_ca.as_deref()),
        ("ns", Some("ca"))
    );
    assert_eq!(l7.server_names.len(), 1);
    let L7Rules::Http(rules) = &l7.rules else {
        panic!("HTTP")
    };
    let header = |name: &str, value: Option<&str>, mismatch| HeaderRule {
        name: name.into(),
        value: value.map(Into::into),
        secret: None,
        mismatch,
    };
    let secret = HeaderRule {
        secret: Some(("default".into(), "k".into())),
        ..header("x-d", None, Mismatch::Fail)
    };
    assert_eq!(
        rules[0].headers,
        [
            header("x-a", None, Mismatch::Fail),
            header("x-b", Some("t u"), Mismatch::Fail),
            header("x-c", Some("v"), Mismatch::Add),
            secret,
        ]
    );
    assert_eq!(rules[1], crate::http::HttpRule::default());
    let dns = |text: &str| {
        let item = only(&cnp(&format!(
            "egress: [{{toPorts: [{{ports: [{{port: \"53\"}}], rules: {{{text}}}}}]}}]"
        )));
        item.port_list()
            .first()
            .and_then(PortRule::dns)
            .map(|names| names.len())
    };
    assert_eq!(
        [
            dns("dns: []"),
            dns("dns: [{matchPattern: '*'}, {matchName: a.b}]")
        ],
        [None, Some(2)]
    );
}

#[test]
fn an_item_has_the_log_the_authentication_and_the_place() {
    let item = only(&cnp(
        "ingress: [{authentication: {mode: test-always-fail}}], log: {value: x}",
    ));
    assert!(item.fails_authentication && item.log.as_deref() == Some("x"));
    assert_eq!((item.line, &*item.path), (4, "spec.ingress[0]"));
    let item = only(&cnp(
        "ingress: [{authentication: {mode: disabled}}], log: {value: \"\"}",
    ));
    assert!(!item.fails_authentication && item.log.is_none());
}

#[test]
fn services_and_nodes() {
    let text = cnp(
        "egress: [{toServices: [{k8sService: {serviceName: a, namespace: b}}, {k8sService: {serviceName: c, namespace: \"\"}}, {k8sServiceSelector: {selector: {matchLabels: {x: z}}, namespace: ns}, k8sService: {serviceName: d}}]}]",
    );
    let item = only(&text);
    use crate::rule::ServiceName::{Exact, Labels};
    let services: Vec<_> = item
        .peer_list()
        .iter()
        .map(|peer| {
            let PeerSelector::Service(service) = peer else {
                panic!("{peer:?}");
            };
            (service.namespace.as_deref(), &service.service)
        })
        .collect();
    assert!(matches!(services[0], (Some("b"), Exact(name)) if **name == *"a"));
    assert!(matches!(services[1], (None, Exact(name)) if **name == *"c"));
    assert!(
        matches!(services[2], (Some("ns"), Labels(_))),
        "the selector wins"
    );
    let text = text
        .replace("CiliumN", "CiliumClusterwideN")
        .replace("endpointSelector", "nodeSelector");
    let set = loads(&text).set;
    assert!(matches!(
        set.policies[0].rules[0].subject,
        Subject::Nodes(_)
    ));
}
