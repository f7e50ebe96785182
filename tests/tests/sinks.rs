//! Flows that are sent on: to a collector of logs in another language, and to systemd's own journal. And what
//! no flow tells.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may die; it has a clock of its own"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use namegate_tests::{Daemon, Running, Web, internet, observed, patience};
use serde_json::Value;

const ZONE: &str = "web 30 IN A 198.18.0.1\n";
const COLLECTOR: &str = "127.0.0.1:4317";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// `alice` may ask for names below example.com, and read what is public of one of them.
fn rules() -> String {
    internet(
        "alice",
        "toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET, path: /public.*}]}}]",
    )
}

struct Stage {
    web: Web,
    _knot: Running,
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let web = Web::new().unwrap();
        let knot = Running::knot(&web.bob.ns, ZONE).unwrap();
        Self {
            web,
            _knot: knot,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn daemon(&self, flags: &[&str]) -> Daemon<'_> {
        let mut daemon = Daemon::prepare(&self.web.node).unwrap();
        daemon.endpoint(&self.web.alice).unwrap();
        daemon.policy("internet.yaml", &rules()).unwrap();
        daemon.start(flags).unwrap();
        daemon
    }

    fn asks(&self, name: &str) -> String {
        let bob = self.web.bob.v4.into();
        self.web.alice.dig(bob, &["+short", name]).unwrap()
    }

    /// Alice's request for a path; the status.
    fn gets(&self, path: &str, headers: &[&str]) -> String {
        let url = format!("http://198.18.0.1{path}");
        let mut args = vec!["-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}"];
        args.extend(headers.iter().flat_map(|header| ["-H", header]));
        args.push(&url);
        self.web.alice.check("curl", &args).unwrap()
    }

    fn collector(&self) -> Ended {
        let room = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = self.web.node.command("/usr/bin/python3");
        let command = command.arg(room.join("hubble/collector.py"));
        let command = command.arg(room.join("../observer/proto")).arg(COLLECTOR);
        let command = command.arg(self.path("records")).stdout(Stdio::piped());
        let mut child = Ended(command.spawn().unwrap());
        let mut line = String::new();
        let said = child.0.stdout.take().unwrap();
        BufReader::new(said).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    /// What the collector was told, once this is true of it.
    fn records(&self, is_it: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let read = || {
            let text = fs::read_to_string(self.path("records")).unwrap_or_default();
            let lines = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            lines.collect::<Vec<Value>>()
        };
        until(read, |records| is_it(records))
    }
}

/// What it is, once it is as it should be.
fn until<T: std::fmt::Debug>(read: impl Fn() -> T, is_it: impl Fn(&T) -> bool) -> T {
    let begun = Instant::now();
    loop {
        let now = read();
        if is_it(&now) {
            return now;
        }
        let is_late = begun.elapsed() > Duration::from_secs(40) * patience();
        assert!(!is_late, "{now:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A process that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sink(daemon: &Daemon<'_>, name: &str) -> Value {
    let status = daemon.status().unwrap();
    let sinks = status["flows"]["files"].as_array().unwrap().clone();
    let mut found = sinks.into_iter().filter(|sink| sink["name"] == name);
    found.next().unwrap()
}

#[test]
fn a_collector_in_another_language_is_told_with_traces_and_its_death_is_nobodys() {
    let stage = Stage::new();
    let collector = stage.collector();
    let address = format!("http://{COLLECTOR}");
    let daemon = stage.daemon(&["--hubble-export-otlp-endpoint", &address]);
    assert_eq!(stage.asks("web.example.com"), "198.18.0.1\n");
    assert_eq!(stage.asks("x.evil.test"), "");
    let parent = format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01");
    assert_eq!(stage.gets("/public", &[&parent]), "200");
    let records = stage.records(|all| all.iter().filter(|it| it["trace"] == TRACE).count() == 2);
    let denied = records
        .iter()
        .find(|it| it["attributes"]["dns.question.name"] == "x.evil.test.");
    let denied = denied.unwrap();
    assert_eq!(
        (&denied["service"], &denied["event"]),
        (&"namegate".into(), &"hubble.flow".into())
    );
    assert_eq!(denied["severity"], "WARN");
    assert_eq!(denied["attributes"]["hubble.verdict"], "DROPPED");
    assert_eq!(denied["attributes"]["hubble.source.pod"], "alice");
    let body = denied["body"].as_str().unwrap();
    assert!(
        body.ends_with("dns-request proxy DROPPED (DNS Query x.evil.test. A)"),
        "{body}"
    );
    let flow: Value =
        serde_json::from_str(denied["attributes"]["hubble.flow"].as_str().unwrap()).unwrap();
    assert_eq!(flow["flow"]["l7"]["dns"]["query"], "x.evil.test.");
    // The same by which one looks for a trace.
    let traced = observed(&daemon, &["--trace-id", TRACE]).unwrap();
    assert_eq!(traced.lines().count(), 2, "{traced}");
    assert!(
        traced.contains("http-request FORWARDED") && traced.contains("http-response FORWARDED")
    );

    drop(collector);
    for number in 0..20 {
        assert_eq!(stage.asks(&format!("dead{number}.evil.test")), "");
    }
    assert_eq!(stage.asks("web.example.com"), "198.18.0.1\n");
    until(|| sink(&daemon, "otlp"), |sink| sink["fault"].is_string());
    let _collector = stage.collector();
    let dead = |record: &&Value| {
        let name = record["attributes"]["dns.question.name"].as_str();
        name.is_some_and(|name| name.starts_with("dead"))
    };
    stage.records(|all| all.iter().filter(dead).count() == 20);
    let told = until(|| sink(&daemon, "otlp"), |sink| sink["fault"].is_null());
    assert_eq!(told["lost"], 0, "{told}");
}

#[test]
fn a_daemon_ends_in_time_though_its_collector_is_dead() {
    let stage = Stage::new();
    let address = format!("http://{COLLECTOR}");
    let mut daemon = stage.daemon(&["--hubble-export-otlp-endpoint", &address]);
    assert_eq!(stage.asks("web.example.com"), "198.18.0.1\n");
    until(|| sink(&daemon, "otlp"), |sink| sink["fault"].is_string());
    let begun = Instant::now();
    assert_eq!(daemon.end_with("TERM").unwrap(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(20) * patience());
}

/// systemd's journal itself, with a `/run` of its own whose socket and files are in a folder.
fn journald(folder: &Path) -> Ended {
    let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal \
                  && mount --bind \"$0/socket\" /run/systemd/journal \
                  && mount --bind \"$0/files\" /run/log/journal \
                  && exec /lib/systemd/systemd-journald";
    for part in ["socket", "files"] {
        fs::create_dir(folder.join(part)).unwrap();
    }
    let mut command = Command::new("unshare");
    let command = command.args(["--mount", "sh", "-c", script]).arg(folder);
    Ended(
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    )
}

#[test]
fn systemds_journal_has_the_flows_and_finds_them_by_their_fields() {
    let stage = Stage::new();
    let _journald = journald(stage.folder.path());
    let socket = stage.path("socket/socket");
    until(|| socket.exists(), |is_there| *is_there);
    let option = format!("--hubble-export-journald={}", socket.display());
    let daemon = stage.daemon(&[
        &option,
        "--hubble-export-denylist",
        r#"{"verdict":["FORWARDED"]}"#,
    ]);
    assert_eq!(stage.asks("web.example.com"), "198.18.0.1\n");
    assert_eq!(stage.asks("x.evil.test"), "");
    until(
        || sink(&daemon, "journald"),
        |sink| sink["written"].as_u64() > Some(0),
    );
    let entries = || {
        let mut command = Command::new("journalctl");
        let command = command.args([
            "-o",
            "json",
            "SYSLOG_IDENTIFIER=namegate",
            "HUBBLE_VERDICT=DROPPED",
        ]);
        let files = fs::read_dir(stage.path("files"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let output = command.arg("-D").arg(files.path()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect::<Vec<Value>>()
    };
    let entries = until(entries, |entries| !entries.is_empty());
    assert_eq!(entries.len(), 1, "{entries:#?}");
    let entry = &entries[0];
    assert_eq!(entry["DNS_QUESTION_NAME"], "x.evil.test.");
    assert_eq!(entry["PRIORITY"], "4");
    let message = entry["MESSAGE"].as_str().unwrap();
    assert!(message.ends_with("(DNS Query x.evil.test. A)"), "{message}");
    let flow: Value = serde_json::from_str(entry["HUBBLE_FLOW"].as_str().unwrap()).unwrap();
    assert_eq!(flow["flow"]["verdict"], "DROPPED");
    assert_eq!(sink(&daemon, "journald")["written"], 1);
}

#[test]
fn standard_output_takes_flows_too() {
    let stage = Stage::new();
    let daemon = Daemon::prepare(&stage.web.node).unwrap();
    daemon.endpoint(&stage.web.alice).unwrap();
    daemon.policy("internet.yaml", &rules()).unwrap();
    let binary = Daemon::binary().unwrap().display().to_string();
    let mut command = stage.web.node.command(&binary);
    let command = command.args([
        "run",
        "--hubble-export-file-path",
        "stdout",
        "--detach-on-exit",
    ]);
    for (option, name) in [
        ("--policy-dir", "policies"),
        ("--endpoint-dir", "endpoints"),
        ("--state-dir", "state"),
        ("--socket", "namegate.sock"),
    ] {
        command.arg(option).arg(daemon.path(name));
    }
    let mut child = Ended(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut next = |wanted: &str| loop {
        let line = lines.next().unwrap().unwrap();
        if line.contains(wanted) {
            break line;
        }
    };
    next("ready");
    assert_eq!(stage.asks("x.evil.test"), "");
    let flow: Value = serde_json::from_str(&next("x.evil.test")).unwrap();
    assert_eq!(flow["flow"]["verdict"], "DROPPED");
    let pid = child.0.id().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    assert!(child.0.wait().unwrap().success());
}

#[test]
fn what_is_redacted_is_in_no_flow_and_no_summary() {
    let stage = Stage::new();
    let file = stage.path("flows.json").display().to_string();
    let daemon = stage.daemon(&[
        "--flow-log",
        &file,
        "--hubble-redact-enabled",
        "--hubble-redact-http-urlquery",
        "--hubble-redact-http-headers-allow",
        "Host,X-Open",
    ]);
    assert_eq!(stage.asks("web.example.com"), "198.18.0.1\n");
    let headers = ["X-Open: told", "X-Closed: s3cret"];
    assert_eq!(stage.gets("/public?token=s3cret", &headers), "200");
    // A target with a password, as to a proxy.
    let target = "http://user:s3cret@198.18.0.1/public";
    let args = [
        "-sS",
        "-m",
        "10",
        "-o",
        "/dev/null",
        "--request-target",
        target,
        "http://198.18.0.1/",
    ];
    let _ = stage.web.alice.output("curl", &args).unwrap();
    let read = || fs::read_to_string(&file).unwrap_or_default();
    let text = until(read, |text| {
        text.matches("\"type\":\"RESPONSE\"").count() >= 3
    });
    assert!(!text.contains("s3cret"), "{text}");
    assert!(
        text.contains("{\"key\":\"X-Closed\",\"value\":\"HUBBLE_REDACTED\"}"),
        "{text}"
    );
    assert!(
        text.contains("{\"key\":\"X-Open\",\"value\":\"told\"}"),
        "{text}"
    );
    assert!(
        text.contains("(HTTP/1.1 GET http://198.18.0.1/public)")
            || text.contains("HTTP/1.1 GET http://198.18.0.1/public\""),
        "{text}"
    );
    let shown = observed(&daemon, &["-o", "json"]).unwrap();
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn wrong_words_are_refused() {
    for (args, said) in [
        (
            &["--hubble-export-otlp-endpoint", "localhost:4317"][..],
            "no address of a collector",
        ),
        (
            &["--hubble-export-otlp-endpoint", "https://h:4317"],
            "needs the certificate",
        ),
        (
            &["--hubble-export-otlp-ca-file", "/x"],
            "--hubble-export-otlp-endpoint",
        ),
        (
            &["--hubble-redact-http-urlquery"],
            "--hubble-redact-enabled",
        ),
    ] {
        let mut command = Command::new(Daemon::binary().unwrap());
        let output = command.arg("run").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(said), "{args:?}: {error}");
    }
}
