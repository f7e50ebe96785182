use super::*;

const VERDICT: &str = r#"{"flow":{"time":"2026-03-05T09:07:01.037Z","verdict":"VERDICT","IP":{"source":"10.0.0.2","destination":"192.0.2.1","ipVersion":"IPv4"},"l4":{"TCP":{"source_port":4000,"destination_port":443}},"source":{"ID":7,"identity":300,"namespace":"shop","pod_name":"cart-1","labels":["k8s:app=cart","k8s:io.kubernetes.pod.namespace=shop"]},"destination":{"identity":2,"labels":["reserved:world"]},"Type":"L3_L4","event_type":{"type":5},"destination_names":["NAME"],"traffic_direction":"EGRESS","policy_match_type":1}}"#;
const ANSWER: &str = r#"{"flow":{"verdict":"FORWARDED","IP":{"source":"192.0.2.53","destination":"10.0.0.2"},"l4":{"UDP":{"source_port":53,"destination_port":4000}},"source":{"labels":["reserved:world"]},"destination":{"namespace":"shop","pod_name":"cart-1"},"l7":{"type":"RESPONSE","latency_ns":"3000000","dns":{"query":"NAME.","ips":["192.0.2.1"],"rcode":0,"qtypes":["A"]}},"event_type":{"type":129},"is_reply":true}}"#;

fn verdict(verdict: &str, name: &str) -> String {
    let why = match verdict {
        "DROPPED" => ",\"drop_reason_desc\":\"POLICY_DENIED\"",
        _ => "",
    };
    VERDICT
        .replace("\"VERDICT\"", &format!("\"{verdict}\"{why}"))
        .replace("NAME", name)
}

fn report(lines: &[String]) -> Report {
    let mut report = Report::default();
    lines.iter().for_each(|line| report.take(line));
    report
}

/// What the page is made of; nothing else may be in it, whatever the flows say.
const TAGS: [&str; 33] = [
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "b", "section",
    "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre", "svg", "path",
    "text", "rect", "/html", "/head", "/title", "/style", "/body", "/main", "/h1", "/h2",
];

/// The names of all tags in their order, those that end something with a slash.
fn tags(page: &str) -> Vec<&str> {
    let parts = page.split('<').skip(1);
    let end = |c: char| !c.is_ascii_alphanumeric() && c != '/' && c != '!';
    let names = parts.map(|part| part.split(end).next().unwrap_or_default());
    names.filter(|name| *name != "!DOCTYPE").collect()
}

fn check_structure(page: &str) {
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    let mut open = Vec::new();
    for tag in tags(page) {
        // Those that HTML lets without an end.
        if ["meta", "td", "th"].contains(&tag) {
            continue;
        }
        match tag.strip_prefix('/') {
            None => {
                assert!(TAGS.contains(&tag), "a tag {tag:?}");
                open.push(tag);
            }
            Some(ended) => assert_eq!(open.pop(), Some(ended)),
        }
    }
    assert_eq!(open, [] as [&str; 0]);
    for id in ["map", "pairs", "denied", "names"] {
        assert_eq!(
            page.matches(&format!("<section id=\"{id}\">")).count(),
            1,
            "{id}"
        );
    }
    for forbidden in ["<script", "http://", "https://", "url(", "javascript:"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn a_page_has_the_map_the_denied_with_their_rules_and_the_times_of_names() {
    let report = report(&[
        verdict("FORWARDED", "api.example.com"),
        verdict("DROPPED", "evil.test"),
        verdict("DROPPED", "evil.test"),
        ANSWER.replace("NAME", "api.example.com"),
        r#"{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"5"}}"#.to_owned(),
        "nonsense".to_owned(),
        String::new(),
    ]);
    assert_eq!(
        report.in_short(),
        "4 flows of 2 pairs and 1 names, 1 lines that can't be read, 5 events lost while recording"
    );
    let page = report.html();
    check_structure(&page);
    for part in [
        "2026-03-05T09:07:01.037Z to 2026-03-05T09:07:01.037Z",
        "<b class=\"yes\">1 allowed</b>, <b class=\"no\">2 denied</b>",
        "<td>shop/cart-1<td>api.example.com<td>443/TCP<td class=\"n\">1<td class=\"n\">0",
        "<title>shop/cart-1 → evil.test: 0 allowed, 2 denied</title>",
        "<summary><b class=\"no\">2 ×</b> shop/cart-1 → evil.test (443/TCP)</summary>",
        "kind: CiliumNetworkPolicy",
        "matchName: evil.test",
        "≤ 4.1 ms",
        "<td>api.example.com<td class=\"n\">0<td class=\"n\">0<td class=\"n\">0<td class=\"n\">3.0 ms",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    assert_eq!(page.matches("<details>").count(), 1);
}

#[test]
fn what_workloads_make_up_stays_text() {
    let hostile = [
        "</td></table><script>alert(1)</script>",
        "\\\"><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)",
        "&lt;b&gt;",
        "\\u0000\\u001b[2J\\u202eevil\\u2066",
        "</style></title></svg><svg onload=alert(1)>",
    ];
    for name in hostile {
        let pod = |line: String| line.replace("cart-1", name);
        let lines = [
            pod(verdict("FORWARDED", name)),
            pod(verdict("DROPPED", name)),
            ANSWER.replace("NAME", name),
        ];
        let report = report(&lines);
        assert_eq!(report.traffic.flows, 3, "{name}");
        let page = report.html();
        check_structure(&page);
        for part in [
            "<script",
            "<img",
            "\u{1b}",
            "\u{0}",
            "\u{202e}",
            "'alert",
            "onerror=alert(1)>",
        ] {
            assert!(!page.contains(part), "{name}: {part}");
        }
        // Each element has the attributes that the page gives it, and no others.
        for event in [" onload=", " onerror=", " onmouseover="] {
            let in_tag = |part: &str| part.split('>').next().unwrap_or_default().contains(event);
            assert!(!page.split('<').any(in_tag), "{name}: {event}");
        }
    }
}

#[test]
fn a_denial_that_no_rule_can_allow_says_why() {
    let line = verdict("DROPPED", "x.test").replace(
        "\"k8s:app=cart\",\"k8s:io.kubernetes.pod.namespace=shop\"",
        "",
    );
    let page = report(&[line]).html();
    check_structure(&page);
    assert!(
        page.contains("No rule can be suggested: of pods without labels"),
        "{page}"
    );
}

#[test]
fn denials_and_rows_beyond_the_bounds_are_counted() {
    let lines = (0..=DENIED_MAX).map(|number| verdict("DROPPED", &format!("n{number}.test")));
    let page = report(&lines.collect::<Vec<_>>()).html();
    assert!(page.contains("<p>And 1 denials more.</p>"));
    assert_eq!(page.matches("<details>").count(), DENIED_MAX);
    let lines = (0..ROWS_MAX + 3).map(|number| verdict("FORWARDED", &format!("n{number}.test")));
    let page = report(&lines.collect::<Vec<_>>()).html();
    assert!(page.contains("<p>And 3 more.</p>"));
}
