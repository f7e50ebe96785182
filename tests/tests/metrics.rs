//! Metrics of a real daemon: what a scrape has after traffic, that Prometheus' own tool takes it, and that
//! the dashboard and the alerts in deploy/ ask for nothing that isn't there.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may die; scrapers, and a clock of the tests"
)]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use namegate_tests::{Asking, Daemon, Running, Web, internet, patience};
use serde_json::Value;

const ZONE: &str = "web 30 IN A 198.18.0.1\n";
const ADDRESS: &str = "127.0.0.1:9965";

/// `alice` may ask for names below example.com, and read what is public of one of them.
fn rules() -> String {
    internet(
        "alice",
        "toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET, path: /public}]}}]",
    )
}

struct Stage {
    web: Web,
    _knot: Running,
}

impl Stage {
    fn new() -> Self {
        let web = Web::new().unwrap();
        let knot = Running::knot(&web.bob.ns, ZONE).unwrap();
        Self { web, _knot: knot }
    }

    fn daemon(&self, flags: &[&str]) -> Daemon<'_> {
        let mut daemon = Daemon::prepare(&self.web.node).unwrap();
        daemon.endpoint(&self.web.alice).unwrap();
        daemon.policy("internet.yaml", &rules()).unwrap();
        daemon.start(flags).unwrap();
        daemon
    }

    /// Two answers and a denied name, two requests of which one is denied, and a denied connection.
    fn play(&self) {
        let alice = &self.web.alice;
        let asks = |name| {
            alice
                .dig(self.web.bob.v4.into(), &["+short", name])
                .unwrap()
        };
        assert_eq!(asks("web.example.com"), "198.18.0.1\n");
        assert_eq!(asks("nobody.example.com"), "");
        assert_eq!(asks("x.evil.test"), "");
        for (path, status) in [("public", "200"), ("secret", "403")] {
            let url = format!("http://198.18.0.1/{path}");
            let curl = [
                "-sS",
                "-m",
                "10",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                &url,
            ];
            assert_eq!(alice.check("curl", &curl).unwrap(), status);
        }
        let denied = alice.output("curl", &["-sS", "-m", "1", "http://198.18.0.2/"]);
        assert!(!denied.unwrap().status.success());
    }

    fn get(&self, path: &str) -> String {
        let url = format!("http://{ADDRESS}{path}");
        self.web
            .node
            .check("curl", &["-sS", "-m", "10", &url])
            .unwrap()
    }

    /// The metrics once a sample is among them: flows and figures come a moment after what they tell.
    fn scrape(&self, awaited: &str) -> String {
        self.scrape_within(awaited, Duration::from_secs(10))
    }

    /// Waits until readiness is told so.
    fn ready_as(&self, wanted: &str) {
        let begun = Instant::now();
        loop {
            let said = self.get("/readyz");
            if said == wanted {
                return;
            }
            let is_late = begun.elapsed() > Duration::from_secs(10) * patience();
            assert!(!is_late, "{said:?}, not {wanted:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn scrape_within(&self, awaited: &str, limit: Duration) -> String {
        let begun = Instant::now();
        loop {
            let text = self.get("/metrics");
            if text.contains(awaited) {
                return text;
            }
            let is_late = begun.elapsed() > limit * patience();
            assert!(!is_late, "{awaited}\n{text}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(file)
}

/// What promtool says of a text that it must take.
fn promtool(args: &[&str], input: &str) {
    let mut tool = Command::new("promtool");
    let tool = tool.args(args).stdin(Stdio::piped());
    let tool = tool.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = tool.spawn().unwrap();
    tool.stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = tool.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_scrape_has_what_happened_by_hubbles_names_and_by_ours() {
    let stage = Stage::new();
    let daemon = stage.daemon(&["--metrics-addr", ADDRESS]);
    stage.play();
    let text = stage.scrape("hubble_drop_total{reason=\"POLICY_DENIED\",protocol=\"TCP\"}");
    for sample in [
        r#"hubble_dns_queries_total{rcode="",qtypes="A",ips_returned="0"} 2"#,
        r#"hubble_dns_queries_total{rcode="Policy denied",qtypes="A",ips_returned="0"} 1"#,
        r#"hubble_dns_responses_total{rcode="No Error",qtypes="A",ips_returned="1"} 1"#,
        r#"hubble_dns_responses_total{rcode="Non-Existent Domain",qtypes="A",ips_returned="0"} 1"#,
        r#"hubble_dns_response_types_total{type="A",qtypes="A"} 1"#,
        r#"hubble_drop_total{reason="DROP_REASON_UNKNOWN",protocol="DNS"} 1"#,
        r#"hubble_drop_total{reason="DROP_REASON_UNKNOWN",protocol="HTTP"} 1"#,
        r#"hubble_flows_processed_total{protocol="DNS",type="L7",subtype="DNS",verdict="FORWARDED"} 4"#,
        r#"hubble_http_requests_total{method="GET",protocol="HTTP/1.1",status="200",reporter="client"} 1"#,
        r#"hubble_http_requests_total{method="GET",protocol="HTTP/1.1",status="403",reporter="client"} 1"#,
        r#"hubble_http_request_duration_seconds_count{method="GET",reporter="client"} 2"#,
        r#"hubble_policy_verdicts_total{direction="egress",match="l7/http",action="dropped"} 1"#,
        r#"hubble_lost_events_total{source="observer_events_queue"} 0"#,
        r#"namegate_dns_exchange_seconds_count{verdict="FORWARDED"} 2"#,
        r#"namegate_dns_exchanges_total{reason="answered"} 2"#,
        r#"namegate_dns_exchanges_total{reason="denied"} 1"#,
        r#"namegate_http_requests_total{reason="denied"} 1"#,
        r#"namegate_learned_answers_total{result="installed"} 1"#,
        r#"namegate_limit_hits_total{limit="flow-queue"} 0"#,
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample}\n{text}");
    }
    // One answer was held, for less than an answer may wait.
    assert!(
        text.contains("namegate_dns_hold_seconds_bucket{le=\"0.1\"} 1\n"),
        "{text}"
    );
    // What the main thread publishes comes with its tick.
    let text = stage.scrape("namegate_fqdn_active_names{endpoint=\"default/alice\"} 1\n");
    for sample in [
        "namegate_endpoints{state=\"ready\"} 1",
        "namegate_fqdn_active_ips{endpoint=\"default/alice\"} 1",
        "namegate_open_ips{endpoint=\"default/alice\"} 1",
        "namegate_policies 1",
        "namegate_datapath_readable 1",
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample}\n{text}");
    }
    let drops = "namegate_datapath_drops_total{reason=\"policy-denied\"} ";
    let dropped = text
        .lines()
        .find_map(|line| line.strip_prefix(drops))
        .unwrap();
    assert_ne!(dropped, "0");
    promtool(&["check", "metrics"], &text);
    assert_eq!(stage.get("/healthz"), "ok\n");
    let socket = daemon.path("namegate.sock").display().to_string();
    let said = daemon.namegate(&["metrics", "--socket", &socket]).unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(names(&said).is_superset(&names(&text)), "{said}");
    everything_in_deploy_is_served(&names(&text));
}

#[test]
fn it_is_ready_while_every_endpoint_is_guarded_and_every_file_in_force() {
    let stage = Stage::new();
    let daemon = stage.daemon(&["--metrics-addr", ADDRESS]);
    stage.ready_as("ok\n");
    daemon.policy("bad.yaml", "kind: X\n").unwrap();
    stage.ready_as("errors in policy files: 1\n");
    let gone = "name: gone\nnetns: /nowhere\n";
    daemon.endpoint_file("gone.yaml", gone).unwrap();
    stage.ready_as("errors in policy files: 1, endpoints that are refused: 1\n");
    assert_eq!(stage.get("/healthz"), "ok\n");
    std::fs::remove_file(daemon.path("endpoints/gone.yaml")).unwrap();
    std::fs::remove_file(daemon.path("policies/bad.yaml")).unwrap();
    stage.ready_as("ok\n");
}

#[test]
fn names_and_requests_are_told_as_ciliums_agent_tells_them_where_that_is_wanted() {
    let stage = Stage::new();
    let _daemon = stage.daemon(&["--metrics-addr", ADDRESS, "--metrics-cilium-names"]);
    stage.play();
    let text = stage.scrape("cilium_fqdn_active_names{endpoint=\"default/alice\"} 1\n");
    for sample in [
        r#"cilium_fqdn_active_ips{endpoint="default/alice"} 1"#,
        "cilium_fqdn_gc_deletions_total 0",
        r#"cilium_policy_l7_total{rule="received",proxy_type="fqdn"} 3"#,
        r#"cilium_policy_l7_total{rule="forwarded",proxy_type="fqdn"} 2"#,
        r#"cilium_policy_l7_total{rule="denied",proxy_type="fqdn"} 1"#,
        r#"cilium_policy_l7_total{rule="denied",proxy_type="http"} 1"#,
        "cilium_proxy_datapath_update_timeout_total 0",
        "cilium_fqdn_semaphore_rejected_total 0",
        "cilium_fqdn_selectors 1",
        r#"cilium_proxy_redirects{protocol="dns"} 2"#,
        r#"cilium_proxy_redirects{protocol="http"} 1"#,
        r#"cilium_proxy_redirects{protocol="tls"} 0"#,
        r#"cilium_proxy_upstream_reply_seconds_count{error="allow",protocol_l7="dns",scope="totalTime"} 2"#,
        r#"cilium_proxy_upstream_reply_seconds_count{error="denied",protocol_l7="dns",scope="totalTime"} 1"#,
        r#"cilium_proxy_upstream_reply_seconds_count{error="timeout",protocol_l7="dns",scope="totalTime"} 0"#,
        r#"cilium_proxy_upstream_reply_seconds_count{error="allow",protocol_l7="dns",scope="dataplaneTime"} 1"#,
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample}\n{text}");
    }
    promtool(&["check", "metrics"], &text);
}

/// The end of a connection to the server, as it is told.
fn last_segment(daemon: &Daemon<'_>) -> Value {
    let socket = daemon.path("namegate.sock").display().to_string();
    let of = [
        "observe", "--socket", &socket, "-o", "json", "--last", "9000",
    ];
    let args = [&of[..], &["--type", "trace", "--to-ip", "198.18.0.1"]].concat();
    let began = Instant::now();
    loop {
        let output = daemon.namegate(&args).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let flows = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut ends = flows.filter(|line| line.pointer("/flow/l4/TCP/flags/FIN").is_some());
        if let Some(end) = ends.next() {
            return end.pointer("/flow").unwrap().clone();
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A connection lives on when its name's time is over, and counts among those that Cilium calls zombies. What
/// is told of it has the name, however many others have ended since.
#[test]
fn connections_that_outlive_their_name_are_counted_and_told_with_it() {
    let web = Web::new().unwrap();
    let zone = "web 1 IN A 198.18.0.1\n* 1 IN A 198.18.0.2\n";
    let _knot = Running::knot(&web.bob.ns, zone).unwrap();
    let stage = Stage { web, _knot };
    let mut daemon = Daemon::prepare(&stage.web.node).unwrap();
    daemon.endpoint(&stage.web.alice).unwrap();
    daemon
        .policy("internet.yaml", &internet("alice", ""))
        .unwrap();
    let flags = ["--metrics-addr", ADDRESS, "--metrics-cilium-names"];
    let short = ["--dns-ttl-floor", "0s", "--dns-ttl-grace", "0s"];
    daemon.start(&[flags.as_slice(), &short].concat()).unwrap();
    let alice = &stage.web.alice;
    let bob = stage.web.bob.v4.into();
    let answer = alice.dig(bob, &["+short", "web.example.com"]).unwrap();
    assert_eq!(answer, "198.18.0.1\n");
    let web: SocketAddr = "198.18.0.1:80".parse().unwrap();
    let connect = || TcpStream::connect_timeout(&web, Duration::from_secs(5)).unwrap();
    let connection = alice.ns.run(connect).unwrap();
    let of = |count| {
        format!("cilium_fqdn_alive_zombie_connections{{endpoint=\"default/alice\"}} {count}\n")
    };
    stage.scrape(&of(0));
    // The flow table is looked through every ten seconds.
    let look = Duration::from_secs(16);
    stage.scrape_within(&of(1), look);
    let mut asking = Asking::new(alice, bob, Duration::from_secs(5) * patience()).unwrap();
    for number in 0..600 {
        asking.ask(&format!("n{number}")).unwrap();
    }
    let began = Instant::now();
    while daemon.status().unwrap().pointer("/endpoints/0/names") != Some(&0.into()) {
        assert!(began.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(connection);
    let told = last_segment(&daemon);
    assert_eq!(
        told.pointer("/destination_names"),
        Some(&serde_json::json!(["web.example.com"])),
        "{told:#}"
    );
    stage.scrape_within(&of(0), look);
}

/// The names of metrics in a scrape.
fn names(text: &str) -> BTreeSet<String> {
    let of = |line: &str| {
        line.strip_prefix("# TYPE ")?
            .split(' ')
            .next()
            .map(str::to_owned)
    };
    text.lines().filter_map(of).collect()
}

/// The names of metrics in an expression, those of a histogram's parts as the histogram's own.
fn asked(text: &str) -> impl Iterator<Item = String> {
    // What is quoted is a label's.
    let parts = text.split('"').step_by(2);
    let words = parts.flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let words = words.filter(|word| word.starts_with("hubble_") || word.starts_with("namegate_"));
    words.map(|word| {
        let parts = ["_bucket", "_sum", "_count"].into_iter();
        let mut wholes = parts.filter_map(|part| word.strip_suffix(part));
        wholes.next().unwrap_or(word).to_owned()
    })
}

/// Each text under `expr`, wherever it stands.
fn expressions(value: &Value, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let expr = fields.get("expr").and_then(Value::as_str);
            all.extend(expr.map(str::to_owned));
            fields.values().for_each(|value| expressions(value, all));
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, all)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn everything_in_deploy_is_served(served: &BTreeSet<String>) {
    let dashboard = std::fs::read_to_string(deploy("grafana/namegate.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut all = Vec::new();
    expressions(&dashboard, &mut all);
    assert!(all.len() > 10, "{all:?}");
    let rules = std::fs::read_to_string(deploy("prometheus/namegate.rules.yaml")).unwrap();
    let exprs = rules
        .lines()
        .filter(|line| line.trim_start().starts_with("expr:"));
    let exprs: Vec<_> = exprs.map(str::to_owned).collect();
    assert!(exprs.len() > 5, "{exprs:?}");
    all.extend(exprs);
    for expr in &all {
        for name in asked(expr) {
            assert!(
                served.contains(&name),
                "{name} of {expr} is not served: {served:?}"
            );
        }
        assert!(
            asked(expr).next().is_some() || expr.contains("up{"),
            "{expr}"
        );
    }
}

#[test]
fn the_alerts_are_as_prometheus_wants_them() {
    let rules = deploy("prometheus/namegate.rules.yaml")
        .display()
        .to_string();
    promtool(
        &["check", "rules", "--lint=all", "--lint-fatal", &rules],
        "",
    );
    let tests = deploy("prometheus/namegate.test.yaml")
        .display()
        .to_string();
    promtool(&["test", "rules", &tests], "");
}

#[test]
fn who_asks_for_no_metrics_has_none_and_wrong_words_are_refused() {
    let stage = Stage::new();
    let daemon = stage.daemon(&[]);
    let socket = daemon.path("namegate.sock").display().to_string();
    let said = daemon.namegate(&["metrics", "--socket", &socket]).unwrap();
    assert_eq!(said.status.code(), Some(1));
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("--metrics-addr"), "{said}");
    let args = [
        "run",
        "--metrics-addr",
        ADDRESS,
        "--hubble-metrics",
        "dns:nope",
    ];
    let said = daemon.namegate(&args).unwrap();
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    assert!(
        String::from_utf8(said.stderr)
            .unwrap()
            .contains("no option \"nope\"")
    );
}

#[test]
fn scrapers_that_never_read_hold_up_no_query() {
    let stage = Stage::new();
    let _daemon = stage.daemon(&["--metrics-addr", ADDRESS, "--hubble-metrics", "dns:query"]);
    let connect = || {
        let mut stream = TcpStream::connect(ADDRESS).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap(); // and no more
        stream
    };
    let slow: Vec<_> = stage
        .web
        .node
        .ns
        .run(|| (0..20).map(|_| connect()).collect())
        .unwrap();
    let mut turned_away = 0;
    for mut stream in slow.iter().skip(16) {
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        turned_away += u32::from(said.contains("503"));
    }
    assert_eq!(turned_away, 4);
    let asks = |name| {
        stage
            .web
            .alice
            .dig(stage.web.bob.v4.into(), &["+short", name])
    };
    for _ in 0..5 {
        assert_eq!(asks("web.example.com").unwrap(), "198.18.0.1\n");
    }
    drop(slow);
    stage.scrape("namegate_limit_hits_total{limit=\"scrapers\"} 4");
}
