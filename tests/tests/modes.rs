//! How closed endpoints are: deny rules, holes, default deny, modes and audit, in the kernel.

#![expect(clippy::unwrap_used, reason = "a test may die")]

use namegate_tests::{Daemon, Stage, policy};
use serde_json::Value;

/// A started daemon that guards alice, with this policy or none.
fn daemon<'a>(stage: &'a Stage, policy: &str, args: &[&str]) -> Daemon<'a> {
    let mut daemon = stage.daemon(policy).unwrap();
    daemon.start(args).unwrap();
    daemon
}

/// A policy about alice whose `spec` holds this, too.
fn about_alice(annotations: &str, rest: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: alice{annotations}}}\n\
         spec: {{endpointSelector: {{matchLabels: {{app: alice}}}}, {rest}}}\n"
    )
}

const WEB: &str = "198.18.0.1:80";
const OTHER: &str = "198.18.0.2:80";

#[test]
fn deny_rules_and_holes_hold_in_the_kernel() {
    let stage = Stage::new().unwrap();
    let denied = about_alice(
        "",
        "egress: [{toEntities: [world]}], egressDeny: [{toCIDR: [198.18.0.2/32]}]",
    );
    let daemon = daemon(&stage, &denied, &[]);
    assert!(
        stage.reaches(WEB).unwrap() && !stage.reaches(OTHER).unwrap(),
        "a deny rule"
    );
    let status = || daemon.status().unwrap()["policy"]["revision"].as_u64();
    for (rest, web, other) in [
        (
            "egress: [{toCIDRSet: [{cidr: 198.18.0.0/24, except: [198.18.0.2/31]}]}]",
            true,
            false,
        ),
        (
            "enableDefaultDeny: {egress: false}, egressDeny: [{toCIDR: [198.18.0.1/32]}]",
            false,
            true,
        ),
        ("egressDeny: [{toCIDR: [198.18.0.1/32]}]", false, false),
    ] {
        let before = status().unwrap();
        daemon.policy("alice.yaml", &about_alice("", rest)).unwrap();
        daemon.wait_beyond(before).unwrap();
        assert_eq!(
            (stage.reaches(WEB).unwrap(), stage.reaches(OTHER).unwrap()),
            (web, other),
            "{rest}"
        );
    }
    assert!(daemon.counter("policy-deny").unwrap() > 0);
}

#[test]
fn named_ports_services_and_network_policies_hold_in_the_kernel() {
    let stage = Stage::new().unwrap();
    let mut daemon = Daemon::prepare(&stage.node).unwrap();
    daemon.endpoint(&stage.alice).unwrap();
    let others = "name: web\nremote: true\nlabels: {app: web}\naddresses: [198.18.0.1]\nports: {http: 80/TCP}\n\
                  ---\nservices: [{name: out, backends: [198.18.0.2]}]\n";
    daemon.endpoint_file("others.yaml", others).unwrap();
    let by_name = "egress: [{toEndpoints: [{matchLabels: {app: web}}], toPorts: [{ports: [{port: http, protocol: TCP}]}]}]";
    daemon
        .policy("alice.yaml", &about_alice("", by_name))
        .unwrap();
    daemon.start(&[]).unwrap();
    assert!(
        stage.reaches(WEB).unwrap() && !stage.reaches(OTHER).unwrap(),
        "a named port"
    );
    assert!(!stage.reaches("198.18.0.1:81").unwrap(), "another port");
    let service = "egress: [{toServices: [{k8sService: {serviceName: out, namespace: default}}]}]";
    let kubernetes = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: alice}\n\
         spec: {podSelector: {matchLabels: {app: alice}}, policyTypes: [Egress], egress: [\n\
         {to: [{ipBlock: {cidr: 198.18.0.0/24, except: [198.18.0.1/32]}}], ports: [{port: 80}]}]}\n";
    for text in [about_alice("", service), kubernetes.to_owned()] {
        let before = daemon.status().unwrap()["policy"]["revision"].as_u64();
        daemon.policy("alice.yaml", &text).unwrap();
        daemon.wait_beyond(before.unwrap()).unwrap();
        assert_eq!(
            (stage.reaches(WEB).unwrap(), stage.reaches(OTHER).unwrap()),
            (false, true),
            "{text}"
        );
    }
}

#[test]
fn always_closes_who_has_no_policy_and_never_opens_who_has() {
    let stage = Stage::new().unwrap();
    {
        let _daemon = daemon(
            &stage,
            "",
            &["--enforcement-mode", "always", "--detach-on-exit"],
        );
        assert!(!stage.reaches(WEB).unwrap(), "always");
    }
    let closed = about_alice("", "egress: [{}]");
    let _daemon = daemon(&stage, &closed, &["--enforcement-mode", "never"]);
    assert!(stage.reaches(WEB).unwrap(), "never");
}

#[test]
fn audit_tells_what_it_would_drop_and_drops_nothing() {
    let allow_web = policy("alice", "[{matchName: web.example.com}]");
    let narrow = allow_web.replace("*.example.com", "web.example.com");
    let annotated = narrow.replace(
        "metadata: {name: alice}",
        "metadata: {name: alice, annotations: {namegate.io/audit: 'true'}}",
    );
    // The whole node, one policy, one endpoint.
    for (text, args, of_endpoint) in [
        (&narrow, &["--audit"][..], ""),
        (&annotated, &[][..], ""),
        (&narrow, &[][..], "audit: true\n"),
    ] {
        let stage = Stage::new().unwrap();
        let mut daemon = Daemon::prepare(&stage.node).unwrap();
        let endpoint = format!(
            "name: alice\nlabels: {{app: alice}}\nnetns: {}\n{of_endpoint}",
            stage.alice.ns_path().display()
        );
        daemon.endpoint_file("alice.yaml", &endpoint).unwrap();
        daemon.policy("alice.yaml", text).unwrap();
        let log = daemon.path("flows.jsonl");
        let mut all = vec!["--flow-log", log.to_str().unwrap()];
        all.extend(args);
        daemon.start(&all).unwrap();

        assert!(stage.reaches(OTHER).unwrap(), "{args:?}");
        assert_eq!(
            stage.asks("other.example.com").unwrap(),
            "198.18.0.2\n",
            "{args:?}"
        );
        assert_eq!(stage.asks("web.example.com").unwrap(), "198.18.0.1\n");
        assert!(stage.reaches(WEB).unwrap());
        assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));

        let flows = std::fs::read_to_string(&log).unwrap();
        let flows: Vec<Value> = flows
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["flow"].clone())
            .collect();
        // 5 is a policy verdict, 129 an L7 record (Hubble's numbers).
        let verdicts = |kind: u64, part: &str| -> Vec<String> {
            let about = flows
                .iter()
                .filter(|flow| flow["event_type"]["type"] == kind);
            let about = about.filter(|flow| flow.to_string().contains(part));
            about
                .map(|flow| flow["verdict"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(verdicts(5, "\"destination\":\"198.18.0.2\""), ["AUDIT"]);
        let asked = verdicts(129, "\"query\":\"other.example.com.\"");
        assert_eq!(
            asked,
            ["AUDIT", "FORWARDED"],
            "the question, and the answer"
        );
        assert!(
            !flows.iter().any(|flow| flow["verdict"] == "DROPPED"),
            "{flows:#?}"
        );
    }
}

#[test]
fn what_the_daemon_cannot_enforce_is_refused_by_name() {
    let stage = Stage::new().unwrap();
    let mut daemon = Daemon::prepare(&stage.node).unwrap();
    daemon.endpoint(&stage.alice).unwrap();
    let http = "toPorts: [{ports: [{port: '80'}], rules: {http: [{method: GET}]}}]";
    let text = about_alice("", &format!("egress: [{{toEntities: [world], {http}}}]"));
    daemon.policy("alice.yaml", &text).unwrap();
    let error = daemon.start(&[]).unwrap_err().to_string();
    assert!(
        error.contains("`http` rules") && error.contains("alice.yaml:4:"),
        "{error}"
    );
}
